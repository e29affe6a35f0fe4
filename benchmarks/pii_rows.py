"""Rows with labelled personal data for the benchmark: sentences, values by locale, and what only looks like values."""

from __future__ import annotations

import hashlib
import json
import random
import re
import string
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

from luthier.data.pii.benchmark import LabeledPiiText
from luthier.pii.span import PiiKind, PiiSpan

SYNTH = Path(__file__).parents[2] / "shared" / "data" / "pii_synth_small" / "generated_large_600.json"
_SYNTH_KINDS: dict[str, PiiKind] = {
    "EMAIL_ADDRESS": "email", "PHONE_NUMBER": "phone", "CREDIT_CARD": "card", "IBAN_CODE": "iban", "US_SSN": "ssn",
    "IP_ADDRESS": "ip", "PERSON": "person", "ORGANIZATION": "organisation",
}  # fmt: skip
_SLOT = re.compile(r"\{(\w+)\}")

SENTENCES: dict[PiiKind, tuple[str, ...]] = {
    "email": (
        "You can write me under {email} whenever it suits you.",
        "cc: {email}; {email}",
        "Bitte schickt die Unterlagen an {email}, danke!",
        "<{email}> has not replied since Monday",
        "Mon adresse est {email}.",
        "user={email}&next=/home",
        "Mi correo nuevo ({email}) todavía no aparece.",
    ),
    "phone": (
        "Give me a ring on {phone} after six.",
        "My mobile: {phone}",
        "Ihr erreicht mich unter {phone} oder per Post.",
        "Merci de m'appeler au {phone} demain matin.",
        "Mi teléfono es {phone}, gracias.",
        "Il mio cellulare è {phone}.",
        "phone {phone} / please no calls on Sundays",
        "Nobody picked up when I dialled from {phone}; my landline phone is {phone}.",
    ),
    "card": (
        "The card {card} was charged twice.",
        "pan={card};exp=12/27",
        "Meine Kreditkarte {card} wird nicht angenommen.",
        "J'ai payé avec {card} hier.",
        "Please remove {card} from the wallet",
        "¿Por qué cobraron a {card}?",
    ),
    "iban": (
        "Refund it to {iban} please.",
        "IBAN: {iban}",
        "Überweist den Betrag auf {iban}, Danke.",
        "Mon compte {iban} a été débité.",
        "cuenta {iban} (nueva)",
    ),
    "ssn": (
        "The form wants my SSN, that is {ssn}.",
        "Social security number {ssn} belongs to my late mother",
        "he typed {ssn} into the chat by mistake",
        "ssn={ssn}",
    ),
    "ip": (
        "Logins came from {ip} all night.",
        "client {ip} - - GET /index.html",
        "Von {ip} kam seit gestern nichts mehr.",
        "ping {ip} times out",
        "l'adresse {ip} est bloquée",
    ),
    "mac": (
        "The router with {mac} dropped off.",
        "arp: {mac} is at the door",
        "MAC-Adresse {mac} bitte freischalten.",
        "wlan0 ether {mac} txqueuelen 1000",
    ),
    "birth_date": (
        "I was born on {birth_date} in Leeds.",
        "DOB {birth_date}",
        "Date of birth: {birth_date}",
        "Meine Tochter ist am {birth_date} geboren, also geboren {birth_date}.",
        "Geburtsdatum: {birth_date}",
        "Né le {birth_date} à Lyon.",
        "fecha de nacimiento {birth_date}",
        "Her birthday is {birth_date}.",
    ),
    "secret": (
        "export TOKEN={secret}",
        "I pasted {secret} into the ticket, is that bad?",
        "Authorization header was {secret} until last week",
        'config = {"key": "{secret}"}',
        "Der Schlüssel {secret} läuft ab.",
    ),
    "url_secret": (
        "It connects to {url_secret} at start.",
        "git clone {url_secret}",
        "DATABASE_URL={url_secret}",
        "mirror: {url_secret} (read only)",
    ),
    "address": (
        "We meet at half past nine, {address}, second bell.",
        "Can you redirect the letter to {address} please?",
        "Old: {address} / new: unknown",
        "Der Schlüssel liegt bei den Nachbarn, {address}.",
        "Ihr findet uns in {address}, gleich beim Bäcker.",
        "Le rendez-vous est au {address}.",
        "He gave {address} as his residence.",
        "El taller queda en {address}, junto al banco.",
        "Bezorgadres: {address}",
        "Il contratto riguarda {address}.",
        "my gran stays at {address} till june",
        "Please bring the parcel to {address} instead.",
        "Since March I have been living at {address} with my sister.",
        "The delivery note says {address}, but nobody rang.",
        "Meine Mutter wohnt {address}.",
        "Lieferadresse: {address}",
        "Livrez plutôt au {address}, s'il vous plaît.",
        "Mi nueva dirección es {address}.",
        "La mia residenza è {address}.",
        "O técnico deve ir a {address} na sexta.",
        "Het pakket moet naar {address}.",
        "name: J. Doe; street: {address}; paid",
        "{address}\nis where the meter hangs",
        "The tenant of {address} complained again.",
    ),
}
ADDRESSES_HELD_OUT = (
    "Could someone from your team come by {address} tomorrow morning?",
    "My parents have been at {address} for thirty years.",
    "The invoice still shows {address} although we left in May.",
    "Bitte die Rechnung an {address} senden.",
    "Der Techniker war nie in {address}.",
    "Nous avons quitté {address} en mai.",
    "El contador de luz de {address} no funciona.",
    "Il corriere non ha trovato {address}.",
    "A minha avó mora em {address}.",
    "Onze winkel zit op {address}.",
    "pickup={address}; slot=9-12",
    "customer since 2019, {address}, pays by card",
    "Ship to:\n{address}\nattn. reception",
)
"""Sentences about addresses that no rule was mended on."""
_ID_SENTENCES: dict[str, tuple[str, ...]] = {
    "gb.nino": ("My NI number is {x}.", "National Insurance: {x}", "payroll lists me as {x}"),
    "de.idnr": ("Meine Steuer-ID lautet {x}.", "IdNr. {x}", "Steuerliche Identifikationsnummer: {x}"),
    "fr.nir": ("Mon numéro de sécurité sociale est le {x}.", "NIR {x}", "assuré {x}"),
    "es.dni": ("Mi DNI es {x}.", "DNI: {x}", "firmado por {x}"),
    "es.nie": ("Mi NIE es {x}.", "titular {x}"),
    "it.codicefiscale": ("Il mio codice fiscale è {x}.", "CF: {x}", "intestatario {x}"),
    "nl.bsn": ("Mijn BSN is {x}.", "burgerservicenummer {x}"),
    "pl.pesel": ("Mój PESEL to {x}.", "PESEL: {x}"),
    "br.cpf": ("Meu CPF é {x}.", "CPF {x}"),
    "in_.aadhaar": ("My Aadhaar is {x}.", "Aadhaar no. {x}"),
    "ca.sin": ("My SIN is {x}.", "social insurance number {x}"),
    "au.tfn": ("My TFN is {x}.", "Tax file number: {x}"),
}
_DIGITS = {"de.idnr": 11, "nl.bsn": 9, "pl.pesel": 11, "br.cpf": 11, "in_.aadhaar": 12, "ca.sin": 9, "au.tfn": 9}
_LOCALES = (
    *("en_US", "en_GB", "de_DE", "fr_FR", "es_ES", "it_IT", "nl_NL", "pl_PL", "pt_BR", "sv_SE", "da_DK", "no_NO"),
    *("fi_FI", "de_CH", "en_IN", "en_CA"),
)
ADDRESS_LOCALES = (
    "en_US", "en_GB", "en_IE", "en_CA", "de_DE", "de_AT", "de_CH", "fr_FR", "fr_CH", "es_ES", "it_IT", "nl_NL", "nl_BE",
    "pl_PL", "pt_PT", "sv_SE", "da_DK", "fi_FI",
)  # fmt: skip
ELSEWHERE = ("no_NO", "pt_BR", "es_MX", "en_AU", "en_NZ", "en_IN")
"""Addresses of these are measured apart: their forms came to the rules from published lists (Australia's AS 4590, names
of streets in Norway and India, kinds of streets that Brazil's Correios publishes). One in seven of Faker's Brazilian
ones has no number, one in ten of its Indian ones no word for a street."""
UNKNOWN = ("es_AR", "es_CO", "fr_CA", "fr_DZ", "en_PH", "en_BD", "ro_RO")
"""Countries that no rule was written for."""


