"""What each provider of fine-tuning refuses, and how it writes a conversation."""

from __future__ import annotations

from typing import Any

import pytest

from luthier.chat.messages import Message
from luthier.chat.provider_rules import (
    AZURE,
    BEDROCK,
    FIREWORKS,
    OPENAI,
    TOGETHER,
    VERTEX,
    ProviderRules,
    format_provider_example,
    list_example_messages,
    write_gemini_example,
)

TOOL = {"type": "function", "function": {"name": "find"}}
ALL = (AZURE, BEDROCK, FIREWORKS, OPENAI, TOGETHER, VERTEX)


def turns(*roles: str, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": "hello"} for role in roles], **more}


PAIR = {
    "input": turns("system", "user"),
    "preferred_output": [{"role": "assistant", "content": "a"}],
    "non_preferred_output": [{"role": "assistant", "content": "b"}],
}


@pytest.mark.parametrize("rules", ALL)
def test_plain_conversations_are_taken_by_all(rules: ProviderRules) -> None:
    for roles in (("user", "assistant"), ("system", "user", "assistant", "user", "assistant")):
        assert rules.explain_refusal(turns(*roles)) is None
    for roles in (("user",), ("system", "assistant"), ("user", "assistant", "user")):
        assert rules.explain_refusal(turns(*roles)) is not None


@pytest.mark.parametrize("rules", [BEDROCK, VERTEX, TOGETHER])
def test_some_want_turns_to_be_taken(rules: ProviderRules) -> None:
    for roles in (
        ("user", "user", "assistant"),
        ("user", "assistant", "assistant"),
        ("assistant", "user", "assistant"),
        ("user", "system", "assistant"),
    ):
        assert "the user begins" in str(rules.explain_refusal(turns(*roles)))
        assert OPENAI.explain_refusal(turns(*roles)) is None


@pytest.mark.parametrize("rules", [BEDROCK, VERTEX])
def test_some_take_neither_tools_nor_weights_nor_pairs(rules: ProviderRules) -> None:
    assert "no tools" in str(rules.explain_refusal(turns("user", "assistant", tools=[TOOL])))
    weighted = turns("user", "assistant", "user", "assistant")
    weighted["messages"][1]["weight"] = 0
    assert "weight 0" in str(rules.explain_refusal(weighted))
    assert "no preferences" in str(rules.explain_refusal(PAIR))


@pytest.mark.parametrize("rules", [AZURE, FIREWORKS, OPENAI, TOGETHER])
def test_others_take_all_of_these(rules: ProviderRules) -> None:
    assert rules.explain_refusal(turns("user", "assistant", tools=[TOOL])) is None
    assert rules.explain_refusal(PAIR) is None
    assert rules.write(dict(PAIR)) == PAIR


def test_files_have_limits() -> None:
    assert OPENAI.explain_file_refusal(10, 5) is None
    assert "10 rows and more, and there are 9" in str(OPENAI.explain_file_refusal(9, 5))
    assert "at most 20,000 rows" in str(BEDROCK.explain_file_refusal(20_001, 5))
    assert "at most 150 MB" in str(FIREWORKS.explain_file_refusal(10, (150 << 20) + 1))


def test_rows_are_written_as_gemini_has_them() -> None:
    messages = (
        Message(role="system", content="Sort."),
        Message(role="user", content="late"),
        Message(role="assistant", content="delivery"),
    )
    assert write_gemini_example(format_provider_example(messages)) == {
        "systemInstruction": {"role": "system", "parts": [{"text": "Sort."}]},
        "contents": [
            {"role": "user", "parts": [{"text": "late"}]},
            {"role": "model", "parts": [{"text": "delivery"}]},
        ],
    }
    pair = format_provider_example(messages, rejected="account")
    assert [one["content"] for one in list_example_messages(pair)] == ["Sort.", "late", "delivery", "account"]
