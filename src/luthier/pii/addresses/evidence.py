"""Evidence for an address in a line: a name and a number without a street word.

The evidence is a post code, a well-known town, a flat or another address part after them, a word such as *avenida* or
*Hill* inside the name, words of residence, and isolation from other text. Each has a weight, and one alone is not
enough. Text in lower case is also read as if its names were capitalized, since chats often omit capitals.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from luthier.pii.addresses import scripts, streets
from luthier.pii.addresses import streets as towns
from luthier.pii.addresses.extent import CAP, NUMBERED_PART, extend_to_full_address
from luthier.pii.span import CandidateSpan


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_REACH = 64
_ENOUGH = 3
_SMALL_WORDS = _words("""
da de di do das dei del dos du des della degli la las los le les el y e of the van von der den na pod u
""")
"""Small words inside of names."""
_SMALL = (
    r"(?:d[aeio]s?|du|del|della|dei|degli|la|las|los|le|les|el|y|e|of|the|van|von|der|den|bana|kralja|na|pod|u|al-)"
)
_WORD = rf"(?:{CAP}[\w.’'-]{{0,25}}|\d{{1,2}}(?:\.|º|st|nd|rd|th|er)?(?![\w,])|[dl]['’]{CAP}[\w’'-]{{1,25}})"
_NUMBER = re.compile(
    r"\d{1,5}(?:[-–/]\d{1,4}){0,2}(?: ?[A-Za-z](?![\w’'.]))?(?:[-/][A-Za-z\d]{1,4})?\.?(?![\w%°€$£+=]|[.,:]\d| ?[%€$£])"
)
_NAME_BEHIND = re.compile(
    rf"(?P<number>\d{{1,5}}(?:[-–/]\d{{1,4}}){{0,2}}[A-Za-z]?)(?P<comma>,?) "
    rf"(?P<name>(?:{_SMALL} ){{0,2}}{CAP}[\w.’'-]{{0,25}}"
    rf"(?: (?:{_SMALL} ){{0,2}}{_WORD}){{0,5}})"
)
_CODE = re.compile(
    r"(?<![\w.#])(?:(?:[A-Z]{1,3}-?)?(?!(?:19|20)\d\d(?!\d))\d{4,7}(?:-\d{3,4})?|\d{3}-\d{4}|\d\d-\d{3}|\d{3} \d\d"
    r"|[A-Z]\d{4} ?[A-Z]{3}"
    r"|[A-Z]\d[A-Z] ?\d[A-Z]\d|[A-Z]{1,2}\d[A-Z\d]? ?\d[A-Z]{2}|\d{4} ?[A-Z]{2})(?!\w)"
)
_UNIT = re.compile(rf"(?:^|[ ,\n])(?i:{NUMBERED_PART})[.:º]{{0,2}} ?\w{{1,5}}(?!\w)|#\d|\d[ºª°]")
_HEADS_NAME = re.compile(rf"[-–/\d]{{0,10}}[A-Za-z]?,? (?:{_SMALL} )?{CAP}\w")
_TAIL = re.compile(rf"[ ,\n/(–-]{{1,3}}(?:{CAP}\w|[A-Z](?!\w)|\d|#|[a-zåäöéº]{{1,9}}[.:]?(?: |º|: )?\d)")
"""How something begins that may stand behind a house number."""
_FOLLOW = frozenset(" ,/-–ABCDEabcde")
_WORD_REACH = 24
_SIGNS = frozenset("#№.:°º")
_MANY = re.compile(rf", {CAP}[^,\n]{{1,30}} \d{{1,3}}(?:-\d{{1,3}})?(?=,|$)")
"""More names with a number: a list, no address."""
_PART_OF_HOUSE = re.compile(rf"(?i:{NUMBERED_PART}|house|villa|plot|holding)")
_LETTERS = re.compile(r"[^\W\d_]+(?:-[^\W\d_]+)?")
_NAMES_STREETS = frozenset(
    word.strip(".")
    for word in (*streets.FIRST_WORDS, *streets.LAST, *streets.LAST_AT_TIMES, *re.findall(r"[a-z-]{2,}", streets.ROADS))
    if len(word) > 2 or word in ("ul", "av", "pl", "os", "al", "st", "rd", "bd", "út", "tn", "dr", "ln")
) - {"r", "c", "u", "g", "no", "st"}
_MAY_NAME_STREETS = frozenset(re.findall(r"[a-z]{3,}", streets.GROUNDS)) - _NAMES_STREETS
_BOXES = frozenset(
    ["box", "bag", "casilla", "bp", "pl", "pf", "poczt", "rr", "hc", "postfach", "postboks", "postbus", "apartado"]
)
"""What boxes of a post office are called, before their number."""
_POST = _words("po gpo locked private postfach postboks postbus apartado casilla poczt")
"""Of those, what names nothing else."""
_WHICH = (
    streets.NUMBERED
    | streets.CALENDAR
    | streets.MONTHS
    | _words("""
