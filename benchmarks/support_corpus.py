"""A corpus of support documents that anybody can make again: each is a pure function of its number and the seed.

    python benchmarks/support_corpus.py ROWS FILE

About 850 bytes each, in three languages, with what real exports hold: mark-up and broken characters, personal data,
rubbish, exact copies, and copies of which some words were changed. `plan` says what was planted.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

Made = Literal["new", "exact", "near", "rubbish"]

_ENGLISH = {
    "who": "I we my-colleague the-customer our-office the-courier your-agent my-neighbour the-shop the-technician "
    "the-driver a-friend my-sister the-warehouse the-bank our-accountant the-landlord my-manager the-supplier",
    "did": "ordered returned received cancelled opened tested paid-for complained-about waited-for asked-about "
    "repaired packed forgot replaced downloaded registered scanned unplugged restarted configured moved sold borrowed",
    "what": "coffee-machine invoice parcel router headset subscription contract laptop keyboard mattress bicycle-lamp "
    "account voucher refund warranty adapter printer battery charger monitor washing-machine gift-card licence desk "
    "lamp camera drill microphone ticket statement password blender heater projector tablet firmware manual cable",
    "how": "broken late incomplete scratched wrong empty noisy slow locked blue overheated refurbished duplicated "
    "unreadable dented leaking outdated expensive missing loose damp silent unstable heavy second-hand unlabelled",
    "when": "yesterday last-Monday two-weeks-ago this-morning in-March before-the-holidays on-Friday after-the-update "
    "a-month-ago at-noon during-the-weekend since-Tuesday right-after-delivery late-in-the-evening on-the-first-day",
    "where": "at-the-station in-Leeds from-the-website through-the-app at-the-counter near-Boston in-the-basement "
    "over-the-telephone in-the-second-shop by-post at-home in-the-lobby on-the-platform behind-the-reception",
    "but": "because although while so-that even-though after before whereas unless since until as-soon-as",
    "ask": "please-send could-you-check kindly-confirm I-would-like-to-know tell-me let-us-know we-need explain "
    "I-want-to-understand make-sure-to-note help-me-with arrange",
    "the": "the that this your another every",
    "end": ". . . . ? !",
}
_GERMAN = {
    "who": "ich wir mein-Kollege die-Kundin unser-Büro der-Bote meine-Nachbarin der-Händler der-Fahrer das-Lager",
    "did": "bestellte erhielt öffnete prüfte bezahlte vergaß ersetzte verpackte reparierte verschob verkaufte suchte",
    "what": "Kaffeemaschine Rechnung Lieferung Leitung Tastatur Matratze Lampe Waschmaschine Karte Kamera Bohrmaschine",
    "how": "kaputte verspätete unvollständige zerkratzte falsche leere laute langsame gesperrte heiße teure lose",
    "when": "gestern letzten-Montag vor-zwei-Wochen heute-früh im-März vor-den-Ferien am-Freitag nach-dem-Update",
    "where": "am-Bahnhof in-Köln über-die-Webseite an-der-Theke im-Keller am-Telefon im-zweiten-Laden per-Post zuhause",
    "but": "weil obwohl während damit nachdem bevor sobald seitdem",
    "ask": "bitte-senden-Sie-uns können-Sie-prüfen-ob bestätigen-Sie-bitte sagen-Sie-mir wir-brauchen erklären-Sie-mir",
    "the": "die diese eine jede",
    "end": ". . . . ? !",
}
_SPANISH = {
    "who": "yo nosotros mi-colega la-clienta nuestra-oficina el-mensajero mi-vecina la-tienda el-conductor el-banco",
    "did": "pidió devolvió recibió canceló abrió probó pagó olvidó cambió descargó reinició movió vendió esperó",
    "what": "cafetera factura entrega suscripción lámpara lavadora tarjeta cámara impresora batería pantalla mesa",
    "how": "rota tardía incompleta rayada equivocada vacía ruidosa lenta bloqueada recalentada cara suelta húmeda",
    "when": "ayer el-lunes-pasado hace-dos-semanas esta-mañana en-marzo antes-de-las-fiestas el-viernes al-mediodía",
    "where": "en-la-estación en-Sevilla por-la-página en-el-mostrador en-el-sótano por-teléfono por-correo en-casa",
    "but": "porque aunque mientras para-que después-de-que antes-de-que cuando desde-que",
    "ask": "por-favor-envíen pueden-revisar confirmen quisiera-saber díganme necesitamos explíquenme ayúdenme-con",
    "the": "la esta una cada",
    "end": ". . . . ! ...",
}
LANGUAGES = {"en": _ENGLISH, "de": _GERMAN, "es": _SPANISH}
_WORDS = {
    code: {part: [word.replace("-", " ") for word in text.split()] for part, text in parts.items()}
    for code, parts in LANGUAGES.items()
}
_GREETINGS = ("Hello,", "Dear support team,", "Hi there,", "Good morning,", "To whom it may concern,", "Hey,")
_RUBBISH = ("???", "asdf " * 40, "N/A", "=" * 300, "click here " * 60, "1 2 3 4 5 6 7 8 9 0")
_DIRT = (
    lambda text, chance: f"<p>{text.replace('. ', '.<br/>')}</p>",
    lambda text, chance: text.replace(" ", "\u00a0 ", 9).replace("the", "the&nbsp;", 2),
    lambda text, chance: "\ufeff" + text.replace(". ", ".   \r\n\r\n\r\n", 3),
    lambda text, chance: text.replace("'", "â€™").replace("Dear", "DÃ©ar", 1) + " It\u200b's 5 Â£ too much.",
)


class Planted(NamedTuple):
    """How a document came about; `of` is the number of the document that it copies."""

    how: Made
    of: int | None = None
    words: float = 0.0
    """Share of words that were changed."""


def plan(number: int, seed: int = 0) -> Planted:
    """What document `number` is."""
    chance = random.Random(f"plan {seed} {number}")
    draw = chance.random()
    if number and draw < 0.05:
        return Planted("exact", chance.randrange(number))
    if number and draw < 0.12:
        return Planted("near", chance.randrange(number), chance.choice((0.01, 0.02, 0.03, 0.05, 0.08)))
    return Planted("rubbish" if draw < 0.14 else "new")


def document(number: int, seed: int = 0, *, dirt: bool = True) -> str:
    """The text of document `number`."""
    made = plan(number, seed)
    chance = random.Random(f"text {seed} {number}")
    if made.how == "rubbish":
        return chance.choice(_RUBBISH)
    if made.of is not None:
        text = document(made.of, seed, dirt=dirt)
        return text if made.how == "exact" else changed(text, made.words, chance)
    text = _written(chance)
    if dirt and chance.random() < 0.15:
        text = chance.choice(_DIRT)(text, chance)
    return text


def changed(text: str, share: float, chance: random.Random) -> str:
    """The text with about a share of its words replaced by others (at least one)."""
    words = text.split(" ")
    for place in chance.sample(range(len(words)), max(1, round(share * len(words)))):
        words[place] = chance.choice(_WORDS["en"]["what"] + _WORDS["en"]["how"])
    return " ".join(words)


def _written(chance: random.Random) -> str:
    draw = chance.random()
    code = "en" if draw < 0.92 else "de" if draw < 0.96 else "es"
    words = _WORDS[code]
    parts = [chance.choice(_GREETINGS)] if code == "en" else []
    for _ in range(chance.randint(5, 10)):
        parts.append(_sentence(words, chance))
    if chance.random() < 0.3:
        parts.insert(chance.randint(1, len(parts)), _personal(chance))
    return " ".join(parts)


def _sentence(words: dict[str, list[str]], chance: random.Random) -> str:
    pick = chance.choice
    thing = f"{pick(words['the'])} {pick(words['how'])} {pick(words['what'])}"
    first = f"{pick(words['who'])} {pick(words['did'])} {thing} {pick(words['when'])} {pick(words['where'])}"
    if chance.random() < 0.3:
        first = f"{pick(words['ask'])} {thing} {pick(words['where'])}"
    more = f"{pick(words['but'])} {pick(words['who'])} {pick(words['did'])} {pick(words['the'])} {pick(words['what'])}"
    number = f" {chance.randint(2, 99999)}" if chance.random() < 0.3 else ""
    text = f"{first} {more}{number}{pick(words['end'])}"
    return text[0].upper() + text[1:]


def _personal(chance: random.Random) -> str:
    digits = "".join(chance.choices("0123456789", k=9))
    name = chance.choice(("anna", "ben", "carla", "dmitri", "eva", "farid", "grace"))
    return chance.choice(
        (
            f"You can reach me at {name}.{digits[:4]}@example.com or at work.",
            f"Call me on +49 30 {digits[:8]} after six.",
            f"My card is 4111 1111 1111 1111 and my order is {digits}.",
            f"Refund it to DE89 3704 0044 0532 0130 00, reference {digits[:6]}.",
            f"The router is at 192.168.{int(digits[0])}.{int(digits[1:3])}, firmware 4.{digits[3]}.1.",
            f"My number is (555) {digits[:3]}-{digits[3:7]}, ask for {name.title()}.",
        )
    )


def documents(rows: int, seed: int = 0, *, dirt: bool = True) -> Iterator[str]:
    """The first documents in order."""
    return (document(number, seed, dirt=dirt) for number in range(rows))


def write(path: Path, rows: int, seed: int = 0, *, dirt: bool = True) -> int:
    """Write the corpus as JSON lines; returns its bytes."""
    with path.open("w", encoding="utf-8") as file:
        for number, text in enumerate(documents(rows, seed, dirt=dirt)):
            file.write(json.dumps({"number": number, "text": text}, ensure_ascii=False) + "\n")
    return path.stat().st_size


if __name__ == "__main__":
    print(write(Path(sys.argv[2]), int(sys.argv[1])), "bytes")
