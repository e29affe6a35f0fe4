"""All tasks put to all models: scores with intervals, comparisons in pairs, what was lost, and every row's answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from luthier.core.digest import canonical, digest_of
from luthier.core.errors import RecipeError, Where
from luthier.core.files import writing
from luthier.core.step import Work
from luthier.eval.contestant import BASE
from luthier.eval.exam import Exam, Graded
from luthier.eval.probe import Bench, Measure
from luthier.eval.respondent import Respondent
from luthier.eval.task import DROP, Brief, EvalTask
from luthier.metrics.columns import Scores
from luthier.metrics.paired import Comparison

TASKS = "tasks.parquet"


@dataclass(frozen=True, kw_only=True)
class Sitting:
    """What came of all tasks."""

    exams: Sequence[Exam]
    grades: Mapping[str, Mapping[str, Graded]]
    """By model and exam; the model that the evaluation is about first."""
    seed: int

    @property
    def subject(self) -> str:
        """The model that the evaluation is about."""
        return next(iter(self.grades))

    @property
    def rival(self) -> str | None:
        """The model that the subject began with, when it was asked as well."""
        return BASE if BASE in self.grades and self.subject != BASE else None

    def columns(self, model: str) -> dict[str, Scores]:
        """A model's scores by name; those of a set of exams are over all its rows."""
        found: dict[str, Scores] = {}
        for exam in self.exams:
            for name, column in self.grades[model][exam.name].columns.items():
                found[f"{exam.name}.{name}"] = column
                for group in exam.groups:
                    key = f"{group}.{name}"
                    found[key] = found[key].joined(column) if key in found else column
        return found

    def signature(self, name: str) -> str:
        """How a score was made: its exam's signature, or those of its set."""
        task = name.split(".", 1)[0]
        members = [exam.signature for exam in self.exams if task in exam.groups]
        own = next((exam.signature for exam in self.exams if exam.name == task), "")
        return f"{name}|{own or 'tasks:' + digest_of(members)[:12]}|interval:95"

    def measures(self) -> Iterator[Measure]:
        """Every score of every model, and what the subject lost against its rival."""
        for model in self.grades:
            for name, column in self.columns(model).items():
                interval = column.measured(self.seed)
                yield Measure(
                    name=name,
                    model=model,
                    value=interval.value,
                    low=interval.low,
                    high=interval.high,
                    rows=len(column),
                    signature=self.signature(name),
                    detail={},
                    against=self._against(name) if model == self.subject else {},
                )
        yield from self._drops()

    def losses(self) -> dict[str, Comparison]:
        """The rival minus the subject in the first score of each exam and set, where more is better."""
        if self.rival is None:
            return {}
        mine, its = self.columns(self.subject), self.columns(self.rival)
        firsts: dict[str, str] = {}
        for name in mine:
            firsts.setdefault(name.split(".", 1)[0], name)
        return {
            name: its[name].against(name, mine[name], self.seed)
            for name in firsts.values()
            if not mine[name].lower_is_better
        }

    def _against(self, name: str) -> dict[str, Comparison]:
        mine = self.columns(self.subject)[name]
        others = [model for model in self.grades if model != self.subject]
        return {other: mine.against(name, self.columns(other)[name], self.seed) for other in others}

    def _drops(self) -> Iterator[Measure]:
        for name, lost in self.losses().items():
            yield Measure(
                name=f"{name.split('.', 1)[0]}.{DROP}",
                model=self.subject,
                value=lost.difference,
                low=lost.low,
                high=lost.high,
                rows=lost.rows,
                signature=self.signature(name),
                detail={"lost rows": float(lost.fixed), "gained rows": float(lost.broken)},
                detectable=lost.detectable,
            )


def sit(tasks: Sequence[EvalTask], bench: Bench, work: Work) -> list[Measure]:
    """Put all tasks to the models that can answer, and write the tasks' rows; notes say what a reader should know."""
    able = bench.able("loglikelihood", "The tasks' questions: what they ask") if tasks else {}
    exams = _exams(tasks, bench, work)
    if not able or not exams:
        return []
    found = Sitting(exams=exams, grades=_grades(exams, able), seed=work.seed)
    _write(found, work.folder / TASKS)
    bench.notes.extend(_notes(found))
    return list(found.measures())


def _grades(exams: Sequence[Exam], able: Mapping[str, Respondent]) -> dict[str, dict[str, Graded]]:
    """The model that was asked last is asked first: its weights may still be there."""
    found = {}
    for name in reversed(list(able)):
        told = {exam.name: able[name].tell(exam.questions, f"questions of {exam.name}") for exam in exams}
        found[name] = {exam.name: exam.graded(told[exam.name]) for exam in exams}
    return {name: found[name] for name in able}


def _exams(tasks: Sequence[EvalTask], bench: Bench, work: Work) -> list[Exam]:
    brief = Brief(base=work.base, examples=bench.task.examples, say=work.events.note)
    exams = [exam for one in tasks for exam in one.exams(brief)]
    names = [exam.name for exam in exams]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise RecipeError(f"{twice!r} is asked twice", where=Where(field=f"steps.{work.name}.tasks"))
    return exams


def _notes(sitting: Sitting) -> Iterator[str]:
    columns = sitting.columns(sitting.subject)
    for name, lost in sitting.losses().items():
        if lost.low > 0:
            points = [columns[name].points * value for value in (lost.difference, lost.low, lost.high)]
            ends = f"(95 % interval {points[1]:.1f} to {points[2]:.1f})"
            yield f"Asked the same as its base ({name}), the tuned model is {points[0]:.1f} points lower {ends}."
    for model, own in sitting.grades.items():
        for exam in sitting.exams:
            if cut := own[exam.name].cut:
                share = f"{cut:,} of {len(exam.items):,}"
                yield f"{share} prompts of {exam.name} were too long for the {model} model and lost their beginning."


def _write(sitting: Sitting, path: Path) -> None:
    """Write every row of every task with each model's answer and scores."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [row for model in sitting.grades for exam in sitting.exams for row in _rows(exam, model, sitting)]
    names = ("task", "row", "model", "asked", "reference", "said", "scores")
    with writing(path):
        pq.write_table(pa.Table.from_pylist(rows, pa.schema([(name, pa.string()) for name in names])), path)


def _rows(exam: Exam, model: str, sitting: Sitting) -> list[dict[str, str]]:
    graded = sitting.grades[model][exam.name]
    each = {name: scores.each for name, scores in graded.columns.items()}
    return [
        {
            "task": exam.name,
            "row": item.id,
            "model": model,
            "asked": item.shown,
            "reference": item.reference,
            "said": said,
            "scores": canonical({name: column[at] for name, column in each.items()}),
        }
        for at, (item, said) in enumerate(zip(exam.items, graded.said, strict=True))
    ]
