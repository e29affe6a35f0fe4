"""Postal addresses: by what streets are called, by the lines before a postcode, and by words that say where one lives.

A word that is hardly anything but a street (*Road*, *straße*, *Calle*) makes an address of a name and a number. One
that names much else (*Point*, *Platz*, *Via*) needs a proof as well: somebody lives or sends something there, a flat, a
postcode or a town follows, or the whole stands apart in a line or between commas.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from luthier.pii.addresses import evidence, scripts, streets
from luthier.pii.addresses.evidence import weigh_address_at, weigh_address_tail
from luthier.pii.addresses.extent import CAP, extend_to_full_address, find_address_start, find_addresses_by_postcode
from luthier.pii.addresses.number_first import (
    FLAT,
    LONG_NUMBER,
    PLACE,
    UNIT,
    YEAR,
    match_number_and_name,
    match_number_first_address,
)
from luthier.pii.span import CandidateSpan, Spans, TextPrescan

_OTHER_SCRIPT = re.compile(r"[\u0370-\u07ff\u1100-\u11ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3]")
_REACH = 60
_ENOUGH_IN_SMALL = 4
_LINES_REACH = 110
_LONG_NAME = 8
_POSTCODE_GROUP = 3
_NAME = rf"(?:{streets.PARTICLES} |[dl]['’]){{0,3}}[A-ZÀ-ÝŁŚŻ][\w'’.-]{{0,25}}"
_TYPE_FIRST = re.compile(
    rf"(?<![\w'’])(?:(?P<sure>(?i:{streets.FIRST}))|(?P<unsure>(?i:{streets.FIRST_AT_TIMES})))[ ]"
    rf"{_NAME}(?: {_NAME}){{0,4}},?[ ]$"
)
_LAST_WORD = re.compile(r"(?:[A-ZÄÖÜÅÆØ][\w.’'-]{0,60} ){0,3}(?:[A-ZÄÖÜÅÆØ][\w.’'-]{0,60}-)?[^\W\d_][\w-]{1,40}\.? $")
_BEFORE_LAST = re.compile(
    rf"(?<![\w’'-])(?:\d{{1,3}}\. )?{CAP}[\w.’'-]{{0,25}}(?: (?:{CAP}[\w.’'-]{{0,25}}|de|la|bana|kralja|grada)){{0,3}}"
    r" [^\W\d_]{1,12}\.?,? $"
)
"""A name before a word such as *utca*."""
_GERMAN = re.compile(
    r"(?<!\w)(?:Am|Im|Zum|Zur|Beim|(?:Unter|An|Auf|In|Hinter|Vor|Bei) de[rnm])(?: [A-ZÄÖÜ][\wäöüß-]{1,25}){1,2} $"
)
_NO_GERMAN = streets.CALENDAR | streets.NUMBERED
_GERMAN_SMALL = frozenset(["am", "im", "zum", "zur", "beim", "den", "der", "dem"])
_SQUARE = re.compile(r"(?<!\w)[A-Z]{2,4} $")
_BLOCK = re.compile(r"\d{1,3},? (?:Bloco|Bl\.|Conjunto|Conj\.|Lote) [A-Z\d]\d?(?!\w)")
"""Brasília has no streets: *SQS 308, Bloco C*."""
_GRID_FIRST = re.compile(
    r"(?<!\w)(?i:(?:av(?:enida|\.)? (?:calle|carrera)|calle|cll?|carrera|cra?|kra?|avenida|av|transversal|transv"
    r"|tv|tr|diagonal"
    r"|diag|dg|autopista|bulevar|boulevard)\.?) $"
)
_GRID = re.compile(
    r"\d{1,3}[ªº]?[A-Z]{0,2}(?: ?(?:Bis|Sur|Norte|Este|Oeste|[A-Z])){0,2} ?(?:#|No\.?|N[°º]|Nro\.?) ?\d{1,4}[A-Z]{0,2}"
    r"(?: ?[-–] ?\d{1,4}[A-Z]?)?(?: (?:Sur|Este|Norte|Oeste))?(?!\w)"
)
"""Streets that have numbers for names: *Calle 60 # 34-15*."""
_SMALL_FIRST = re.compile(
    rf"(?<![\w'’])(?:{streets.FIRST}|{streets.FIRST_AT_TIMES}) (?:{streets.PARTICLES} ){{0,2}}[a-zà-ÿ]{{2,20}}"
    r"(?: [a-zà-ÿ]{2,20}){0,2},? $"
)
_SMALL_CODE = re.compile(
    r"(?P<house>\d{1,4}[a-z]?)(?:, ?[\wº° ]{1,12})?,? (?:\d{5}|\d\d-\d{3}|\d{4}-\d{3}) [^\W\d_A-Z]{3}"
)
"""A street in small letters, and a post code that proves it."""
_OTHERWISE = re.compile(r"\d{1,4}[A-Za-zªº]{0,2},? ?(?:\d|#|N|B|S|E|O|Conj|Lote|\w{1,3}[º° ]|[A-Z] )")
"""What of all that begins so; asked first, since every number is asked."""
_ROAD = re.compile(rf"(?i: {streets.ROADS}(?!\w))|,|\d\d")
"""What a number with a name needs besides in small letters."""
_SIGN = re.compile(r",? (?i:nr|no|num|número|n|br|č)[.:º°]{1,2} ?$|,? ?[#№] ?$")
"""*No. 25*, *nr. 14*: what stands before the number of a house."""
_SIGN_ENDS = frozenset(".:º°#№")
_SAID_FIRST = re.compile(rf"(?<=[:=] )(?:{_NAME} ?){{1,4}},? $|(?<=\bis )(?:{_NAME} ?){{1,4}},? $")
_UNNUMBERED = re.compile(rf"(?<![\w'’])(?i:{streets.FIRST}) {_NAME}(?: {_NAME}){{0,2}}(?!\w)")
_MARKS_BEFORE = '("“„«'
_ALONE = re.compile(
    rf"(?<!\S)[{_MARKS_BEFORE}]?(?P<all>(?:(?P<street>{streets.ALONE})|{streets.ALONE_TOLD})"
    rf" {_NAME}(?: {_NAME}){{0,2}})(?!\w)"
)
_FRENCH_OF = re.compile(r"(?:rue|boulevard|chemin|impasse|ruelle) d(?:e|u|es|e la) ")
_RUA_OF = re.compile(r"R\. d[ao]s? ")
_NO_NUMBER = re.compile(r"[sS]/[nN](?!\w)")
"""*Sem número*: the house has none."""
_BOX = re.compile(
    r"(?<!\w)(?i:p\. ?o\. ?box|po box|postfach|boîte postale|casella postale|apartado(?: de correos)?|postbus"
    r"|postboks)"
    rf" \d{{1,6}}(?: \d\d){{0,2}}{PLACE}"
)
_NUMBER = re.compile(
    r"\d(?:(?<![\w.,/$€£-]\d)(?:\d{0,4}+(?:[/–-]\d{1,4})?½?"
    r"(?=(?: ?bis| ?ter|[a-zA-Z])?,? (?:[A-Z]|[rabpciqad]\w|[nsew] |\d{1,3}[a-z]{2} "
    r"|(?:[a-z]{2,20} ){1,3}(?:street|st|avenue|ave|road|rd|boulevard|blvd|lane|ln|drive|dr|court|ct)[ ,.]))()"
    r"|(?:(?<=[\w.,º°] \d)|(?<=[oO]: \d))\d{0,3})|(?<=[A-Z]\d)(?<![A-Z]{3}\d)(?:[A-Z\d]? \d[A-Z]{2}"
    r"|[A-Z] ?\d[A-Z]\d|[\dW] [A-Z]\w{3})(?!\w)()())"
)
"""A house number with words behind it (one empty group), with a word before it (none); a postcode's end (three)."""
_UK_LINES = re.compile(
    r"(?:[A-Z\d][\w'’.-]{0,20}(?: {1,2}[\w'’.-]{1,20}){0,5}(?:,\s{1,3}|\n)){1,5}(?:[A-Z][\w'’-]{0,20} ){0,3}[A-Z]{1,2}$"
)
"""What stands before a postcode of the United Kingdom, Ireland or Canada: lines of an address."""
_HOUSE = re.compile(
    r"\d{1,4}(?:[-/]\d{1,4})? ?[a-zA-Z]?(?![\w/%-]|[.,]\d)"
    rf"(?P<more>(?: \d{{3}}(?=[,;\n)]| ?/| [a-z]{{2}} |\.?$))?{UNIT}?"
    r"(?:,? \d{4,5}(?: ?[A-Z]{2})? [A-ZÀ-Ý][\w'’-]{1,25})?)"
)


