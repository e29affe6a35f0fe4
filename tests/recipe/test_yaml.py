"""YAML read with places, and overrides by dotted path."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.core.errors import RecipeError
from luthier.recipe.yaml import apply_overrides, parse_yaml, read_yaml

TEXT = "luthier: 1\nname: demo\nsteps:\n  tune:\n    kind: tune\n    technique: lora\n    ops: [a, {kind: b, n: 2}]\n"


def test_every_path_knows_its_line() -> None:
    source = parse_yaml(TEXT, "r.yaml")
    assert source.lines[("steps", "tune", "technique")] == 6
    assert source.lines[("steps", "tune", "ops", 1, "n")] == 7
    assert str(source.where(("steps", "tune", "missing"))) == "r.yaml:4 (steps.tune.missing)"


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a: 1\na: 2\n", 2, "set twice (first on line 1)"),
        ("a: [1, 2\nb: 3\n", 2, "not YAML"),
        ("a:\n\t- 1\n", 2, "not YAML"),
        ("- a\n- b\n", 1, "got a list"),
        ("", 1, "got nothing"),
        ("a: !!python/object:os.system x\n", 1, "has the tag !!python/object:os.system"),
        ("? [a, b]\n: 1\n", 1, "not a plain name"),
        ("a: &x 1\nb: {<<: *x}\n", 2, "not a plain name"),
    ],
)
def test_wrong_yaml_names_its_line(text: str, line: int, words: str) -> None:
    with pytest.raises(RecipeError, match=words.replace("(", r"\(").replace(")", r"\)")) as caught:
        parse_yaml(text, "r.yaml")
    assert caught.value.where.line == line


def test_alias_bomb_is_refused() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 7)]
    with pytest.raises(RecipeError, match="too large or too deep"):
        parse_yaml("\n".join(lines), "r.yaml")


def test_a_ring_of_aliases_is_refused() -> None:
    with pytest.raises(RecipeError, match="too large or too deep"):
        parse_yaml("a: &a\n  b: *a\n", "r.yaml")


def test_files_that_are_not_text(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_bytes("luthier: 1".encode("utf-16"))
    with pytest.raises(RecipeError, match="UTF-8 is wanted"):
        read_yaml(path)
    with pytest.raises(RecipeError, match="no such recipe"):
        read_yaml(tmp_path / "other.yaml")


def test_override_sets_a_setting_of_a_bare_kind() -> None:
    source = apply_overrides(
        parse_yaml(TEXT, "r.yaml"), ("steps.tune.technique.r=32", "steps.tune.ops.1.n=7", "name=other")
    )
    assert source.data["steps"]["tune"]["technique"] == {"kind": "lora", "r": 32}
    assert source.data["steps"]["tune"]["ops"][1] == {"kind": "b", "n": 7}
    assert source.data["name"] == "other"


@pytest.mark.parametrize("text", ["steps.tune", "=3", "steps..r=1", "steps.tune.ops.9=a", "luthier.x=1"])
def test_wrong_overrides_name_themselves(text: str) -> None:
    with pytest.raises(RecipeError) as caught:
        apply_overrides(parse_yaml(TEXT, "r.yaml"), (text,))
    assert caught.value.where.field == text
    assert caught.value.hint


@given(st.dictionaries(st.from_regex(r"[a-z]{1,8}", fullmatch=True), st.integers() | st.booleans(), min_size=1))
def test_reading_gives_what_was_written(data: dict[str, int | bool]) -> None:
    import yaml

    assert parse_yaml(yaml.safe_dump(data), "r.yaml").data == {str(key): value for key, value in data.items()}


def test_a_bracket_that_is_never_closed_is_not_looked_for_on_the_last_line() -> None:
    with pytest.raises(RecipeError, match="in an open bracket") as caught:
        parse_yaml("a: [\n", "r.yaml")
    assert "close the bracket" in str(caught.value.hint)
