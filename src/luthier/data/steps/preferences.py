"""The step that makes preference pairs out of what went wrong when an evaluation's probes asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from luthier.core.digest import digest_of
from luthier.core.errors import DataError, Where, did_you_mean
from luthier.core.files import write_aside
from luthier.core.step import Forecast, Makes, Outlook, Reads, Step, Work
from luthier.text.probed import PROBED, read

if TYPE_CHECKING:
    from luthier.data.row import Row
    from luthier.text.probed import Probed

EvaluationIn = Annotated[str, Reads("evaluation")]


class Preferences(Step):
    """Make rows of prompt, chosen and rejected answer from failed rows of probes, for preference tuning.

    The chosen answer is the one that the probe wanted, the rejected one what the model said. Rows that did not fail,
    and those of which nothing better is known, are left out and listed in `events.parquet`. A probe that was learnt
    from measures what was remembered: measure afterwards with another one.
    """

    kind: Literal["preferences"] = "preferences"
    makes: ClassVar[Makes] = "dataset"

    report: EvaluationIn
    """The step that made the evaluation."""
    model: str = "tuned"
    """Whose failures are used: `tuned` or `base`."""
    probes: tuple[str, ...] = ()
    """Probes that are used, such as `counterfactual` and `refusal`; left out, all."""

    def make(self, work: Work) -> Mapping[str, Any]:
        """Read what was asked, and write the pairs."""
        from luthier.data.augment.rows import as_examples
        from luthier.data.passes.tables import Event, EventWriter, TableWriter, example_schema
        from luthier.text.dataset import SourceCount, Summary

        rows = list(read(work.inputs["report"]))
        self._check(rows)
        mine = [(line, one) for line, one in enumerate(rows, 1) if one.model == self.model and self._wanted(one)]
        events = EventWriter(work.folder / "events.parquet")
        dropped: Counter[str] = Counter()
        kept: dict[str, Row] = {}
        for line, one in mine:
            pair = _pair(one, line)
            why = _why_not(one) or ("the same pair came before" if pair.id in kept else "")
            if why:
                dropped[why] += 1
                events.write([Event(pair.id, PROBED, line, work.name, "drop", why)])
            else:
                kept[pair.id] = pair
        if not kept:
            raise DataError("no row failed of which something better is known", where=Where(field="report"))
        writer = TableWriter(work.folder / "examples" / "train.parquet", example_schema())
        writer.write(as_examples(list(kept.values()), [None] * len(kept)))
        writer.close()
        events.close()
        told = Summary(
            rows_in=len(mine),
            rows={"train": len(kept)},
            dropped=dict(sorted(dropped.items())),
            edited={},
            task="text",
            labels=[],
            sources=[SourceCount(source="probes", file=PROBED, rows=len(mine))],
        )
        write_aside(work.folder / "summary.json", (told.model_dump_json(indent=1) + "\n").encode())
        work.events.note(f"{len(kept):,} pairs of {len(mine):,} rows that probes asked")
        return {}

    def _wanted(self, row: Probed) -> bool:
        return not self.probes or row.probe in self.probes

    def _check(self, rows: list[Probed]) -> None:
        models, probes = {row.model for row in rows}, {row.probe for row in rows}
        if not rows:
            remedy = "give it probes that ask, such as `counterfactual`"
            raise DataError("the evaluation's probes asked nothing", where=Where(field="report"), remedy=remedy)
        if self.model not in models:
            remedy = did_you_mean(self.model, models)
            raise DataError(f"nobody asked {self.model!r}", where=Where(field="model"), remedy=remedy)
        for name in self.probes:
            if name not in probes:
                remedy = did_you_mean(name, probes)
                raise DataError(f"no row is of the probe {name!r}", where=Where(field="probes"), remedy=remedy)

    def foresee(self, outlook: Outlook) -> Forecast:
        """Reading a file takes no time."""
        return Forecast(seconds=1.0, how="reads what probes asked")


def _why_not(row: Probed) -> str:
    if not row.failed:
        return "did not fail"
    if row.wanted is None:
        return "nothing better is known"
    return "said what was wanted" if row.wanted.strip() == row.said.strip() else ""


def _pair(one: Probed, line: int) -> Row:
    from luthier.data.row import Row
    from luthier.text.messages import Message

    answer = Message(role="assistant", content=one.wanted or "")
    meta = {"rejected": one.said, "probe": one.probe, "group": one.group, "row": one.row}
    messages = (*one.asked, answer)
    name = digest_of([[message.model_dump(mode="json") for message in messages], one.said])[:16]
    return Row(
        n=line - 1,
        id=name,
        source="probes",
        file=PROBED,
        line=line,
        kind="preference",
        messages=messages,
        meta=meta,
    )
