"""Recognize common layouts of rows: chats, preference pairs and request logs.

Layouts are recognized from the columns and the first rows. A layout says which columns hold the prompt's turns and
which holds the answer. The first layout that fits is used, and the choice is reported. Request logs are no rows yet;
the error names the command that imports them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from luthier.core.errors import DataError, SourceLocation
from luthier.data.columns.media import looks_like_media

Rows = Sequence[dict[str, Any]]

TEXT_NAMES = ("text", "utterance", "query", "question", "message", "sentence", "prompt", "input", "instruction", "body")
LABEL_NAMES = ("label", "category", "intent", "class", "target", "topic", "sentiment", "answer")


class Layout(NamedTuple):
    """Which columns mean what, and how that is known."""

    prompt: str | None = None
    """A column, or a template with columns in braces."""
    answer: str | None = None
    messages: str | None = None
    system_column: str | None = None
    tools: str | None = None
    note: str = ""
    judged: bool = False
    """Whether a column says what people thought of an answer."""
    own: bool = False
    """Whether the rows were given out by Luthier, so that their ids, origins and meta are theirs already."""

    @property
    def settings(self) -> dict[str, str]:
        """The columns by the settings of a source that name them."""
        return {name: column for name in COLUMNS if (column := getattr(self, name))}


COLUMNS = ("prompt", "answer", "messages", "system_column", "tools")


def recognize_layout(columns: Sequence[str], rows: Rows) -> Layout | None:
    """The first known layout that fits, or None."""
    known = set(columns)
    for layout in _LAYOUTS:
        if (found := layout(known, rows)) is not None:
            return found
    return _two_columns(columns, rows)


_OWN = frozenset({"id", "origin", "kind", "messages", "label", "meta"})


OWN_TABLE = _OWN - {"origin"} | {"source", "file", "line", "system", "prompt", "answer", "tools"}
"""Columns of the form `csv`: `messages`, `tools` and `meta` are the row, the others are for reading."""


def _luthier(known: set[str], rows: Rows) -> Layout | None:
    if known != OWN_TABLE and (not known >= _OWN or known - _OWN - {"tools", "images", "audios"}):
        return None
    tools = "tools" if "tools" in known else None
    return Layout(
        messages="messages", tools=tools, note="rows that Luthier gave out: they keep id and origin", own=True
    )


def _openai(known: set[str], rows: Rows) -> Layout | None:
    if "messages" not in known:
        return None
    tools = "tools" if "tools" in known else None
    return Layout(
        messages="messages", tools=tools, note="conversations, as OpenAI's chat rows hold them (column 'messages')"
    )


def _sharegpt(known: set[str], rows: Rows) -> Layout | None:
    for column in ("conversations", "conversation"):
        if column in known:
            system = "system" if "system" in known else None
            tools = "tools" if "tools" in known else None
            note = f"ShareGPT rows (column {column!r})"
            return Layout(messages=column, system_column=system, tools=tools, note=note)
    return None


def _evals(known: set[str], rows: Rows) -> Layout | None:
    if {"input", "ideal"} <= known:
        return Layout(prompt="input", answer="ideal", note="evaluation samples (columns 'input' and 'ideal')")
    return None


def _alpaca(known: set[str], rows: Rows) -> Layout | None:
    if "instruction" not in known:
        return None
    for answer in ("output", "response"):
        if answer in known:
            prompt = "{instruction}\n\n{input}" if "input" in known else "instruction"
            system = "system" if "system" in known else None
            return Layout(
                prompt=prompt, answer=answer, system_column=system, note=f"Alpaca rows (instruction, {answer})"
            )
    return None


def _self_instruct(known: set[str], rows: Rows) -> Layout | None:
    if not {"instruction", "instances.output"} <= known:
        return None
    prompt = "{instruction}\n\n{instances.input}" if "instances.input" in known else "instruction"
    return Layout(prompt=prompt, answer="instances.output", note="tasks of Self-Instruct (instruction, instances)")


def _preference(known: set[str], rows: Rows) -> Layout | None:
    """Pairs of answers: with a prompt in any form, or with the whole conversation in both."""
    for chosen, rejected in (("chosen", "rejected"), ("preferred_output", "non_preferred_output")):
        if chosen not in known:
            continue
        note = f"preference rows: {chosen!r} is the answer; {rejected!r}, the worse one, is read from meta"
        system, tools = ("system" if "system" in known else None, "tools" if "tools" in known else None)
        for prompt in ("prompt", "input", "instruction", "question", "messages", "conversations"):
            if prompt in known:
                return Layout(prompt, chosen, system_column=system, tools=tools, note=note, judged=True)
        if rejected in known:
            return Layout(messages=chosen, system_column=system, tools=tools, note=note, judged=True)
    return None


def _kto(known: set[str], rows: Rows) -> Layout | None:
    """Answers with a yes or no: only the objective that reads the label can learn from both."""
    if "label" not in known or not rows or not all(isinstance(row.get("label"), bool) for row in rows):
        return None
    note = "KTO rows: 'label' stays in meta"
    if "messages" in known:
        return Layout(messages="messages", note=note, judged=True)
    pair = {"prompt", "completion"} <= known
    return Layout(prompt="prompt", answer="completion", note=note, judged=True) if pair else None


def _turns(known: set[str], rows: Rows) -> Layout | None:
    """Tickets and calls: a list of what each side said."""
    for column in ("turns", "dialogue", "dialog", "transcript", "utterances"):
        if column in known and any(isinstance(row.get(column), list) for row in rows):
            return Layout(messages=column, note=f"tickets with turns (column {column!r})")
    return None


def _pair(known: set[str], rows: Rows) -> Layout | None:
    for prompt, answer in (
        ("prompt", "completion"),
        ("prompt", "response"),
        ("prompt", "answer"),
        ("question", "answer"),
        ("question", "response"),
        ("input", "output"),
    ):
        if {prompt, answer} <= known:
            return Layout(prompt=prompt, answer=answer, note=f"columns {prompt!r} and {answer!r}")
    return None


def _classes(known: set[str], rows: Rows) -> Layout | None:
    for answer in LABEL_NAMES:
        for prompt in TEXT_NAMES:
            if {prompt, answer} <= known:
                return Layout(
                    prompt=prompt, answer=answer, note=f"texts with classes (columns {prompt!r} and {answer!r})"
                )
    return None


def _plain_text(known: set[str], rows: Rows) -> Layout | None:
    if known == {"text"} or {"text", "document", "piece"} <= known:
        return Layout(answer="text", note="plain text to continue (column 'text')")
    return None


_SHOWN = ("image", "images", "audio", "audios")
_SAID = ("text", "caption", "transcription", "transcript", "sentence", "description")


def _media(known: set[str], rows: Rows) -> Layout | None:
    """Pictures or sounds with a class or a text: the medium is the whole question."""
    for column in _SHOWN:
        if column not in known or not any(map(looks_like_media, (row.get(column) for row in rows))):
            continue
        for answer in (*LABEL_NAMES, *_SAID):
            if answer in known:
                what = "pictures" if column.startswith("image") else "sounds"
                note = f"{what} with answers (columns {column!r} and {answer!r})"
                return Layout(prompt=column, answer=answer, note=note)
    return None


_LAYOUTS: tuple[Callable[[set[str], Rows], Layout | None], ...] = (
    _luthier,
    _plain_text,
    _preference,
    _kto,
    _openai,
    _sharegpt,
    _turns,
    _evals,
    _alpaca,
    _self_instruct,
    _pair,
    _classes,
    _media,
)


_ASKING = 0.2
"""By so much larger a share of texts with a question mark, a column is taken to ask."""


def decide_prompt_and_answer(first: str, second: str, rows: Rows) -> tuple[str, str, str]:
    """Of two columns of text, the one that asks, the one that answers, and why: the one with more questions asks, else
    the one with more distinct values; where they are alike, the first asks."""
    texts = {name: [str(row.get(name)) for row in rows] for name in (first, second)}
    asking = {name: sum("?" in text or "？" in text for text in texts[name]) for name in texts}
    distinct = {name: len(set(texts[name])) for name in texts}
    prompt, answer = (first, second) if distinct[first] >= distinct[second] else (second, first)
    why = "the second"
    if abs(asking[first] - asking[second]) >= _ASKING * len(rows):
        prompt, answer = (first, second) if asking[first] > asking[second] else (second, first)
        explanation = f"{asking[prompt]} of the first {len(rows)} rows have a question in {prompt!r}"
        why = f"{explanation}, {asking[answer]} in {answer!r}"
    elif distinct[first] != distinct[second]:
        why = f"{distinct[answer]} distinct values against {distinct[prompt]}"
    return prompt, answer, why


def _two_columns(columns: Sequence[str], rows: Rows) -> Layout | None:
    """Two columns, of which one is taken to answer the other."""
    if len(columns) != 2 or not rows:
        return None
    prompt, answer, why = decide_prompt_and_answer(columns[0], columns[1], rows)
    note = f"a guess from two columns: {answer!r} answers {prompt!r} ({why})"
    return Layout(prompt=prompt, answer=answer, note=note)


_ASKED = ("messages", "prompt")
_JOINED = "jq -cs 'group_by(.custom_id)[] | add | {request: .body, response}' REQUESTS.jsonl ANSWERS.jsonl > log.jsonl"
_THEN = "and `luthier new NAME --from traces` writes a recipe of it"


def explain_unsupported_log(rows: Sequence[dict[str, Any]], file: str) -> DataError | None:
    """Why such rows make no recipe as they are, and what makes one of them; nothing for any other rows.

    A row holds the request and its response, or one of both, as OpenAI's batches give them; objects inside may have
    become columns already.
    """
    where = SourceLocation(file=file)
    first = rows[0] if rows else {}
    if _asks(first, "request") and _names(first, "response"):
        hint = f"`luthier traces import {file}` takes it in, {_THEN}"
        return DataError("is a log of requests and responses, not of prompts and answers", where=where, hint=hint)
    if "custom_id" in first and (_asks(first, "body") != _names(first, "response")):
        has, lacks = ("requests", "answers") if _asks(first, "body") else ("answers", "requests")
        hint = f"put both together: {_JOINED}; `luthier traces import log.jsonl` takes that in, {_THEN}"
        return DataError(f"holds the {has} of a batch without their {lacks}", where=where, hint=hint)
    return None


def _asks(row: dict[str, Any], column: str) -> bool:
    inside = row.get(column)
    return any(f"{column}.{name}" in row or (isinstance(inside, dict) and name in inside) for name in _ASKED)


def _names(row: dict[str, Any], column: str) -> bool:
    return column in row or any(name.startswith(f"{column}.") for name in row)
