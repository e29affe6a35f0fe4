"""Find the signature of a message: after "-- ", a closing phrase, "Sent from my …", or a confidentiality notice.

A letter's closing with a name to be filled in (`[Your Name]`) is what was asked for, and no signature. Each line near
the end is looked at a fixed number of times.
"""

from __future__ import annotations

import re

from luthier.data.cleaning.quoted import QuoteSpan
from luthier.data.cleaning.spans import FENCE, line_spans

CLOSINGS = (
    # English
    "best regards", "kind regards", "warm regards", "best wishes", "with best regards", "with kind regards", "regards",
    "yours sincerely", "sincerely", "yours faithfully", "yours truly", "many thanks", "thanks and regards",
    "thank you and best regards", "cheers",
    # German
    "mit freundlichen grüßen", "mit freundlichem gruß", "mit freundlichen gruessen", "freundliche grüße",
    "viele grüße", "beste grüße", "liebe grüße", "herzliche grüße", "schöne grüße", "mit besten grüßen", "mfg",
    "vielen dank und freundliche grüße",
    # French
    "cordialement", "bien cordialement", "très cordialement", "bien à vous", "sincères salutations",
    "meilleures salutations", "salutations distinguées",
    # Spanish
    "saludos", "un saludo", "saludos cordiales", "un cordial saludo", "atentamente", "muy atentamente",
    "reciba un cordial saludo",
    # Dutch
    "met vriendelijke groet", "met vriendelijke groeten", "vriendelijke groet", "hartelijke groet", "mvg",
    # Italian
    "cordiali saluti", "distinti saluti", "un cordiale saluto", "saluti", "con i migliori saluti",
    # Portuguese
    "atenciosamente", "cumprimentos", "melhores cumprimentos", "com os melhores cumprimentos", "cordialmente",
    "abraços",
    # Polish, Swedish, Danish, Norwegian, Finnish, Russian, Turkish
    "pozdrawiam", "z poważaniem", "med vänliga hälsningar", "vänliga hälsningar", "mvh", "med venlig hilsen",
    "venlig hilsen", "med vennlig hilsen", "vennlig hilsen", "ystävällisin terveisin", "с уважением", "saygılarımla",
)  # fmt: skip
_BEFORE_A_NAME = frozenset(
    {
        "thanks", "thank you", "thx", "best", "all the best", "br", "danke", "vielen dank", "gruß", "grüße", "lg", "vg",
        "merci", "gracias", "muchas gracias", "grazie", "obrigado", "obrigada", "bedankt", "groeten", "groetjes",
    }
)  # fmt: skip
"""What closes a mail only when nothing but a name follows: "Thanks" may well begin the next sentence."""
_NAME = re.compile(r"[^\W\d_a-zß-ÿ]\.?(?:[^\W\d_]|['’.-])*(?: [^\W\d_](?:[^\W\d_]|['’.-])*){0,3}")
_NAME_LINES = 2
_SENT_FROM = (
    "sent from my ", "sent from mail for", "get outlook for", "von meinem ", "gesendet von ", "envoyé de mon ",
    "envoyé depuis ", "enviado desde mi ", "enviado do meu ", "verzonden vanaf mijn ",
    "inviato da ", "inviato dal mio ",
)  # fmt: skip
_NOTICES = (
    "this e-mail and any attachments", "this email and any attachments", "this message and any attachments",
    "this e-mail is confidential", "this email is confidential", "this message is intended only",
    "this email is intended only", "diese e-mail enthält vertrauliche", "diese nachricht ist vertraulich",
    "ce message et ses pièces jointes", "ce message est confidentiel", "este mensaje y sus archivos adjuntos",
    "este mensaje es confidencial", "dit bericht is uitsluitend", "questo messaggio è confidenziale",
    "esta mensagem é confidencial",
)  # fmt: skip
_CLOSINGS = frozenset(CLOSINGS)
_PLACEHOLDER = re.compile(
    r"[\[<{](?:[^\]>}\n]{1,20} )?(?:name|title|position|company|nom|nombre|nome|naam)[\]>}]", re.IGNORECASE
)
"""A name to be filled in, below a letter that somebody asked for: `[Your Name]`, `[Ihr Name]`."""
_MOST_LINES = 12
"""A signature has at most so many lines with something on them."""
_LONGEST_LINE = 90
"""Behind a closing phrase only short lines belong to the signature."""


def signature_span(text: str, *, closings: bool = True) -> QuoteSpan | None:
    """The signature at the end of a text, to its last character; None when it has none."""
    spans = line_spans(text)
    filled = [span for span in spans if text[span.start : span.end].strip()]
    tail = [(span, text[span.start : span.end].strip()) for span in filled[-_MOST_LINES - 1 :]]
    if tail and tail[-1][1] == FENCE:
        return None  # a text that ends in code has none
    if any(line.startswith("-- ") for _, line in tail):
        return None  # nor has one with comments of SQL
    for number, (span, line) in enumerate(tail):
        if number == 0 and len(tail) == len(filled):
            continue  # the first line of a text is no signature
        rest = [after for _, after in tail[number + 1 :]]
        if _begins(line, text[span.start : span.end], rest, closings=closings):
            return QuoteSpan(span.start, len(text))
    return None


def _begins(line: str, raw: str, rest: list[str], *, closings: bool) -> bool:
    """Whether a signature begins with this line, given the filled lines behind it."""
    lower = line.lower()
    if raw.rstrip("\r\n") in ("-- ", "--"):
        return True
    if lower.startswith(_NOTICES):
        return True
    if lower.startswith(_SENT_FROM) and len(line) <= _LONGEST_LINE and len(rest) <= 1:
        return True
    closing = lower.rstrip(" ,.!")
    if closings and closing in _BEFORE_A_NAME:
        return 1 <= len(rest) <= _NAME_LINES and all(_NAME.fullmatch(after) for after in rest)
    if not closings or closing not in _CLOSINGS:
        return False
    return all(_is_of_a_signature(after) for after in rest) and not any(map(_PLACEHOLDER.search, rest))


def _is_of_a_signature(line: str) -> bool:
    """A name, a title, a number: short, no question, no postscript."""
    lower = line.lower()
    return len(line) <= _LONGEST_LINE and not line.endswith("?") and not lower.startswith(("ps", "p.s", "pd:"))
