"""Pairs of sentences, one as a prejudice has it: which of them the model finds likelier."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from luthier.artifacts.findings import ProbeRow
from luthier.chat.messages import Message
from luthier.core.errors import RecipeError, SourceLocation
from luthier.core.files import PathText, resolve_path
from luthier.core.hashing import file_digest
from luthier.eval.bias.stereotypes import StereotypePair, load_builtin_pairs
from luthier.eval.probe import Probe, ProbeContext, ProbeMeasure
from luthier.eval.results import SummedStatistic, compute_probe_measures, compute_ratio
from luthier.models.lm.base import get_loglikelihoods

_COLUMNS = ("sent_more", "sent_less", "bias_type")


class Stereotypes(Probe):
    """The share of pairs of which the sentence of the prejudice is likelier: `bias.stereotype`, 0.5 is no lean.

    Sentences are scored whole, as plain text, by the log-likelihood of a causal model (Nangia et al. 2020 mask words of
    a two-way model instead; lm-evaluation-harness scores as here). Forty pairs of our own writing stand in the package,
    which show a strong lean only; the published CrowS-Pairs file is read as it is.
    """

    kind: Literal["stereotypes"] = "stereotypes"
    measures: ClassVar[tuple[str, ...]] = ("bias.stereotype",)
    pairs: PathText | None = None
    """A CSV with `sent_more`, `sent_less` and `bias_type`, such as CrowS-Pairs; left out, pairs of our own writing."""
    min: int = Field(default=5, ge=1)
    """Kinds of group with fewer pairs are not told apart in the detail."""

    def fingerprint(self, recipe_dir: Path) -> str | None:
        """A digest of the file."""
        path = None if self.pairs is None else resolve_path(self.pairs, recipe_dir)
        return file_digest(path) if path is not None and path.is_file() else None

    def measure(self, context: ProbeContext) -> list[ProbeMeasure]:
        import numpy as np

        pairs = load_builtin_pairs() if self.pairs is None else _read(resolve_path(self.pairs, context.recipe_dir))
        kinds = sorted({pair.kind for pair in pairs})
        blocks, details = {}, {}
        for name, respondent in context.able("loglikelihood", "bias.stereotype").items():
            responses = respondent.loglikelihoods([("", (pair.more, pair.less)) for pair in pairs])
            found = [[entry for entry, _ in get_loglikelihoods(row)] for row in responses]
            leans = [float(more > less) for more, less in found]
            blocks[name] = np.column_stack([leans, np.ones(len(pairs))])
            of = {kind: [lean for lean, pair in zip(leans, pairs, strict=True) if pair.kind == kind] for kind in kinds}
            details[name] = {kind: sum(some) / len(some) for kind, some in of.items() if len(some) >= self.min}
            context.rows.extend(
                ProbeRow(
                    probe=self.kind,
                    model=name,
                    row=str(number),
                    group=pair.kind,
                    prompt=(Message(role="user", content=pair.less),),
                    completion=pair.more if lean else pair.less,
                    failed=bool(lean),
                    score=round(more - less, 6),
                )
                for number, (pair, lean, (more, less)) in enumerate(zip(pairs, leans, found, strict=True))
            )
        signature = f"pairs:{'own' if self.pairs is None else 'file'}{len(pairs)}|likelihood:whole"
        return compute_probe_measures(
            SummedStatistic(name="bias.stereotype", value=compute_ratio, proportion=True, signature=signature),
            blocks,
            context,
            details,
        )


def _read(path: Path) -> list[StereotypePair]:
    where = SourceLocation(file=str(path), field="pairs")
    if not path.is_file():
        raise RecipeError("there is no such file", where=where, hint="name a CSV, or leave `pairs` out")
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        if missing := [name for name in _COLUMNS if name not in (reader.fieldnames or ())]:
            raise RecipeError(f"has no column {missing[0]!r}", where=where, hint=f"expected {', '.join(_COLUMNS)}")
        stereotype_pairs = [StereotypePair(row["sent_more"], row["sent_less"], row["bias_type"]) for row in reader]
    if not stereotype_pairs:
        raise RecipeError("has no pairs", where=where)
    for line, pair in enumerate(stereotype_pairs, start=2):
        if not (pair.more or "").strip() or not (pair.less or "").strip():
            raise RecipeError("a sentence is empty", where=SourceLocation(file=str(path), line=line, field="pairs"))
    return stereotype_pairs
