"""Tables of rules: lists of words that hold others, patterns made of parts, and nothing that no code asks for."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

import luthier.pii
from luthier.pii.rules import RuleTable

HOME = Path(luthier.pii.__path__[0])
TABLE = """
[words]
streets = 'street st. road'
places = '@streets park -st. square'
small = '@places -@streets'
[parts]
number = '\\d{1,3}'
house = '{{number}}[a-z]?'
[patterns]
address = '''
{{house}}
 {{streets}}$'''
"""


@pytest.fixture
def table(tmp_path: Path) -> RuleTable:
    file = tmp_path / "table.toml"
    file.write_text(TABLE)
    return RuleTable(file)


def test_a_list_holds_others_and_leaves_words_and_lists_out(table: RuleTable) -> None:
    assert table.ordered_words("places") == ["street", "road", "park", "square"]
    assert table.words("small") == {"park", "square"}


def test_a_pattern_is_made_of_parts_and_of_lists_with_their_longest_words_first(table: RuleTable) -> None:
    assert table.patterns["address"].pattern == r"\d{1,3}[a-z]? (?:street|road|st\.)$"
    assert table.patterns["address"].search("at 12b st.")


@pytest.mark.parametrize("file", sorted(HOME.rglob("*.toml")), ids=lambda file: file.stem)
def test_nothing_stands_in_a_table_that_nobody_asks_for(file: Path) -> None:
    text, code = file.read_text(encoding="utf-8"), "".join(one.read_text() for one in HOME.rglob("*.py"))
    tables = tomllib.loads(text)
    scripts = {f"{name}_right" for name in tables["patterns"]} | {*tables["patterns"]} if "cyrillic" in text else set()
    asked = {*re.findall(r"\{\{(\w+)\}\}", text), *re.findall(r"@(\w+)", text), *re.findall(r'"(\w+)"', code), *scripts}
    assert {name for table in tables.values() for name in table} <= asked
