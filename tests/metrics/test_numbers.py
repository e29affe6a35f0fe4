"""Numbers read from answers, and answers right within a tolerance."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.core.errors import DataError
from luthier.metrics.kinds.numeric import NumericMatch
from luthier.metrics.text.numbers import Decimal, extract_answer_number

GSM8K = Path(__file__).parents[3] / "shared" / "data" / "gsm8k"


@pytest.mark.parametrize(
    ("text", "value", "unit"),
    [
        ("The answer is 1,234.5 dollars.", "1234.5", "dollar"),
        ("so 3 + 4 = 7", "7", ""),
        ("He ran 3 km.\n#### 1,080 km, not 3", "1080", "km"),
        ("#### -5", "-5", ""),
        ("costs $-3.50", "-3.5", ""),
        ("costs -$3.50", "-3.5", ""),
        ("£1,000,000", "1000000", ""),
        ("three quarters: 3/4", "0.75", ""),
        ("1e-3", "0.001", ""),
        ("−2.5 °C", "-2.5", "°c"),
        ("about 5%", "5", "%"),
        ("10 000 m", "10000", "m"),
        ("10 - 5 cm", "5", "cm"),
        (".5", "0.5", ""),
        ("She has 18.", "18", ""),
        ("12 apples, 5 kilometers", "5", "km"),
        ("the field has 3 km2", "3", "km²"),
        ("1,2,3", "3", ""),
        ("5 km/h", "5", "km/h"),
    ],
)  # fmt: skip
def test_what_is_read(text: str, value: str, unit: str) -> None:
    found = extract_answer_number(text)
    assert found is not None
    assert (found.value, found.unit) == (Fraction(value), unit)


@pytest.mark.parametrize(
    "text", ["1" * 5000, "1." + "1" * 5000, "1/" + "1" * 5000, "1e" + "1" * 20, "1e-" + "9" * 5000, "2e1001"]
)
def test_a_number_without_end_is_read_at_once_and_is_wrong(text: str) -> None:
    assert extract_answer_number(text) is not None
    assert NumericMatch().measure([f"it is {text}"], ["1"]).value == 0


@pytest.mark.parametrize("text", ["", "none", "A1", "####", "..", "-", "$"])
def test_no_number(text: str) -> None:
    assert extract_answer_number(text) is None


def test_first_or_last_and_decimal_commas() -> None:
    first = extract_answer_number("2 of 10", position="first")
    assert first is not None
    assert first.value == 2
    comma = extract_answer_number("zusammen 1.234,56 €", decimal="comma")
    assert comma is not None
    assert comma.value == Fraction("1234.56")


@given(st.integers(-(10**12), 10**12), st.integers(0, 99), st.sampled_from(["point", "comma"]))
def test_written_numbers_are_read_back(whole: int, part: int, decimal: Decimal) -> None:
    text = f"{whole:,}.{part:02d}"
    if decimal == "comma":
        text = text.translate(str.maketrans(",.", ".,"))
    found = extract_answer_number(f"it is {text} in all", decimal=decimal)
    assert found is not None
    assert found.value == Fraction(
        text.replace(",", "") if decimal == "point" else text.replace(".", "").replace(",", ".")
    )


def right(said: str, real: str, **settings: object) -> bool:
    return NumericMatch.model_validate({"kind": "numeric", **settings}).measure([said], [real]).value == 1


def test_tolerances() -> None:
    assert right("3.14", "3.14159", absolute=0.01)
    assert not right("3.14", "3.14159")
    assert right("99", "100", relative=0.01)
    assert not right("98", "100", relative=0.01)
    assert not right("nothing", "100", relative=10)


def test_units() -> None:
    assert right("5 miles", "5 km")
    assert not right("5 miles", "5 km", units="same")
    assert right("1.5 km", "1500 metres", units="same")
    assert right("90 min", "1.5 hours", units="same")
    assert not right("90 min", "90 kg", units="same")
    assert right("90", "90 kg", units="same")  # nothing said against it
    assert right("4 sheep", "4 sheep", units="same")
    assert not right("4 goats", "4 sheep", units="same")


def test_a_reference_without_number_is_an_error() -> None:
    with pytest.raises(DataError, match="row 2: the reference 'many' holds no number"):
        NumericMatch().measure(["1", "2"], ["1", "many"])


@pytest.mark.data
def test_every_answer_of_gsm8k_is_its_last_line() -> None:
    files = sorted(GSM8K.rglob("*.jsonl"))
    if not files:
        pytest.skip("../shared/data/gsm8k is not here")
    for line in files[0].read_text(encoding="utf-8").splitlines():
        answer = json.loads(line)["answer"]
        found = extract_answer_number(answer)
        assert found is not None
        assert found.value == Fraction(answer.rpartition("####")[2].strip().replace(",", ""))
