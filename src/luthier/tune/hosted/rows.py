"""Training rows for a provider: in its format, within its limits, and without personal data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.chat.preference import PreferencePair, pair_of
from luthier.chat.provider_rules import ProviderRules, format_provider_example, list_example_messages
from luthier.core.errors import DataError, SourceLocation
from luthier.core.hashing import canonical_json

if TYPE_CHECKING:
    from luthier.chat.messages import Example

_BATCH = 256


def format_rows(examples: Sequence[Example], rules: ProviderRules, *, pairs: bool) -> list[dict[str, Any]]:
    """Return the rows in OpenAI's format; `DataError` at the first one that the provider would refuse, with file and
    line.
    """
    lines: list[dict[str, Any]] = []
    refused: list[tuple[Example, str]] = []
    for example in examples:
        row_or_reason = _format_row(example, pairs=pairs)
        problem = row_or_reason if isinstance(row_or_reason, str) else rules.explain_refusal(row_or_reason)
        if problem is not None:
            refused.append((example, problem))
        if not isinstance(row_or_reason, str):
            lines.append(row_or_reason)
    if refused:
        first, why = refused[0]
        what = f"{len(refused)} of {len(examples)} rows would be refused by {rules.provider}; the first is {first.id}"
        where = SourceLocation(file=first.origin.file, line=first.origin.line, field="data")
        raise DataError(f"{what}: {why}", where=where, hint="drop or mend such rows in the recipe")
    return lines


def _format_row(example: Example, *, pairs: bool) -> dict[str, Any] | str:
    """Return a row, or the reason why it cannot be one."""
    if not pairs:
        return format_provider_example(example.messages, example.tools)
    pair = pair_of(example)
    if not isinstance(pair, PreferencePair):
        return pair
    if pair.rejected.tool_calls or pair.chosen.tool_calls:
        return "an answer that calls a tool is no text that can be preferred"
    return format_provider_example((*pair.prompt, pair.chosen), example.tools, pair.rejected.content)


def write_rows(path: Path, lines: Sequence[Mapping[str, Any]], rules: ProviderRules) -> int:
    """Write the file to upload, in the provider's format; returns its size in bytes.

    `DataError` where the provider takes no file of so many rows or bytes.
    """
    with path.open("wb") as file:
        for line in lines:
            file.write(f"{canonical_json(rules.write(dict(line)))}\n".encode())
    size = path.stat().st_size
    if why := rules.explain_file_refusal(len(lines), size):
        hint = "take more rows, or fewer (`max_train_samples`)"
        raise DataError(f"{why}; nothing was uploaded", where=SourceLocation(field="data"), hint=hint)
    return size


def list_counted_turns(line: Mapping[str, Any]) -> dict[str, Any]:
    """Return all turns of a row, with its tools as one of them, as tokens are counted."""
    tools = line.get("tools") or line.get("input", {}).get("tools")
    before = [{"role": "system", "content": canonical_json(tools)}] if tools else []
    return {"messages": [*before, *list_example_messages(line)], "tools": []}


def refuse_personal_data(lines: Sequence[Mapping[str, Any]]) -> None:
    """Check the rows for personal data before they are uploaded: `DataError` with the count of each kind."""
    from luthier.pii.detect import find_pii, hide_pii_tags
    from luthier.pii.text_marks import compute_text_marks

    texts = list(dict.fromkeys(hide_pii_tags(text) for line in lines for text in _list_texts(line)))
    counts: Counter[str] = Counter()
    for at in range(0, len(texts), _BATCH):
        some = texts[at : at + _BATCH]
        for text, marks in zip(some, compute_text_marks(some), strict=True):
            counts.update(summary.kind for summary in find_pii(text, marks=marks))
    if counts:
        summary = ", ".join(f"{count:,} × {kind}" for kind, count in sorted(counts.items()))
        hint = "put the operator `pii` into the step that prepares the data, or write `allow_personal_data: true`"
        where = SourceLocation(field="technique.allow_personal_data")
        raise DataError(f"the rows hold personal data, and nothing was uploaded: {summary}", where=where, hint=hint)


def _list_texts(value: Any) -> Iterator[str]:
    """Yield all strings in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for entry in value.values():
            yield from _list_texts(entry)
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from _list_texts(entry)
