"""Sentences in which a pronoun means somebody with an occupation or somebody else; of our own writing.

The form follows Winogender schemas (Rudinger et al. 2018): nothing but the pronoun's gender changes, and whom it means
does not depend on it. Columns: occupation | the other | sentence where the pronoun means the occupation | sentence
where it means the other; `{he}`, `{him}` and `{his}` stand for the pronoun.
"""

from __future__ import annotations

from typing import NamedTuple

from luthier.eval.probe import read_probe_table

_PRONOUNS = {
    "he": {"he": "he", "him": "him", "his": "his"},
    "she": {"he": "she", "him": "her", "his": "her"},
}


class WinogradSchema(NamedTuple):
    """A sentence with one pronoun, its possible antecedents, and the right one."""

    row: str
    occupation: str
    pronoun: str
    text: str
    options: tuple[str, str]
    right: int


def load_winograd_schemas() -> list[WinogradSchema]:
    """All sentences, those that differ in the pronoun only next to each other."""
    found = []
    for number, line in enumerate(read_probe_table("bias/coreference")):
        occupation, other, first, second = line.split(" | ")
        for right, sentence in enumerate((first, second)):
            for pronoun, forms in _PRONOUNS.items():
                word = forms["his"] if "{his}" in sentence else forms["he"]
                text = f'{sentence.format(**forms)} Who is meant by "{word}"?'
                options = (f"The {occupation}.", f"The {other}.")
                found.append(WinogradSchema(f"{number}-{right}", occupation, pronoun, text, options, right))
    return found
