"""From statistics of rows to measures: each model's value with interval and power, and paired differences."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from luthier.eval.probe import Bench, Measure
from luthier.metrics.columns import paired_shares
from luthier.metrics.paired import Comparison, contrast, detectable
from luthier.text.probed import Probed

if TYPE_CHECKING:
    from luthier.metrics.resample import Floats, Interval, Job, Method
    from luthier.text.messages import Message


@dataclass(frozen=True, kw_only=True)
class Statistic:
    """A value of summed statistics of rows; the same rows for every model."""

    name: str
    value: Callable[[Floats], Floats]
    """(b, k) to (b,)."""
    bounds: tuple[float, float] = (0.0, 1.0)
    """The least and greatest value there can be; also what a row of its own is taken to lie between."""
    proportion: bool = False
    """Whether each row is right or wrong and the columns are (so, rows): then Wilson's interval is used."""
    ends: Callable[[Floats], tuple[float, float]] | None = None
    """The ends of its interval from the sums (1, k), where the bootstrap's would not hold."""
    method: Method = "bca"
    """How the interval of the difference between two models is made (`luthier.metrics.resample.Job`)."""
    lower_is_better: bool = True
    signature: str = ""
    """Settings that decide the value."""


def share(sums: Floats) -> Floats:
    """The first column as a share of the second, (b, 2) to (b,); 0 for no rows."""
    import numpy as np

    found: Floats = np.divide(sums[:, 0], sums[:, 1], out=np.zeros(len(sums)), where=sums[:, 1] > 0)
    return found


def measured(
    statistic: Statistic,
    blocks: Mapping[str, Floats],
    bench: Bench,
    details: Mapping[str, Mapping[str, float]] | None = None,
) -> list[Measure]:
    """A measure for each model from (rows, k) statistics; the model that the evaluation is about is compared with all
    others. Nothing comes of no rows."""
    from luthier.metrics.resample import Job, intervals

    if not blocks or not len(next(iter(blocks.values()))):
        return []
    span = None if statistic.proportion else statistic.bounds
    jobs = [Job(blocks=(block,), value=lambda sums: statistic.value(sums[0]), span=span) for block in blocks.values()]
    found = [_ended(statistic, job, one) for job, one in zip(jobs, intervals(jobs, seed=bench.seed), strict=True)]
    subject = next(iter(bench.answers))
    method = "score" if statistic.ends else "wilson" if statistic.proportion else "bca"
    return [
        Measure(
            name=statistic.name,
            model=model,
            value=one.value,
            low=max(one.low, statistic.bounds[0]),
            high=min(one.high, statistic.bounds[1]),
            rows=len(block),
            signature=f"{statistic.name}|v:1|{statistic.signature}|interval:{method}95".replace("||", "|"),
            detail=(details or {}).get(model, {}),
            detectable=detectable(one.standard_error),
            against=_against(statistic, blocks, subject, bench.seed) if model == subject else {},
        )
        for (model, block), one in zip(blocks.items(), found, strict=True)
    ]


def _ended(statistic: Statistic, job: Job, found: Interval) -> Interval:
    """The interval with the statistic's own ends, when it has some."""
    from luthier.metrics.resample import totals

    if statistic.ends is None:
        return found
    low, high = statistic.ends(totals(job.blocks[0]))
    return replace(found, low=min(low, found.value), high=max(high, found.value))


def judged_answers(
    statistic: Statistic,
    bench: Bench,
    probe: str,
    prompts: Mapping[str, tuple[Message, ...]],
    *,
    limit: int,
    counts: Callable[[str], bool],
    fails: Callable[[str], bool],
    wanted: str | None,
) -> list[Measure]:
    """Let each model write answers of at most `limit` tokens, and measure the share that counts.

    `prompts` are by the row's name; `fails` says which answers are held against a model, and `wanted` what would have
    been right there.
    """
    import numpy as np

    blocks = {}
    for model, respondent in bench.able("generate", statistic.name).items():
        said = [one.strip() for one in respondent.generate(list(prompts.values()), limit)]
        blocks[model] = np.array([[float(counts(answer)), 1.0] for answer in said])
        bench.kept.extend(
            Probed(probe=probe, model=model, row=row, asked=asked, said=answer, wanted=wanted, failed=fails(answer))
            for (row, asked), answer in zip(prompts.items(), said, strict=True)
        )
    return measured(statistic, blocks, bench)


def _against(statistic: Statistic, blocks: Mapping[str, Floats], subject: str, seed: int) -> dict[str, Comparison]:
    return {
        other: _compared(statistic, blocks[subject], block, seed) for other, block in blocks.items() if other != subject
    }


def _compared(statistic: Statistic, mine: Floats, its: Floats, seed: int) -> Comparison:
    """Right and wrong rows that count for both by McNemar's test, all else by the bootstrap."""
    lower = statistic.lower_is_better
    if statistic.proportion and (mine[:, 1] == its[:, 1]).all():
        counted = mine[:, 1] > 0
        found = paired_shares(statistic.name, mine[counted, 0].tolist(), its[counted, 0].tolist())
        return replace(found, fixed=found.broken, broken=found.fixed, lower_is_better=True) if lower else found
    width = statistic.bounds[1] - statistic.bounds[0]
    return contrast(
        statistic.name,
        (mine, its),
        statistic.value,
        width=width,
        lower_is_better=lower,
        seed=seed,
        method=statistic.method,
    )
