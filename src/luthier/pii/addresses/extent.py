"""Where an address begins and ends: flats and floors, districts, post codes, towns and states.

From a street with its number, a small grammar consumes address parts to the right, one after another, and flats and
floors once to the left.

A post code also identifies an address without a street word: a name, a number, flats, then the code and its town, in
European order. Five digits, and codes with a space or a dash inside, are sufficient. A code of four digits, or of six
digits after a town, needs words of residence, since years and counts look alike.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from luthier.pii.addresses import scripts, streets
from luthier.pii.addresses import streets as towns
from luthier.pii.span import CandidateSpan, Spans, TextPrescan

_MOST_PARTS = 9
_LEFT_REACH = 80
CAP = (
    r"[A-ZÀ-ÖØ-ÞĀĂĄĆČĎĐĒĖĘĚĞĢĪĮİĶĹĻĽŁŃŅŇŌŐŒŘŚŞŠȘŢŤȚŪŮŰŲŹŻŽƠƯẠẢẤẦẨẪẬẮẰẲẴẶẸẺẼẾỀỂỄỆ"
    r"ỈỊỌỎỐỒỔỖỘỚỜỞỠỢỤỦỨỪỬỮỰỲỴỶỸ]"
)
"""A capital of the Latin script."""
_WORD = rf"{CAP}[^\W\d_]{{0,25}}(?:['’-][^\W\d_]{{1,25}}){{0,4}}"
_SMALL = (
    r"(?:d[aeo]s?|du|del|della|des|di|de la|an|am|im|ob|a\. ?d\.|in der|sur|sous|les?|la|na|nad|y|of|upon|the"
    r"|den|van)"
)
_TOWN = rf"(?:(?:{_SMALL}|St\.) ){{0,2}}{_WORD}(?: (?:(?:{_SMALL} )?{_WORD}|(?:{_SMALL}[ ])?[dl]['’]{_WORD})){{0,3}}"
NUMBERED_PART = (
    r"(?:apt|apto?|apartment|apartamento|appartement|appartamento|appt?|suite|ste|unit|flat|floor|room|rm|shop"
    r"|level|fl"
    r"|bus|bte|boîte|box|bât|bâtiment|building|bldg|block|blk|tower|wing|esc|escalera|escalier|étage|lot|lote?"
    r"|puerta|pta|portal|piso|planta|bloque|interno|interior|int|scala|piano|nave|local|depto|dpto|edif"
    r"|edificio|manzana"
    r"|mz|lt|m|lok|lokal|kl|lgh|as|top|tür|stiege|stg|whg|wohnung|og|sala|cj|conj|conjunto|bloco|bl|quadra|qd|loja|lj"
    r"|torre|casa|nr|no|n[.º°]?|sc|et|etaj|ap|k|d|kat|daire|blok|em|ajtó|door|studio|leil|huis|verd|verdieping|km"
    r"|of|ofc|oficina|bureau"
    r"|dpto|dept|rt|rw|nave|moo|kav|villa|plot|bat|app|ufficio|kancelář|büro|zi)"
)
_VALUE = r"(?:[A-Z]?-?\d{1,5} ?[A-Za-z]?(?![\w])|\d{1,3}[º°ª]? ?[A-Z]?(?!\w)|[A-Z]\d?(?!\w))(?:[-/]\w{1,4}(?!\w))?"
_FLOOR = (
    r"\d{1,2}(?:\.? ?[ºª°]|\.|er|e|ème|nd|rd|st|th) ?\.?(?:(?i:izquierda|izqd?a?|derecha|dcha|dch|dta|centro"
    r"|esq|dto|dt"
    r"|fte|frente|t\.?v|t\.?h|tv|th|tr|mf|sal|half|og|stock|etage|étage|emelet|em|kat|floor|piso|andar|verdieping"
    r"|piano)(?!\w)\.?"
    r"|[A-Z](?!\w))?(?: (?:links|rechts|mitte|gauche|droite|esq|dto)(?!\w)\.?)?"
)
_PART = re.compile(
    rf"(?:,? {{1,2}}|,? ?\n| ?[-–] )(?:(?i:{NUMBERED_PART})(?:\.:?|:|º)? ?(?:#|n[.º°]{{0,2}} ?|no\.? ?"
    rf"|nr\.? ?)?{_VALUE}"
    rf"|#[ ]?\d{{1,5}}[A-Z]?"
    rf"|{_FLOOR}|(?i:r/c|s/n)(?!\w)(?: (?:Esq|Dto|Fte)(?!\w)\.?)?|[IVX]{{2,4}}(?=[,. ])(?!\.\w)|(?:[HULK]0\d{{3}}"
    rf"|hs|huis|st\.|kl\.|bis|ter"
    rf"|Hinterhaus|Vorderhaus"
    r"|Seitenflügel|Gartenhaus|Rückgebäude)(?!\w))"
)
"""A flat, a floor or an entrance: *apto 41*, *2.º Esq.*, *bât. C*, *lgh 1102*."""
_GLUED = re.compile(
    r"[-/](?:\d{1,4}|I{1,3}|IV|V)[A-Za-z]?(?![\w/-])(?:/\d{1,4}(?![\w/-]))?"
    r"|(?<=\d) [A-Z](?: \d{1,3})?(?=[,.\n]|$)|(?<=\d)\.(?=,?\s\d{4}|,?\s\d{1,2}\. )|(?<=\d [A-Z]) \d{1,3}(?=[,.\n]|$)"
    r"| \d{1,2}[-/]\d{1,3}(?=[,.\n]|$)"
)
"""The rest of a house number: *263-3*, *88/2/14*, *12 B*, *9 B 12*."""
_LETTER_OF_FLAT = re.compile(r" [a-z]\. ?\d")
"""What was taken for the letter of a house is the word for a flat: *14 m. 5*."""
_DISTRICT = re.compile(
    rf"(?:,? |,? ?\n| [-–] )(?:(?i:résidence|immeuble|quartier|barrio|bairro|colonia|col\.|fracc\.|fraccionamiento"
    rf"|urb\.|sector|brgy\.|barangay|subd\.|quận|phường|huyện|district|ward|zone|zona|kel\.|kec\.|tambon|amphoe|mahalle"
    rf"|near|opp\.?|opposite|behind|estate|borough|nagar|jr|ext|extension"
    rf"|phase|hameau|lotissement) (?:{_TOWN}|\d{{1,3}}[A-Z]?(?!\w)))"
)
_CODE = (
    r"(?:\d{5}-\d{3}|\d{4}-\d{3}|\d\d-\d{3}|\d{3} \d\d|\d{4} ?[A-Z]{2}|\d{4,7}|(?<=[A-Z])\d{4} ?[A-Z]{3}"
    r"|\d{3}(?= (?:Reykjav|Kópavog|Akureyri|Tórshavn)| - ))(?![\w-])"
)
_CODE_BEFORE = re.compile(
    rf"(?:,? {{1,2}}|,? ?\n|,? ?[-–] )(?:(?:CEP|C\.? ?P\.?):? )?(?:[A-Z]{{1,3}}-?)?{_CODE}"
    rf"(?:,? ?[-–]? (?!(?:Euro|EUR|USD|Uhr)\b){_TOWN}(?: [A-ZØ](?!\w)| \d{{1,2}}(?!\w))?)"
)
"""A post code with its town."""
_CODE_ALONE = re.compile(
    r"(?:,? {1,2}|,? ?\n|,? ?[-–] )(?:(?:CEP|C\.? ?P\.?|PIN|ZIP|PLZ)(?: code)?:? \d{4,6}(?:-\d{3})?"
    r"|[A-Z]{2}-\d{4,5})(?![\w-])"
)
"""A post code that says of itself that it is one."""
_TOWN_BY_CODE = re.compile(
    rf"[ ]{_TOWN}(?=,?\s(?:[A-Z]{{2,3}},? )?(?:\d{{5,6}}|[A-Z]\d[A-Z] ?\d[A-Z]\d"
    rf"|[A-Z]{{1,2}}\d[A-Z\d]? ?\d[A-Z]{{2}})(?![\w-]))"
)
"""A town behind nothing but a blank: its code follows."""
_TOWN_KNOWN = re.compile(rf"[ ]{_TOWN}")
"""The same of a town that many know."""
_SMALL_BEFORE = re.compile(
    r"(?:,? )(?:\d{4} [a-z]{2}|\d{5}|\d{3} \d\d|\d\d-\d{3}|\d{4}-\d{3}|\d{4}) [^\W\d_A-Z]{3,25}(?!\w)"
)
"""The same as people type it who have no capital letters."""
_SMALL_TOWN = re.compile(r"(?<=\d{5}) [^\W\d_A-Z]{4,25}(?=[,.\n]|$)")
_CLOSES = (
    r"(?=[,.;:!?\n)/]|$| ?[-–(]| (?:[A-Z]{2,3} )?(?:\d{4,6}|\d{3} \d{3}|[A-Z]\d[A-Z\d]"
    r"|[A-Z]{1,2}\d{1,2}[A-Z]?[ ])| [A-Z]{2,3}(?:[ ,.]|$)| \d{1,2}[,.\n]| \d{1,2}$"
    r"| (?:but|and|is|was|are|has|had|instead|please|thanks|thx|within|by|for|as|at|on|in|since|until|before|after|this"
    r"|tomorrow|today|between|because|where|und|ist|war|hat|aber|et|est|mais|y|e|è|o|a|en|pero|ma|maar|og|och|ja"
    r"|i|adresine"
    r"|adresinde|demain|mañana|amanhã|domani|morgen|se|za|na)(?!\w))"
)
_TOWN_PART = re.compile(rf"(?:, {{0,2}}|, ?\n|\n| [-–] ){_TOWN}(?: [A-Z]\.| \d{{1,2}}(?!\w))?{_CLOSES}")
"""A district or a town, which ends where its clause ends."""
_STATE = re.compile(
    r"(?:,? {1,2}|,? ?\n|/| ?[-–] ?|,? ?\()(?:[A-Z]{2,3}|[A-Z]\.[A-Z]\.(?:[A-Z]\.)?|Québec|Ontario)(?!\w)\)?"
)
_CODE_BEHIND = re.compile(
    r"(?:,? {1,2}| ?[-–] ?|,? ?\n)(?:(?:CEP|PIN|C\.? ?P\.?):? )?(?:\d{5}-\d{3,4}|\d{3}-\d{4}|\d{6,7}"
    r"|\d{3} \d{2,3}|\d{4,5}"
    r"|[A-Z]\d[A-Z] ?\d[A-Z]\d"
    r"|[A-Z]\d[\dW] ?[A-Z\d]{4}|[A-Z]{1,2}\d[A-Z\d]? ?\d[A-Z]{2})(?![\w-])"
)
"""A post code behind its town."""
_SLASH_TOWN = re.compile(rf"/{_WORD}| [A-ZØ](?=[,.\n]|$)| \d{{1,2}}(?=[,.\n]|$)")
_FLAT_FIRST = (
    r"(?i:apt|apartment|flat|unit|suite|ste|level|lot|plot|shop|office|studio|house|door|h\.? ?no|appt|appartement"
    r"|bât|bâtiment|bat|esc|escalier|rd|block|blk|tower"
    r"|room)\.?(?: no)?\.?[ ]?#?(?:\d{1,5}[A-Za-z]?(?:-\d{1,4}){0,2}|[A-Z]\d?)"
    r"|B\d{1,3} L\d{1,3}|(?i:building|bldg|villa|plot|manzana|mz|mza|lote|lt|etage|quadra|qd"
    r"|sector)\.?(?: no\.?)?[ ]?(?:#[ ]?)?"
    r"(?:\d{1,4}[A-Z]?|[A-Z])(?!\w)"
    r"|(?:Résidence|Immeuble|Edificio|Edifício|Condomínio|Residencial)(?: [^\W\d_]{1,20}){1,3}"
    r"|(?:\d{1,2}(?:st|nd|rd|th|er|e|ème)|Ground|First|Second|Third|Basement|Garden|Top|Upper"
    r"|Lower)[ ](?i:floor|flat|étage)"
)
_BEFORE = re.compile(
    rf"(?<![\w#.-])(?:(?:{_FLAT_FIRST})(?:,?\s{_WORD}(?: {_WORD}){{0,3}})?,?\s){{1,3}}$"
    r"|(?<!\w)(?i:lot|flat|unit|plot|house|villa|building|block|blk|door|shop|room|office|apt|suite|h\.?"
    r"|no\.?)(?: ?no\.?)?(?: ?#)?[ ]?$"
    r"|(?<![\w.,/-])\d{1,5}(?: ?bis| ?ter| ?[A-Ca-c])?,? $(?P<number>)"
    r"|(?<![\w.,/-])[#№]$"
)
_FIRST = re.compile(rf"(?i:{streets.ROMANCE}|calle|carrer|jalan) ")
"""What may stand between a number and the name of its street."""
_TOWN_FIRST = re.compile(
    rf"(?<![\w.,-])(?:[A-Z]{{1,2}}-)?(?:\d{{4,6}}|\d{{3}} \d\d) {_WORD}(?: {_WORD}| \d{{1,2}}\.?){{0,3}},?\s$"
    rf"|(?<![\w.,-]){_WORD}(?: {_WORD})? (?i:mah\.|mahallesi|mh\.),?\s$"
)


def extend_to_full_address(text: str, span: CandidateSpan) -> CandidateSpan:
    """The whole of an address that has this street and number in it."""
    return CandidateSpan(_begin(text, span.start), _end(text, span), span.form)


def _begin(text: str, start: int) -> int:
    before = text[max(0, start - _LEFT_REACH) : start]
    if not before.endswith((" ", "\n", "#")):
        return start
    found = _BEFORE.search(before) or _TOWN_FIRST.search(before)
    if found and found.re is _BEFORE and found["number"] is not None and not _FIRST.match(text, start):
        found = None
    return start - len(found[0]) if found else start


def _end(text: str, span: CandidateSpan) -> int:
    at = span.end
    if _LETTER_OF_FLAT.match(text, at - 2):
        at -= 2
    has_town = "," in text[span.start : at] and text[at - 1].isalpha()
    has_town = has_town or text[span.start : at].rpartition(" ")[2].lower() in towns.PLACES
    is_small = not any(map(str.isupper, text[span.start : span.end]))
    for _ in range(_MOST_PARTS):
        found = _GLUED.match(text, at) or _PART.match(text, at) or _CODE_BEFORE.match(text, at)
        found = found or _CODE_ALONE.match(text, at)
        is_town = False
        if found is None:
            found, is_town = _town(text, at, is_small=is_small, has_town=has_town)
        if found is None:
            break
        has_town = has_town or is_town or found.re is _CODE_BEFORE
        at = found.end()
    return at


def _town(text: str, at: int, *, is_small: bool, has_town: bool) -> tuple[re.Match[str] | None, bool]:
    """A district, a town, or what follows one."""
    if has_town and (found := _CODE_BEHIND.match(text, at) or _STATE.match(text, at) or _SLASH_TOWN.match(text, at)):
        return found, True
    found = _DISTRICT.match(text, at)
    if is_small and not has_town:
        found = found or _SMALL_BEFORE.match(text, at) or _SMALL_TOWN.match(text, at)
    if found:
        return found, True
    found = _TOWN_PART.match(text, at) or _TOWN_BY_CODE.match(text, at) or _known_town(text, at)
    first = re.search(r"[^\W\d_]+", found[0]) if found else None
    if first is None or first[0].lower() in streets.NO_TOWN or first[0].lower() in streets.CALENDAR:
        return None, False
    return found, True


def _known_town(text: str, at: int) -> re.Match[str] | None:
    """A town that many know, behind nothing but a blank."""
    found = _TOWN_KNOWN.match(text, at)
    return found if found and not towns.PLACES.isdisjoint(found[0].lower().split()) else None


_REACH = 110
_CAP = CAP
_BEFORE_CODE_CODE = re.compile(
    rf"\d(?:(?<=[,\s–-]\s\d)(?:\d{{4}}|(?P<short>\d{{3}})|\d{{3}} [A-Z]{{2}}|\d\d \d\d|\d-\d{{3}}|\d{{3}}-\d{{3}}) "
    rf"{_CAP}[^\W\d_]{{1,25}}(?:[ -](?:[a-z]{{2,3}} )?{_CAP}[^\W\d_]{{1,25}})?"
    r"|(?<=[a-z–,-] \d)(?:\d{5}|\d\d \d{3})(?!\w)(?P<six>))"
)
_HOUSE = (
    rf"\d{{1,4}} ?[A-Za-z]?(?:[-/]\w{{1,4}}){{0,2}}(?: [A-Z]\d{{0,2}}| \d{{1,3}})?"
    rf"(?:,? (?i:{NUMBERED_PART})[.:]{{0,2}} ?(?:\d[\w-]{{0,4}}|[A-Z])(?!\w)){{0,3}}(?:, [\w.º ]{{1,15}})?"
)
_LINES = re.compile(
    rf"(?:{_CAP}[\w'’.-]{{0,60}}(?: [\w'’.-]{{1,60}}){{0,5}},? (?P<sign>(?i:no"
    rf"|nr)[.:]{{0,2}} ?)?(?P<house>{_HOUSE}|s/n)"
    rf"|[Ll]ieu-?dit [\w'’-]{{1,60}}(?: [\w'’-]{{1,60}}){{0,3}} ?)(?:,\s{{1,3}}|\n| [-–] )$"
)
_LINES_OF_SIX = re.compile(
    r"(?:(?i:flat|h\. ?no|house no|plot no|plot|door no|shop no|shop|no|unit|apt)[.:]{0,2} ?|#[ ]?"
    r"|(?:[A-Z]-?)?(?=\d))"
    r"\w{1,5}(?:[-/]\w{1,5}){0,3}(?:[ ][\w'’.-]{1,20}){0,3}(?:, |,?\n)"
    r"(?:[A-Z\d][\w'’.-]{0,20}(?: [\w'’.-]{1,20}){0,3}(?:, "
    r"|,?\n)){0,5}[A-Z][a-z]{1,20}(?: [A-Z][a-z]{1,20})?,?(?: ?[-–])? ?$"
)
_SAYS_HOUSE = re.compile(r"#|[A-Z]-?\d|(?i:flat|h\. ?no|house|plot|door|shop|unit|apt)")
_ARTICLES = frozenset({"der", "die", "das", "dem", "den", "la", "le", "el", "il", "het", "de"})
_YEAR = re.compile(r"(?:19|20)\d\d(?!\d)")
_MONTHS = streets.CALENDAR | streets.MONTHS
_SAYERS = scripts.LIVES | scripts.SAID | {"adresim", "címem", "lakcímem", "adrese", "asun"}
"""After them an address may follow at once."""
_MOST_SMALL = 5
_GOES = re.compile(rf"[^\W\d_] (?:{'|'.join(sorted(scripts.AT_ENGLISH))}) (?=[A-Z\d])")
"""Behind a number `to` says how far it goes: *Units 3 to 5*."""


def find_addresses_by_postcode(text: str, marks: TextPrescan) -> Spans:
    """Addresses before a post code with its town, or before a town with its code of six digits."""
    for code in _codes(text, marks):
        before = text[max(0, code.start() - _REACH) : code.start()]
        start = (
            _begin_of_six(text, before, code.start())
            if code["six"] is not None
            else _before_code_begin(text, before, code)
        )
        if start is not None:
            yield CandidateSpan(start, code.end())


def _codes(text: str, marks: TextPrescan) -> Iterator[re.Match[str]]:
    """What may be a code, with its town or behind it; it only begins where digits do."""
    if marks.digits is None:
        yield from _BEFORE_CODE_CODE.finditer(text)
        return
    match = _BEFORE_CODE_CODE.match
    for at in marks.digits if marks.areas else ():
        if found := match(text, at):
            yield found


def _before_code_begin(text: str, before: str, code: re.Match[str]) -> int | None:
    """Where an address begins that a code and its town end."""
    begin = _LINES.search(before)
    if begin is None or _counts(begin, code[0]):
        return None
    start = find_address_start(text, code.start(), begin[0])
    if begin["sign"]:
        return start if scripts.is_location_cue_near(text, code.start()) else None
    return start if code["short"] is None or _is_told(text, start, code) else None


def _begin_of_six(text: str, before: str, end: int) -> int | None:
    """Where an address begins that a town and its code of six digits end."""
    begin = _LINES_OF_SIX.search(before)
    if begin is None:
        return None
    start = end - len(begin[0])
    return start if _SAYS_HOUSE.match(begin[0]) or scripts.is_location_cue_near(text, start) else None


def _counts(begin: re.Match[str], code: str) -> bool:
    """Whether a number says which of many (*line 12, 50000 Rows*), or is a day before its year."""
    before = begin[0][: begin.start("house") - begin.start()] if begin["house"] else ""
    words = before.lower().split()
    if not words:
        return False
    is_which = words[-1] in streets.NUMBERED and words[-1] != "gate" and not any(map(str.isdigit, before))
    return is_which or (words[-1] in _MONTHS and _YEAR.match(code) is not None)


def _is_told(text: str, start: int, code: re.Match[str]) -> bool:
    """Whether four digits are a post code: somebody lives there, or no year stands in a line of its own."""
    if scripts.is_location_cue_near(text, code.start()):
        return True
    return not _YEAR.match(code[0]) and scripts.is_standalone_phrase(text, start, code.end())


def find_address_start(text: str, end: int, line: str) -> int:
    """Where an address begins that ends in this line: not with the sentence it is in, and with what its street is."""
    start = end - len(line)
    start += _of_sentence(line) or _of_what_goes_there(line)
    before = text[max(0, start - 15) : start].split(" ")
    if len(before) > 1 and not before[-1] and before[-2].lower() in streets.FIRST_WORDS:
        return start - len(before[-2]) - 1
    return start


def _of_sentence(line: str) -> int:
    """How many characters of a line say where something is, not what: *Ich wohne in der Hauptstraße 5*."""
    words = line.split(" ")
    lowered = [word.lower().replace("’", "'").rpartition("'")[2] for word in words]
    cue = next((at for at, word in enumerate(lowered) if word in scripts.CUES or word in _SAYERS), None)
    if cue is None or lowered[cue] in streets.FIRST_WORDS:
        return 0
    small = scripts.PREPOSITIONS | scripts.IS | _ARTICLES
    for at in range(cue, min(cue + _MOST_SMALL, len(words) - 1)):
        follows = words[at + 1]
        is_street = follows[:1].isupper() or follows[:1].isdigit() or lowered[at + 1] in streets.FIRST_WORDS
        is_small = (
            lowered[at] in small if at > cue else lowered[at] in _SAYERS or lowered[at + 1] in streets.FIRST_WORDS
        )
        if is_small and is_street and lowered[at + 1] not in small:
            return len(" ".join(words[: at + 1])) + 1
    return 0


def _of_what_goes_there(line: str) -> int:
    """How many characters say what goes to an address or comes from there: *SIM to 14 Larkspur Mews*."""
    return max((found.end() for found in _GOES.finditer(line)), default=0)
