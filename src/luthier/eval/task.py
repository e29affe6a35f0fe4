"""A task beside the user's held-out rows: a benchmark, a standing set, conversations turn by turn."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from luthier.core.component import Component
from luthier.eval.exam import Exam

if TYPE_CHECKING:
    from luthier.text.messages import Example

DROP = "drop"
"""What a model lost of a task's main score: the base's less the tuned model's."""
SCORES = frozenset(
    {
        "acc",
        "acc_norm",
        "acc_bytes",
        "acc_mutual_info",
        "exact_match",
        "brier_score",
        "perplexity",
        "word_perplexity",
        "byte_perplexity",
        "bits_per_byte",
        "share",
        "f1",
        "mcc",
        "bleu",
        "chrf",
        "ter",
        DROP,
    }
)
"""What the scores of tasks are called, after the task's name and a point."""


@dataclass(frozen=True, kw_only=True)
class Brief:
    """What a task may look at to make its questions."""

    base: Path
    """The recipe's folder: relative paths start here."""
    examples: Sequence[Example]
    """The user's held-out rows."""
    say: Callable[[str], None]
    """Told what was decided for the user."""


class EvalTask(Component):
    """Questions that every language model of an evaluation answers, graded row by row and compared in pairs."""

    role: ClassVar[str] = "task"
    home: ClassVar[str] = "luthier.eval.tasks"

    @abstractmethod
    def exams(self, brief: Brief) -> list[Exam]:
        """What is asked; one task may hold several sets of rows."""

    def measured(self) -> tuple[str, ...] | None:
        """Names of the numbers that a gate's rules may use; None when only the task's own file can tell."""
        return None