_LONGEST_CUT = 4
"""Letters of a word that is cut short, such as *Blvd.* and *Pkwy.*"""
_SHORT_WHOLE = frozenset({"road", "lane", "way", "row", "park", "walk", "hill", "view", "gate", "mews", "rise", "quay"})
"""As short, and whole."""


def find_numbered_addresses(text: str, marks: TextPrescan) -> Spans:
    """A house number with a street, or what stands before a postcode, in the orders that countries use.

    Each comes as wide as its address is and, should something else have a piece of that, as it was found.
    """
    if not text.isascii() and _has_other_script(text):
        from luthier.pii.addresses.scripts import (
            find_non_latin_addresses,  # its patterns take long to compile, and few texts need them
        )

        yield from find_non_latin_addresses(text)
    for whole in find_addresses_by_postcode(text, marks):
        yield extend_to_full_address(text, whole)
        yield whole
    numbers = list(_house_numbers(text, marks.digits))
    for number in numbers:
        if number.lastindex == _POSTCODE_GROUP:
            yield from _behind_lines(text, number)
    for number in numbers:
        if found := _of_number(text, number):
            yield _without_stop(text, extend_to_full_address(text, found))
            yield _without_stop(text, found)


def _without_stop(text: str, span: CandidateSpan) -> CandidateSpan:
    """An address without the stop of its sentence; that of a word cut short is its own: *12 Main St.*"""
    word = text[span.start : span.end - 1].rpartition(" ")[2]
    is_whole = word.isalpha() and (len(word) > _LONGEST_CUT or word.lower() in _SHORT_WHOLE)
    return span._replace(end=span.end - 1) if is_whole and text[span.end - 1] == "." else span


