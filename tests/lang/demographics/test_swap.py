"""Swaps keep a row of one piece and pronouns right."""

from __future__ import annotations

import csv
from pathlib import Path
from random import Random

import pytest

from luthier.lang.demographics.groups import counterpart_words, interchangeable_values
from luthier.lang.demographics.pronouns import opposite_gender_pronoun
from luthier.lang.demographics.swap import DemographicSwapper
from luthier.lang.demographics.words import split_into_words

CROWS = Path(__file__).resolve().parents[4] / "shared" / "data" / "crows_pairs"


def _other(text: str, *groups: str, seed: int = 1) -> str:
    swap = DemographicSwapper(groups or ("gender",))  # type: ignore[arg-type]  # names of groups
    made = swap.other(text, swap.mapping(Random(seed)))
    return text if made is None else made.text


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("I gave her the book.", "I gave him the book."),
        ("Her parcel is late and she wants her money back.", "His parcel is late and he wants his money back."),
        ("That is his.", "That is hers."),
        ("His car is red, hers is blue", "Her car is red, his is blue"),
        ("I told her yesterday that her order left.", "I told him yesterday that his order left."),
        ("Let her go home", "Let him go home"),
        ("It made her sick", "It made him sick"),
        ("I saw her leave.", "I saw him leave."),
        ("her newly bought watch", "his newly bought watch"),
        ("We met her recently.", "We met him recently."),
        ("His home office", "Her home office"),
        ("she's waiting for HIM", "he's waiting for HER"),
        ("My wife’s card", "My husband’s card"),
        ("Mary said that her brother called", "James said that his sister called"),
        ("An actor and a waitress", "An actress and a waiter"),
        ("Dear Sir or Madam", "Dear Madam or Sir"),
        ("Give her her book.", "Give him his book."),
        ("a customer and his or her parcel", "a customer and her or his parcel"),
        ("send his/her card", "send her/his card"),
        ("ask him or her", "ask her or him"),
        ("if s/he calls, (s)he waits", "if s/he calls, (s)he waits"),
        ("the order [NAME_1] 42", "the order [NAME_1] 42"),
    ],
)
def test_gender_with_its_grammar(before: str, after: str) -> None:
    assert _other(before) == after


def test_a_nationality_is_the_same_other_one_throughout() -> None:
    made = _other("I am from Germany, my German card failed, as Germans say. An Italian told me.", "nationality")
    country, adjective = made.split("from ")[1].split(",")[0], made.split("my ")[1].split(" card")[0]
    family = next(one for alike in interchangeable_values("nationality") for one in alike if one[0] == country)
    assert family[1] == adjective
    assert family[2] in made
    assert "German" not in made


@pytest.mark.parametrize("seed", range(12))
def test_who_is_called_by_a_nationality_is_called_so_still(seed: int) -> None:
    """An American became "a Turkish"."""
    made = _other("An American called.", "nationality", seed=seed).split()[1]
    assert any(
        made == one[1] and one[2] == f"{made}s"
        for alike in interchangeable_values("nationality")
        for one in alike
        if one[2:]
    )


def test_names_go_to_those_of_the_other_origin_and_keep_their_gender() -> None:
    made = {_other("Emily called.", "names", seed=seed).split()[0] for seed in range(40)}
    assert made == {"Aisha", "Keisha", "Tamika", "Lakisha", "Tanisha", "Latoya", "Latonya", "Ebony"}


def test_age_is_said_of_people_alone() -> None:
    assert _other("An old man asked about an old order.", "age") == "A young man asked about an old order."


def test_a_swap_of_gender_goes_back() -> None:
    text = "He said his sister and her husband gave him the keys; the girls are hers."
    assert _other(_other(text)) == text
    table = counterpart_words("gender")
    assert all(other in table for others in table.values() for other in others)


def test_pronouns_of_real_sentence_pairs() -> None:
    """CrowS-Pairs holds sentences that people wrote twice, for both genders: 406 pronouns differ between them."""
    if not CROWS.is_dir():
        pytest.skip("the real data set crows_pairs is not beside the repository (shared/data/crows_pairs)")
    pronouns = {"he", "she", "him", "her", "his", "hers", "himself", "herself"}
    right = total = 0
    with next(CROWS.glob("*.csv")).open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            for one, two in (("sent_more", "sent_less"), ("sent_less", "sent_more")):
                before, after = split_into_words(row[one]), split_into_words(row[two])
                if len(before) != len(after):
                    continue
                for place, (old, new) in enumerate(zip(before, after, strict=True)):
                    if old.lower() != new.lower() and {old.lower(), new.lower()} <= pronouns:
                        total += 1
                        right += (opposite_gender_pronoun(before, place) or "").lower() == new.lower()
    assert total > 400
    assert right / total >= 0.99