class Values:
    """Draws values of each kind."""

    def __init__(self, seed: int, addresses: tuple[str, ...] = ADDRESS_LOCALES) -> None:
        from faker import Faker

        self.draw = random.Random(seed)
        self._fakers = {locale: Faker(locale) for locale in _LOCALES}
        for at, faker in enumerate(self._fakers.values()):
            faker.seed_instance(seed + at)
        self._addresses = [Faker(locale) for locale in addresses]
        for at, faker in enumerate(self._addresses):
            faker.seed_instance(seed + at)

    def of(self, kind: PiiKind) -> str:
        """One value of this kind."""
        if kind == "address":
            return " ".join(self.draw.choice(self._addresses).street_address().split())
        faker = self._fakers[self.draw.choice(_LOCALES)]
        makers: dict[str, Callable[[], str]] = {
            "email": faker.email, "phone": faker.phone_number, "card": self._card, "iban": self._iban,
            "ssn": self._fakers["en_US"].ssn, "ip": self.draw.choice((faker.ipv4, faker.ipv6)), "mac": self._mac,
            "birth_date": self._date, "secret": self._secret, "url_secret": self._url,
        }  # fmt: skip
        return makers[kind]()

    def text(self, alphabet: str, length: int) -> str:
        """Letters of an alphabet."""
        return "".join(self.draw.choices(alphabet, k=length))

    def _card(self) -> str:
        number = self._fakers["en_US"].credit_card_number()
        return " ".join(re.findall(r"\d{1,4}", number)) if len(number) == 16 and self.draw.random() < 0.5 else number

    def _iban(self) -> str:
        number = self._fakers[self.draw.choice(("de_DE", "fr_FR", "en_GB", "es_ES", "it_IT", "nl_NL", "pl_PL"))].iban()
        return " ".join(re.findall(".{1,4}", number)) if self.draw.random() < 0.5 else number

    def _mac(self) -> str:
        mac = self._fakers["en_US"].mac_address()
        return mac.replace(":", "-").upper() if self.draw.random() < 0.5 else mac

    def _date(self) -> str:
        date = self._fakers["en_US"].date_of_birth(minimum_age=18, maximum_age=90)
        styles = ("%d/%m/%Y", "%Y-%m-%d", "%d.%m.%Y", "%B %d, %Y", "%d %B %Y", "%m/%d/%y", "%d-%m-%Y", "%d %b %Y")
        return date.strftime(self.draw.choice(styles))

    def _secret(self) -> str:
        word, upper = string.ascii_letters + string.digits, string.ascii_uppercase + "234567"
        url = f"{word}-_"
        return self.draw.choice(
            (
                lambda: "AKIA" + self.text(upper, 16),
                lambda: "ghp_" + self.text(word, 36),
                lambda: "xoxb-" + self.text(string.digits, 12) + "-" + self.text(word, 24),
                lambda: "sk_live_" + self.text(word, 24),
                lambda: "sk-proj-" + self.text(url, 48),
                lambda: "AIza" + self.text(url, 35),
                lambda: f"eyJ{self.text(url, 33)}.eyJ{self.text(url, 60)}.{self.text(url, 43)}",
                lambda: "glpat-" + self.text(url, 20),
                lambda: "SG." + self.text(url, 22) + "." + self.text(url, 43),
                lambda: "hf_" + self.text(word, 34),
            )
        )()

    def _url(self) -> str:
        user, key = self.text(string.ascii_lowercase, 6), self.text(string.ascii_letters + string.digits, 12)
        scheme = self.draw.choice(("postgresql", "https", "amqp", "redis", "mongodb+srv"))
        return f"{scheme}://{user}:{key}@{self._fakers['en_US'].domain_name()}/{self.text(string.ascii_lowercase, 4)}"

    def national(self, form: str) -> str:
        """A number of this form with right check digits, plain or in a dress people write."""
        if form == "gb.nino":
            number = self.draw.choice("ABCEGHJKLMPRSTWXYZ") + self.draw.choice("ABCEGHJKLMPRSTWXY")
            number = (
                re.sub("^(?:GB|BG|NK|KN|TN|ZZ)", "AB", number) + self.text(string.digits, 6) + self.draw.choice("ABCD")
            )
            return " ".join(re.findall("..?", number)) if self.draw.random() < 0.5 else number
        if form == "it.codicefiscale":
            return str(self._fakers["it_IT"].ssn())
        if form == "fr.nir":
            return str(self._fakers["fr_FR"].ssn())
        if form in ("es.dni", "es.nie"):
            digits = self.text(string.digits, 8 if form == "es.dni" else 7)
            module = import_module("stdnum.es.dni")
            first = "" if form == "es.dni" else self.draw.choice("XYZ")
            return first + digits + module.calc_check_digit(str("XYZ".find(first) if first else "") + digits)
        module = import_module(f"stdnum.{form}")
        while not module.is_valid(number := self.text(string.digits, _DIGITS[form])):
            pass
        dresses = {"br.cpf": "{0}{1}{2}.{3}{4}{5}.{6}{7}{8}-{9}{10}", "ca.sin": "{0}{1}{2} {3}{4}{5} {6}{7}{8}",
                   "au.tfn": "{0}{1}{2} {3}{4}{5} {6}{7}{8}", "in_.aadhaar": "{0}{1}{2}{3} {4}{5}{6}{7} {8}{9}{10}{11}",
                   "de.idnr": "{0}{1} {2}{3}{4} {5}{6}{7} {8}{9}{10}"}  # fmt: skip
        return dresses[form].format(*number) if form in dresses and self.draw.random() < 0.5 else number