def _has_other_script(text: str) -> bool:
    """Whether a sign is of another script than Latin; of Western Europe's, that is told quicker than by the pattern."""
    try:
        text.encode("latin-1")
    except UnicodeEncodeError:
        return _OTHER_SCRIPT.search(text) is not None
    return False


def _of_number(text: str, number: re.Match[str]) -> CandidateSpan | None:
    """The street that a house number belongs to, with the number."""
    end, has_words = number.end(), number.lastindex
    if has_words is None and text[end : end + 1].isdigit():
        return None
    at = number.start()
    is_counted = at > 1 and text[at - 1] == " " and text[at - 2].isdigit()
    if is_counted and not has_words:
        return None
    if has_words and (found := match_number_first_address(text, at)):
        return found
    found = None if is_counted else _behind_street(text, at)
    found = found or (match_number_and_name(text, at) if has_words else None)
    if found or is_counted:
        return found
    found = weigh_address_at(text, at, end)
    return found or (_in_small_letters(text, at) if evidence.is_lowercase_around(text, at, end) else None)


def _in_small_letters(text: str, at: int) -> CandidateSpan | None:
    """The whole address around a number in a stretch of small letters, which is read as if it had capitals."""
    if not evidence.has_address_hint_nearby(text, at):
        return None
    raised, start = evidence.capitalized_context(text, at)
    begin = at - start
    number = _NUMBER.match(raised, begin)
    found = match_number_first_address(raised, begin) if number and number.lastindex else None
    found = found if found and _ROAD.search(raised[found.start : found.end]) else _behind_street(raised, begin)
    found = found if found and _is_where_in_small(raised, found) else None
    found = found or (weigh_address_at(raised, begin, number.end(), _ENOUGH_IN_SMALL) if number else None)
    if not found:
        return None
    whole = extend_to_full_address(raised, found)
    return CandidateSpan(whole.start + start, whole.end + start)


def _is_where_in_small(raised: str, found: CandidateSpan) -> bool:
    """Whether a post code or a known town follows, or somebody lives or has something sent there."""
    tail = weigh_address_tail(raised[found.start : extend_to_full_address(raised, found).end])
    is_said = scripts.is_preceded_by_address_label(raised, found.start) or scripts.is_location_phrase_before(
        raised, found.start
    )
    return tail.has_code or tail.is_known or is_said or scripts.is_standalone_phrase(raised, found.start, found.end)


