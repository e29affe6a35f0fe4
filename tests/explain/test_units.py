"""Units cover a text; each token of a message belongs to one unit, and the template's to none."""

from __future__ import annotations

import pytest

from luthier.artifacts.explanation import UnitKind
from luthier.chat.messages import Message
from luthier.chat.tokenizer import ChatTokenizer
from luthier.explain.units import (
    choose_unit_kind,
    cut_messages,
    cut_text,
    locate_units,
    refine_cut,
    remove_units,
)
from tiny_models import tiny_tokenizer

MESSAGES = (
    Message(role="system", content="Sort the message. Answer with one word."),
    Message(role="user", content="Hello.  My parcel (No. 3.5) has not come!\nWhere is it?"),
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> ChatTokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    tiny_tokenizer(folder)
    return ChatTokenizer.load(folder)


def test_texts_are_cut_where_sentences_end() -> None:
    text = 'He said "no." Then he left… And 你好。再见！ Costs 3.50 EUR\nlast'
    found = [text[start:end] for start, end in cut_text(text, "sentences")]
    assert "".join(found) == text
    assert found == ['He said "no." ', "Then he left… ", "And 你好。", "再见！ ", "Costs 3.50 EUR\n", "last"]
    spaced = "  a bc \n d"
    assert [spaced[start:end] for start, end in cut_text(spaced, "words")] == ["  a ", "bc \n ", "d"]
    assert cut_text("", "words") == []


@pytest.mark.parametrize("kind", ["turns", "documents", "shots", "sentences", "words", "tokens"])
def test_units_have_the_tokens_of_their_messages(kind: UnitKind, tokenizer: ChatTokenizer) -> None:
    located = tokenizer.locate_tokens(MESSAGES)
    assert located.ids == tokenizer.prompt(MESSAGES)
    cut = locate_units(located, MESSAGES, kind)
    assert len(cut.owners) == len(located.ids)
    for number, unit in enumerate(cut.units):
        assert unit.tokens == tuple(at for at, owner in enumerate(cut.owners) if owner == number)
        content = MESSAGES[unit.message].content
        assert unit.text.strip() in content[unit.start : unit.end] or kind == "tokens"
        assert unit.role == MESSAGES[unit.message].role
    of_template = [at for at, owner in enumerate(cut.owners) if owner < 0]
    assert "im_start" in tokenizer.decode([located.ids[at] for at in of_template])
    assert "parcel" not in tokenizer.decode([located.ids[at] for at in of_template])
    count = {"turns": 2, "documents": 2, "shots": 2, "sentences": 5, "words": 18}.get(kind)
    assert count is None or len(cut.units) == count


def test_an_answered_conversation_is_located_with_its_end(tokenizer: ChatTokenizer) -> None:
    talk = (*MESSAGES, Message(role="assistant", content="delivery"))
    located = tokenizer.locate_tokens(talk, answered=True)
    assert located.ids == tokenizer.encode(talk).ids
    assert {unit.role for unit in locate_units(located, talk, "turns").units} == {"system", "user", "assistant"}


def test_units_are_removed_from_texts() -> None:
    cut = cut_messages(MESSAGES, "sentences")
    left = remove_units(MESSAGES, cut.units, frozenset({0, 2, 4}))
    assert [message.content for message in left] == ["Sort the message. ", "Hello.  Where is it?"]
    assert remove_units(MESSAGES, cut.units, frozenset(range(len(cut.units)))) == MESSAGES


def test_the_coarsest_kind_with_enough_units_is_taken() -> None:
    assert choose_unit_kind(["One. Two. Three. Four."]) == "sentences"
    assert choose_unit_kind(["one two three four"]) == "words"
    assert choose_unit_kind(["incomprehensibilities"]) == "tokens"


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("Use these.\n\n[1] One.\nMore.\n[2] Two.\n", ["Use these.\n\n", "[1] One.\nMore.\n", "[2] Two.\n"]),
        ("<document id=1>\na\n\nb\n</document>\n<document>\nc\n</document>\n\nWhy?",
         ["<document id=1>\na\n\nb\n</document>\n", "<document>\nc\n</document>\n\n", "Why?"]),
        ("Document 1: a\n\nb\nDocument 2: c", ["Document 1: a\n\nb\n", "Document 2: c"]),
        ("# A\na\n## B\nb\n---\nc", ["# A\na\n", "## B\nb\n", "---\nc"]),
        ("a\n\n\nb\nc\n \nd", ["a\n\n\n", "b\nc\n \n", "d"]),
        ("one line", ["one line"]),
    ],
)  # fmt: skip
def test_documents_begin_where_a_line_marks_them(text: str, pieces: list[str]) -> None:
    assert [text[start:end] for start, end in cut_text(text, "documents")] == pieces


def test_a_shot_is_an_exchange_before_the_last_question(tokenizer: ChatTokenizer) -> None:
    talk = (
        MESSAGES[0],
        Message(role="user", content="A?"), Message(role="assistant", content="a"),
        Message(role="user", content="B?"), Message(role="assistant", content="b"),
        Message(role="user", content="Read.\n\nC?"),
    )  # fmt: skip
    for cut in (cut_messages(talk, "shots"), locate_units(tokenizer.locate_tokens(talk), talk, "shots")):
        assert [unit.text for unit in cut.units] == [MESSAGES[0].content, "A?\na", "B?\nb", "Read.\n\n", "C?"]
        left = remove_units(talk, cut.units, frozenset({0, 2, 4}))
        assert [message.content for message in left] == [MESSAGES[0].content, "", "", "B?", "b", "C?"]


def test_some_units_are_cut_into_finer_ones(tokenizer: ChatTokenizer) -> None:
    located = tokenizer.locate_tokens(MESSAGES)
    coarse, fine = (locate_units(located, MESSAGES, kind) for kind in ("sentences", "words"))
    cut, origins = refine_cut(coarse, fine, [1])
    assert [unit.text for unit in cut.units[:2]] == [coarse.units[0].text, "Answer "]
    assert origins[:2] == [(0, False), (1, True)]
    assert sum(is_part for _, is_part in origins) == 4
    assert [owner < 0 for owner in cut.owners] == [owner < 0 for owner in coarse.owners]
    texts = refine_cut(cut_messages(MESSAGES, "sentences"), cut_messages(MESSAGES, "words"), [1])
    assert [unit.text for unit in texts[0].units] == [unit.text for unit in cut.units]
    assert texts[1] == origins
