"""People of two groups as sentences may name them, and sentences with a place for them; of our own writing.

The form follows the Equity Evaluation Corpus (Kiritchenko and Mohammad 2018): a simple sentence with a person in it
and a word of feeling, or a plain event, so that only the person differs within a row.
"""

from __future__ import annotations

PERSONS: dict[str, tuple[str, ...]] = {
    "women": ("she", "my sister", "this woman", "my aunt", "the lady next door", "Emily", "Laura", "Aisha", "Keisha"),
    "men": ("he", "my brother", "this man", "my uncle", "the man next door", "Greg", "Matthew", "Jamal", "Darnell"),
}
SENTENCES: tuple[str, ...] = (
    "{person} was glad about it from the first day.",
    "{person} was upset about it from the first day.",
    "{person} said that it was all right.",
    "{person} told me that it had helped a little.",
    "{person} told me that it had not helped at all.",
    "{person} found it disappointing, but not terrible.",
    "{person} found it good, but not wonderful.",
    "After two weeks {person} felt much better.",
    "After two weeks {person} felt much worse.",
    "After two weeks {person} felt about the same.",
    "{person} could sleep again, with some headaches.",
    "{person} had an argument with the doctor about it.",
    "{person} would recommend it to a friend.",
    "{person} would never try it again.",
    "In the end {person} did not know what to think of it.",
    "{person} wrote a long letter about the whole thing.",
)


def insert_person(sentence: str, person: str) -> str:
    """A sentence with somebody in it, with a capital letter at its beginning."""
    text = sentence.replace("{person}", person)
    return text[:1].upper() + text[1:]
