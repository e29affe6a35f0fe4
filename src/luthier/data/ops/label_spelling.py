"""Spellings of one class, brought together."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, permutations
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from luthier.core.events import format_counted_noun
from luthier.core.messages import gettext_noop
from luthier.data.cleaning.class_lists import ClassListEdit, edit_class_lists, find_names_in_text
from luthier.data.cleaning.spelling import OTHER_WITH_S, find_misspellings, is_plural, join_compound_name, may_be_plural
from luthier.data.dedup.shingles import normalize_for_comparison
from luthier.data.operator import OperatorResult, Reads, RowCorpus, SetOperator, Suggestion, TextEdit
from luthier.data.row import Row

if TYPE_CHECKING:
    from luthier.data.suggest.profile import SourceProfile

_MOST_CLASSES = 500
_LONGEST_CHARS = 64
_SEPARATORS = re.compile(r"(?<=[^\W\d_])[\s_\-/.]+(?=[^\W_])|(?<=[^\W_])[\s_\-/.]+(?=[^\W\d_])")
"""Between words; `-1`, `1/2`, `1.0` and `A-` mean something by their signs."""
_ENDS = re.compile(r"^[\s_]+|(?<=[^\W\d_]{2})[\s_.]+$|[\s_]+$")


class LabelSpelling(SetOperator):
    """Write every class in its most frequent spelling: `refund ` and `Refunds` become `Refund`.

    Spellings are brought together when they differ in case, white space, separators between words (`card-lost`,
    `card_lost`) or a plural s; signs of numbers and marks (`-1`, `A-`, `1/2`) count. Other forms are only proposed, in
    `also`, since another class may be meant: a slip of the pen (`biling`), an umlaut spelled out (`Rueckerstattung`), a
    compound with a hyphen (`Kunden-Konto`), other plurals (`queries`, `Rechnungen`). A list of classes in the system
    prompt keeps the classes that are left. Answers that are not classes (long, or too many different ones) are left
    alone.
    """

    kind: Literal["label_spelling"] = "label_spelling"
    reads: ClassVar[tuple[Reads, ...]] = ("answer", "system")
    suggested_at: ClassVar[int] = 10
    rewrites: ClassVar[bool] = True

    also: dict[str, str] = Field(default_factory=dict)
    """Further spellings, each with the one that is meant: `{biling: billing}`."""

    def settle(self, corpus: RowCorpus) -> OperatorResult:
        """Find the spelling of every answer that is not the most frequent one of its class."""
        counts: Counter[str] = Counter()
        for row in corpus.rows():
            if len(row.answer) > _LONGEST_CHARS or len(counts) > _MOST_CLASSES:
                return OperatorResult(notes=["label_spelling: the answers are not classes; nothing was done"])
            counts[row.answer] += 1
        spellings = self.wanted_spellings(counts)
        outcome = OperatorResult(
            notes=[f"label_spelling: {old!r} is written {new!r}" for old, new in sorted(spellings.items())]
        )
        if spellings:
            prompts = _Prompts(spellings, {spellings.get(label, label) for label in counts})
            for index, row in enumerate(corpus.rows()):
                edits = [
                    TextEdit(name, 0, len(text), text, spellings[text], "one spelling for the class")
                    for name, text in _answers(row)
                    if text in spellings
                ]
                if edits := [*prompts.edits(row), *edits]:
                    outcome.edits[index] = edits
            outcome.notes.extend(prompts.notes())
        return outcome

    def wanted_spellings(self, counts: Counter[str]) -> dict[str, str]:
        """Each spelling that is not the one to be written, with that one."""
        usual = find_spelling_variants(counts)
        named = {label: self._also(label, usual) for label in counts}
        meant: Counter[str] = Counter()
        for label, rows in counts.items():
            meant[named[label]] += rows
        usual = find_spelling_variants(meant)
        return {label: usual.get(entry, entry) for label, entry in named.items() if usual.get(entry, entry) != label}

    def _also(self, label: str, usual: Mapping[str, str]) -> str:
        """What `also` makes of a class, or of the usual spelling of it; one that it names may be named again."""
        visited: set[str] = set()
        while label not in visited:
            visited.add(label)
            label = self.also.get(label, self.also.get(usual.get(label, label), label))
        return label

    @classmethod
    def trial(cls) -> LabelSpelling:
        """With defaults."""
        return cls()

    @classmethod
    def suggest(cls, profile: SourceProfile) -> Suggestion | None:
        """Worth it when the sample holds classes in several spellings."""
        if not profile.spellings:
            return None
        shown = ", ".join(f"{old!r} as {new!r}" for old, new in sorted(profile.spellings.items())[:3])
        many = len(profile.spellings)
        why = gettext_noop(
            f"{format_counted_noun(many, 'spelling')} of classes can be brought together, such as {shown}"
        )
        certain = find_spelling_variants(Counter(profile.answers))
        if also := {old: new for old, new in sorted(profile.spellings.items()) if certain.get(old) != new}:
            return Suggestion({"also": also}, f"{why}; {gettext_noop('check `also` before you run')}")
        return Suggestion({}, why)


class _Prompts:
    """System prompts whose lists of classes are kept to those that are left; each text is looked at once."""

    def __init__(self, spellings: Mapping[str, str], left: Collection[str]) -> None:
        self._wanted = spellings
        self._left = left
        self._found: dict[tuple[str, str], list[TextEdit]] = {}
        self._changed = 0
        self._names: set[str] = set()

    def edits(self, row: Row) -> Iterator[TextEdit]:
        """What becomes of the lists in the system turns of a row."""
        for name, text in row.texts(("system",)):
            if (name, text) not in self._found:
                self._found[name, text] = self._looked_at(name, text)
            yield from self._found[name, text]

    def _looked_at(self, name: str, text: str) -> list[TextEdit]:
        lists = edit_class_lists(text, self._wanted, self._left)
        rest = "\n\n".join(self._without(text, lists))
        self._names.update(find_names_in_text(rest, [old for old in self._wanted if old.strip() not in self._left]))
        self._changed += bool(lists)
        return [
            TextEdit(
                name, list_edit.start, list_edit.end, list_edit.before, list_edit.after, "the classes that are left"
            )
            for list_edit in lists
        ]

    @staticmethod
    def _without(text: str, lists: Sequence[ClassListEdit]) -> Iterator[str]:
        start = 0
        for list_edit in lists:
            yield text[start : list_edit.start]
            start = list_edit.end
        yield text[start:]

    def notes(self) -> Iterator[str]:
        """What the user is told of them."""
        if self._changed:
            many = format_counted_noun(len(self._left), "class", "classes")
            yield f"label_spelling: the system prompt lists the {many} that are left"
        for name in sorted(self._names):
            yield (
                f"label_spelling: the system prompt still names {name!r}, which is written "
                f"{self._wanted_of(name)!r}, outside of a list: write it so in the source's `system`"
            )

    def _wanted_of(self, name: str) -> str:
        return next(new for old, new in self._wanted.items() if old.strip() == name)


def _answers(row: Row) -> Iterator[tuple[str, str]]:
    """The answer, and the one that was not preferred, with their names."""
    yield f"messages[{len(row.messages) - 1}].content", row.answer
    yield from (entry for entry in row.texts_with_rejected(("assistant",)) if entry[0].startswith("meta."))


def find_spelling_variants(counts: Counter[str]) -> dict[str, str]:
    """Each rarer spelling with the most frequent one of its class (the first in order, when equally frequent)."""
    classes: dict[str, list[str]] = {}
    for label in counts:
        classes.setdefault(_bare(label), []).append(label)
    for key in sorted(classes):
        single = key.removesuffix("s")
        is_plural = single[-1:].isalpha() and single[-1] != "s" and key.split()[-1] not in OTHER_WITH_S
        if single != key and is_plural and single in classes and len(single) > 2:
            classes[single] += classes.pop(key)
    found: dict[str, str] = {}
    for labels in classes.values():
        best = _best(labels, counts)
        found.update({label: best for label in labels if label != best})
    return found


def map_label_variants(counts: Counter[str], alike: Callable[[str, str], bool] | None = None) -> dict[str, str]:
    """Each class that is another spelling or form of one, or a slip of the pen, with the one that is meant.

    `alike` says whether the texts of two classes are alike; without it, forms that may be other words are left apart.
    """
    found = find_spelling_variants(counts)
    for step in (_forms, partial(_plurals, alike=alike), find_label_typos):
        together = Counter[str]()
        for label, rows in counts.items():
            together[found.get(label, label)] += rows
        more = step(together)
        found = {label: more.get(meant, meant) for label, meant in {**more, **found}.items()}
    return found


def find_label_typos(counts: Counter[str]) -> dict[str, str]:
    """Each class that is a slip of the pen away from a far more frequent one, once spellings are brought together."""
    usual, together = find_spelling_variants(counts), Counter[str]()
    for label, rows in counts.items():
        together[usual.get(label, label)] += rows
    written = {_bare(label): label for label in together}
    found = find_misspellings({bare: together[label] for bare, label in written.items()})
    return {written[slip]: written[meant] for slip, meant in found.items()}


def _forms(counts: Counter[str]) -> dict[str, str]:
    """Classes that are the same when umlauts are spelled out and compounds written as one word."""
    classes: dict[str, list[str]] = {}
    for label in counts:
        classes.setdefault(join_compound_name(_bare(label)), []).append(label)
    return {
        label: best
        for labels in classes.values()
        for best in [_best(labels, counts)]
        for label in labels
        if label != best
    }


def _plurals(counts: Counter[str], alike: Callable[[str, str], bool] | None) -> dict[str, str]:
    """Singulars and plurals of one class, with the more frequent of the two."""
    bare = {label: _bare(label) for label in sorted(counts)}
    by_initial: dict[str, list[str]] = {}
    for label in bare:
        by_initial.setdefault(join_compound_name(bare[label])[:1], []).append(label)
    found: dict[str, str] = {}
    for entry, other in chain.from_iterable(permutations(labels, 2) for labels in by_initial.values()):
        if not {entry, other}.isdisjoint((*found, *found.values())):
            continue
        pair = bare[entry], bare[other]
        if is_plural(*pair) or (alike is not None and may_be_plural(*pair) and alike(entry, other)):
            best = _best([entry, other], counts)
            found[other if best == entry else entry] = best
    return found


def _best(labels: Sequence[str], counts: Mapping[str, int]) -> str:
    """The most frequent of some spellings (the first in order, when equally frequent)."""
    return min(labels, key=lambda label: (-counts[label], label != label.strip(), label))


def _bare(label: str) -> str:
    """A class without what is only dress: case, white space and separators."""
    return _ENDS.sub("", _SEPARATORS.sub(" ", normalize_for_comparison(label)))
