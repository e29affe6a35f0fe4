"""Texts of scripts without spaces: signs beside letters and digits are set apart, so that finders see where these end.

`卡号是4111111111111111` holds no border that a pattern could tell a number by, and `٠١٠` no digit of a checksum.
"""

from __future__ import annotations

import re
from functools import cache

SIGNS = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u2fff\u3005-\u3007\u3040-\u30ff\u3400-\u9fff"
    "\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff"
)
"""Thai, Lao, Burmese, Khmer, Chinese, Japanese and Korean: scripts whose words touch numbers."""
_BESIDE = re.compile(rf"[{SIGNS}](?=[0-9A-Za-z+(])|(?<=[0-9A-Za-z)])[{SIGNS}]")
_OTHER_DIGIT = re.compile(r"[^\W0-9A-Za-z](?<=\d)|[\uff01-\uff5e]")
"""Digits of other scripts, and forms as wide as signs."""
_IS_OTHER = re.compile("[\u0660-\u1fff\u2e80-\ud7ff\uf900-\U0001efff\U0001fbf0-\U0003ffff]")
"""What either of them may hold: nothing of Latin, Greek, Cyrillic and Hebrew, of punctuation and emoji."""
_BORDER = "、"
"""No pattern takes it for a part of anything."""


def apart(text: str) -> str | None:
    """A text of the same length with plain digits and with borders where signs touch letters and digits; None where
    nothing changes."""
    if text.isascii() or not _IS_OTHER.search(text):
        return None
    found = text.translate(_plain()) if _OTHER_DIGIT.search(text) else text
    found = _BESIDE.sub(_BORDER, found)
    return None if found == text else found


def with_plain_digits(text: str) -> str:
    """A text with the digits of every script as those of ASCII, and wide forms as narrow ones."""
    return text if text.isascii() else text.translate(_plain())


@cache
def _plain() -> dict[int, str]:
    digits = {code: str(int(chr(code))) for code in range(0x80, 0x20000) if chr(code).isdecimal()}
    return digits | {code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)} | {0x2212: "-"}
