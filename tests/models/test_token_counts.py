"""What a forecast counts without transformers is what the id-maker makes of the same rows."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from luthier.chat.messages import Message
from luthier.chat.tokenizer import ChatTokenizer
from luthier.core.errors import LuthierError
from luthier.models.token_counts import count_branch_tokens, count_row_tokens
from tests.chat.conversations import CONVERSATIONS, TOOLS
from tests.chat.families import byte_level, dressed, family, names
from tiny_models import tiny_tokenizer

TALKS = {
    "digits": [("What is 1234567 + 7654321?", "#### 8888888"), ("What is 31 * 17?", "31 * 17 = 527\n#### 527")],
    "another language": [("Wie heißt die größte Stadt?", "Köln am Rhein"), ("Что это такое?", "Это книга.")],
    "code": [("Add them.", "def add(a, b):\n    return a + b\n"), ("Loop.", "for (;;) { i++; }")],
}
"""Texts of which 3.6 characters a token are far off."""


def spoken(talks: Sequence[tuple[str, str]]) -> list[tuple[Message, ...]]:
    return [(Message(role="user", content=asked), Message(role="assistant", content=said)) for asked, said in talks]


def plain(messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """A row as data sets and outlines hold it."""
    return {"messages": [one.model_dump(exclude_defaults=True) for one in messages], "tools": list(tools)}


@pytest.mark.parametrize("kind", TALKS)
def test_tokens_are_counted_by_the_tokenizer(kind: str, tmp_path: Path) -> None:
    tiny_tokenizer(tmp_path)
    rows = spoken(TALKS[kind])
    encoded = ChatTokenizer.load(tmp_path).encode_many(rows)
    found = count_row_tokens([plain(row) for row in rows], tmp_path)
    assert found.lengths == [len(row.ids) for row in encoded]
    assert found.answers == found.spoken == statistics.fmean(sum(row.loss_mask) for row in encoded)
    assert found.how == "tokens counted in 2 of them"
    alike = next(at for at, (a, b) in enumerate(zip(*(row.ids for row in encoded), strict=False)) if a != b)
    assert found.shared == alike


def test_only_the_last_answer_is_what_a_model_will_write(tmp_path: Path) -> None:
    tiny_tokenizer(tmp_path)
    row = [turn for talk in spoken(TALKS["code"]) for turn in talk]
    text = ChatTokenizer.load(tmp_path)
    found = count_row_tokens([plain(row)], tmp_path)
    assert found.answers == sum(text.encode(row).loss_mask)
    assert found.spoken == pytest.approx(sum(text.encode(row, learn="all").loss_mask), rel=0.15)


@pytest.mark.parametrize("name", [*names(), None])
def test_real_templates_are_counted_as_they_are_read(name: str | None, tmp_path: Path) -> None:
    """Whatever they ask for: special tokens, marks, the date, tools, calls, reasoning, contents in parts."""
    tokenizer = dressed(byte_level(), None) if name is None else family(name)
    tokenizer.save_pretrained(tmp_path)
    text = ChatTokenizer.load(tmp_path)
    for case, (messages, tools) in CONVERSATIONS.items():
        try:
            told = text.encode(messages, tools)
        except LuthierError:
            continue  # a row that is refused when it is trained on
        (found,) = count_row_tokens([plain(messages, tools)], tmp_path).lengths
        assert found == pytest.approx(len(told.ids), rel=0.03, abs=2), case


@pytest.mark.parametrize(
    ("text", "smollm2"),
    [
        ("Natalia sold 48/2 = <<48/2=24>>24 clips in May, 348192 in all.", 35),
        ("I understand how unnerving it can be to cancel an order with us.", 16),
        ("Le chat est assis sur le canapé et regarde par la fenêtre pendant que les enfants jouent.", 29),
        ("Россия является самой большой по площади страной в мире.", 42),
        ("中国是世界上人口最多的国家之一，首都是北京。", 36),
        ("def add(a, b):\n    return a + b\n", 13),
    ],
)
def test_without_a_tokenizer_words_tell_and_that_is_said(text: str, smollm2: int, tmp_path: Path) -> None:
    """To a half at worst, where so many characters a token would be three to six times off."""
    rows = [plain(row, TOOLS) for row in spoken([(text, text)])]
    for folder in (None, tmp_path):
        found = count_row_tokens(rows, folder)
        assert found.answers == pytest.approx(smollm2 + 1, rel=0.45 if text[0] > "z" else 0.2)
        assert found.lengths[0] > 2 * found.answers
        assert found.how == "tokens guessed from the words of 1, as no tokenizer is here"


def test_long_rows_are_counted_in_fewer(tmp_path: Path) -> None:
    tiny_tokenizer(tmp_path)
    rows = [plain(row) for row in spoken([("go " * 100_000, "on")] * 12)]
    assert count_row_tokens(rows, tmp_path).how == "tokens counted in 3 of them"


def test_classes_are_read_once_where_they_begin_alike(tmp_path: Path) -> None:
    tiny_tokenizer(tmp_path)
    ids = ChatTokenizer.load(tmp_path).tokenizer
    classes = ["card 12", "card 13", "9"]
    alone = [len(ids.encode(name, add_special_tokens=False)) for name in classes]
    assert count_branch_tokens(classes, tmp_path) == sum(alone) - (alone[0] - 1) + 3
    assert count_branch_tokens(classes, None) == pytest.approx(9 * (3 + 3 + 1) / 15 + 3)
