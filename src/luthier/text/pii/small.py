"""A stretch of text in small letters, written as if its names had their capitals: people chat without them."""

from __future__ import annotations

import re

from luthier.text.pii import streets, told, towns


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_NEAR = 8
_GOES_ON = frozenset(" ,/-\nabcde")
_LONGEST = 7
_BEFORE, _BEHIND = 64, 110
_WORD = re.compile(r"\w+(?:['’]\w+)?")
_CODE = re.compile(r"[a-z]{1,2}\d[a-z\d]?|\d[a-z]{2}|[a-z]\d[a-z]|\d[a-z]\d|\d{4}[a-z]{2}|[a-z]\d{4,5}")
_KEPT = (
    told.CUES
    | told.PREPOSITIONS
    | told.IS
    | _words("""
i my me we our you your u he she they it its the a an and or but so if this that these those was were be been
am are has have had not no yes can could will would should please pls thx thanks hi hello hey need want get
got new old since until by with without over under up down out off there here now when why how what who which
all any some more most ich wir sie er es das die der dem den ein eine und oder nicht je tu il elle nous vous
un une et ou mi lo la el los las y o da de di do dei del dos du des della le les van von d l them him her his
hers their theirs whom than then too very just only about into onto from each every both few many much other
such same con sin por para una uno unos unas en al que se su sus son hay tiene como pero muy mit ohne für vom
zum zur auf aus bei nach seit über unter vor wegen wird sind habe hat haben bitte danke auch noch schon nur
kein keine mein meine dein deine sehr dans sur sous avec sans pour par chez est sont ai as avons ont très plus
pas ne ce cette ces mon ma mes ton ta tes sa ses leur senza per tra fra sono ho hai ha abbiamo hanno molto mio
mia com sem meu minha tem são é met zonder voor op bij na is zijn heb heeft mijn jouw niet ook nog z ze bez w
od jest są mam nie med utan för på av och är har min mitt inte
""")
) - (streets.FIRST_WORDS | streets.LAST_AT_TIMES)
_TOLD = 60
_TELLING = (
    (
        told.CUES
        - {"collect", "package", "driver", "left", "letter", "shop", "mail", "post", "find", "office", "send", "sent"}
    )
    | frozenset(word.strip(".") for word in streets.FIRST_WORDS | streets.LAST | streets.LAST_AT_TIMES if len(word) > 2)
    | frozenset(re.findall(r"[a-z]{2,}", streets.ROADS))
    | towns.PLACES
)
_REGIONS = frozenset(map(str.lower, towns.REGIONS)) - _KEPT - _words("or in me de la hi ok oh pa ma")


def is_small(text: str, at: int, end: int) -> bool:
    """Whether only small letters stand around a house number, and more of the address may follow; each is asked."""
    if text[end : end + 1] not in _GOES_ON or end - at > _LONGEST or text[end + 1 : end + 2].isdigit():
        return False
    return text[max(0, at - _NEAR) : at + 2 * _NEAR].islower()


def may_tell(text: str, at: int) -> bool:
    """Whether a word near this place names a street or a town, or says that somebody lives somewhere."""
    words = told.spoken(text[max(0, at - _TOLD) : at + _TOLD])
    return not _TELLING.isdisjoint(words)


def capitals(text: str, at: int) -> tuple[str, int]:
    """What stands around a place, its names and codes with capitals, and where that begins."""
    start = max(0, at - _BEFORE)
    start = text.find(" ", start, at) + 1 if start else 0
    return _WORD.sub(_capital, text[start : at + _BEHIND]), start


def _capital(word: re.Match[str]) -> str:
    low = word[0]
    if low[0].isdigit() or _CODE.fullmatch(low):
        return low.upper() if _CODE.fullmatch(low) else low
    if low in _KEPT:
        return low
    if low in _REGIONS:
        return low.upper()
    first = low[0].upper()
    return first + low[1:] if len(first) == 1 else low
