"""Dates, numbers and units in one form; what could mean two things stays, and is counted."""

from __future__ import annotations

import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.chat.messages import Message
from luthier.data.cleaning.normal_forms import normalize_dates, normalize_numbers, normalize_times, normalize_units
from luthier.data.engine.batch import apply_edits
from luthier.data.ops.normal_forms import DateNumberNormalizer
from luthier.data.row import Row


@pytest.mark.parametrize(
    "text",
    [
        "3 February 2025", "3rd of February 2025", "Feb 3, 2025", "February 3rd, 2025", "03.02.2025", "3.2.2025",
        "2025/2/3", "2025.02.03", "3. Februar 2025", "3 février 2025", "3 de febrero de 2025", "3 febbraio 2025",
        "3 de fevereiro de 2025", "3 februari 2025", "2025-02-03",
    ],
)  # fmt: skip
def test_dates(text: str) -> None:
    assert normalize_dates(f"It came on {text}, late.").text == "It came on 2025-02-03, late."


@pytest.mark.parametrize(
    ("text", "ambiguous"),
    [
        ("3/4/2025", 1), ("03-04-2025", 1), ("01/02/25", 1), ("31.02.2025", 0), ("v1.2.2024", 0), ("10/2025", 0),
        ("2025-02-03T10:00", 0), ("1/2/3", 0), ("3 Foo 2025", 0), ("3 May 1492", 0), ("12.13.14.15", 0),
    ],
)  # fmt: skip
def test_what_is_no_date_or_could_be_two_stays(text: str, ambiguous: int) -> None:
    assert normalize_dates(text) == (text, ambiguous)


def test_an_order_settles_what_could_be_two_dates() -> None:
    assert normalize_dates("3/4/2025", "day_first") == ("2025-04-03", 0)
    assert normalize_dates("3/4/2025", "month_first") == ("2025-03-04", 0)
    assert normalize_dates("13/4/2025").text == normalize_dates("4/13/2025").text == "2025-04-13"


@given(st.dates(datetime.date(1900, 1, 1), datetime.date(2099, 12, 31)))
def test_every_day_is_understood(day: datetime.date) -> None:
    assert normalize_dates(f"{day:%d.%m.%Y}").text == day.isoformat()
    assert normalize_dates(f"{day:%B} {day.day}, {day.year}").text == day.isoformat()


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("1.234,56", "1234.56"), ("1,234.56", "1234.56"), ("1'234.56", "1234.56"), ("1\u202f234,5", "1234.5"),
        ("1.234.567", "1234567"), ("12,345,678", "12345678"), ("€1.299,00", "€1299.00"), ("1\u00a0234", "1234"),
    ],
)  # fmt: skip
def test_numbers(text: str, plain: str) -> None:
    assert normalize_numbers(f"It cost {text} in all.") == (f"It cost {plain} in all.", 0)


@pytest.mark.parametrize(("text", "ambiguous"), [("1,234", 1), ("1.234", 1), ("1,5", 1), ("192.168.100.200", 0)])
def test_what_could_be_two_numbers_stays(text: str, ambiguous: int) -> None:
    assert normalize_numbers(text) == (text, ambiguous)


@pytest.mark.parametrize("text", ["+49.30.123.456", "A-1.234", "1,2,3", "030-123-456", "12:30:15", "#1,234"])
def test_other_figures_stay(text: str) -> None:
    assert normalize_numbers(text, "comma").text == text


def test_a_decimal_mark_settles_what_could_be_two_numbers() -> None:
    assert normalize_numbers("1,234 and 1.234 and 1,5", "comma") == ("1.234 and 1234 and 1.5", 0)
    assert normalize_numbers("1,234 and 1.234 and 1,5", "point") == ("1234 and 1.234 and 1,5", 0)


@given(st.integers(1000, 10**12), st.integers(10, 99))
def test_grouped_numbers_keep_their_value(whole: int, cents: int) -> None:
    assert normalize_numbers(f"{whole:,}.{cents}").text == f"{whole}.{cents}"


def test_times_and_units() -> None:
    assert normalize_times("at 3:30 pm, 12 am, 12 p.m. or 11.15 AM; 13 pm stays").text == (
        "at 15:30, 00:00, 12:00 or 11:15; 13 pm stays"
    )
    assert normalize_units("5kg, 5 Kilogramm, 2.5 litres, 10 percent, 5 GB, 5 Gb, 20°C").text == (
        "5 kg, 5 kg, 2.5 L, 10 %, 5 GB, 5 Gb, 20 °C"
    )


@pytest.mark.parametrize(
    "text", ["from 1 to 4 PM", "2 and 4 pm", "2, 3 or 4pm", "9–11 am", "9 - 11:30 am", "1 bis 4 pm"]
)
def test_times_that_share_their_half_of_the_day_stay_and_are_counted(text: str) -> None:
    assert normalize_times(f"He sails {text}.") == (f"He sails {text}.", 1)
    assert normalize_times("from 9am to 5pm, on 3 May 4 pm") == ("from 09:00 to 17:00, on 3 May 16:00", 0)


@pytest.mark.parametrize(
    "text", ["Wir treffen uns um 9 am Bahnhof.", "Haus 12 am See ist noch frei.", "La 3 am plecat."]
)
def test_am_is_no_time_where_it_is_a_word(text: str) -> None:
    assert normalize_times(text) == (text, 0)
    assert normalize_times("We meet at 9 am at the station.").text == "We meet at 09:00 at the station."


def test_two_metros_are_no_metres() -> None:
    assert normalize_units("2 metro stations, 1 metro, 1,5 metro, 2 metros").text == "2 metro stations, 1 m, 1,5 m, 2 m"


def test_code_keeps_its_forms() -> None:
    text = 'Use `"3.2.2025"`:\n```python\nprint("1,234,567")  # 5kg\n```\nfor 5kg'
    edits = DateNumberNormalizer().apply([_row(text)]).edits[0]
    assert apply_edits(text, edits) == f"{text[:-3]}5 kg"


def _row(text: str) -> Row:
    messages = (Message(role="user", content=text), Message(role="assistant", content="no figure"))
    return Row(0, "0" * 16, "csv", "f.csv", 2, "chat", messages)


def test_the_operator_counts_what_it_leaves() -> None:
    outcome = DateNumberNormalizer().apply([_row("5kg on 3/4/2025 for 1,234"), _row("nothing")])
    assert outcome.attributes["ambiguous"] == [2, 0]
    assert [(edit.before, edit.after) for edit in outcome.edits[0]] == [("", " ")]
    bare = DateNumberNormalizer(dates=False, times=False, numbers=False, units=False)
    assert bare.apply([_row("5kg on 3/4/2025")]).edits == {}
