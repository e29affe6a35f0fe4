"""A prompt stands in front of every conversation through the id-maker, and its examples are read but never learnt."""

from __future__ import annotations

from pathlib import Path

import pytest

from luthier.chat.messages import Message
from luthier.chat.prompt import PromptPrefix
from luthier.chat.tokenizer import ChatTokenizer
from tiny_models import tiny_tokenizer

SHOWN = (Message(role="user", content="My invoice"), Message(role="assistant", content="billing"))
OWN = (Message(role="system", content="Sort."), Message(role="user", content="My parcel"))
ANSWERED = (*OWN, Message(role="assistant", content="delivery"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("tokenizer")
    tiny_tokenizer(place)
    return place


@pytest.mark.parametrize(
    ("instruction", "roles"),
    [
        (None, ["system:Sort.", "user:My invoice", "assistant:billing", "user:My parcel"]),
        ("Choose.", ["system:Choose.", "user:My invoice", "assistant:billing", "user:My parcel"]),
        ("", ["user:My invoice", "assistant:billing", "user:My parcel"]),
    ],
)
def test_what_stands_in_front(instruction: str | None, roles: list[str]) -> None:
    wrapped = PromptPrefix(instruction=instruction, shown=SHOWN).wrap(OWN)
    assert [f"{one.role}:{one.content}" for one in wrapped] == roles


@pytest.mark.parametrize("instruction", [None, "Choose.", ""])
def test_the_id_maker_puts_it_in_front_everywhere(folder: Path, instruction: str | None) -> None:
    before = PromptPrefix(instruction=instruction, shown=SHOWN)
    plain, prompted = ChatTokenizer.load(folder), ChatTokenizer.load(folder, before=before)
    assert prompted.prompt(OWN) == plain.prompt(before.wrap(OWN))
    assert prompted.render(ANSWERED).text == plain.render(before.wrap(ANSWERED)).text
    assert prompted.options(OWN, ["billing", "x"]) == plain.options(before.wrap(OWN), ["billing", "x"])
    row, by_hand = prompted.encode(ANSWERED), plain.encode(before.wrap(ANSWERED))
    assert (row.ids, row.loss_mask) == (by_hand.ids, by_hand.loss_mask)
    assert prompted.turns(OWN) == plain.turns(before.wrap(OWN))
    assert prompted.digest != plain.digest


def test_shown_answers_are_never_learnt(folder: Path) -> None:
    before = PromptPrefix(instruction="Choose.", shown=SHOWN)
    plain, prompted = ChatTokenizer.load(folder), ChatTokenizer.load(folder, before=before)
    row = prompted.encode(ANSWERED, learn="all")
    assert prompted.decode([one for one, learnt in zip(row.ids, row.loss_mask, strict=True) if learnt]) == (
        "delivery<|im_end|>"
    )
    assert sum(plain.encode(before.wrap(ANSWERED), learn="all").loss_mask) > sum(row.loss_mask)
    assert prompted.encode(OWN, learn="all").nothing


def test_an_empty_prompt_changes_nothing(folder: Path) -> None:
    assert PromptPrefix().wrap(ANSWERED) == ANSWERED
    assert PromptPrefix().to_openai() is None
    assert ChatTokenizer.load(folder, before=PromptPrefix()).encode(ANSWERED) == ChatTokenizer.load(folder).encode(
        ANSWERED
    )
