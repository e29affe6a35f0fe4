"""Addresses in other scripts than Latin, and addresses that a sentence introduces.

The scripts are East Asian, Cyrillic, Greek, Arabic and Hebrew. Each has its own words or signs for streets, quarters
and numbers, which prove an address where they stand together: *渋谷区…2-3-8*, *静安区南京西路12号*,
*강남구 테헤란로 12*, *ул. Ленина, д. 5*, *شارع التحرير 12*. Words and marks around a street show that a person lives
there or wants a delivery there.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

from luthier.pii.span import CandidateSpan, Spans

_DIGITS = "[0-9０-９]"
_DASH = "[-‐‑–−－ー]"
_HAN = "[一-鿿々ヶ]"
_PREFECTURES = (
    "北海道|青森県|岩手県|宮城県|秋田県|山形県|福島県|茨城県|栃木県|群馬県|埼玉県|千葉県|東京都|神奈川県|新潟県|富山県|石川県"
    "|福井県|山梨県|長野県|岐阜県|静岡県|愛知県|三重県|滋賀県|京都府|大阪府|兵庫県|奈良県|和歌山県|鳥取県|島根県|岡山県|広島県"
    "|山口県|徳島県|香川県|愛媛県|高知県|福岡県|佐賀県|長崎県|熊本県|大分県|宮崎県|鹿児島県|沖縄県"
)
_PROVINCES = (
    "北京|上海|天津|重庆|重慶|河北|山西|辽宁|吉林|黑龙江|江苏|浙江|安徽|福建|江西|山东|河南|湖北|湖南|广东|廣東|海南|四川|贵州|云南"
    "|陕西|甘肃|青海|台湾|台灣|内蒙古|广西|西藏|宁夏|新疆|香港|澳门|台北|臺北|新北|台中|臺中|台南|高雄|桃园|桃園|深圳|广州|成都|杭州"
    "|南京|武汉|西安|苏州"
)
_JAPANESE = re.compile(
    rf"(?P<head>[一-鿿々ヶァ-ヴー]{{2,30}}|(?:さいたま|つくば|ひたちなか|いわき)市?[一-鿿々ヶァ-ヴー]{{0,30}})"
    rf"(?P<number>{_DIGITS}{{1,4}}(?:(?:丁目|番地?|号|の|{_DASH}){_DIGITS}{{1,4}}){{0,4}}(?:丁目|番地?|号)?)"
    rf"(?P<room>[ 　]?[^\W\d_]{{2,15}}{_DIGITS}{{1,4}}(?:号室?|室|階|F))?"
)
_JAPANESE_PLACE = re.compile(rf"(?:{_PREFECTURES}).{{0,30}}$")
_JAPANESE_PART = re.compile("[市区町村郡]")
_PART_OF_TOWN = re.compile(rf"丁目|番|{_DIGITS}{_DASH}{_DIGITS}")
_CHINESE = re.compile(
    rf"(?P<head>{_HAN}{{2,40}})(?<=[路街道巷弄段里村庄坊大])(?P<number>{_DIGITS}{{1,5}}(?:{_DASH}{_DIGITS}{{1,4}})?"
    rf"[号號弄](?:{_DASH}{_DIGITS}{{1,4}})?)"
    rf"(?P<room>[ 　]?(?:{_HAN}{{0,8}}[{_DIGITS[1:-1]}A-Z]{{1,5}}(?:号楼|栋|幢|棟|座|单元|楼|樓|层|室|号|弄|之))*)"
)
_CHINESE_BEGIN = re.compile("[在到是寄为為于至址往送给住]")
_CHINESE_PLACE = re.compile(rf"(?:{_PROVINCES}).{{0,40}}$")
_KOREAN_PART = r"[가-힣]{1,6}(?:특별자치시|특별자치도|특별시|광역시|도|시|군|구|읍|면|동|리)"
_KOREAN = re.compile(
    rf"(?<![가-힣\d])(?P<code>\(?\d{{5}}\)? )?(?P<parts>(?:{_KOREAN_PART} ){{1,4}}|서울 |부산 |대구 "
    r"|인천 |광주 |대전 |울산 |세종 )(?:[가-힣\d]{1,12}(?:로|길|가|동|리) ?)(?:지하 ?)?\d{1,5}(?:-\d{1,4})?"
    r"(?!\d|[시월일년개명원]|번째)(?:번지)?"
    r"(?:,? ?(?:[가-힣A-Za-z]{1,10} ?)?\d{1,4}(?:동|호|층)(?![가-힣]{2})){0,3}(?:, (?=[가-힣]{2})[가-힣]{2,12}(?!\w))?"
    r"(?: ?\([가-힣, ]{2,20}\))?"
)
_CAP = "[А-ЯЁЇІЄҐЂЈЉЊЋЏ]"
_CYRILLIC_TYPE = (
    r"(?:ул|улица|вул|вулиця|пр|пр-т|просп|проспект|пр-кт|наб|набережная|набережна|пер|переулок|пров|провулок|бул|бульв"
    r"|бульвар|булевард|б-р|ш|шоссе|шосе|пл|площадь|площа|площад|проезд|пр-д|аллея|алея|тупик|мкр|микрорайон|мікрорайон"
    r"|ж\.к|ж\.к\.|кв-л|квартал|линия|трг|тракт)"
)
_CYRILLIC_WORD = rf"(?:{_CAP}[\w’'-]{{0,25}}\.?|\d{{1,2}}-?(?:я|й|го|а)?|[а-яёіїє]{{2,6}})"
_CYRILLIC_NUMBER = (
    r"(?:(?:д|дом|буд|будинок|№|бр|вл|стр)\.? ?)?\d{1,4}(?:[-/]\d{1,4})?(?: ?[а-яА-Я](?!\w))?(?![\w.:]\d|\d)"
)
_CYRILLIC_TOWNS = (
    "Москва|Санкт-Петербург|Казань|Новосибирск|Минск|Київ|Киев|Львів|Одеса|Харків|София|Пловдив|Варна|Београд|Скопје"
)
_CYRILLIC = re.compile(
    rf"(?<![\w-])(?i:{_CYRILLIC_TYPE})\.? (?:{_CYRILLIC_WORD} ){{0,3}}{_CYRILLIC_WORD},? {_CYRILLIC_NUMBER}"
    rf"|(?<![\w-]){_CAP}[\w’'-]{{1,25}} (?:{_CYRILLIC_WORD} )?(?i:{_CYRILLIC_TYPE})\.?,? {_CYRILLIC_NUMBER}"
    rf"|(?<![\w-]){_CAP}[а-яёїієґђљњћџј'-]{{2,25}}(?: {_CAP}[\w’'-]{{1,25}}){{0,2}},? {_CYRILLIC_NUMBER}"
    rf"(?=,\s(?:\d{{4,6}} {_CAP}|{_CYRILLIC_TOWNS}))"
)
_CYRILLIC_TOWN = rf"(?:(?:г|гр|м|с|р|пос|п|дер|обл|р-н)\.? ?)?{_CAP}[\w’'-]{{1,25}}(?: {_CAP}[\w’'-]{{1,25}}){{0,2}}"
_CYRILLIC_PART = (
    r"(?:(?:кв|квартира|корп|корпус|к|стр|строение|оф|офис|подъезд|под|эт|этаж|вх|ет|ап|пом"
    r"|секц)\.? ?[\dА-Я]{1,5}(?!\w)"
    rf"|{_CYRILLIC_TOWN}(?: (?:область|обл\.|край|район|р-н|округ|федерация|Федерация))?(?: \d{{4,6}})?(?!\w)"
    rf"|\d{{4,6}}(?!\w)"
    rf"(?: {_CYRILLIC_TOWN})?)"
)
_CYRILLIC_RIGHT = re.compile(rf"(?:,\s{{1,2}}|\n| ?[-–] | (?=кв|корп)){_CYRILLIC_PART}(?!\w)")
_CYRILLIC_LEFT = re.compile(
    rf"(?<![\w.])(?:(?:\d{{4,6}}(?: {_CYRILLIC_TOWN})?|{_CYRILLIC_TOWN}(?: (?:область|обл\.|край|район"
    rf"|р-н))?),\s){{1,4}}$"
)
_GREEK = re.compile(
    r"(?<!\w)(?i:οδός|οδος|οδού|οδ\.|λεωφόρος|λεωφόρου|λεωφ\.|λ\.|πλατεία|πλ\."
    r"|πάροδος) (?:[Α-ΩΆΈΉΊΌΎΏ][\w.’'-]{0,25} ){1,3}"
    r"(?:αρ\. ?)?\d{1,4}[Α-Ω]?(?!\w)"
    r"|(?<!\w)[Α-ΩΆΈΉΊΌΎΏ][\w’'-]{1,25}(?: [Α-ΩΆΈΉΊΌΎΏ][\w’'-]{1,25}){0,2} \d{1,4}[Α-Ω]?"
    r"(?=,\s(?:(?:Τ\.? ?Κ\.? )?\d{3} ?\d\d"
    r"(?!\d)|\d{1,2}ος όρ|[Α-ΩΆΈΉΊΌΎΏ][α-ωάέήίόύώϊϋΐΰς]{2,20}(?:[.,;\n]|$)))"
)
_GREEK_RIGHT = re.compile(
    r"(?:,?\s{1,2})(?:(?:Τ\.? ?Κ\.? )?\d{3} ?\d\d(?!\d)(?: [Α-ΩΆΈΉΊΌΎΏ][\w’'-]{1,25}){0,2}|\d{1,2}ος όροφος"
    r"|διαμ\. ?\w{1,3})"
    r"|,\s[Α-ΩΆΈΉΊΌΎΏ][\w’'-]{1,25}(?: [Α-ΩΆΈΉΊΌΎΏ][\w’'-]{1,25})?(?!\w)"
)
_ARABIC_STREET = r"(?:شارع|ش\.|طريق|جادة|ميدان|زنقة|نهج|حي)"
_ARABIC_WORD = r"[\u0621-\u065f]{2,15}"
_ARABIC = re.compile(
    rf"(?P<first>(?<!\w)\d{{1,4}} {_ARABIC_STREET} {_ARABIC_WORD}(?: {_ARABIC_WORD}){{0,2}})"
    rf"|(?<!\w){_ARABIC_STREET} (?:{_ARABIC_WORD} ?){{1,4}}(?:رقم ?)?(?:(?<= )\d{{1,4}}(?!\w)"
    r"|(?=، (?:مبنى|عمارة|بناية|شقة|فيلا|رقم) \d))"
)
_ARABIC_RIGHT = re.compile(
    rf"(?:[،,]? ?\n?)(?:(?:مبنى|عمارة|بناية|شقة|فيلا|رقم|الطابق|الدور|مكتب) \d{{1,4}}(?!\w)"
    rf"|\d{{4,6}}(?!\d)(?: {_ARABIC_WORD}"
    rf"(?: {_ARABIC_WORD})?)?)|[،,]\s{_ARABIC_WORD}(?: {_ARABIC_WORD})?(?![\w])|\n{_ARABIC_WORD}(?: \d{{5}})?(?=\n|$)"
)
_HEBREW = re.compile(
    r"(?<!\w)[בלמה]?(?:רחוב|רח['׳]|שדרות|שד['׳]|דרך|סמטת|כיכר"
    r"|שכונת) (?:[א-ת][א-ת\"'׳״-]{1,15} ){1,3}\d{1,4}(?:/\d{1,3})?"
    r"(?!\w)"
)
_HEBREW_RIGHT = re.compile(
    r"(?:,?\s{1,2})(?:(?:דירה|קומה|כניסה|בית) [\dא-ת]{1,3}(?!\w)|\d{5}(?:\d\d)?(?!\d))"
    r"|,\s[א-ת][א-ת\"'-]{1,15}(?: [א-ת][א-ת\"'-]{1,15}){0,2}(?!\w)"
)
_EAST_CODE = re.compile(rf"(?:〒[ 　]?)?(?:{_DIGITS}{{3}}{_DASH}{_DIGITS}{{4}}|\d{{6}})[ 　\n]{{0,2}}$")
_MOST_PARTS = 6


def find_non_latin_addresses(text: str) -> Spans:
    """Addresses in one of these scripts."""
    yield from _japanese(text)
    yield from _chinese(text)
    yield from (CandidateSpan(*one.span()) for one in _KOREAN.finditer(text))
    for pattern, right in ((_CYRILLIC, _CYRILLIC_RIGHT), (_GREEK, _GREEK_RIGHT), (_HEBREW, _HEBREW_RIGHT)):
        yield from _with_parts(text, pattern, right)
    yield from _with_parts(text, _ARABIC, _ARABIC_RIGHT)


_NO_NAME = re.compile(r"(?:Μένω|Κατοικώ|Διεύθυνση|Живу|Адрес|Проживаю|Мешкаю|Улица)(?: (?:στην|στη|στο|на|в))? ")
"""Words with a capital that begin a sentence, not a name."""


def _with_parts(text: str, street: re.Pattern[str], right: re.Pattern[str]) -> Iterator[CandidateSpan]:
    """Streets with what follows them, and, in Cyrillic, with the code and the town before them."""
    for found in street.finditer(text):
        start, end = found.span()
        for _ in range(_MOST_PARTS):
            more = right.match(text, end)
            if more is None:
                break
            end = more.end()
        match = _NO_NAME.match(text, start)
        start = match.end() if match and match.end() < end else start
        left = _CYRILLIC_LEFT.search(text[max(0, start - 70) : start]) if street is _CYRILLIC else None
        yield CandidateSpan(start - (len(left[0]) if left else 0), end)


def _japanese(text: str) -> Iterator[CandidateSpan]:
    for found in _JAPANESE.finditer(text):
        head = found["head"]
        match = _JAPANESE_PLACE.search(head)
        is_told = match is not None or (_JAPANESE_PART.search(head[1:]) and _PART_OF_TOWN.search(found["number"]))
        if is_told and (match is None or _JAPANESE_PART.search(head)):
            start = found.end("head") - (len(match[0]) if match else len(head))
            yield CandidateSpan(_with_code(text, start), found.end())


def _chinese(text: str) -> Iterator[CandidateSpan]:
    for found in _CHINESE.finditer(text):
        head = found["head"]
        match = _CHINESE_PLACE.search(head)
        begins = [one.end() for one in _CHINESE_BEGIN.finditer(head)]
        at = match.start() if match else max((one for one in begins if one < len(head) - 2), default=0)
        yield CandidateSpan(_with_code(text, found.start() + at), found.end())


def _with_code(text: str, start: int) -> int:
    """Where an address begins that a post code may stand before."""
    code = _EAST_CODE.search(text[max(0, start - 12) : start])
    return start - len(code[0]) if code else start


_CUE_REACH = 60
_CUE_WORDS = 8
_AT_REACH = 10
_LABEL_REACH = 30
_BEHIND_WORDS = 4
_OPENERS = (",", "\n", ";", "(", ":", "/", "|", "=", ">", '"', "\t")
_SPOKEN = re.compile(r"[^\W\d_]+|[:=,\n]")
_CLOSED = re.compile(r" ?(?:[,;\n)/|<\"\t]|\.?$)")
_CLAUSE = re.compile(r",? ?([^.,;:\n]{0,50})")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


STRONG = _words("""
residenza residencia residência technician engineer plumber techniker technicien técnico tecnico monteur technik
address addresses live lives living lived reside resides residing residence moved moving relocated send sent ship
shipped shipping deliver delivered delivery delivering located billing mail post forward forwarded domicile adresse
anschrift wohnort wohne wohnt wohnen wohnhaft wohnte umgezogen gezogen ziehe ziehen schickt schicken schicke geschickt
senden sendet liefern liefert geliefert lieferung versand lieferadresse lieferanschrift rechnungsadresse habite
habitons habitez demeure demeurant domicilié domiciliée déménagé envoyer envoyez livrer livrez livraison dirección
direccion vivo vive vivimos vivía domicilio mudé mudamos enviar envíen envíe entregar entrega envío indirizzo abito
abita abitiamo residente trasferito trasferita spedire spedite consegna consegnare domiciliato endereço morada moro
mora moramos mudei enviem adres adresie woon woont wonen verhuisd bezorgen bezorg stuur gestuurd bezorgadres mieszkam
mieszka zamieszkały wysłać dostarczyć adressen bor bodde flyttat flyttade flyttet skicka levereras bopæl sendes osoite
osoitteeni asun adresa adrese pošlete
doručte zásilku címem cím lakcímem lakcím szállítási locuiesc trimiteți livrare livrați adresim adresi teslimat evim
zustellung zustellen leveren levering lever leverera toimitus toimittakaa lähettäkää entreguem entreguen bezorgt stuurt
bydlím lakom küldjék küldeni pošaljite dostava dostave živim isporuka adresas adresu pristatymo gyvenu siųskite adresine
adresinde oturuyorum gönderin mailing residential
""")
"""Who lives or moves somewhere, or has something sent there, says where."""
CUES = STRONG | _words("""
house home flat apartment office shop street road courier parcel package driver left dropped collect
visit stay stays stayed staying meet meeting meetup appointment neighbour neighbours neighbor neighbors tenant tenants
landlord lease leased rent rents rented renting contract redirect redirected letter letters bring brought find
household property headquarters haus hause wohnung büro laden straße strasse paket paketbote kurier abgegeben
abgestellt abholen besuchen sitz treffen treffpunkt termin nachbarn miete mieter vermieter mietvertrag vertrag brief
briefe bringen findet finden zuhause maison appartement bureau boutique colis livreur déposé logement siège rendez
voisin voisins voisine bail loyer loue locataire contrat lettre courrier trouvez rue casa piso oficina tienda paquete
repartidor sede cita taller queda alquiler alquilo inquilino contrato carta vecino vecinos calle appuntamento contratto
affitto lettera immobile vicini appartamento ufficio negozio pacco corriere lasciato via apartamento escritório loja
encomenda encontro fica vizinho vizinhos aluguel arrendamento rua huis kantoor winkel afspraak buren huur huurder
pakket koerier straat dom domu mieszkanie biuro sklep umowa sąsiad spotkanie paczka bydlím adresa adrese pošlete
doručte zásilku címem cím lakcímem lakcím szállítási locuiesc trimiteți livrare livrați adresim adresi teslimat evim
zustellung zustellen leveren levering lever leverera toimitus toimittakaa lähettäkää entreguem entreguen bezorgt stuurt
ulica hem hus hemma kontor butik gata hjem lejlighed pakke kontoret butikken gade gate talo koti paketti katu
come comes came coming visits visited pick picked pickup invoice bill meter quitté quitter quittons facture passer venez
compteur contador luz medidor factura recogida recoger pasar recibo trovato trova fattura contatore ritiro passare conta
conto fatura levantar recolha kommen vorbei abholung rechnung zähler factuur ophalen meterkast rachunek licznik odbiór
""")
"""The same, with what else is said of places: who meets, rents, visits or finds something names one at times."""
SAID = _words("""
address adresse anschrift dirección direccion indirizzo endereço morada adres adressen osoite adresa adresi cím
""")
"""What an address is called: behind it and a colon, a name with a number is one."""
LABELS = tuple(SAID)
PREPOSITIONS = _words("""
by of de für fuer voor pour
to at in on is s from near into of for nach an ist unter am auf bei lautet zur zum à au aux est chez en es al a hacia
says said reads shows regarding about concerns concerning betrifft riguarda concerne concernant sobre betreft dotyczy
è é em na no para per presso op naar te przy do w på till i til ved aan
op la pe v je osoitteessa se
""")
"""Words between such a one and the address."""
AT = _words("""
at to from near nach in an am en à au naar w do på i til em na a presso
""")
"""The most telling of them, just before a name and a number."""
AT_ENGLISH = _words("at to from")
"""Those of them after which no other language counts."""
IS = _words("as is was be ist war est était es era è é como come als jest är er")
WHERE = _words("where wo où donde dónde dove onde waar gdzie där der hvor")
HOMES = _words("""
residence address home adresse anschrift wohnsitz zuhause domicile residencia dirección domicilio indirizzo residenza
casa endereço morada adres osoite
""")
LIVES = _words("""
live lives lived living stay stays wohne wohnt wohnen habite habitons habitent vivo vive vivimos abito abita abitiamo
moro mora moramos woon woont wonen mieszkam mieszka bor
""")
"""What is said of an address behind it: *… as his residence*, *…, where I live*."""


def split_words_and_marks(text: str) -> list[str]:
    """Its words in small letters, and the marks that part what is said."""
    return _SPOKEN.findall(text.lower())


def is_preceded_by_at(text: str, start: int, words: Collection[str] = AT) -> bool:
    """Whether a word such as `at` stands just before."""
    return any(word in words for word in split_words_and_marks(text[max(0, start - _AT_REACH) : start])[-1:])


def is_preceded_by_address_label(text: str, start: int) -> bool:
    """Whether *address:*, or a word that ends so, stands just before."""
    before = split_words_and_marks(text[max(0, start - _LABEL_REACH) : start])[-2:]
    return len(before) > 1 and before[1] in (":", "=") and before[0].endswith(LABELS)


def is_location_cue_near(text: str, start: int) -> bool:
    """Whether one of the few words before says that somebody lives, meets or has something sent somewhere."""
    return not CUES.isdisjoint(split_words_and_marks(text[max(0, start - _CUE_REACH) : start])[-_CUE_WORDS:])


def is_location_phrase_before(text: str, start: int) -> bool:
    """Whether somebody lives, or has something sent, to what follows: *I live in …*, *ship it to …*."""
    before = split_words_and_marks(text[max(0, start - _CUE_REACH) : start])[-_CUE_WORDS:]
    last = before[-1] if before else ""
    is_before = last in (":", "=") or last in PREPOSITIONS or last in STRONG
    return is_before and not STRONG.isdisjoint(before)


def is_location_phrase_around(text: str, start: int, end: int) -> bool:
    """Whether what stands before or behind says that somebody lives, or wants something sent, there."""
    before = split_words_and_marks(text[max(0, start - _CUE_REACH) : start])[-_CUE_WORDS:]
    last = before[-1] if before else ""
    is_before = last in (":", "=") or last in PREPOSITIONS or last in CUES
    return (is_before and not CUES.isdisjoint(before)) or is_location_phrase_after(text, end)


def is_location_phrase_after(text: str, end: int) -> bool:
    """Whether what follows says so: *… is my address*."""
    clause = _CLAUSE.match(text, end)
    words = clause[1].lower().split()[:_BEHIND_WORDS] if clause else []
    is_home = words[:1] and words[0] in IS and not HOMES.isdisjoint(words)
    return bool(is_home) or (not WHERE.isdisjoint(words[:2]) and not LIVES.isdisjoint(words))


def is_standalone_phrase(text: str, start: int, end: int) -> bool:
    """Whether it is a line of its own, or stands between commas."""
    before = text[max(0, start - 2) : start].rstrip(" ")
    return (start == 0 or before[-1:] in _OPENERS) and _CLOSED.match(text, end) is not None