def _house_numbers(text: str, digits: Sequence[int] | None) -> Iterator[re.Match[str]]:
    """What `_NUMBER` finds in a text; it only matches where digits begin."""
    if digits is None:
        yield from _NUMBER.finditer(text)
        return
    end, match = 0, _NUMBER.match
    for at in digits:
        if at >= end and (found := match(text, at)):
            end = found.end()
            yield found


def _behind_lines(text: str, code: re.Match[str]) -> Spans:
    """An address that ends in a postcode, with or without its town."""
    begin = _UK_LINES.search(text[max(0, code.start() - _LINES_REACH) : code.start()])
    if begin:
        found = CandidateSpan(find_address_start(text, code.start(), begin[0]), code.end())
        yield extend_to_full_address(text, found)
        yield found


def _behind_street(text: str, at: int) -> CandidateSpan | None:
    """A house number behind the name of its street."""
    house = _HOUSE.match(text, at)
    if house is None:
        return None
    before = text[max(0, at - _REACH) : at]
    sign = _SIGN.search(before) if before[-2:-1] in _SIGN_ENDS or before[-1:] in _SIGN_ENDS else None
    street, is_sure = _street_before(before[: sign.start()] + " " if sign else before)
    if not street:
        return _otherwise(text, before, at) if _OTHERWISE.match(text, at) else None
    if sign:
        return CandidateSpan(sign.start() + at - len(before) + 1 - len(street), house.end())
    start = at - len(street)
    is_sure = is_sure and not YEAR.match(text, at)
    is_apart = (street[1] != "." or _is_no_initial(street, house[0])) and scripts.is_standalone_phrase(
        text, start, house.end()
    )
    if is_sure or house["more"] or is_apart or _is_where(text, start, house.end()):
        return CandidateSpan(start, house.end())
    return None


def _otherwise(text: str, before: str, at: int) -> CandidateSpan | None:
    """Streets in small letters before a post code, streets that have numbers for names, and squares without streets."""
    if (grid := _GRID.match(text, at)) and (first := _GRID_FIRST.search(before)):
        return CandidateSpan(at - len(first[0]), grid.end())
    if (block := _BLOCK.match(text, at)) and (square := _SQUARE.search(before)):
        return CandidateSpan(at - len(square[0]), block.end())
    house = _SMALL_CODE.match(text, at)
    if house and not streets.FIRST_WORDS.isdisjoint(before.split()):
        small = _SMALL_FIRST.search(before)
        return CandidateSpan(at - len(small[0]), at + len(house["house"])) if small else None
    return None


def _is_no_initial(street: str, house: str) -> bool:
    """Whether *R.* is a *rua*: behind it stand small words of Portuguese, or a number too high for anybody's years."""
    return _RUA_OF.match(street) is not None or len(re.findall(r"\d", house)) >= LONG_NUMBER


def find_unnumbered_addresses(text: str, _marks: TextPrescan) -> Spans:
    """Streets whose houses have none, and streets where somebody lives."""
    if "/N" in text or "/n" in text:
        for none in _NO_NUMBER.finditer(text):
            street, _ = _street_before(text[max(0, none.start() - _REACH) : none.start()])
            if street:
                yield CandidateSpan(none.start() - len(street), none.end())
    if _names_a_street(text):
        for found in _UNNUMBERED.finditer(text):
            start, end = found.start(), found.end() - found[0].endswith(".")
            if (
                _is_where(text, start, end)
                or scripts.is_standalone_phrase(text, start, end)
                or _FRENCH_OF.match(found[0])
            ):
                yield CandidateSpan(start, end)
    for found in _ALONE.finditer(text) if _names_one_alone(text) else ():
        start, end = found.start("all"), found.end() - found[0].endswith(".")
        is_near = found["street"] or scripts.is_location_cue_near(text, start)
        if scripts.is_location_phrase_around(text, start, end) or (
            is_near and scripts.is_standalone_phrase(text, start, end)
        ):
            yield CandidateSpan(start, end)
    is_likely = "ox " in text or "BOX " in text or "ost" in text or "partado" in text
    if is_likely and _names_a_box(text.lower()):
        yield from (CandidateSpan(*one.span()) for one in _BOX.finditer(text))


