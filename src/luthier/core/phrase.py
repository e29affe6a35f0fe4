"""Reading rules that people write in one line: words, numbers and signs, each with the column where it stands.

A rule of a gate (`macro_f1 > base - 1%`) and of an alert (`accuracy < 0.9 on 200 labels`) are made of the same words;
which rule they make, `luthier.eval.rule` and `luthier.monitor.when` say.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

from luthier.core.errors import did_you_mean

Sign = Literal[">", ">=", "<", "<="]
SIGNS = frozenset({">", ">=", "<", "<="})
_WORD = re.compile(
    r"\s*(?:(?P<name>[A-Za-z_][\w.]*)|(?P<number>\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|\.\d+)|(?P<sign>[<>]=?|[+-])|(?P<percent>%))"
)


class WrongRule(ValueError):
    """A rule that does not follow its grammar, with the column (from 1) where it stops making sense."""


class Word(NamedTuple):
    """One word of a rule: a name, a number, a sign, `%`, or the end."""

    kind: str
    text: str
    column: int


class Phrase:
    """A rule's words, taken one after another; `WrongRule` says at which column something else was wanted."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._words = [*self._split(), Word("end", "", len(text.rstrip()) + 1)]

    @property
    def next(self) -> Word:
        """The word that is to be taken next."""
        return self._words[0]

    def take(self, kind: str, wanted: str, among: Iterable[str] = ()) -> Word:
        """The next word, which must be of this kind, and one of those when any are named."""
        word = self.next
        if word.kind != kind or (among and word.text not in among):
            raise self.wrong(
                word.column, f"expected {wanted}, got {word.text!r}" if word.text else f"expected {wanted}"
            )
        return self._words.pop(0)

    def has(self, kind: str, *texts: str) -> bool:
        """Whether the next word is of this kind, and one of these when any are named."""
        return self.next.kind == kind and (not texts or self.next.text in texts)

    def sign(self) -> Sign:
        """One of the four signs of comparison."""
        return self.take("sign", "one of > >= < <=", SIGNS).text  # type: ignore[return-value]  # one of the four

    def number(self) -> float:
        """A number, or so many per cent."""
        number = float(self.take("number", "a number").text)
        if not self.has("percent"):
            return number
        self._words.pop(0)
        return number / 100

    def margin(self) -> float:
        """What is added to or taken from a name: `- 0.01`, `+ 2%`; 0 when nothing more stands there."""
        if not self.has("sign", "+", "-"):
            return 0.0
        sign = self._words.pop(0)
        number = self.number()
        return number if sign.text == "+" else -number

    def limit(self) -> float:
        """A number that may be below 0."""
        if self.has("sign", "-"):
            self._words.pop(0)
            return -self.number()
        return self.number()

    def end(self) -> None:
        """Nothing more may stand here."""
        self.take("end", "nothing more")

    def known(self, word: Word, known: Iterable[str], what: str) -> str:
        """A name as it is written in the files; case and underscores are overlooked (`rouge_l` is `rougeL`)."""
        names = {plain(name): name for name in known}
        if plain(word.text) in names:
            return names[plain(word.text)]
        raise self.wrong(word.column, f"{what} {word.text!r} is unknown; {did_you_mean(word.text, names.values())}")

    def wrong(self, column: int, what: str) -> WrongRule:
        """The error to raise: what is wrong, and where."""
        return WrongRule(f"rule {self.text!r}, column {column}: {what}")

    def _split(self) -> Iterator[Word]:
        place = 0
        while place < len(self.text.rstrip()):
            found = _WORD.match(self.text, place)
            if found is None:
                rest = self.text[place:]
                column = place + len(rest) - len(rest.lstrip())
                raise self.wrong(column + 1, f"{self.text[column]!r} has no meaning in a rule")
            kind = str(found.lastgroup)
            yield Word(kind, found[kind], found.start(kind) + 1)
            place = found.end()


def plain(name: str) -> str:
    """A name without case and underscores, by which names are compared."""
    return name.replace("_", "").lower()
