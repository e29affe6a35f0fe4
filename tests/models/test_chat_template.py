"""Chat templates by themselves: what each has a place for, those that ship, and those that a recipe sets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from luthier.chat.messages import Message, ToolCall
from luthier.chat.template import CALL_PROBE, TOOL_PROBE, ChatTemplateError, JinjaChatTemplate, TemplateProber
from luthier.chat.tokenizer import ChatTokenizer
from luthier.chat.tool_calls import ToolCallFormat
from luthier.core.errors import ModelError, UnknownName
from luthier.models.chat_template import (
    SHIPPED,
    ToolSupport,
    detect_tool_support,
    find_missing_special_tokens,
    list_fitting_templates,
    load_chat_template,
    read_tool_support,
    replace_template,
)
from tests.chat.conversations import ASK, CONVERSATIONS, RESULT, SAY, SYSTEM, TOOLS
from tests.chat.families import byte_level, dressed, names, source
from tests.tiny_models import TEMPLATE, tiny_tokenizer

WORDS = {"bos_token": "<s>", "eos_token": "</s>"}


@pytest.mark.parametrize("name", names())
def test_places_for_tools_are_those_that_the_ids_are_made_with(name: str) -> None:
    """Plans look without transformers; a training renders with it."""
    template = JinjaChatTemplate(source=source(name), constants=WORDS)
    forms = TemplateProber(template)
    try:
        shown = template.render([*forms.turns(CALL_PROBE[:1]), {"role": "assistant", "content": "x"}], [TOOL_PROBE])
    except ChatTemplateError:
        shown = ""
    expected = ToolSupport(offers="qzvkcalled" in shown, calls=forms.arguments != "dropped")
    if forms.parts:
        expected = expected._replace(offers=detect_tool_support(source(name), WORDS).offers)
    assert detect_tool_support(source(name), WORDS) == expected


def test_no_template_has_no_place() -> None:
    assert detect_tool_support(None, {}) == ToolSupport(offers=False, calls=False)


def _hermes() -> ChatTokenizer:
    return ChatTokenizer(dressed(byte_level(), load_chat_template("hermes", Path())), today=None)


@pytest.mark.parametrize("case", [name for name in CONVERSATIONS if "th" not in name])
def test_hermes_is_rendered_as_transformers_renders_it(case: str) -> None:
    messages, tools = CONVERSATIONS[case]
    text = _hermes()
    told = text.tokenizer.apply_chat_template(text.turns(messages), tools=list(tools) or None, tokenize=False)
    assert text.encode(messages, tools, learn="all").text == told


CALLS = tuple(ToolCall(name="lookup", arguments={"key": key}) for key in ("Paris", "Ré"))
SEVERAL = (
    SYSTEM, ASK, Message(role="assistant", content="Let me look.", tool_calls=CALLS), RESULT, RESULT, SAY, ASK, SAY
)  # fmt: skip


@pytest.mark.parametrize("messages", [SEVERAL, *(CONVERSATIONS[one][0] for one in ("system", "call and answer"))])
@pytest.mark.parametrize("tools", [TOOLS, ()])
def test_hermes_writes_what_qwen_does(messages: Any, tools: Any) -> None:
    """Byte for byte, wherever there is a system turn: without one Qwen writes its own."""
    ours, theirs = _hermes(), ChatTokenizer(dressed(byte_level(), source("qwen2_5")), today=None)
    assert ours.render(messages, tools, learn="all").text == theirs.render(messages, tools, learn="all").text


def test_calls_in_hermes_are_read_back() -> None:
    form = ToolCallFormat.of(_hermes())
    assert form is not None
    assert (form.opening.strip(), form.closing.strip()) == ("<tool_call>", "</tool_call>")


def test_every_template_that_ships_has_places_for_tools_and_says_which_tokens_it_needs() -> None:
    for name, tokens in SHIPPED.items():
        text = load_chat_template(name, Path())
        assert all(detect_tool_support(text, {}))
        assert all(token in text for token in tokens)


def test_a_name_that_does_not_ship_and_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="no chat template ships under 'hermse'") as refused:
        load_chat_template("hermse", tmp_path)
    assert "did you mean 'hermes'" in refused.value.hint
    with pytest.raises(ModelError, match=r"there is no file .*mine\.jinja"):
        load_chat_template("mine.jinja", tmp_path)
    (tmp_path / "mine.jinja").write_text("{% for message in messages %}\n{{ message.content }")
    with pytest.raises(ModelError, match="is no Jinja template") as wrong:
        load_chat_template("mine.jinja", tmp_path)
    assert wrong.value.where.line == 2


def test_a_second_template_for_tools_is_the_one_that_is_looked_at(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_text(TEMPLATE)
    assert not any(read_tool_support(tmp_path))
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "tool_use.jinja").write_text(source("qwen2_5"))
    assert all(read_tool_support(tmp_path))
    replace_template(tmp_path, TEMPLATE)
    assert not any(read_tool_support(tmp_path))


def test_a_list_of_templates_in_the_tokenizer_is_looked_into(tmp_path: Path) -> None:
    named = [{"name": "default", "template": TEMPLATE}, {"name": "tool_use", "template": source("qwen2_5")}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}))
    assert all(read_tool_support(tmp_path))


def test_a_template_that_ships_fits_where_its_tokens_are_known(tmp_path: Path) -> None:
    tiny_tokenizer(tmp_path)
    assert list_fitting_templates(tmp_path) == ["hermes"] == list_fitting_templates(None)
    other = dressed(byte_level(), source("llama3"))
    other.save_pretrained(tmp_path / "llama")
    assert find_missing_special_tokens("hermes", tmp_path / "llama") == ["<|im_end|>", "<|im_start|>"]
    assert list_fitting_templates(tmp_path / "llama") == []