order orders invoice ticket case tracking parcel serial reference ref sku item model isbn booking transaction policy
code iso rfc din en cve usb ipv sha utf css html http python java windows android iphone galaxy pixel office node
build sprint commit pull issue bug error exit port line lines row rows col column id pin nr score grade class room
table seat gate flight train bus tram route highway chapter section article annex appendix figure page verse psalm
act scene game set match race lap heat group team player over under about only just last next first top best euro
eur usd gbp dollars age aged since until before after by than between from to version release update phase stage
part book vol bestellung auftrag rechnung kunde kundennummer artikel pedido factura commande facture client cliente
zamówienie faktura tilaus ordre ordrenummer tel phone fax mobile call
""")
)
_SAYS_NUMBER = frozenset(["no", "nr", "num", "n", "br", "č", "km", "№"])
_NOT_FIRST = frozenset(["von", "of", "y", "e"])
_BRACKETS = "(\"“„«<>|;:='["
_PARTS = ",.;:!?)"
_MOST_WORDS = 7
_SHORT = 5
_OPENS = (
    scripts.CUES
    | scripts.PREPOSITIONS
    | scripts.IS
    | streets.NO_TOWN
    | frozenset(["attn", "hi", "hello", "hallo", "hola", "name"])
) - streets.FIRST_WORDS
_YEARS = re.compile(r"(?<!\d)(?:19|20)\d\d(?!\d)")
_YEAR = re.compile(r"(?:19|20)\d\d(?!\d)")


class _Place(NamedTuple):
    """A name with a number, and what is told of them."""

    span: CandidateSpan
    name: str
    number: str
    number_end: int
    """Where the tail begins: behind the number, or behind the name that follows it."""
    is_split: bool
    """A comma stands between them."""
    is_signed: bool
    """*No.* stands between them."""


class _Tail(NamedTuple):
    """What stands behind a name and its number."""

    weight: int
    has_code: bool
    """A post code and a town."""
    has_street: bool
    """A word that little else bears but a street."""
    is_known: bool
    """A town, a country or a region that many know."""


def weigh_address_at(text: str, at: int, end: int, enough: int = _ENOUGH) -> CandidateSpan | None:
    """The address around a number that begins at this place, if enough speaks for one; `end` is past its digits.

    Every number is asked, and names have capitals.
    """
    before = text[at - 1 : at]
    if before == " ":
        first = text.rfind(" ", max(0, at - _WORD_REACH), at - 1) + 1
        is_likely = text[first].isupper() or text[first] in "#№" or text[first:at].rstrip(" .:º°") in _SAYS_NUMBER
    else:
        is_likely = before in _SIGNS
    if is_likely and (found := _behind_name(text, at)) and _is_one(text, found, enough):
        return found.span
    if text[end : end + 1] not in _FOLLOW or not _HEADS_NAME.match(text, end):
        return None
    found = _before_name(text, at)
    return found.span if found and _is_one(text, found, enough) else None


def _behind_name(text: str, at: int) -> _Place | None:
    """*Perseverancia 209*, *Resslova 343/10*."""
    number = _NUMBER.match(text, at)
    if number is None:
        return None
    low = max(0, at - _REACH)
    line = text[low:at].rpartition("\n")[2]
    bare = line.rstrip(" ,#№")
    words = bare.split(" ")
    is_signed = "#" in line[len(bare) :] or "№" in line[len(bare) :]
    if len(words) > 1 and words[-1].lower().rstrip(".:º°") in _SAYS_NUMBER:
        bare = bare[: -len(words.pop()) - 1].rstrip(" ,")
        is_signed = True
    words = _name_of(bare.split(" "))
    if not words or not words[-1][1:2].isalpha():
        return None
    end = number.end() - number[0].endswith(".")
    name = " ".join(words)
    start = at - len(line) + len(bare) - len(name)
    return _Place(
        CandidateSpan(start, end), name, number[0], end, "," in line[len(bare) :] and not is_signed, is_signed
    )


def _is_short(word: str) -> bool:
    """Whether a word ends in the mark of a shortened one: *Av.*, *Jr.*, *nábř.*"""
    return word.endswith(".") and (len(word) <= _SHORT or word.lower() in streets.FIRST_WORDS)


def _name_of(words: list[str]) -> list[str]:
    """The last of some words that a name is made of: with capitals, small ones and numbers only between them."""
    first = at = len(words)
    while at > 0 and len(words) - at < _MOST_WORDS:
        word = words[at - 1].lstrip(_BRACKETS)
        is_open = word != words[at - 1]
        if at < len(words) and words[at - 1][-1:] in _PARTS and not _is_short(words[at - 1]):
            break
        if word[:1].isupper() or (word[:1].isdigit() and at == 1):
            first = at - 1
        elif word not in _SMALL_WORDS and not (word.rstrip(".").isdigit() and len(word) < 4):
            break
        at -= 1
        if is_open:
            break
    found = words[first:]
    if found:
        found[0] = found[0].lstrip(_BRACKETS)
    while found and (found[0].lower().strip(".:") in _OPENS or found[0] in _NOT_FIRST):
        found = found[1:]
    return found if found and found[-1][-1:] not in ":;!?)" else []


def _before_name(text: str, at: int) -> _Place | None:
    """*13, Ahmet Haxhiu*."""
    found = _NAME_BEHIND.match(text, at)
    if found is None or (at > 0 and not text[at - 1].isspace() and text[at - 1] not in ';:="(>|'):
        return None
    name = found["name"]
    end = found.end() - name.endswith(".")
    return _Place(CandidateSpan(at, end), name, found["number"], end, bool(found["comma"]), is_signed=False)


def _is_one(text: str, candidate: _Place, enough: int) -> bool:
    """Whether the evidence is enough."""
    words = [word.lower() for word in _LETTERS.findall(candidate.name)]
    is_part = all(len(word) == 1 or _PART_OF_HOUSE.fullmatch(word) for word in words)
    is_box = words[-1] in _BOXES
    if not is_box and (words[-1] in _WHICH or words[0] in _WHICH or (len(words) == 1 and len(words[0]) < 3)):
        return False
    is_named = (
        1 if is_box else 2 if not _NAMES_STREETS.isdisjoint(words) else int(not _MAY_NAME_STREETS.isdisjoint(words))
    )
    if not is_named and not _TAIL.match(text, candidate.number_end) and not _is_after_colon(text, candidate):
        return False
    end = extend_to_full_address(text, candidate.span).end
    behind = text[candidate.number_end : end]
    start = extend_to_full_address(text, candidate.span).start
    tail = weigh_address_tail(behind)
    if _YEAR.match(candidate.number) and (tail.weight < 2 or _YEARS.search(behind) or "-" in candidate.number):
        return False
    by_words = _of_words(text, start, end)
    if candidate.is_split and not (is_named or by_words or tail.has_code):
        return False
    weight = tail.weight + by_words + is_named + candidate.is_signed + scripts.is_standalone_phrase(text, start, end)
    if is_part and not is_box:
        return weight >= enough and (tail.has_street or tail.has_code)
    is_proven = (
        is_named
        or by_words > 1
        or tail.has_code
        or tail.has_street
        or (tail.is_known and (by_words or _is_line(text, start, end)))
    )
    return weight >= enough and bool(is_proven)


def _is_line(text: str, start: int, end: int) -> bool:
    """Whether it has a line of its own below another, as in a signature."""
    return text[start - 1 : start] == "\n" and text[end : end + 1] in ("", "\n")


def _of_words(text: str, start: int, end: int) -> int:
    """What is said of it weighs so much."""
    if scripts.is_preceded_by_address_label(text, start):
        return 3
    if scripts.is_location_phrase_before(text, start) or scripts.is_location_phrase_after(text, end):
        return 2
    return int(scripts.is_location_phrase_around(text, start, end))


def _is_after_colon(text: str, candidate: _Place) -> bool:
    """Whether it may have a label before it."""
    before = text[max(0, candidate.span.start - 2) : candidate.span.start]
    return ":" in before or "=" in before


def weigh_address_tail(tail: str) -> _Tail:
    """What the parts behind a street weigh."""
    if not tail or _MANY.search(tail):
        return _Tail(0, has_code=False, has_street=False, is_known=False)
    words = _LETTERS.findall(tail)
    has_town = any(word[0].isupper() and len(word) > 2 for word in words)
    is_known = any(word.lower() in towns.PLACES for word in words if word[0].isupper())
    is_known = is_known or (has_town and any(word in towns.REGIONS for word in words))
    has_code = has_town and _CODE.search(tail) is not None
    has_street = not _NAMES_STREETS.isdisjoint(map(str.lower, words))
    weight = 2 * has_code + 2 * has_street + (2 if is_known else int(has_town)) + bool(_UNIT.search(tail))
    return _Tail(weight, has_code=has_code, has_street=has_street, is_known=is_known)


_NEAR = 8
_GOES_ON = frozenset(" ,/-\nabcde")
_LONGEST = 7
_BEFORE, _BEHIND = 64, 110
_SMALL_WORD = re.compile(r"\w+(?:['’]\w+)?")
_SMALL_CODE = re.compile(r"[a-z]{1,2}\d[a-z\d]?|\d[a-z]{2}|[a-z]\d[a-z]|\d[a-z]\d|\d{4}[a-z]{2}|[a-z]\d{4,5}")
_KEPT = (
    scripts.CUES
    | scripts.PREPOSITIONS
    | scripts.IS
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
        scripts.CUES
        - {"collect", "package", "driver", "left", "letter", "shop", "mail", "post", "find", "office", "send", "sent"}
    )
    | frozenset(word.strip(".") for word in streets.FIRST_WORDS | streets.LAST | streets.LAST_AT_TIMES if len(word) > 2)
    | frozenset(re.findall(r"[a-z]{2,}", streets.ROADS))
    | towns.PLACES
)
_REGIONS = frozenset(map(str.lower, towns.REGIONS)) - _KEPT - _words("or in me de la hi ok oh pa ma")


def is_lowercase_around(text: str, at: int, end: int) -> bool:
    """Whether only small letters stand around a house number, and more of the address may follow; each is asked."""
    if text[end : end + 1] not in _GOES_ON or end - at > _LONGEST or text[end + 1 : end + 2].isdigit():
        return False
    return text[max(0, at - _NEAR) : at + 2 * _NEAR].islower()


def has_address_hint_nearby(text: str, at: int) -> bool:
    """Whether a word near this place names a street or a town, or says that somebody lives somewhere."""
    words = scripts.split_words_and_marks(text[max(0, at - _TOLD) : at + _TOLD])
    return not _TELLING.isdisjoint(words)


def capitalized_context(text: str, at: int) -> tuple[str, int]:
    """What stands around a place, its names and codes with capitals, and where that begins."""
    start = max(0, at - _BEFORE)
    start = text.find(" ", start, at) + 1 if start else 0
    return _SMALL_WORD.sub(_capital, text[start : at + _BEHIND]), start


def _capital(word: re.Match[str]) -> str:
    low = word[0]
    if low[0].isdigit() or _SMALL_CODE.fullmatch(low):
        return low.upper() if _SMALL_CODE.fullmatch(low) else low
    if low in _KEPT:
        return low
    if low in _REGIONS:
        return low.upper()
    first = low[0].upper()
    return first + low[1:] if len(first) == 1 else low