def _names_a_street(text: str) -> bool:
    """Whether such a name is worth looking for; written out, since every text is asked."""
    return (
        ("ue " in text and ("rue " in text or "Rue " in text or "venue " in text))
        or ("rua " in text or "Rua " in text or "alle " in text or "venida " in text or "hemin " in text)
        or ("ulevard " in text or "mpasse " in text or "iale " in text or "iazza " in text or "ulica " in text)
    )


def _names_one_alone(text: str) -> bool:
    """Whether a word is there that makes a street of a name, or a mark that may hide one from this look."""
    return not streets.ALONE_WORDS.isdisjoint(text.split()) or any(mark in text for mark in _MARKS_BEFORE)


def _names_a_box(low: str) -> bool:
    """Whether a text in small letters names a box of a post office."""
    is_post = "post" in low and ("fach " in low or "postale " in low or "postbus " in low or "postboks " in low)
    return is_post or "box " in low or "apartado" in low


_TELLING = streets.FIRST_WORDS | scripts.SAID
_LAST_TWO = frozenset(end[-2:] for end in (*streets.ENDS, *streets.ENDS_AT_TIMES, *streets.ENDS_SELDOM))
"""Where no word is one of the first and the last ends in none of the second, no street is named."""


_APART = str.maketrans(dict.fromkeys('(;="<>|{[,', " "))
"""Marks that part words, besides blanks."""


def _street_before(before: str) -> tuple[str, bool]:
    """The name of a street that ends a text, and whether it can be little else."""
    low = before.lower()
    spoken = low.translate(_APART).split()
    is_german = not _GERMAN_SMALL.isdisjoint(spoken[-3:-1]) and spoken[-1] not in _NO_GERMAN
    if is_german and (german := _GERMAN.search(before)):
        return german[0], False
    if not _TELLING.isdisjoint(spoken) or (
        spoken and (spoken[-1][-2:] in _LAST_TWO or spoken[-1] in streets.LAST_WORDS)
    ):
        return _street_named(before, spoken)
    return "", False


def _street_named(before: str, spoken: list[str]) -> tuple[str, bool]:
    """The same; `split_words_and_marks` are the words of the text."""
    first = None if streets.FIRST_WORDS.isdisjoint(spoken) else _TYPE_FIRST.search(before)
    if first:
        kind = first["unsure"] or ""
        is_short = kind in streets.SHORT and not before[: first.start()].endswith("et ")
        return first[0], not kind or is_short or (kind[0].isupper() and kind.lower() not in streets.ENGLISH_TOO)
    ended = _street_ended(before, spoken[-1] if spoken else "")
    if ended[0]:
        return ended
    is_said = not scripts.SAID.isdisjoint(spoken) and not FLAT.search(before)
    match = _SAID_FIRST.search(before) if is_said else None
    if match and not scripts.SAID.isdisjoint(scripts.split_words_and_marks(before[: match.start()])[-3:]):
        return match[0], False
    return "", False


def _street_ended(before: str, end: str) -> tuple[str, bool]:
    """The same of a street that its last word tells, or how that ends."""
    if end in streets.LAST_WORDS and (last := _BEFORE_LAST.search(before)):
        return last[0], end in streets.LAST
    is_sure, is_known = end.endswith(streets.ENDS), end.endswith(streets.ENDS_AT_TIMES)
    last = _LAST_WORD.search(before) if is_sure or is_known or end.endswith(streets.ENDS_SELDOM) else None
    if last is None or not (is_sure or _may_be_street(last[0])):
        return "", False
    return last[0], is_sure or (is_known and len(last[0]) > _LONG_NAME)


def _may_be_street(name: str) -> bool:
    *names, word = name.split()
    low = word.lower()
    if word in streets.SMALL_ENDS:
        return bool(names) and names[-1].endswith("n")
    if not word[0].isupper() or low in streets.NO_STREET or low.endswith(streets.NO_ENDS):
        return False
    return bool(names) or low not in streets.ENDS_AT_TIMES


def _is_where(text: str, start: int, end: int) -> bool:
    return scripts.is_preceded_by_at(text, start) or scripts.is_location_phrase_around(text, start, end)
