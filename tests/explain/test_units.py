"""Units cover a text; each token of a message belongs to one unit, and the template's to none."""

from __future__ import annotations

import pytest

from luthier.artifacts.explanation import UnitKind
from luthier.chat.messages import Message
from luthier.chat.tokenizer import ChatTokenizer
from luthier.explain.units import choose_unit_kind, cut_messages, cut_text, locate_units, remove_units
from workshop import tiny_tokenizer

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


@pytest.mark.parametrize("kind", ["turns", "sentences", "words", "tokens"])
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
    count = {"turns": 2, "sentences": 5, "words": 18}.get(kind)
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
