"""Training rows on their way to a provider: in its form, within its limits, and without personal data."""

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
    """The rows in OpenAI's form; `DataError` at the first that the provider would refuse, with its file and line."""
    lines: list[dict[str, Any]] = []
    refused: list[tuple[Example, str]] = []
    for example in examples:
        made = _format_row(example, pairs=pairs)
        problem = made if isinstance(made, str) else rules.explain_refusal(made)
        if problem is not None:
            refused.append((example, problem))
        if not isinstance(made, str):
            lines.append(made)
    if refused:
        first, why = refused[0]
        what = f"{len(refused)} of {len(examples)} rows would be refused by {rules.provider}; the first is {first.id}"
        where = SourceLocation(file=first.origin.file, line=first.origin.line, field="data")
        raise DataError(f"{what}: {why}", where=where, hint="drop or mend such rows in the recipe")
    return lines


def _format_row(example: Example, *, pairs: bool) -> dict[str, Any] | str:
    """A row, or why it is none."""
    if not pairs:
        return format_provider_example(example.messages, example.tools)
    pair = pair_of(example)
    if not isinstance(pair, PreferencePair):
        return pair
    if pair.rejected.tool_calls or pair.chosen.tool_calls:
        return "an answer that calls a tool is no text that can be preferred"
    return format_provider_example((*pair.prompt, pair.chosen), example.tools, pair.rejected.content)


def write_rows(path: Path, lines: Sequence[Mapping[str, Any]], rules: ProviderRules) -> int:
    """Write the file that is uploaded, in the provider's form; returns its bytes.

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
    """All turns of a row, its tools as one of them: what its tokens are counted by."""
    tools = line.get("tools") or line.get("input", {}).get("tools")
    before = [{"role": "system", "content": canonical_json(tools)}] if tools else []
    return {"messages": [*before, *list_example_messages(line)], "tools": []}


def refuse_personal_data(lines: Sequence[Mapping[str, Any]]) -> None:
    """The last look before rows leave: `DataError` with how many of each kind were found."""
    from luthier.pii.detect import find_pii, hide_pii_tags
    from luthier.pii.text_marks import compute_text_marks

    texts = list(dict.fromkeys(hide_pii_tags(text) for line in lines for text in _list_texts(line)))
    counts: Counter[str] = Counter()
    for at in range(0, len(texts), _BATCH):
        some = texts[at : at + _BATCH]
        for text, marks in zip(some, compute_text_marks(some), strict=True):
            counts.update(found.kind for found in find_pii(text, marks=marks))
    if counts:
        found = ", ".join(f"{count:,} × {kind}" for kind, count in sorted(counts.items()))
        hint = "put the operator `pii` into the step that prepares the data, or write `allow_personal_data: true`"
        where = SourceLocation(field="technique.allow_personal_data")
        raise DataError(f"the rows hold personal data, and nothing was uploaded: {found}", where=where, hint=hint)


def _list_texts(value: Any) -> Iterator[str]:
    """All texts in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for entry in value.values():
            yield from _list_texts(entry)
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from _list_texts(entry)
