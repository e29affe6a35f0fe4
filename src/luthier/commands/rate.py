"""People judge on the terminal or in files: each judgment goes into the ledger as it is made, so that none is lost."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from luthier.annotation.media import list_message_media
from luthier.annotation.question import InvalidAnswer
from luthier.artifacts.annotation import Annotation
from luthier.core.db import Ledger
from luthier.core.errors import InputError, RecipeError, SourceLocation, UnknownName, did_you_mean
from luthier.core.files import resolve_path
from luthier.eval.human.rating import (
    RatingFeed,
    read_judgments,
    record_rating,
    write_judgments,
    write_rating_sheet,
)
from luthier.eval.human.study import ABOUT, RatingItem, read_assignment, read_rating_question
from luthier.eval.steps.human_ratings import HumanRatings
from luthier.recipe.locate import ArtifactRef, CommandTarget, find_artifact


class RatingSession(AbstractContextManager["RatingSession"]):
    """A human rating session: its questions, and the judgments, which are counted as they come."""

    def __init__(self, found: ArtifactRef, ledgers: Sequence[Ledger], on_close: ExitStack | None = None) -> None:
        """Judgments are recorded in the first ledger, and read from all of them."""
        from luthier.eval.human.tally import RatingTally

        self.found, self._ledger, self._on_close = found, ledgers[0], on_close or ExitStack()
        self.assignment, self.question = read_assignment(found.artifact), read_rating_question(found.artifact)
        self.models: tuple[str, ...] = tuple(found.artifact.read_json(ABOUT)["models"])
        self._feed = RatingFeed(ledgers, found.artifact.digest)
        self.tally = RatingTally(
            self.assignment, self.question, self.models, min_attention_checks=self._min_attention_checks
        )
        """The judgments that were read."""
        self.revision = 0
        """Grows with each change of the tally."""

    def __exit__(self, *error: object) -> None:
        self._on_close.close()

    @property
    def _ratings_step(self) -> HumanRatings | None:
        """The step that takes the judgments together."""
        for planned in self.found.plan or ():
            if isinstance(planned.step, HumanRatings) and planned.step.assignment == self.found.step:
                return planned.step
        return None

    @property
    def _min_attention_checks(self) -> float:
        return (self._ratings_step or HumanRatings(assignment="any")).min_attention_checks

    @property
    def file(self) -> Path | None:
        """Where the recipe reads judgments from; None without a recipe."""
        if self.found.plan is None:
            return None
        recipe_dir, step = self.found.plan.recipe.recipe_dir, self._ratings_step
        return resolve_path(step.file, recipe_dir) if step is not None else recipe_dir / "judgments.jsonl"

    def judge(self, name: str | None) -> str:
        """Who judges: the name given, or the only one there is."""
        sheets = self.assignment.sheets
        if name is None and len(sheets) == 1:
            return next(iter(sheets))
        if name is None or not self.assignment.may_judge(name):
            what = "several people judge; who are you?" if name is None else f"{name!r} is no judge here"
            hint = f"--as {' or '.join(sheets) or 'NAME'}" if name is None else did_you_mean(name, sheets)
            raise UnknownName(what, where=SourceLocation(field="--as"), hint=hint)
        return name

    def refresh(self) -> None:
        """Count what others have judged since."""
        ratings, withdrawn = self._feed.read_new()
        before = {
            (rating.annotator, rating.item): self.tally.ratings.get((rating.annotator, rating.item))
            for rating in ratings
        }
        for annotator, item in withdrawn:
            self.tally.remove(annotator, item)
        new = [
            rating
            for rating in ratings
            if rating.item in self.assignment.items and before[rating.annotator, rating.item] != rating
        ]
        self.tally.extend(new)
        self.revision += bool(new or withdrawn)

    def list_ratings(self) -> list[Annotation]:
        """The judgments that count, in the order in which they were made."""
        self.refresh()
        return list(self.tally.ratings.values())

    def left(self, judge: str) -> list[RatingItem]:
        """What a judge has not judged yet, in order; where it is open to all, what fewest have judged comes first."""
        self.refresh()
        names: Sequence[str] = self.assignment.sheets.get(judge, ())
        if self.assignment.is_open:
            count = Counter(item for _, item in self.tally.ratings)
            requested = {
                name: entry.planted or count[name] < self.assignment.overlap
                for name, entry in self.assignment.key.items()
            }
            names = sorted((name for name in requested if requested[name]), key=lambda name: (count[name], name))
        return [self.assignment.items[name] for name in names if (judge, name) not in self.tally.ratings]

    def say(self, judge: str, item: RatingItem, typed: str, seconds: float | None) -> Annotation:
        """Keep what was typed, `VALUE` or `VALUE // COMMENT`, or `s` to pass; `InvalidAnswer` when it says
        nothing."""
        text, _, comment = typed.partition("//")
        text = text.strip()
        value = None if text.lower() in ("s", "skip") else self.question.typed(text, item.shown)
        annotation = Annotation(judge, value, item.id, comment.strip(), datetime.now(UTC).isoformat(), seconds)
        record_rating(self._ledger, self.found.artifact.digest, annotation)
        self.tally.add(annotation)
        self.revision += 1
        return annotation

    def save(self, to: Path | None = None) -> Path:
        """Write all judgments to a file: the one that the recipe reads, unless one is named."""
        path = to or self.file
        if path is None:
            hint = "name a file with --to, or the step as RECIPE:STEP"
            raise InputError(
                "there is no recipe to say where judgments go", where=SourceLocation(field="--to"), hint=hint
            )
        write_judgments(path, self.list_ratings())
        return path

    def take(self, path: Path) -> int:
        """Read judgments from a file into the ledger; those that stand there as they are stay single."""
        came = read_judgments(path, self.assignment, self.question)
        known = {(rating.annotator, rating.item): (rating.value, rating.comment) for rating in self.list_ratings()}
        new = [
            annotation
            for annotation in came
            if known.get((annotation.annotator, annotation.item)) != (annotation.value, annotation.comment)
        ]
        for annotation in new:
            record_rating(self._ledger, self.found.artifact.digest, annotation)
        return len(new)

    def sheet(self, judge: str, to: Path) -> int:
        """Write what a judge has not judged yet to a file to be filled in; returns how many items."""
        return write_rating_sheet(to, self.assignment, judge, self.list_ratings())

    def status(self) -> dict[str, Any]:
        """How far each judge is, and what it comes to so far."""
        from luthier.eval.human.results import describe_stop

        self.refresh()
        expected = {judge: len(items) for judge, items in self.assignment.sheets.items()}
        if self.assignment.is_open:
            expected = dict.fromkeys(sorted(self.tally.judged), len(self.assignment.items))
        annotators = {judge: {"judged": self.tally.judged[judge], "of": of} for judge, of in expected.items()}
        is_judged = any(
            rating.value is not None and not self.assignment.key[rating.item].planted
            for rating in self.tally.ratings.values()
        )
        stop = {"stop": describe_stop(self.tally, self.assignment, self.models)} if is_judged else {}
        return {"annotators": annotators, **stop}


def open_rating_session(target: CommandTarget) -> RatingSession:
    """What `RECIPE:STEP` (a step of kind `human_eval`) asks people."""
    artifact_ref = find_artifact(target)
    if artifact_ref.artifact.manifest.makes != "assignment":
        what = f"expected a step of kind `human_eval`, got one that makes a {artifact_ref.artifact.manifest.makes}"
        raise RecipeError(
            what,
            where=SourceLocation(field=str(target)),
            hint="add a step {kind: human_eval, evaluation: …} to the recipe",
        )
    workspace = artifact_ref.plan.recipe.workspace if artifact_ref.plan else target.workspace
    enclosing = (entry.ledger_url for entry in workspace.list_enclosing() if entry.has_ledger())
    with ExitStack() as opened:
        ledgers = [opened.enter_context(Ledger(url)) for url in dict.fromkeys([workspace.ledger_url, *enclosing])]
        return RatingSession(artifact_ref, ledgers, opened.pop_all())


def format_rating_item(item: RatingItem, number: int, total: int, question: str) -> Iterator[str]:
    """Format an item as text for the terminal."""
    yield f"─── {number} of {total} " + "─" * 40
    for turn in item.prompt:
        yield f"{turn['role']}: {turn.get('content') or ''}"
        yield from (f"  shows {medium.describe()}; the studio shows it" for medium in list_message_media(turn))
    names = ("A", "B") if len(item.answers) == 2 else ("The answer",)
    for name, answer in zip(names, item.answers, strict=True):
        yield f"\n[{name}]\n{answer}"
    yield f"\n{question}"


def run_rating_session(session: RatingSession, judge: str, read: Any, write: Any) -> int:
    """Ask item after item until none is left or the judge leaves; returns how many were judged.

    `read` takes a prompt and returns a line, or None at the end; `write` prints one.
    """
    left, annotations = session.left(judge), list[Annotation]()
    total = len(session.assignment.sheets.get(judge, ())) or len(left)
    index = 0
    while index < len(left):
        item = left[index]
        for line in format_rating_item(item, total - len(left) + index + 1, total, session.question.question_text):
            write(line)
        began = time.monotonic()
        typed = read(f"{session.question.legend} · s pass · u undo · q leave > ")
        if typed is None or typed.strip().lower() == "q":
            break
        if typed.strip().lower() == "u":
            index = max(0, index - 1)
            continue
        try:
            annotations.append(session.say(judge, item, typed, round(time.monotonic() - began, 1)))
        except InvalidAnswer as error:
            write(f"! {error}")
            continue
        index += 1
    return len({annotation.item for annotation in annotations})