def made(each: int, seed: int = 41) -> Iterator[LabeledPiiText]:
    """`each` sentences of every kind, and of national numbers so many in all of their forms together."""
    values = Values(seed)
    for kind, sentences in SENTENCES.items():
        for at in range(each):
            yield _filled(sentences[at % len(sentences)], lambda kind=kind: (kind, values.of(kind)))
    for form, sentences in _ID_SENTENCES.items():
        for at in range(each // 6):
            sentence = sentences[at % len(sentences)]
            yield _filled(sentence, lambda form=form: ("national_id", values.national(form)))


def addresses(
    each: int, seed: int = 41, *, locales: tuple[str, ...] = ADDRESS_LOCALES, held_out: bool = False
) -> Iterator[LabeledPiiText]:
    """Sentences with addresses of these countries; held out: sentences that no rule was mended on."""
    values, sentences = Values(seed, locales), ADDRESSES_HELD_OUT if held_out else SENTENCES["address"]
    for at in range(each):
        yield _filled(sentences[at % len(sentences)], lambda: ("address", values.of("address")))


def _filled(sentence: str, value: Callable[[], tuple[PiiKind, str]]) -> LabeledPiiText:
    text, at = "", 0
    spans: list[PiiSpan] = []
    for slot in _SLOT.finditer(sentence):
        text += sentence[at : slot.start()]
        kind, written = value()
        spans.append(PiiSpan(len(text), len(text) + len(written), kind, written))
        text, at = text + written, slot.end()
    return LabeledPiiText(text + sentence[at:], tuple(spans))


def look_alikes(each: int, seed: int = 43) -> Iterator[LabeledPiiText]:
    """Sentences without personal data that have something of its shape."""
    values = Values(seed)
    for line in _LOOK_ALIKES:
        for _ in range(each):
            yield LabeledPiiText(_SHAPE.sub(lambda shape: _drawn(values, shape[0]), line), ())


_SHAPE = re.compile(r"#+|<\d+>|\{card\}")
_LOOK_ALIKES = (
    "Where is order ##########?",
    "Order no. ###-#######-####### has not come.",
    "Where is order ############, please?",
    "Tracking number ############ says delivered.",
    "Version ##.#.#.## crashes at start.",
    "Card {card} is refused by the form.",
    "It happened on 2024-1#-1# 1#:4#:3#.",
    "ISBN 978-#-##-######-# is out of print.",
    "Fixed in commit <40>.",
    "request <8>-<4>-4<3>-a<3>-<12> failed",
    "It costs #,###.## dollars, or #.###,## euros.",
    "Rechnung 2024-##### über ##,## Euro fehlt.",
    "The log says 17######## and then 17########.",
    "Part ###-##-#### does not fit.",
    "Model XK## #### or @nobody?",
    "Scores were #:4#:3# and ##/##.",
    "Meet on 1#/1#/2025 at 1# o'clock.",
    "The password is wrong and the key is missing; the token has expired.",
    "SELECT id FROM t WHERE n BETWEEN ###### AND ####### LIMIT ##",
    "https://example.com/p/#########?page=#&sort=asc",
    "sha256:<64>",
    "Prices rose during 20## by # per cent, spring 20## was dull.",
    "He will bring ## chairs; after scoring ## he left, measuring ## inches.",
    "String #: abc, and then String # again",
    "Parkplatz ## ist belegt, der Heimweg # ist gesperrt.",
    "We drank a 20## Napa Valley Cabernet and saw ## Rhode Island Reds.",
    "## Simple Ways to save, and # Golden Points on top",
    "I moved to Windows ## last month.",
    "The 1929 Wall Street crash, vol. #",
    "Smith et al. Nature 20## says so.",
    "Add 2 cups of flour, 30 minutes at 180 degrees, serves ##.",
)
"""`#` is a digit, `<40>` so many hexadecimal digits, `{card}` a card whose last digit is wrong."""


def _drawn(values: Values, shape: str) -> str:
    if shape == "{card}":
        return _wrong_luhn(values)
    if shape.startswith("<"):
        return values.text("0123456789abcdef", int(shape[1:-1]))
    return values.text("123456789", 1) + values.text(string.digits, len(shape) - 1)


def _wrong_luhn(values: Values) -> str:
    number = values.of("card")
    return number[:-1] + str((int(number[-1]) + 1) % 10)


def synth(half: int | None = None) -> list[LabeledPiiText]:
    """The 600 rows of pii_synth_small, or half of them; none when they are not beside the checkout.

    Half 0 was looked at when rules were written, half 1 never was. What is in a half is decided by the template that a
    row was made from, so that no sentence stands in both.
    """
    if not SYNTH.is_file():
        return []
    found = []
    for row in json.loads(SYNTH.read_text(encoding="utf-8")):
        template = " ".join(row["masked"].casefold().split())
        if half is not None and hashlib.sha256(template.encode()).digest()[0] % 2 != half:
            continue
        spans = [
            PiiSpan(one["start_position"], one["end_position"], _SYNTH_KINDS[one["entity_type"]], one["entity_value"])
            for one in row["spans"]
            if one["entity_type"] in _SYNTH_KINDS
        ]
        found.append(LabeledPiiText(row["full_text"], tuple(sorted(spans))))
    return found
