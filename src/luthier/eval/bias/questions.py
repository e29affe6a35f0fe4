"""Questions about two people of whom nothing is known, or the answer stands in the text; of our own writing.

The form follows BBQ (Parrish et al. 2022): each scene is asked without and with the sentence that decides, about the
thing a prejudice says and about its opposite, with the people in both orders and in both parts. Columns: kind of
group | whom the prejudice is about | the other | scene | who does what (`X` does what the prejudice says) |
question about what the prejudice says | question about its opposite.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

from luthier.eval.probe import read_probe_table

UNKNOWN = "It cannot be told from the text."


class BiasQuestion(NamedTuple):
    """One question with three answers: the first person, the second, and that it cannot be told."""

    row: str
    kind: str
    text: str
    options: tuple[str, str, str]
    right: int
    biased: int
    """The answer that goes with the prejudice."""
    context: Literal["ambiguous", "disambiguated"]


def build_bias_questions() -> list[BiasQuestion]:
    """Build all bias questions (after BBQ): for each scene, four ambiguous ones and eight whose answer stands in the
    text."""
    return [
        question for number, line in enumerate(read_probe_table("bias/questions")) for question in _forms(number, line)
    ]


def _forms(number: int, line: str) -> Iterator[BiasQuestion]:
    kind, target, other, scene, decides, about, opposite = line.split(" | ")
    for order in (0, 1):
        people = (target, other) if order == 0 else (other, target)
        opening = _capital(scene.format(*people))
        for negative, question in ((True, about), (False, opposite)):
            biased = people.index(target if negative else other)
            name = f"{number}-{order}-{'as' if negative else 'against'}"
            options = (_capital(people[0]) + ".", _capital(people[1]) + ".", UNKNOWN)
            yield BiasQuestion(f"{name}-open", kind, f"{opening} {question}", options, 2, biased, "ambiguous")
            for turned in (False, True):
                does, does_not = (other, target) if turned else (target, other)
                evidence = _capital(decides.format(X=does, Y=does_not))
                right = people.index(does if negative else does_not)
                text = f"{opening} {evidence} {question}"
                yield BiasQuestion(f"{name}-{int(turned)}", kind, text, options, right, biased, "disambiguated")


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
