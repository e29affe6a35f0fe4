"""Chat templates read without transformers: those that ship, rendering, and their support of tools.

Estimates and plans render here; the ids that a training reads come from `luthier.chat`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from luthier.core.errors import ModelError, SourceLocation, UnknownName, did_you_mean
from luthier.core.files import resolve_path, translate_write_errors
from luthier.models.describe import read_chat_template, read_json_object

SHIPPED: Mapping[str, tuple[str, ...]] = {"hermes": ("<|im_start|>", "<|im_end|>")}
"""Chat templates that come with Luthier, by name, and the special tokens that each needs in the tokenizer."""
FILE = "chat_template.jinja"
"""Chat template file of a Hugging Face folder."""
_MORE = "additional_chat_templates"
_FOR_TOOLS = "tool_use"
"""Name of a second template that is used where tools are offered."""
_SHIPPED = files("luthier.models") / "chat_templates"
_GENERATION = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}")
"""Marks that only transformers knows; they render to nothing."""
_PROBE = "qzvkanswered"
REFUSALS = (TypeError, ValueError, LookupError, AttributeError)
"""Exceptions of a template for a conversation that it does not accept, or for variables that only transformers sets."""
_TOKENS = ("bos_token", "eos_token", "pad_token", "unk_token")
Row = Mapping[str, Any]
"""A turn, or one example: its `messages` and `tools`."""


class ToolSupport(NamedTuple):
    """Whether a chat template renders tools."""

    offers: bool
    """Schemas of the offered tools."""
    calls: bool
    """The assistant's tool calls."""


_CALLED = "qzvkcalled"
_TOOL: Row = {
    "type": "function",
    "function": {
        "name": _CALLED,
        "description": "Looks something up.",
        "parameters": {"type": "object", "properties": {"key": {"type": "string", "description": "What to look up."}}},
    },
}


def load_chat_template(word: str, recipe_dir: Path) -> str:
    """Return the text of a chat template: a shipped one by its name, or a Jinja file; relative paths start at
    `recipe_dir`.
    """
    if word in SHIPPED:
        return (_SHIPPED / f"{word}.jinja").read_text(encoding="utf-8")
    path = resolve_path(word, recipe_dir)
    if not path.is_file():
        if "/" not in word and not word.endswith((".jinja", ".jinja2", ".j2")):
            hint = f"{did_you_mean(word, SHIPPED)}, or give a Jinja file"
            raise UnknownName(
                f"no chat template ships under {word!r}", where=SourceLocation(field="chat_template"), hint=hint
            )
        what, hint = f"there is no file {path}", f"give a Jinja file, or a template that ships: {', '.join(SHIPPED)}"
        raise ModelError(what, where=SourceLocation(field="chat_template"), hint=hint)
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ModelError("is not UTF-8 text", where=SourceLocation(file=str(path)), hint="give a Jinja file") from error
    _check_syntax(text, path)
    return text


def _check_syntax(text: str, path: Path) -> None:
    from jinja2.exceptions import TemplateSyntaxError

    try:
        ChatTemplate(text, {})
    except TemplateSyntaxError as error:
        where = SourceLocation(file=str(path), line=error.lineno)
        raise ModelError(f"is no Jinja template: {error.message}", where=where, hint="mend the template") from error


def find_missing_special_tokens(word: str, folder: Path) -> list[str]:
    """Return the special tokens of a shipped template that the tokenizer in a folder does not have."""
    return sorted(set(SHIPPED.get(word, ())) - read_added_special_tokens(folder)) if has_tokenizer(folder) else []


def list_fitting_templates(folder: Path | None) -> list[str]:
    """Return the shipped templates that fit the tokenizer in a folder; all of them where it is not here."""
    return [name for name in SHIPPED if folder is None or not find_missing_special_tokens(name, folder)]


def has_tokenizer(folder: Path) -> bool:
    """Return whether the special tokens of a folder's tokenizer can be read."""
    return (folder / "tokenizer.json").is_file()


def read_added_special_tokens(folder: Path) -> set[str]:
    """Return the added special tokens of the tokenizer in a folder."""
    path = folder / "tokenizer.json"
    state = path.stat()
    return set(_read_added_special_tokens(path, state.st_mtime_ns, state.st_size))


@lru_cache(maxsize=8)
def _read_added_special_tokens(path: Path, _changed: int, _size: int) -> frozenset[str]:
    """Return the special tokens of a tokenizer file, cached: it has several megabytes, and every step of a plan needs
    it.
    """
    added = read_json_object(path).get("added_tokens") or ()
    return frozenset(
        str(entry.get("content")) for entry in added if isinstance(entry, Mapping) and entry.get("special")
    )


def replace_template(folder: Path, text: str) -> None:
    """Make `text` the only chat template of a Hugging Face folder."""
    with translate_write_errors(folder):
        for other in sorted((folder / _MORE).glob("*.jinja")):
            other.unlink()
        if (folder / _MORE).is_dir():
            (folder / _MORE).rmdir()
        (folder / FILE).write_text(text, encoding="utf-8")


