"""The step that makes preference pairs: of what people preferred, or of what went wrong when probes asked."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import model_validator

from luthier.core.digest import digest_of
from luthier.core.errors import DataError, Where, did_you_mean
from luthier.core.files import write_aside
from luthier.core.step import EvaluationRef, Forecast, JudgmentsRef, Makes, Outlook, Step, Work
from luthier.text.probed import PROBED, read

if TYPE_CHECKING:
    from luthier.data.row import Row
    from luthier.text.messages import Message
    from luthier.text.probed import Probed

PREFERRED = "preferences.jsonl"
"""Where people's judgments say, row by row, what was preferred to what."""


class Preferences(Step):
    """Make rows of prompt, chosen and rejected answer from people's judgments or failed probes, for preference tuning.

    Of `judgments`: the answer that people preferred, and the one that they did not. Of a `report`: the answer that a
    probe wanted, and what the model said. Rows that did not fail, and those of which nothing better is known, are left
    out and listed in `events.parquet`. A probe that was learnt from measures what was remembered: measure afterwards
    with another one.
    """

    kind: Literal["preferences"] = "preferences"
    makes: ClassVar[Makes] = "dataset"

    report: EvaluationRef = None
    """The step that made an evaluation whose probes asked."""
    judgments: JudgmentsRef = None
    """The step that took people's judgments together."""
    model: str = "tuned"
    """Whose failures are used: `tuned` or `base`."""
    probes: tuple[str, ...] = ()
    """Probes that are used, such as `counterfactual` and `refusal`; left out, all."""

    @model_validator(mode="after")
    def _from_one(self) -> Preferences:
        if (self.report is None) == (self.judgments is None):
            raise ValueError("wanted one of `report` and `judgments`")
        if self.judgments is not None and (changed := {"model", "probes"} & self.model_fields_set):
            raise ValueError(f"{min(changed)} chooses among what probes asked; people's judgments have none")
        return self

    def make(self, work: Work) -> Mapping[str, Any]:
        """Read what was asked, and write the pairs."""
        from luthier.data.augment.rows import as_examples
        from luthier.data.passes.tables import Event, EventWriter, TableWriter, example_schema
        from luthier.text.dataset import SourceCount, Summary

        mine = self._judged(work) if self.judgments is not None else self._probed(work)
        events = EventWriter(work.folder / "events.parquet")
        dropped: Counter[str] = Counter()
        kept: dict[str, Row] = {}
        for pair, why_not in mine:
            why = why_not or ("the same pair came before" if pair.id in kept else "")
            if why:
                dropped[why] += 1
                events.write([Event(pair.id, pair.file, pair.line, work.name, "drop", why)])
            else:
                kept[pair.id] = pair
        if not kept:
            raise DataError("no row has an answer that is known to be better than another", where=Where(field="report"))
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
            sources=[SourceCount(source=mine[0][0].source, file=mine[0][0].file, rows=len(mine))],
        )
        write_aside(work.folder / "summary.json", (told.model_dump_json(indent=1) + "\n").encode())
        work.events.note(f"{len(kept):,} pairs of {len(mine):,} rows")
        return {}

    def _probed(self, work: Work) -> list[tuple[Row, str]]:
        """Pairs of what probes asked, each with why it cannot be used."""
        rows = list(read(work.inputs["report"]))
        self._check(rows)
        mine = [(line, one) for line, one in enumerate(rows, 1) if one.model == self.model and self._wanted(one)]
        return [
            (
                _pair(
                    one.asked,
                    one.wanted or "",
                    {"rejected": one.said, "probe": one.probe, "group": one.group, "row": one.row},
                    ("probes", PROBED, line),
                ),
                _why_not(one),
            )
            for line, one in mine
        ]

    def _judged(self, work: Work) -> list[tuple[Row, str]]:
        """Pairs of what people preferred."""
        from luthier.text.messages import Message

        found = []
        text = work.inputs["judgments"].path(PREFERRED).read_text(encoding="utf-8")
        for line, told in enumerate(map(json.loads, text.splitlines()), 1):
            asked = tuple(Message.model_validate(turn) for turn in told["prompt"])
            meta = {name: told[name] for name in ("rejected", "margin", "judges", "row")}
            found.append((_pair(asked, told["chosen"], meta, ("judgments", PREFERRED, line)), ""))
        if not found:
            where = Where(field="judgments")
            raise DataError("people preferred no answer to another", where=where, remedy="let more rows be judged")
        return found

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


def _pair(asked: tuple[Message, ...], chosen: str, meta: dict[str, Any], place: tuple[str, str, int]) -> Row:
    """A row whose answer is the chosen one; `meta` has the rejected one, and `place` is source, file and line."""
    from luthier.data.row import Row
    from luthier.text.messages import Message

    source, file, line = place
    messages = (*asked, Message(role="assistant", content=chosen))
    name = digest_of([[message.model_dump(mode="json") for message in messages], meta["rejected"]])[:16]
    return Row(
        n=line - 1, id=name, source=source, file=file, line=line, kind="preference", messages=messages, meta=meta
    )
