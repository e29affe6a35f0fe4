"""What is set apart in scripts without spaces."""

from __future__ import annotations

import re

from luthier.pii.patterns import SIGNS, separate_digits_and_signs


def test_signs_and_digits_of_other_scripts_are_seen_wherever_they_stand() -> None:
    signs = re.compile(f"[{SIGNS}]")
    for code in range(0x80, 0x110000):
        char = chr(code)
        is_sign, is_wide = signs.match(char) is not None, 0xFF01 <= code <= 0xFF5E
        changes = is_sign or is_wide or char.isdecimal()
        assert (separate_digits_and_signs(f"a 12{char}") is not None) == changes, hex(code)


def test_what_is_of_latin_script_stays() -> None:
    assert separate_digits_and_signs("Grüße, “naïve” café – 12 € 😀") is None
