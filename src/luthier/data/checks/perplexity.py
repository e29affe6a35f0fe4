"""Rows that a language model finds very unlikely, or far too likely."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar, Literal

from pydantic import Field

from luthier.artifacts.findings import Finding
from luthier.core.events import format_counted_noun
from luthier.core.messages import gettext_noop
from luthier.data.check import (
    Check,
    CheckResult,
    Needs,
    PlantedFaults,
    damage_every_nth,
    format_exclude_setting,
    format_percent,
    severity_of_share,
    share_with_interval,
)
from luthier.data.checks.lengths import robust_z
from luthier.data.validate.context import CheckData, CheckRow


class PerplexityOutliers(Check):
    """Prompts that the step's `model` finds far less likely than the others: noise, another language, encodings.

    The measure is the mean negative log-likelihood of a prompt's tokens, in the model's own chat template, less the
    median of all rows and times the root of the number of tokens, because a mean of few tokens varies more; rows whose
    modified z-score is large are outliers.
    """

    kind: Literal["perplexity_outliers"] = "perplexity_outliers"
    needs: ClassVar[frozenset[Needs]] = frozenset({"model"})
    measures: ClassVar[Mapping[str, str]] = {
        "perplexity_outliers": gettext_noop("share of rows that the model finds very unlikely"),
    }
    quick: ClassVar[bool] = False
    false_alarms: ClassVar[float] = 0.02

    far: float = Field(default=4.0, gt=0)
    """Modified z-score from which a row is an outlier."""
    warning: float = Field(default=0.02, ge=0, le=1)
    """Share of rows from which it is a warning."""
    serious: float = Field(default=0.2, ge=0, le=1)
    """Share of rows from which it is serious."""

    def look(self, data: CheckData) -> Iterable[CheckResult]:
        import numpy as np

        nll, tokens = data.prompt_perplexity
        scores = robust_z((nll - np.median(nll)) * np.sqrt(tokens))
        indices = np.flatnonzero(scores >= self.far).tolist()
        indices.sort(key=lambda index: (-scores[index], data.rows[index].id))
        number = share_with_interval(len(indices), len(data.rows), self.measures["perplexity_outliers"])
        usual = float(np.exp(np.median(nll)))
        yield CheckResult(
            Finding(
                name=self.kind,
                severity=severity_of_share(number.value, self.warning, self.serious),
                title=gettext_noop("Rows that the model finds very unlikely" if indices else "Perplexity"),
                sentence=gettext_noop(
                    f"{format_counted_noun(len(indices), 'row')} of {len(data.rows):,} "
                    f"({format_percent(number.value)}) "
                    f"{'is' if len(indices) == 1 else 'are'} far less likely to the model than the "
                    f"others, whose median perplexity is {usual:.1f}."
                ),
                rows=len(indices),
                numbers={"perplexity_outliers": number},
                hint=gettext_noop(
                    "Look at them: noise and broken encodings can be left out by their ids; another language by "
                    "`language`."
                    if indices
                    else ""
                ),
                mend=format_exclude_setting([data.rows[index] for index in indices], "very unlikely"),
            ),
            [
                (data.rows[index], round(float(nll[index]), 4), f"perplexity {np.exp(nll[index]):,.0f}")
                for index in indices
            ],
        )

    def plant(self, rows: Sequence[CheckRow]) -> PlantedFaults:
        """Every thirtieth prompt is words that nobody would put together."""
        words = _UNRELATED.split()

        def damage(row: CheckRow) -> CheckRow:
            turn = int(row.id[:8], 16) % len(words)
            return row.saying(prompt=" ".join([*words[turn:], *words[:turn]]))

        return damage_every_nth(rows, 30, damage)


_UNRELATED = (
    "cable swims yesterday under because violet of seven ladder green thinks off umbrella quick the lower and jam"
)
