"""A data set as one tuning reads it: lessons to learn, held-out rows to measure, and what became of each row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.core.counted import counted
from luthier.core.digest import digest_of
from luthier.core.errors import DataError, Where
from luthier.core.step import Work
from luthier.text.dataset import BATCH, DatasetSummary, batches, examples_at, has_split
from luthier.text.messages import Example, prompt_of, said_for
from luthier.tune.curriculum import ordered
from luthier.tune.heldout import HELD_OUT, Parted, asked, check_metric, own_measure, part
from luthier.tune.objective import About, Lesson, Objective, Teacher
from luthier.tune.objectives.classify import Classify
from luthier.tune.policy import Policy
from luthier.tune.reward import Bench
from luthier.tune.schedule import Course, chosen
from luthier.tune.teacher import PACK_TOKENS, check_teacher, open_teacher, taught

if TYPE_CHECKING:
    from luthier.models.pack import Row
    from luthier.text.ids import Text
    from luthier.tune.critic import Critic
    from luthier.tune.lessons import Lessons
    from luthier.tune.loop import Measuring, Watch
    from luthier.tune.measure import Questions
    from luthier.tune.rollout.desk import Desk as Answering
    from luthier.tune.rollout.desk import Questions as Asked
    from luthier.tune.source import Source
    from luthier.tune.steps.tune import Tune


class Material:
    """The rows of one tuning; nothing grows with the data set but files in the step's scratch."""

    def __init__(self, step: Tune, work: Work, text: Text) -> None:
        self._step, self._work, self._text = step, work, text
        self._data = work.inputs["data"]
        if not has_split(self._data, "train"):
            raise DataError("the data set has no training rows", where=Where(field="data"))
        if "teacher" in work.inputs:
            check_teacher(work.inputs["teacher"], text)

    @cached_property
    def lessons(self) -> Lessons:
        """What is learnt; what is not is counted and said."""
        lessons = self._written("lessons", "train", self._places)
        self._warn(lessons)
        return lessons

    @cached_property
    def _places(self) -> Sequence[int]:
        """Places of the training rows that are used."""
        rest, rows = self._parted.rest, self._step.rows
        drawn = rows is not None and rows < len(rest)
        return [rest[at] for at in chosen(self._work.seed, len(rest), rows)] if drawn else rest

    @cached_property
    def course(self) -> Course:
        """The way through the lessons."""
        step, lessons, seed = self._step, self.lessons, self._work.seed
        course = Course(seed=seed, count=len(lessons), epochs=step.epochs, rows_per_step=step.rows_per_step)
        if (wanted := step.curriculum) is None:
            return course
        return replace(course, first=ordered(wanted, self._data, lessons, seed), first_epochs=wanted.epochs)

    @cached_property
    def about(self) -> About:
        """What the objective may know of the whole data set."""
        examples = chain.from_iterable(batches(self._data, "train"))
        labels = DatasetSummary.read(self._data).labels
        return About(classes=said_for(labels, examples) if labels else {}, seed=self._work.seed)

    @cached_property
    def watch(self) -> Watch | None:
        """What is measured on the way, when something is held out."""
        from luthier.tune.loop import Watch
        from luthier.tune.measure import Exam

        if (held_out := self._step.held_out) is None:
            return None
        check_metric(held_out, self._data, self._step.objective)
        lessons = self._held
        if not len(lessons):
            raise DataError("nothing can be measured on the held-out rows", where=Where(field="held_out.rows"))
        self._work.events.note(
            f"{counted(len(lessons), 'row')} of {self._parted.split} held out, to measure on the way"
        )
        if self.desk is not None:
            return Watch(held_out, self._trial(self.desk))
        if isinstance(held_out.metric, str) or own_measure(held_out.metric, self._step.objective):
            return Watch(held_out, Exam(self._step.objective, lessons, self.teacher))
        return Watch(held_out, Exam(self._step.objective, lessons, self.teacher, held_out.metric, self._questions()))

    def first(self, number: int) -> Iterator[Lesson]:
        """So many lessons from the first, made as those of a training are, and kept nowhere."""
        return islice(self._teach("train", self._places), number)

    def examples(self, number: int) -> list[Example]:
        """The examples of so many lessons from the first."""
        return examples_at(self._data, "train", [int(at) for at in self._places[:number]])

    def write_learnt(self, path: Path, seen: Mapping[int, int], taught: Mapping[int, int]) -> None:
        """For each example: how often its lesson was seen in the training, and by the weights that are saved (the best
        ones come before the end); its tokens, how many were learnt, whether it was cut, and why nothing was learnt from
        it when that is so."""
        import polars

        number = 0
        rows: list[dict[str, Any]] = []
        for told in self.lessons.told():
            times = (0, 0) if told["nothing"] else (seen.get(number, 0), taught.get(number, 0))
            rows.append(_became(told, times, told["nothing"]))
            number += not told["nothing"]
        if self._step.held_out is not None and self._parted.split == "train":
            rows += [_became(told, (0, 0), HELD_OUT) for told in self._held.told()]
        numbers = dict.fromkeys(("seen", "taught", "tokens", "learnt"), polars.Int64)
        kinds = {"id": polars.String, **numbers}
        polars.DataFrame(rows, schema={**kinds, "cut": polars.Boolean, "nothing": polars.String}).write_parquet(path)

    def refer(self, model: Any, course: Course) -> None:
        """Let the rows bear what a model, which has not moved yet, finds of them: all that will be seen or measured."""
        from luthier.tune.reading import read_rows

        def read(rows: list[Row]) -> list[list[float]]:
            return read_rows(model, rows, PACK_TOKENS)

        key = digest_of([self._work.inputs["model"].digest, str(next(model.parameters()).dtype)])
        seen = {lesson for step in range(course.steps) for lesson in course.lessons_of(step)}
        self._work.events.note(f"computing reference log-probabilities ({counted(len(seen), 'row')})")
        self.lessons.refer(seen, read, digest_of([key, len(seen)]))
        if self._step.held_out is not None:
            self._held.refer(range(len(self._held)), read, key)

    @cached_property
    def _parted(self) -> Parted:
        return part(self._step.held_out, self._data, self._work.seed, self._step.rows)

    @cached_property
    def _held(self) -> Lessons:
        return self._written("held_out", self._parted.split, self._parted.held)

    def _written(self, name: str, split: str, places: Sequence[int]) -> Lessons:
        """The lessons of some rows of a split, in files."""
        from luthier.tune.lessons import Lessons

        held_out = self._step.held_out.model_dump(mode="json") if self._step.held_out else None
        key = digest_of([self._step.objective.settings(), self._step.rows, held_out, self._text.digest])
        lessons = self._teach(split, places)
        if self._step.objective.stored:
            lessons = self._taught(lessons)
        return Lessons.write(self._work.scratch / name, lessons, key)

    def _taught(self, lessons: Iterator[Lesson]) -> Iterator[Lesson]:
        """The same with what the teacher says; it is opened when the first is asked for, and closed after the last."""
        teacher = self._open_teacher()
        self._work.events.note("computing the teacher's log-probabilities")
        yield from taught(lessons, self._step.objective, teacher)

    @cached_property
    def teacher(self) -> Teacher | None:
        """The teacher that is asked at each step; None where none is, or its words are stored."""
        wanted = self._step.objective.needs_teacher and not self._step.objective.stored
        return self._open_teacher() if wanted else None

    def _open_teacher(self) -> Teacher:
        return open_teacher(self._work.inputs["teacher"], self._step.precision, self._text)

    def _teach(self, split: str, places: Sequence[int]) -> Iterator[Lesson]:
        done, remarks = 0, Counter[str]()
        read = chain.from_iterable(batches(self._data, split, places, BATCH // 8))  # what is ahead is little
        for some in _together(read, len(places)):
            yield from self._step.objective.lessons(some, self._text, self.about)
            done += len(some)
            remarks.update(remark for one in some for remark in self._text.remarks(one.messages))
            self._work.events.progress(done, len(places), "rows read")
        for remark, rows in sorted(remarks.items()):
            self._work.events.note(f"{remark} (seen in {rows} of {done} rows)")

    def source(self, model: Any, tokens: int, critic: Critic | None = None) -> Source:
        """Where the rows of each step come from: these lessons, or what the model writes to them."""
        from luthier.tune.reading import sums_of_rows
        from luthier.tune.source import Stored

        if self.desk is None:
            read = lambda rows: sums_of_rows(model, rows, tokens)  # noqa: E731 - a name for one line
            return Stored(self.lessons, self.course, self._step.objective, read)
        from luthier.tune.rollout.rollout import Rollout

        self.desk.model = model
        asked = self._asked(self.lessons, "train", self._places)
        return Rollout(self._policy, self.desk, asked, self.course, tokens, self._work.events.warning, critic)

    @property
    def _policy(self) -> Policy:
        assert isinstance(self._step.objective, Policy), "objectives that draw are policies"
        return self._step.objective

    @cached_property
    def desk(self) -> Answering | None:
        """Where answers are written and judged, under an objective that draws them."""
        if not self._step.objective.draws:
            return None
        from luthier.tune.rollout.desk import Desk

        drawing = self._policy.rollout
        worth = drawing.truncated if isinstance(drawing.truncated, float) else None
        talking, writer = drawing.environment, drawing.writer
        return Desk(self._text, drawing.max_new_tokens, self._bench(), worth, talking, writer)

    def _bench(self, judge: str = "reward_model") -> Bench:
        """Where rewards work, with the reward model that an input names, when there is one."""
        from luthier.core.scorer import Desk

        events, judged = self._work.events, self._work.inputs.get(judge)
        kept = self._work.scratch / "judged"
        kept.mkdir(parents=True, exist_ok=True)
        desk = Desk(base=self._work.base, kept=kept, say=events.warning, model=Path)
        if judged is None:
            return Bench(desk=desk)
        from luthier.models.reward_model import Judge

        return Bench(desk=desk, model=Judge(judged, self._step.precision))

    def _trial(self, desk: Answering) -> Measuring:
        from luthier.tune.rollout.trial import Trial

        questions = self._asked(self._held, self._parted.split, self._parted.held)
        return Trial(self._policy, desk, questions, self._bench("gold_model") if self._step.gold_model else None)

    def _asked(self, lessons: Lessons, split: str, places: Sequence[int]) -> Asked:
        """Lessons that are prompts, with their examples."""
        from luthier.tune.rollout.desk import Questions as Asked

        told = zip(places, lessons.told(), strict=True)
        learnt = [place for place, one in told if not one["nothing"]]
        return Asked(
            lessons.rows, lambda some: examples_at(self._data, split, [learnt[at] for at in some]), len(lessons)
        )

    def _questions(self) -> Questions:
        """The held-out rows as questions of labels, as evaluation asks them."""
        from luthier.tune.measure import Questions

        examples = asked(self._data, self._parted)
        streams = [batches(self._data, split) for split in dict.fromkeys(["train", self._parted.split])]
        said = said_for(DatasetSummary.read(self._data).labels, chain.from_iterable(chain.from_iterable(streams)))
        encoded = [self._text.options(prompt_of(one), said.values(), one.tools) for one in examples]
        return Questions(
            prompts=[prompt for prompt, _ in encoded],
            choices=[choices for _, choices in encoded],
            labels=list(said),
            references=[one.label or "" for one in examples],
            normalise=objective.normalise if isinstance(objective := self._step.objective, Classify) else "sum",
        )

    def _warn(self, lessons: Lessons) -> None:
        """Say what is not learnt, and why; `DataError` when nothing is left."""
        counts, events = lessons.counts, self._work.events
        reasons = Counter(told["nothing"] for told in lessons.told() if told["nothing"])
        said = "; ".join(f"{counted(number, 'row')}: {reason}" for reason, number in sorted(reasons.items()))
        if not counts.lessons:
            what = f"nothing can be learnt from any training row ({said or 'there is none'})"
            raise DataError(what, remedy=self._step.objective.remedy(reasons) or "")
        if reasons:
            events.warning(f"not learnt: {said} (listed in learnt.parquet)")
        if counts.cut:
            rows = counted(counts.cut, "row was", "rows were")
            events.warning(f"{rows} cut to {_limit(self._step.objective)} (listed in learnt.parquet)")


def _together(examples: Iterable[Example], count: int) -> Iterator[list[Example]]:
    """So many examples, as many at a time as a batch of the data set holds, however few of each are wanted, and none by
    itself where there are others: `kto` holds an answer against its neighbour's."""
    waiting, left = iter(examples), count
    while some := list(islice(waiting, BATCH + 1 if left == BATCH + 1 else BATCH)):
        left -= len(some)
        yield some


def _became(told: dict[str, Any], times: tuple[int, int], nothing: str) -> dict[str, Any]:
    seen, taught = times
    kept = {"id": told["id"], "seen": seen, "taught": taught, "tokens": told["tokens"], "learnt": told["learnt"]}
    return {**kept, "cut": told["cut"] > 0, "nothing": nothing or None}


def _limit(objective: Objective) -> str:
    limit = getattr(objective, "max_tokens", None)
    return f"{limit} tokens" if limit is not None else "their limit"
