"""Stand-ins: of the same sort, the same for the same, and nobody's."""

from __future__ import annotations

import re

import pytest

from luthier.data.pii.redaction import LOCALES, PseudonymGenerator, _names
from luthier.pii.detect import find_pii
from luthier.pii.hmac_key import HmacKey
from luthier.pii.span import HIGH_RISK, PiiSpan


def _stand_ins(scope: str = "a", locale: str = "en_US") -> PseudonymGenerator:
    return PseudonymGenerator(HmacKey(b"a key for tests"), scope, locale, lambda found: f"[{found.kind.upper()}]")


def _person(text: str) -> PiiSpan:
    return PiiSpan(0, len(text), "person", text)


NUMBERS = [
    "card 4111 1111 1111 1111",
    "to DE89 3704 0044 0532 0130 00 please",
    "ssn 536-22-8726",
    "CPF 390.533.447-05",
    "My NI number is AB 12 34 56 C.",
    "mijn BSN is 111222333",
]


@pytest.mark.parametrize("text", NUMBERS)
@pytest.mark.parametrize("scope", ["a", "b", "c"])
def test_a_number_keeps_its_dress_and_is_nobodys(text: str, scope: str) -> None:
    [found] = find_pii(text)
    other = _stand_ins(scope).of(found)
    assert re.sub(r"\w", "x", other) == re.sub(r"\w", "x", found.text)
    assert other != found.text
    changed = text.replace(found.text, other)
    assert find_pii(changed, (found.kind,)) == []


def test_no_stand_in_of_an_account_holds_a_number_of_another_kind() -> None:
    """One in seven had a card or a citizen's number among its digits, and the last look refused the row."""
    text = "cuenta ES79 2100 0813 6101 2345 6789?"
    [found] = find_pii(text)
    others = [_stand_ins(str(scope)).of(found) for scope in range(60)]
    assert [other for other in others if find_pii(text.replace(found.text, other), HIGH_RISK)] == []
    assert all(other.startswith("ES") for other in others)


@pytest.mark.parametrize(
    ("texts", "kind"),
    [
        (
            ["IBAN DE89 3704 0044 0532 0130 00", "IBAN DE89370400440532013000", "IBAN DE89-3704-0044-0532-0130-00"],
            "iban",
        ),
        (["card 4111 1111 1111 1111", "card 4111-1111-1111-1111", "card 4111111111111111"], "card"),
        (["call 030 123 4567", "call (030) 1234567", "call 030/123-45-67"], "phone"),
    ],
)
def test_a_number_has_one_stand_in_however_it_is_written(texts: list[str], kind: str) -> None:
    found = [one for text in texts for one in find_pii(text)]
    assert [one.kind for one in found] == [kind] * len(texts)
    assert len({re.sub(r"\W", "", _stand_ins().of(one)) for one in found}) == 1


def test_no_stand_in_of_a_security_number_is_a_taxpayers() -> None:
    """Two in five were one where "social security number" stood before them, and the last look refused the row."""
    [found] = find_pii("social security number 536228726")
    others = [_stand_ins(str(scope)).of(found) for scope in range(60)]
    assert [other for other in others if find_pii(f"social security number {other}", HIGH_RISK)] == []
    assert all(other.startswith("9") for other in others)


def test_a_person_stays_the_same_person() -> None:
    make = _stand_ins()
    whole, surname, given = (make.of(_person(text)) for text in ("Ann Kowalski", "Ms Kowalski", "ANN"))
    assert whole.split()[1] == surname.split()[1]
    assert whole.split()[0].upper() == given
    mail = make.of(find_pii("ann.kowalski@corp.example")[0])
    assert mail.startswith(".".join(whole.lower().split()))
    assert mail.endswith("@example.org")
    assert _stand_ins("another conversation").of(_person("Ann Kowalski")) != whole


def test_names_are_of_the_locale_and_gender() -> None:
    assert _stand_ins(locale="de_DE").of(_person("Anna")) in _names("de_DE").female
    assert _stand_ins(locale="de_DE").of(_person("Jürgen")) in _names("de_DE").male


@pytest.mark.parametrize("locale", sorted(LOCALES.values()))
def test_every_locale_has_names(locale: str) -> None:
    names = _names(locale)
    assert min(len(names.male), len(names.female), len(names.last)) > 20


def test_other_kinds() -> None:
    make = _stand_ins()
    phone, ip, mac, date, key = (
        make.of(find_pii(text)[0])
        for text in (
            "call (415) 555-0143",
            "from 8.8.8.8 now",
            "device 00:1B:44:11:3A:B7",
            "born 12/03/1984",
            "AKIAIOSFODNN7EXAMPLE",
        )
    )
    assert re.fullmatch(r"\(415\) 555-01\d\d", phone)
    assert re.fullmatch(r"192\.0\.2\.\d+", ip)
    assert mac.startswith("02:")
    assert re.fullmatch(r"\d\d/03/1984", date)
    assert key == "[SECRET]"
    company = make.of(PiiSpan(0, 14, "organisation", "Hubbard & Sons Ltd"))
    assert company.endswith("& Sons Ltd")
    assert "Hubbard" not in company
