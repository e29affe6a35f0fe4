"""Names: a public class name exists once, and retired words stay away."""

from __future__ import annotations

import ast
import io
import tokenize
from collections import Counter
from functools import cache
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src" / "luthier"
RETIRED = Path(__file__).with_name("retired_names.tsv")
SHARED_AT_MOST = 0.05
"""Share of public classes that may have a name in common with another one."""


@cache
def sources() -> dict[Path, str]:
    found = {path: path.read_text(encoding="utf-8") for path in sorted(SOURCE.rglob("*.py"))}
    assert len(found) > 100
    return found


def test_a_public_class_name_exists_once() -> None:
    names = Counter(
        node.name
        for text in sources().values()
        for node in ast.parse(text).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    shared = {name: count for name, count in names.items() if count > 1}
    assert sum(shared.values()) <= SHARED_AT_MOST * names.total(), shared


def test_no_retired_word_is_an_identifier() -> None:
    lines = [line for line in RETIRED.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    terms = dict(line.split("\t") for line in lines)
    assert len(terms) > 100
    found = [
        f"{path.relative_to(SOURCE)}:{token.start[0]}: {token.string} (write {terms[token.string]})"
        for path, text in sources().items()
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type == tokenize.NAME and token.string in terms
    ]
    assert not found, "\n".join(found[:20])
