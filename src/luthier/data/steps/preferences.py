"""The step that makes preference pairs: of what people preferred or rated, or of what went wrong when probes asked."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from luthier.artifacts.findings import PROBED, read_probe_rows
from luthier.core.errors import DataError, SourceLocation, did_you_mean
from luthier.core.events import format_counted_noun
from luthier.core.step import EvaluationRef, JudgmentsRef, PlanContext, Reads, Step, StepContext, StepCostEstimate
from luthier.data.row import Take, build_preference_row

if TYPE_CHECKING:
    from luthier.artifacts.findings import ProbeRow
    from luthier.chat.messages import Example
    from luthier.data.row import RankedPair, Row

PREFERRED = "preferences.jsonl"
"""Where people's judgments say, row by row, what was preferred to what."""


class Preferences(Step):
    """Make rows of prompt, chosen and rejected answer, for preference tuning, of what people said or of failed probes.

    Of rated answers (`data`): two answers to one prompt that are apart by `margin`; splits stay what they are, so a
    prompt's answers should be in one split (`group`). Of `human_ratings`: the answer that people preferred, and the one
    that they did not. Of an `evaluation`: the answer that a probe wanted, and what the model said. Rows that did not
    fail, and those of which nothing better is known, are left out and listed in `events.parquet`. A probe that was
    learnt from measures what was remembered: measure afterwards with another one.
    """

    kind: Literal["preferences"] = "preferences"
    makes: ClassVar[str] = "dataset"

    data: Annotated[str | None, Reads("dataset", optional=True)] = None
    """The step that made a data set of single answers with ratings, or with thumbs up and down."""
    rating: str = "rating"
    """The column of `data` that holds a number, or a yes or no (1 or 0)."""
    margin: float = Field(default=1.0, gt=0)
    """By how much one answer to a prompt must be rated above another to make a pair."""
    take: Take = "extremes"
    """Which pairs of a prompt's answers: the highest with the lowest, or `all` that are apart by `margin`."""
    evaluation: EvaluationRef = None
    """The step that made an evaluation whose probes asked."""
    human_ratings: JudgmentsRef = None
    """The step that took people's judgments together."""
    model: str = "tuned"
    """Whose failures are used: `tuned` or `base`."""
    probes: tuple[str, ...] = ()
    """Probes that are used, such as `counterfactual` and `refusal`; left out, all."""

    @model_validator(mode="after")
    def _from_one(self) -> Preferences:
        if sum(entry is not None for entry in (self.data, self.evaluation, self.human_ratings)) != 1:
            raise ValueError("expected one of `data`, `evaluation` and `human_ratings`")
        if self.evaluation is None and (changed := {"model", "probes"} & self.model_fields_set):
            raise ValueError(f"{min(changed)} chooses among what probes asked; people's judgments have none")
        if self.data is None and (changed := {"rating", "margin", "take"} & self.model_fields_set):
            raise ValueError(f"{min(changed)} is about rated answers; name their data set as `data`")
        return self

    def make(self, work: StepContext) -> Mapping[str, Any]:
        """Read what was asked, and write the pairs."""
        from luthier.artifacts.dataset import DatasetSummary, SourceFileSummary
        from luthier.data.engine.tables import EventWriter, RowEvent

        mine = self._mine(work)
        events = EventWriter(work.folder / "events.parquet")
        dropped: Counter[str] = Counter()
        kept: dict[str, dict[str, Row]] = {split: {} for split in mine}
        for split, rows in mine.items():
            for pair, why_not in rows:
                why = why_not or ("the same pair came before" if any(pair.id in own for own in kept.values()) else "")
                if why:
                    dropped[why] += 1
                    events.write([RowEvent(pair.id, pair.file, pair.line, work.name, "drop", why)])
                else:
                    kept[split][pair.id] = pair
        events.close()
        counts = {split: len(rows) for split, rows in kept.items() if rows}
        if not counts.get("train"):
            why = "; ".join(
                f"{format_counted_noun(count, 'row')}: {reason}" for reason, count in sorted(dropped.items())
            )
            where = SourceLocation(field="data" if self.data else "evaluation")
            raise DataError(f"no row has an answer that is known to be better than another ({why})", where=where)
        for split in counts:
            _write(work.folder / "examples" / f"{split}.parquet", list(kept[split].values()))
        every = [pair for rows in mine.values() for pair, _ in rows]
        summary = DatasetSummary(
            rows_in=len(every),
            rows=counts,
            dropped=dict(sorted(dropped.items())),
            edited={},
            task="text",
            labels=[],
            sources=[SourceFileSummary(source=every[0].source, file=every[0].file, rows=len(every))],
        )
        summary.write(work.folder)
        work.events.note(
            f"{format_counted_noun(sum(counts.values()), 'pair')} of {format_counted_noun(len(every), 'row')}"
        )
        return {}

    def _mine(self, work: StepContext) -> dict[str, list[tuple[Row, str]]]:
        """By split, each pair (or row of which none is made) and why it cannot be used."""
        if self.data is not None:
            return self._rated(work)
        return {"train": self._judged(work) if self.human_ratings is not None else self._probed(work)}

    def _rated(self, work: StepContext) -> dict[str, list[tuple[Row, str]]]:
        """Pairs of rated answers, split by split."""
        from luthier.artifacts.dataset import list_splits, read_examples
        from luthier.data.row import UnpairedRow, pairs_by_rating, require_rating_column

        data = work.inputs["data"]
        every = {split: read_examples(data, split) for split in list_splits(data)}
        require_rating_column([row for rows in every.values() for row in rows], self.rating)
        return {
            split: [
                (_alone(entry.row), entry.why) if isinstance(entry, UnpairedRow) else (_of_two(entry), "")
                for entry in pairs_by_rating(rows, self.rating, self.margin, self.take)
            ]
            for split, rows in every.items()
        }

    def _probed(self, work: StepContext) -> list[tuple[Row, str]]:
        """Pairs of what probes asked, each with why it cannot be used."""
        rows = list(read_probe_rows(work.inputs["evaluation"]))
        self._check(rows)
        mine = [(line, row) for line, row in enumerate(rows, 1) if row.model == self.model and self._wanted(row)]
        return [
            (
                build_preference_row(
                    probe_row.prompt,
                    probe_row.expected or "",
                    {
                        "rejected": probe_row.completion,
                        "probe": probe_row.probe,
                        "group": probe_row.group,
                        "row": probe_row.row,
                    },
                    ("probes", PROBED, line),
                ),
                _why_not(probe_row),
            )
            for line, probe_row in mine
        ]

    def _judged(self, work: StepContext) -> list[tuple[Row, str]]:
        """Pairs of what people preferred."""
        from luthier.chat.messages import Message

        found = []
        text = work.inputs["human_ratings"].path(PREFERRED).read_text(encoding="utf-8")
        for line, record in enumerate(map(json.loads, text.splitlines()), 1):
            prompt = tuple(Message.model_validate(turn) for turn in record["prompt"])
            meta = {name: record[name] for name in ("rejected", "margin", "judges", "row")}
            found.append((build_preference_row(prompt, record["chosen"], meta, ("judgments", PREFERRED, line)), ""))
        if not found:
            where = SourceLocation(field="human_ratings")
            raise DataError("people preferred no answer to another", where=where, hint="let more rows be judged")
        return found

    def _wanted(self, row: ProbeRow) -> bool:
        return not self.probes or row.probe in self.probes

    def _check(self, rows: list[ProbeRow]) -> None:
        models, probes = {row.model for row in rows}, {row.probe for row in rows}
        if not rows:
            hint = "give it probes that ask, such as `counterfactual`"
            raise DataError(
                "the evaluation's probes asked nothing", where=SourceLocation(field="evaluation"), hint=hint
            )
        if self.model not in models:
            hint = did_you_mean(self.model, models)
            raise DataError(f"nobody asked {self.model!r}", where=SourceLocation(field="model"), hint=hint)
        for name in self.probes:
            if name not in probes:
                hint = did_you_mean(name, probes)
                raise DataError(f"no row is of the probe {name!r}", where=SourceLocation(field="probes"), hint=hint)

    def estimate_cost(self, plan_context: PlanContext) -> StepCostEstimate:
        """Reading a file takes no time."""
        return StepCostEstimate(seconds=1.0, how="reads what probes asked")


def _of_two(better: RankedPair) -> Row:
    """A pair of rated answers, with all that its better row knew."""
    from luthier.chat.messages import answer_of, prompt_of

    row, origin = better.row, better.row.origin
    meta = {**row.meta, "rejected": answer_of(better.other), "margin": better.margin, "other": better.other.id}
    return build_preference_row(prompt_of(row), answer_of(row), meta, (origin.source, origin.file, origin.line))


def _alone(example: Example) -> Row:
    from luthier.data.row import Row

    origin = example.origin
    return Row(
        n=0, id=example.id, source=origin.source, file=origin.file, line=origin.line, kind=example.kind,
        messages=example.messages, meta=example.meta,
    )  # fmt: skip


def _write(path: Path, rows: list[Row]) -> None:
    from luthier.data.augment.rows import rows_to_example_batch
    from luthier.data.engine.tables import TableWriter, example_schema

    writer = TableWriter(path, example_schema())
    writer.write(rows_to_example_batch(rows, [None] * len(rows)))
    writer.close()


def _why_not(row: ProbeRow) -> str:
    if not row.failed:
        return "did not fail"
    if row.expected is None:
        return "nothing better is known"
    return "said what was wanted" if row.expected.strip() == row.completion.strip() else ""
