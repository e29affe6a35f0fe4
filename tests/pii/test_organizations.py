"""Organisations: found by what marks them, and nobody and nowhere taken for one."""

from __future__ import annotations

import pytest

from luthier.pii.organizations import find_organizations
from tests.linear import assert_linear

HERE = [
    ("Please bill Ravine Ltd. for it", ["Ravine Ltd."]),
    ("ein Brief der Holzbau Krause GmbH & Co. KG kam", ["Holzbau Krause GmbH & Co. KG"]),
    ("I studied at the University of Lindental.", ["University of Lindental"]),
    ("She is the founder of Copperleaf, and proud", ["Copperleaf"]),
    ("She has worked for Blue Heron since May; worked for Blue Heron.", ["Blue Heron"]),
    ("The Quillon office is at the corner", ["Quillon"]),
    ("the quillon office is at the corner", ["quillon"]),
    ("Orrin Tech Solutions, Brask and Velda", ["Orrin Tech Solutions", "Brask", "Velda"]),
    ("Mara Oldt\nQuillon\n12 Elm Road", ["Quillon"]),
    ("Mara Oldt\nTraining coordinator\nQuillon\n12 Elm Road", ["Quillon"]),
    ("Mara Oldt\nQuillon\nJonas Reet\n12 Elm Road", ["Quillon"]),
    ("The firm was acquired by Stone, Marsh and Hill in 2019", ["Stone, Marsh and Hill"]),
]
LOOKALIKES = [
    "I live in Leeds and work in the West.",
    "the head office is at the station, the post office is in Leeds",
    "soldiers in the West Bank",
    "Kovalev, Lee and Phillips came home",
    "1 Elm Road\nLeeds\nMali\n12345",
    "she worked for May and June",
    "",
]


@pytest.mark.parametrize(("text", "names"), HERE)
def test_is_found(text: str, names: list[str]) -> None:
    assert [one.text for one in find_organizations(text)][: len(names)] == names
    assert all(text[one.start : one.end] == one.text and one.kind == "organisation" for one in find_organizations(text))


@pytest.mark.parametrize("text", LOOKALIKES)
def test_others_are_left_alone(text: str) -> None:
    assert find_organizations(text) == []


PIECES = ["A", "Aa ", "Aa, ", "Aa and ", "Aa & ", "A.", "A. ", "a\n", "Aa\n", "Aa Ltd", "Aa Ltd, Aa and ", "works for "]


@pytest.mark.parametrize("piece", [*PIECES, "The Aa ", "the a office ", "bought a from ", "bank of ", "is a ", "-\n"])
def test_time_grows_no_faster_than_the_text(piece: str) -> None:
    """Ten times the text may take about ten times as long; a quadratic search would take a hundred."""
    assert_linear(find_organizations, piece, 2000)
