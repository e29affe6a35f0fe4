"""Preference pairs: two answers to one prompt, or one answer with a yes or no.

The preferred answer is an example's last turn. The other one, the margin between them and the yes or no stand in its
`meta`, under the names that preference data has.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from luthier.chat.messages import Example, Message, Role, prompt_of

REJECTED = ("rejected", "non_preferred_output")
"""Columns that hold the answer that was not preferred: TRL's and most others' name, and OpenAI's."""
WANTED = "label"
"""The column that holds a yes or no: KTO's name."""
_ROLES: Mapping[str, Role] = {
    "system": "system", "developer": "system", "user": "user", "human": "user", "assistant": "assistant",
    "gpt": "assistant", "model": "assistant", "tool": "tool",
}  # fmt: skip
_SPEAKER = re.compile(r"(?:\A|\n\n)(Human|Assistant):[ \t]*")
_YES = {True: True, "true": True, "yes": True, "up": True, "1": True}
_NO = {False: False, "false": False, "no": False, "down": False, "0": False, -1: False, "-1": False}


class PreferencePair(NamedTuple):
    """Two answers to one prompt."""

    prompt: tuple[Message, ...]
    chosen: Message
    rejected: Message


def is_pair(example: Example) -> bool:
    """Whether an example has an answer that was not preferred, whatever it looks like."""
    return any(example.meta.get(name) is not None for name in REJECTED)


def pair_of(example: Example) -> PreferencePair | str:
    """The two answers of an example, or why it has none."""
    name = next((name for name in REJECTED if example.meta.get(name) is not None), None)
    if name is None:
        return "it has one answer, and none that was not preferred"
    prompt = prompt_of(example)
    if len(prompt) == len(example.messages):
        return "it has no preferred answer"
    chosen, turns = example.messages[-1], parse_answer_turns(example.meta[name])
    if turns is None or not turns or turns[-1].role != "assistant":
        return f"its {name!r} is neither text nor a conversation that ends with the assistant"
    if not _follows(turns, prompt):
        return "its two answers follow different conversations"
    return _checked(PreferencePair(prompt, chosen, turns[-1]), name)


def _checked(pair: PreferencePair, name: str) -> PreferencePair | str:
    """The pair, or why nobody can prefer one of its answers."""
    for answer, what in ((pair.chosen, "preferred answer"), (pair.rejected, repr(name))):
        if not (answer.content.strip() or answer.tool_calls):
            return f"its {what} is empty"
    same = (pair.chosen.content.strip(), pair.chosen.tool_calls) == (
        pair.rejected.content.strip(),
        pair.rejected.tool_calls,
    )
    return "a tie: both answers are the same" if same else pair


def rejected_char_ratio(examples: Sequence[Example]) -> float:
    """Return the characters of the rejected answers divided by those of the full conversations with the chosen
    answers."""
    pairs = [(example, pair) for example in examples if isinstance(pair := pair_of(example), PreferencePair)]
    whole = sum(len(turn.content) for example, _ in pairs for turn in example.messages)
    return sum(len(pair.rejected.content) for _, pair in pairs) / max(1, whole)


def strip_prompt_from_rejected(messages: Sequence[Message], meta: dict[str, Any]) -> dict[str, Any]:
    """A row's columns, with the answer alone where the other side of a pair repeats the whole conversation: what is
    edited later in the prompt then needs no second edit."""
    for name in REJECTED:
        turns = parse_answer_turns(meta[name]) if meta.get(name) is not None else None
        plain = (
            turns is not None and len(turns) > 1 and turns[-1] == Message(role="assistant", content=turns[-1].content)
        )
        if turns and plain and messages and messages[-1].role == "assistant" and _follows(turns, messages[:-1]):
            return {**meta, name: turns[-1].content}
    return meta


def rejected_texts(value: Any, roles: Sequence[str], path: str = "") -> Iterator[tuple[str, str]]:
    """What those of these roles say in the cell of an answer that was not preferred, each with its JSON pointer."""
    if isinstance(value, str):
        if value and "assistant" in roles:
            yield path, value
    elif isinstance(value, Mapping) and "messages" in value:
        yield from rejected_texts(value["messages"], roles, f"{path}/messages")
    elif isinstance(value, Mapping):
        turn = _turn(value)
        if turn is not None and turn.role in roles and turn.content:
            yield f"{path}/{'content' if 'content' in value else 'value'}", turn.content
    elif isinstance(value, Sequence):
        for index, item in enumerate(value):
            if isinstance(item, Mapping):
                yield from rejected_texts(item, roles, f"{path}/{index}")


def desirable_label_of(example: Example, column: str = WANTED) -> bool | None:
    """The yes or no that an answer was given; None when there is none."""
    value = example.meta.get(column)
    key = value.strip().lower() if isinstance(value, str) else value
    if not isinstance(key, (str, bool, int, float)):
        return None
    return _YES[key] if key in _YES else _NO.get(key)


def column_number_of(example: Example, column: str) -> float | None:
    """The number in a column, such as by how much the one answer is better; None when there is none."""
    value = example.meta.get(column)
    if value is None or isinstance(value, bool):
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def parse_hh_transcript(text: str) -> tuple[Message, ...] | None:
    """The turns of a conversation written as `Human: …` and `Assistant: …` in paragraphs (Anthropic's HH); None for
    other text."""
    pieces = _SPEAKER.split(text.strip())
    if pieces[0].strip() or len(pieces) < 3:
        return None
    roles: dict[str, Role] = {"Human": "user", "Assistant": "assistant"}
    pairs = zip(pieces[1::2], pieces[2::2], strict=True)
    return tuple(Message(role=roles[who], content=content.strip()) for who, content in pairs)


def parse_answer_turns(value: Any) -> tuple[Message, ...] | None:
    """What stands in a cell as turns: text is one answer, unless it is a whole transcript; None for anything else."""
    if isinstance(value, str):
        return parse_hh_transcript(value) or (Message(role="assistant", content=value),)
    if isinstance(value, Mapping):
        value = value.get("messages", [value])
    if not isinstance(value, Sequence):
        return None
    messages = [_turn(item) for item in value]
    return None if None in messages else tuple(message for message in messages if message is not None)


def _turn(item: Any) -> Message | None:
    if not isinstance(item, Mapping):
        return None
    role = _ROLES.get(str(item.get("role", item.get("from", ""))).lower())
    content = item.get("content", item.get("value"))
    return Message(role=role, content=content) if role is not None and isinstance(content, str) else None


def _follows(turns: Sequence[Message], prompt: Sequence[Message]) -> bool:
    """Whether a conversation is the prompt, with or without its system turn, and an answer; or an answer alone."""
    own = [message for message in prompt if message.role != "system" or turns[0].role == "system"]
    return len(turns) == 1 or _said(turns[:-1]) == _said(own)


def _said(turns: Sequence[Message]) -> list[tuple[str, str]]:
    return [(turn.role, turn.content.strip()) for turn in turns]
