"""People judge on the terminal or in files: each judgment goes into the ledger as it is made, so that none is lost."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from luthier.annotation.question import InvalidAnswer
from luthier.annotation.rating_question import RatingQuestion
from luthier.artifacts.annotation import Annotation
from luthier.core.db import Ledger
from luthier.core.errors import InputError, RecipeError, SourceLocation, UnknownName, did_you_mean
from luthier.core.files import resolve_path
from luthier.eval.human.rating import (
    read_judgments,
    read_recorded_ratings,
    record_rating,
    write_judgments,
    write_rating_sheet,
)
from luthier.eval.human.study import ABOUT, Assignment, RatingItem, read_assignment, read_rating_question
from luthier.eval.steps.human_ratings import HumanRatings
from luthier.recipe.locate import ArtifactRef, CommandTarget, find_artifact


@dataclass(frozen=True, kw_only=True)
class RatingSession:
    """A human rating session: its questions, and the ledger in which answers are recorded."""

    found: ArtifactRef
    assignment: Assignment
    question: RatingQuestion
    ledger: str

    @property
    def file(self) -> Path | None:
        """Where the recipe reads judgments from; None without a recipe."""
        if self.found.plan is None:
            return None
        recipe = self.found.plan.recipe
        for planned in self.found.plan:
            if isinstance(planned.step, HumanRatings) and planned.step.assignment == self.found.step:
                return resolve_path(planned.step.file, recipe.recipe_dir)
        return recipe.recipe_dir / "judgments.jsonl"

    def judge(self, name: str | None) -> str:
        """Who judges: the name given, or the only one there is."""
        if name is None and len(self.assignment.sheets) == 1:
            return next(iter(self.assignment.sheets))
        if name is None or name not in self.assignment.sheets:
            what = "several people judge; who are you?" if name is None else f"{name!r} is no judge here"
            hint = (
                f"--as {' or '.join(self.assignment.sheets)}"
                if name is None
                else did_you_mean(name, self.assignment.sheets)
            )
            raise UnknownName(what, where=SourceLocation(field="--as"), hint=hint)
        return name

    def list_ratings(self) -> list[Annotation]:
        """The judgments that count, in the order in which they were made."""
        with Ledger(self.ledger) as ledger:
            return read_recorded_ratings(ledger, self.found.artifact.digest)

    def left(self, judge: str) -> list[RatingItem]:
        """What a judge has not judged yet, in order."""
        done = {one.item for one in self.list_ratings() if one.annotator == judge}
        return [self.assignment.items[name] for name in self.assignment.sheets[judge] if name not in done]

    def say(self, judge: str, item: RatingItem, typed: str, seconds: float | None) -> Annotation:
        """Keep what was typed, `VALUE` or `VALUE // COMMENT`, or `s` to pass; `InvalidAnswer` when it says
        nothing."""
        text, _, comment = typed.partition("//")
        text = text.strip()
        value = None if text.lower() in ("s", "skip") else self.question.typed(text, item.shown)
        made = Annotation(judge, value, item.id, comment.strip(), datetime.now(UTC).isoformat(), seconds)
        with Ledger(self.ledger) as ledger:
            record_rating(ledger, self.found.artifact.digest, made)
        return made

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
        known = {(one.annotator, one.item): (one.value, one.comment) for one in self.list_ratings()}
        new = [one for one in came if known.get((one.annotator, one.item)) != (one.value, one.comment)]
        with Ledger(self.ledger) as ledger:
            for one in new:
                record_rating(ledger, self.found.artifact.digest, one)
        return len(new)

    def sheet(self, judge: str, to: Path) -> int:
        """Write what a judge has not judged yet to a file to be filled in; returns how many items."""
        return write_rating_sheet(to, self.assignment, judge, self.list_ratings())

    def status(self) -> dict[str, Any]:
        """How far each judge is, and what it comes to so far."""
        from luthier.eval.human.results import summarize_ratings

        ratings = self.list_ratings()
        annotators = {
            judge: {"judged": sum(one.annotator == judge for one in ratings), "of": len(items)}
            for judge, items in self.assignment.sheets.items()
        }
        summary: dict[str, Any] = {"annotators": annotators}
        if any(one.value is not None and not self.assignment.key[one.item].planted for one in ratings):
            models = self.found.artifact.read_json(ABOUT)["models"]
            found = summarize_ratings(self.assignment, self.question, models, ratings, least_right=0.0, seed=0)
            summary |= {"stop": found.stop}
        return summary


def open_rating_session(target: CommandTarget) -> RatingSession:
    """What `RECIPE:STEP` (a step of kind `human_eval`) asks people."""
    found = find_artifact(target)
    if found.artifact.manifest.makes != "assignment":
        what = f"expected a step of kind `human_eval`, got one that makes a {found.artifact.manifest.makes}"
        raise RecipeError(
            what,
            where=SourceLocation(field=str(target)),
            hint="add a step {kind: human_eval, evaluation: …} to the recipe",
        )
    workspace = found.plan.recipe.workspace if found.plan else target.workspace
    question = read_rating_question(found.artifact)
    return RatingSession(
        found=found, assignment=read_assignment(found.artifact), question=question, ledger=workspace.ledger_url
    )


def format_rating_item(item: RatingItem, number: int, total: int, question: str) -> Iterator[str]:
    """Format an item as text for the terminal."""
    yield f"─── {number} of {total} " + "─" * 40
    for turn in item.prompt:
        yield f"{turn['role']}: {turn.get('content') or ''}"
    names = ("A", "B") if len(item.answers) == 2 else ("The answer",)
    for name, answer in zip(names, item.answers, strict=True):
        yield f"\n[{name}]\n{answer}"
    yield f"\n{question}"


def run_rating_session(sitting: RatingSession, judge: str, read: Any, write: Any) -> int:
    """Ask item after item until none is left or the judge leaves; returns how many were judged.

    `read` takes a prompt and returns a line, or None at the end; `write` prints one.
    """
    left, made = sitting.left(judge), list[Annotation]()
    total = len(sitting.assignment.sheets[judge])
    index = 0
    while index < len(left):
        item = left[index]
        for line in format_rating_item(item, total - len(left) + index + 1, total, sitting.question.question_text):
            write(line)
        began = time.monotonic()
        typed = read(f"{sitting.question.legend} · s pass · u undo · q leave > ")
        if typed is None or typed.strip().lower() == "q":
            break
        if typed.strip().lower() == "u":
            index = max(0, index - 1)
            continue
        try:
            made.append(sitting.say(judge, item, typed, round(time.monotonic() - began, 1)))
        except InvalidAnswer as error:
            write(f"! {error}")
            continue
        index += 1
    return len({one.item for one in made})
