"""The step that takes people's judgments together."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from luthier.core.files import PathText, resolve_path, write_atomically
from luthier.core.hashing import canonical_json, file_digest
from luthier.core.messages import gettext_noop
from luthier.core.step import PlanContext, Reads, Step, StepContext, StepCostEstimate


class HumanRatings(Step):
    """Read what people said of the answers that a step assigned to them, and say what it comes to.

    The file is written by `luthier rate` at the end of each sitting, and read whole: it is a snapshot.
    """

    kind: Literal["human_ratings"] = "human_ratings"
    makes: ClassVar[str] = "judgments"

    assignment: Annotated[str, Reads("assignment")]
    """The step that says what is asked."""
    file: PathText = "judgments.jsonl"
    """JSON lines or CSV with item, judge, value, and maybe comment, seconds and at."""
    min_attention_checks: float = Field(default=0.7, ge=0, le=1)
    """Judges who are right in a smaller share of the planted items do not count."""
    margin: float = Field(default=0.0, ge=0)
    """Points by which an answer must be above another to be written as preferred."""

    def fingerprint(self, recipe_dir: Path) -> str | None:
        """The file's contents; a file that nobody has written yet is no judgments."""
        path = resolve_path(self.file, recipe_dir)
        return file_digest(path) if path.is_file() else "none yet"

    def make(self, work: StepContext) -> Mapping[str, Any]:
        """Read, check, weigh, and write what it comes to."""
        from luthier.eval.human.rating import rating_to_json, read_judgments
        from luthier.eval.human.results import (
            JUDGED,
            PEOPLE,
            PREFERENCES,
            extract_preference_pairs,
            score_ratings,
            summarize_ratings,
        )
        from luthier.eval.human.study import ABOUT, read_assignment, read_rating_question

        assignment = read_assignment(work.inputs["assignment"])
        about = work.inputs["assignment"].read_json(ABOUT)
        question = read_rating_question(work.inputs["assignment"])
        judgments = read_judgments(resolve_path(self.file, work.recipe_dir), assignment, question)
        eval_summary = summarize_ratings(
            assignment, question, about["models"], judgments, least_right=self.min_attention_checks, seed=work.seed
        )
        ratings = [
            scored
            for scored in score_ratings(assignment, question, judgments)
            if scored.rating.annotator not in eval_summary.left_out
        ]
        preferred = extract_preference_pairs(assignment, question, ratings, self.margin)
        lines = [
            {
                **rating_to_json(judgment),
                "row": assignment.key[judgment.item].row,
                "models": list(assignment.key[judgment.item].models),
            }
            for judgment in judgments
        ]
        write_atomically(work.folder / PEOPLE, (eval_summary.model_dump_json(indent=1) + "\n").encode())
        for name, rows in ((JUDGED, lines), (PREFERENCES, preferred)):
            write_atomically(work.folder / name, "".join(canonical_json(row) + "\n" for row in rows).encode())
        for sentence in (eval_summary.sentence, eval_summary.stop):
            work.events.note(sentence)
        for judge, why in eval_summary.left_out.items():
            work.events.warning(f"{judge} does not count: {why}")
        return {}

    def estimate_cost(self, plan_context: PlanContext) -> StepCostEstimate:
        """Reads a file."""
        return StepCostEstimate(seconds=2.0, how=gettext_noop("reads what people said"))
