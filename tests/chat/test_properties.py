"""What holds for any conversation, whatever people type."""

from __future__ import annotations

from functools import cache

from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st

from luthier.chat.messages import Message
from luthier.chat.tokenizer import ChatTokenizer, EncodedChat
from luthier.core.errors import ModelError
from tests.chat.families import byte_level, dressed, family, metaspace

FAMILIES = ["cohere2", "gemma", "gptoss", "llama3_1", "phi3", "qwen2_5", "qwen3", "qwen3_6", "smolvlm"]
SPECIALS = [
    "<|im_end|>",
    "<|im_start|>",
    "<|eot_id|>",
    "<end_of_turn>",
    "<|end|>",
    "</s>",
    "<s>",
    "<think>",
    "</think>",
]
PLAIN = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=20)
TYPED = st.lists(PLAIN | st.sampled_from(SPECIALS), max_size=5).map("".join)
SETTINGS = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@cache
def _text(name: str) -> ChatTokenizer:
    if name == "base":
        return ChatTokenizer(dressed(byte_level(), None))
    if name == "metaspace":
        return ChatTokenizer(
            dressed(
                metaspace(), "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"
            )
        )
    return ChatTokenizer(family(name), today=None)


def _encoded(name: str, messages: list[Message]) -> EncodedChat:
    """A row; conversations of which the template says that it drops what is to be learnt are not asked about here."""
    try:
        return _text(name).encode(messages)
    except ModelError as error:
        if "leaves out the thinking" in error.message:  # an assistant that wrote </think> twice, for instance
            reject()
        raise


def _conversation(texts: list[str]) -> list[Message]:
    return [Message(role="assistant" if n % 2 else "user", content=said) for n, said in enumerate(texts)]


CONVERSATION = st.integers(1, 2).flatmap(lambda n: st.lists(TYPED, min_size=2 * n, max_size=2 * n)).map(_conversation)


@SETTINGS
@given(st.sampled_from([*FAMILIES, "base", "metaspace"]), CONVERSATION)
def test_no_typed_special_token_becomes_one(name: str, messages: list[Message]) -> None:
    text = _text(name)
    row = _encoded(name, messages)
    special = set(text.tokenizer.convert_tokens_to_ids(sorted(text.special_tokens)))
    clean = text.encode([message.model_copy(update={"content": "x"}) for message in messages])
    ours = [token for token in row.ids if token in special]
    assert ours == [token for token in clean.ids if token in special]
    for span in row.spans:
        assert not special & set(row.ids[slice(*span.tokens)])


@SETTINGS
@given(st.sampled_from(FAMILIES), CONVERSATION)
def test_spans_hold_what_was_said(name: str, messages: list[Message]) -> None:
    row = _encoded(name, messages)
    assert row.text == _text(name).tokenizer.apply_chat_template(_text(name).turns(messages), tokenize=False)
    for span in row.spans:
        said = row.text[slice(*span.chars)]
        assert said in messages[span.message].content
        assert len(row.ids) >= span.tokens[1] >= span.tokens[0]


@SETTINGS
@given(st.sampled_from([*FAMILIES, "base"]), CONVERSATION)
def test_prompt_then_answer_then_end(name: str, messages: list[Message]) -> None:
    text = _text(name)
    row, prompt = _encoded(name, messages), text.prompt(messages[:-1])
    assert row.prefix
    assert row.ids[: len(prompt)] == prompt
    learnt = [token for token, one in zip(row.ids, row.loss_mask, strict=True) if one]
    start = row.loss_mask.index(True)
    assert start == len(prompt)
    assert learnt == row.ids[start : start + len(learnt)]
    turn = text.render(messages).turns[-1]
    assert text.decode(learnt) == row.text[turn.start : turn.end]
    assert learnt[-1] in text.end_ids


@SETTINGS
@given(st.sampled_from(["qwen2_5", "gptoss", "base"]), CONVERSATION)
def test_the_answer_is_learnt_to_the_letter(name: str, messages: list[Message]) -> None:
    text = _text(name)
    row = _encoded(name, messages)
    learnt = text.decode([token for token, one in zip(row.ids, row.loss_mask, strict=True) if one])
    assert messages[-1].content in learnt


@SETTINGS
@given(st.sampled_from(FAMILIES), CONVERSATION, st.integers(1, 60), st.sampled_from(["prompt", "right"]))
def test_cutting_counts_add_up(name: str, messages: list[Message], limit: int, rule: str) -> None:
    text = _text(name)
    whole, row = _encoded(name, messages), text.encode(messages, max_tokens=limit, cut=rule)  # type: ignore[arg-type]
    assert len(row.ids) == len(row.loss_mask) == min(limit, len(whole.ids))
    assert row.removed == len(whole.ids) - len(row.ids)
    assert bool(row.cut) == bool(row.removed)
    assert (sum(row.loss_mask) < sum(whole.loss_mask)) == (row.cut == "answer")
    assert any(row.loss_mask) != bool(row.nothing)


@SETTINGS
@given(st.sampled_from(FAMILIES), st.lists(PLAIN, min_size=2, max_size=2).map(_conversation))
def test_clean_conversations_have_the_ids_of_transformers(name: str, messages: list[Message]) -> None:
    text = _text(name)
    row = text.encode(messages)
    expected = text.tokenizer.apply_chat_template(text.turns(messages), return_dict=False)
    assert (row.ids == expected) == (row.straddles == 0)
