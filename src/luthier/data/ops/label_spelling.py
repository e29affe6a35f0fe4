"""Spellings of one class, brought together."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from luthier.data.cleaning.misspelt import misspelt
from luthier.data.operator import Corpus, Edit, Outcome, Reads, SetOperator, Suggestion
from luthier.data.row import Row
from luthier.data.twins.text_keys import normal

if TYPE_CHECKING:
    from luthier.data.profile import Profile

_MOST_CLASSES = 500
_LONGEST_CHARS = 64
_SEPARATORS = re.compile(r"(?<=[^\W\d_])[\s_\-/.]+(?=[^\W_])|(?<=[^\W_])[\s_\-/.]+(?=[^\W\d_])")
"""Between words; `-1`, `1/2`, `1.0` and `A-` mean something by their signs."""
_ENDS = re.compile(r"^[\s_]+|(?<=[^\W\d_]{2})[\s_.]+$|[\s_]+$")
_OTHER_WITH_S = frozenset({"news", "goods", "customs", "arms", "means", "works"})
"""Words that a plural s makes others of."""


class LabelSpelling(SetOperator):
    """Write every class in its most frequent spelling: `refund ` and `Refunds` become `Refund`.

    Spellings are brought together when they differ in case, white space, separators between words (`card-lost`,
    `card_lost`) or a plural s; signs of numbers and marks (`-1`, `A-`, `1/2`) count. A slip of the pen (`biling`) is
    only proposed, in `also`, since a rare class may be meant. Answers that are not classes (long, or too many different
    ones) are left alone.
    """

    kind: Literal["label_spelling"] = "label_spelling"
    reads: ClassVar[tuple[Reads, ...]] = ("answer",)
    suggested_at: ClassVar[int] = 10
    rewrites: ClassVar[bool] = True

    also: dict[str, str] = Field(default_factory=dict)
    """Further spellings, each with the one that is meant: `{biling: billing}`."""

    def settle(self, corpus: Corpus) -> Outcome:
        """Find the spelling of every answer that is not the most frequent one of its class."""
        counts: Counter[str] = Counter()
        for row in corpus.rows():
            if len(row.answer) > _LONGEST_CHARS or len(counts) > _MOST_CLASSES:
                return Outcome(notes=["label_spelling: the answers are not classes; nothing was done"])
            counts[row.answer] += 1
        wanted = self._wanted(counts)
        outcome = Outcome(notes=[f"label_spelling: {old!r} is written {new!r}" for old, new in sorted(wanted.items())])
        if wanted:
            for place, row in enumerate(corpus.rows()):
                for name, text in _answers(row):
                    if text in wanted:
                        whole = Edit(name, 0, len(text), text, wanted[text], "one spelling for the class")
                        outcome.edits.setdefault(place, []).append(whole)
        return outcome

    def _wanted(self, counts: Counter[str]) -> dict[str, str]:
        """Each spelling that is not the one to be written, with that one."""
        meant: Counter[str] = Counter()
        for label, rows in counts.items():
            meant[self.also.get(label, label)] += rows
        usual = spellings(meant)
        found = {label: self.also.get(label, label) for label in counts}
        return {label: usual.get(one, one) for label, one in found.items() if usual.get(one, one) != label}

    @classmethod
    def trial(cls) -> LabelSpelling:
        """With defaults."""
        return cls()

    @classmethod
    def suggest(cls, profile: Profile) -> Suggestion | None:
        """Worth it when the sample holds classes in several spellings."""
        if not profile.spellings:
            return None
        shown = ", ".join(f"{old!r} as {new!r}" for old, new in sorted(profile.spellings.items())[:3])
        many = len(profile.spellings)
        why = f"{many} spelling{'s' * (many > 1)} of classes can be brought together, such as {shown}"
        if also := slips(Counter(profile.answers)):
            return Suggestion({"also": also}, f"{why}; see whether `also` is right")
        return Suggestion({}, why)


def _answers(row: Row) -> Iterator[tuple[str, str]]:
    """The answer, and the one that was not preferred, with their names."""
    yield f"messages[{len(row.messages) - 1}].content", row.answer
    yield from (one for one in row.said(("assistant",)) if one[0].startswith("meta."))


def spellings(counts: Counter[str]) -> dict[str, str]:
    """Each rarer spelling with the most frequent one of its class (the first in order, when equally frequent)."""
    classes: dict[str, list[str]] = {}
    for label in counts:
        classes.setdefault(_bare(label), []).append(label)
    for key in sorted(classes):
        single = key.removesuffix("s")
        is_plural = single[-1:].isalpha() and single[-1] != "s" and key.split()[-1] not in _OTHER_WITH_S
        if single != key and is_plural and single in classes and len(single) > 2:
            classes[single] += classes.pop(key)
    found: dict[str, str] = {}
    for labels in classes.values():
        best = min(labels, key=lambda label: (-counts[label], label != label.strip(), label))
        found.update({label: best for label in labels if label != best})
    return found


def other_spellings(counts: Counter[str]) -> dict[str, str]:
    """Each class that is another spelling or a slip of the pen, with the one that is meant."""
    return {**slips(counts), **spellings(counts)}


def slips(counts: Counter[str]) -> dict[str, str]:
    """Each class that is a slip of the pen away from a far more frequent one, once spellings are brought together."""
    usual, together = spellings(counts), Counter[str]()
    for label, rows in counts.items():
        together[usual.get(label, label)] += rows
    written = {_bare(label): label for label in together}
    found = misspelt({bare: together[label] for bare, label in written.items()})
    return {written[slip]: written[meant] for slip, meant in found.items()}


def _bare(label: str) -> str:
    """A class without what is only dress: case, white space and separators."""
    return _ENDS.sub("", _SEPARATORS.sub(" ", normal(label)))