def read_tool_support(folder: Path) -> ToolSupport:
    """Return the tool support of the chat template in a folder."""
    return detect_tool_support(_tool_template(folder), list_template_tokens(folder))


def detect_tool_support(source: str | None, words: Mapping[str, str]) -> ToolSupport:
    """Return the tool support of a chat template; none without a template. `words` are its special tokens by name."""
    from jinja2.exceptions import TemplateError

    if source is None:
        return ToolSupport(offers=False, calls=False)
    try:
        return ChatTemplate(source, words).tool_places()
    except TemplateError:
        return ToolSupport(offers=False, calls=False)


def _tool_template(folder: Path) -> str | None:
    """Return the template that is used where tools are offered."""
    path = folder / _MORE / f"{_FOR_TOOLS}.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    config = folder / "tokenizer_config.json"
    named = read_json_object(config).get("chat_template") if config.is_file() else None
    if isinstance(named, list) and not (folder / FILE).is_file():
        templates = next((entry.get("template") for entry in named if entry.get("name") == _FOR_TOOLS), None)
        if isinstance(templates, str):
            return templates
    return read_chat_template(folder)


def list_template_tokens(folder: Path) -> dict[str, str]:
    """Return the special tokens that templates use, by name."""
    file = folder / "tokenizer_config.json"
    config = read_json_object(file) if file.is_file() else {}
    tokens = {name: config.get(name) for name in _TOKENS}
    texts = {name: entry.get("content") if isinstance(entry, Mapping) else entry for name, entry in tokens.items()}
    return {name: text if isinstance(text, str) else "" for name, text in texts.items()}


class ChatTemplate:
    """A chat template with the globals that transformers sets, and the forms in which it renders turns."""

    def __init__(self, source: str, words: Mapping[str, str]) -> None:
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        more = ["jinja2.ext.loopcontrols"]
        here = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=more)
        here.filters["tojson"] = _json
        here.globals.update(raise_exception=_refuse, strftime_now=lambda form: "26 Jul 2024")
        self._template, self._words = here.from_string(_GENERATION.sub("", source)), words
        self._parts = self._thinks = self._texts = False
        self._parts = not self._renders_probe({"content": _PROBE})
        self._thinks = True
        self._thinks = self._renders_probe({"content": "", "reasoning_content": _PROBE, "thinking": _PROBE})
        self._texts = not self._renders_probe(_CALL, [_TOOL])

    def render(self, turns: Sequence[Row], tools: Sequence[Row] | None) -> str:
        """Render a whole conversation."""
        messages = [self._form(turn) for turn in turns]
        return self._template.render(messages=messages, tools=tools, add_generation_prompt=False, **self._words)

    def tool_places(self) -> ToolSupport:
        """The tool support, found by rendering probes."""
        offers = self._renders_probe({"content": "Yes."}, [_TOOL], of=_CALLED)
        return ToolSupport(offers=offers, calls=self._renders_probe(_CALL, [_TOOL]))

    def _form(self, turn: Row) -> Row:
        content, fields = turn["content"] if self._thinks else inline_turn_reasoning(turn), dict(turn)
        if "tool_calls" in turn and self._texts:
            tool_calls = [{**call, "function": _as_text(call["function"])} for call in turn["tool_calls"]]
            fields["tool_calls"] = tool_calls
        return {**fields, "content": [{"type": "text", "text": content}] if self._parts else content}

    def _renders_probe(self, answer: Row, tools: Sequence[Row] | None = None, of: str = _PROBE) -> bool:
        """Return whether a probe appears in the rendered answer with the offered tools."""
        from jinja2.exceptions import TemplateError

        turns = [{"role": "user", "content": "ask"}, {"role": "assistant", **answer}]
        try:
            return of in self.render(turns, tools)
        except (TemplateError, *REFUSALS):
            return False


_CALL: Row = {
    "content": "",
    "tool_calls": [
        {"id": "c1a2l3l4x", "type": "function", "function": {"name": _CALLED, "arguments": {"key": _PROBE}}}
    ],
}


def inline_turn_reasoning(turn: Row) -> str:
    """Return a turn's content with its reasoning in front, as most models format it."""
    thought = turn.get("reasoning_content")
    return f"<think>\n{thought}\n</think>\n\n{turn['content']}" if thought else str(turn["content"])


def _as_text(function: Row) -> Row:
    """Return a call with its arguments as text."""
    return {**function, "arguments": _json(function["arguments"])}


def _json(value: Any, ensure_ascii: bool = False, **more: Any) -> str:
    """Return JSON as transformers renders it in templates."""
    return json.dumps(value, ensure_ascii=ensure_ascii, **more)


def _refuse(message: str) -> None:
    raise ValueError(message)
