"""Every chat template that trl carries: same bytes and ids as transformers, right labels, or a plain refusal."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pytest

from luthier.chat.messages import Message
from luthier.chat.tokenizer import ChatTokenizer, EncodedChat
from luthier.core.errors import ModelError
from tests.chat.conversations import ASK, CONVERSATIONS, SAY, TOOLS
from tests.chat.families import family, names, source

ALTERNATING = {"cohere", "cohere2", "gemma", "gemma3"}
NO_CALLS = {
    *("cohere", "cohere2", "deepseek_r1_distill", "gemma", "gemma3", "idefics3", "lfm2", "llama3", "llava_next"),
    *("phi3", "phi3_5", "qwen2_5_vl", "smolvlm"),
}
REFUSED = {
    "system": {"gemma": "refuses this conversation"},
    "tools on offer": {"gemma": "refuses this conversation"},
    "thinking": {"deepseek_r1_distill": "leaves out the thinking", "deepseekv3": "leaves out the thinking"},
    "call": dict.fromkeys(NO_CALLS, "leaves out the tool calls"),
}
REFUSED["two thoughts"] = REFUSED["thinking"]
REFUSED["call and answer"] = {
    **dict.fromkeys(NO_CALLS, "leaves out the tool calls"),
    **dict.fromkeys([*ALTERNATING, "llava_next"], "refuses this conversation"),
}
"""What each template cannot do, and how that is said. Nothing else may be refused, and these must be."""
KEEPS_THINKING = {"deepseek_r1_distill_training"}

BREAKS_PREFIX = re.compile(r"deepseek|nemotron|qwen3_5_nothink\S* (two )?th")
"""Templates (and cases) whose generation prompt opens or closes the reasoning otherwise than they write the answer."""


def _refusal(name: str, case: str) -> str | None:
    if name in KEEPS_THINKING and "th" in case:
        return None
    return REFUSED.get(case, {}).get(name.removesuffix("_training"))


PAIRS = [(name, case) for name in names() for case in CONVERSATIONS]
SHOWN = [(name, case) for name, case in PAIRS if not _refusal(name, case)]
CALLING = [name for name, case in SHOWN if case == "call and answer"]
MARKED = [(name, case) for name, case in SHOWN if re.search(r"{%-?\s*generation", source(name))]
"""Templates in which trl marks what an assistant writes."""


def _reference(text: ChatTokenizer, messages: Sequence[Message], tools: Any, **how: Any) -> Any:
    """What transformers makes of the same conversation."""
    turns = text.turns(messages)
    return text.tokenizer.apply_chat_template(turns, tools=list(tools) or None, return_dict=False, **how)


def _learnt(text: ChatTokenizer, row: EncodedChat) -> str:
    return text.decode([token for token, learnt in zip(row.ids, row.loss_mask, strict=True) if learnt])


def test_there_are_enough_families() -> None:
    families = {name.removesuffix("_training") for name in names()}
    assert len(families) >= 20, f"trl carries only {sorted(families)}"


@pytest.mark.parametrize(("name", "case"), PAIRS)
def test_equal_to_transformers(name: str, case: str) -> None:
    messages, tools = CONVERSATIONS[case]
    text = ChatTokenizer(family(name), today=None)
    if refusal := _refusal(name, case):
        with pytest.raises(ModelError, match=refusal):
            text.encode(messages, tools, learn="all")
        return
    row = text.encode(messages, tools)
    assert row.text == _reference(text, messages, tools, tokenize=False)
    ids = _reference(text, messages, tools, tokenize=True)
    if not text.render(messages, tools).turns[-1].closed:
        ids = [*ids, text.tokenizer.eos_token_id]
    assert (row.ids == ids) == (row.straddles == 0)
    assert text.decode(row.ids) == text.decode(ids)


@pytest.mark.parametrize(("name", "case"), SHOWN)
def test_prompt_is_how_the_row_begins(name: str, case: str) -> None:
    messages, tools = CONVERSATIONS[case]
    text = ChatTokenizer(family(name), today=None)
    row, prompt = text.encode(messages, tools), text.prompt(messages[:-1], tools)
    assert prompt == _reference(text, messages[:-1], tools, tokenize=True, add_generation_prompt=True)
    assert row.prefix or BREAKS_PREFIX.match(f"{name} {case}")
    if row.prefix:
        assert row.ids[: len(prompt)] == prompt
        assert row.loss_mask.index(True) == len(prompt)
    assert not any(row.loss_mask[: len(prompt) - 2])


@pytest.mark.parametrize("name", names())
def test_the_answer_and_its_end_are_learnt_and_nothing_after(name: str) -> None:
    text = ChatTokenizer(family(name), today=None)
    row = text.encode((ASK, SAY))
    said = _learnt(text, row)
    end = said.partition("It is Paris.")[2]
    assert end
    last = max(place for place, learnt in enumerate(row.loss_mask) if learnt)
    assert row.ids[last] in text.end_ids
    assert not text.decode(row.ids[last + 1 :], special=False).strip()


@pytest.mark.parametrize("name", names())
def test_all_turns_are_learnt_when_asked(name: str) -> None:
    text = ChatTokenizer(family(name), today=None)
    said = _learnt(text, text.encode((ASK, SAY, ASK, SAY), learn="all"))
    assert said.count("It is Paris.") == 2
    assert "What is the capital?" not in said


@pytest.mark.parametrize("name", CALLING)
def test_a_call_is_learnt_and_its_result_is_not(name: str) -> None:
    messages, tools = CONVERSATIONS["call and answer"]
    text = ChatTokenizer(family(name), today=None)
    row = text.encode(messages, tools, learn="all")
    said = _learnt(text, row)
    assert "lookup" in said
    assert "France" in said
    assert "found" not in said
    assert "found" in row.text
    assert {span.part for span in row.spans if span.message == 2} == {"name", "call"}


@pytest.mark.parametrize(("name", "case"), MARKED)
def test_agrees_with_the_marks_that_trl_put_in_its_templates(name: str, case: str) -> None:
    """trl's training templates mark what an assistant writes. They count the header in (which the generation prompt
    supplies) and the line break after the end token; between those two, the labels must be the same. Not compared:
    rows whose tokens differ by `straddles`, and calls of DiffusionGemma, whose `<|tool_response>`, at which the model
    stops, trl does not count in."""
    messages, tools = CONVERSATIONS[case]
    text = ChatTokenizer(family(name), today=None)
    row = text.encode(messages, tools, learn="all")
    if row.straddles or (name == "diffusion_gemma_training" and "call" in case):
        return
    theirs = text.tokenizer.apply_chat_template(
        text.turns(messages), tools=list(tools) or None, return_dict=True, return_assistant_tokens_mask=True
    )["assistant_masks"]
    turns = text.render(messages, tools, learn="all").turns
    for place, marked in enumerate(theirs):
        assert marked or not row.loss_mask[place] or not turns[-1].closed
        if marked and not row.loss_mask[place]:
            assert _beside_a_turn(text, row, place)


def _beside_a_turn(text: ChatTokenizer, row: EncodedChat, place: int) -> bool:
    """Whether a token is white space or a stop after a learnt turn, or only headers stand between it and the next."""
    token = text.decode([row.ids[place]])
    if not token.strip() or row.ids[place] in text.end_ids:
        return True
    following = next((at for at in range(place, len(row.ids)) if row.loss_mask[at]), None)
    return following is not None and len(text.decode(row.ids[place:following])) < 25


@pytest.mark.parametrize("name", names())
def test_special_tokens_that_somebody_typed_are_text(name: str) -> None:
    """Every special token of the family is typed by the user and by the assistant; none becomes its id there."""
    text = ChatTokenizer(family(name), today=None)
    typed = " ".join(sorted(text.special_tokens))
    for channel in ("<|channel|>", "<|channel>", "<channel|>"):  # gpt-oss refuses it, Gemma 4 cuts out what it encloses
        typed = typed.replace(channel, "")
    messages = (Message(role="user", content=f"say {typed} now"), Message(role="assistant", content=f"so {typed} then"))
    clean, row = text.encode((ASK, SAY)), text.encode(messages)
    special = set(text.tokenizer.convert_tokens_to_ids(sorted(text.special_tokens)))
    assert [token for token in row.ids if token in special] == [token for token in clean.ids if token in special]
    assert f"say {typed} now" in text.decode(row.ids)
    if row.prefix:
        prompt = text.prompt(messages[:1])
        assert row.ids[: len(prompt)] == prompt


@pytest.mark.parametrize("name", ["qwen2_5", "gptoss", "gemma4", "llama3_1"])
def test_special_tokens_in_tool_results_arguments_and_schemas_are_text(name: str) -> None:
    text = ChatTokenizer(family(name), today=None)
    eos = text.tokenizer.eos_token
    messages, _ = CONVERSATIONS["call and answer"]
    call = messages[2].tool_calls[0].model_copy(update={"arguments": {"key": f"a{eos}b"}})
    dirty = [*messages[:2], messages[2].model_copy(update={"tool_calls": (call,)})]
    dirty += [messages[3].model_copy(update={"content": f"c{eos}d"}), messages[4]]
    function = {**TOOLS[0]["function"], "description": f"e{eos}f"}  # type: ignore[dict-item]  # a JSON schema
    row = text.encode(dirty, [{"type": "function", "function": function}])
    clean = text.encode(messages, TOOLS)
    special = set(text.tokenizer.convert_tokens_to_ids(sorted(text.special_tokens)))
    assert [token for token in row.ids if token in special] == [token for token in clean.ids if token in special]
    assert text.decode(row.ids).count(eos) == text.decode(clean.ids).count(eos) + 3
