"""Question for a label of a taxonomy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from luthier.annotation.question import AnswerValue, LabelOption, LabelQuestion, QuestionItem

if TYPE_CHECKING:
    from luthier.metrics.agreement import Level

_SEPARATOR = " / "


class TreeBranch(NamedTuple):
    """One branch of a taxonomy as it is shown."""

    name: str
    option: LabelOption | None
    """The label, where people may choose the branch itself."""
    branches: tuple[TreeBranch, ...]


class TreeQuestion(LabelQuestion):
    """One label of a taxonomy, such as `Billing / Refund`; a branch can be chosen where it is listed itself."""

    kind: Literal["tree"] = "tree"
    widget: ClassVar[str] = "tree"
    level: ClassVar[Level] = "nominal"

    question: str = "Where does this belong?"
    """What people are asked."""

    @property
    def question_text(self) -> str:
        return self.question

    @property
    def legend(self) -> str:
        return f"a label, or the end of its path: {', '.join(label.name for label in self.labels)}"

    @property
    def branches(self) -> tuple[TreeBranch, ...]:
        """The taxonomy from its top, in the order of the labels."""
        return _branches([(label.name.split(_SEPARATOR), label) for label in self.labels])

    def typed(self, text: str, item: QuestionItem) -> AnswerValue:
        ends = [label.name for label in self.labels if label.name.casefold().endswith(f"/ {text.strip().casefold()}")]
        return ends[0] if len(ends) == 1 else self.find_label(text)

    def check(self, value: AnswerValue, item: QuestionItem) -> AnswerValue:
        return self.check_label(_SEPARATOR.join(map(str, value)) if isinstance(value, list | tuple) else value)

    def teaches(self, value: AnswerValue, item: QuestionItem) -> Mapping[str, Any]:
        return {"label": value}

    def similarity(self, one: AnswerValue, other: AnswerValue, item: QuestionItem) -> float:
        mine, theirs = one.split(_SEPARATOR), other.split(_SEPARATOR)
        shared = next((at for at, (a, b) in enumerate(zip(mine, theirs, strict=False)) if a != b), None)
        return (min(len(mine), len(theirs)) if shared is None else shared) / max(len(mine), len(theirs))


def _branches(paths: list[tuple[list[str], LabelOption]]) -> tuple[TreeBranch, ...]:
    below: dict[str, list[tuple[list[str], LabelOption]]] = {}
    for path, option in paths:
        below.setdefault(path[0], []).append((path[1:], option))
    return tuple(
        TreeBranch(
            name,
            next((option for path, option in inner if not path), None),
            _branches([(path, option) for path, option in inner if path]),
        )
        for name, inner in below.items()
    )
