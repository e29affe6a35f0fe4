"""Marks the sentences that a page shows in the reader's language."""

from __future__ import annotations


def gettext_noop(text: str) -> str:
    """The text as it is: `scripts/translations.py` finds the call and adds what stands in it to the translations.

    The argument is a string, an f-string, a sum of them, or a choice between them (`a if … else b`). Each value of an
    f-string becomes a placeholder, named after what is written there; `'row' if rows == 1 else 'rows'` and
    `format_counted_noun(rows, 'row')` become the forms of a plural. Text is kept, hashed and printed in English; a page
    reads the values back out of it (`luthier.studio.translation.translate_message`).
    """
    return text
