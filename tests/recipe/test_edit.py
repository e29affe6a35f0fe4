"""Settings are changed in a recipe's text, and nothing else of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.core.errors import RecipeError
from luthier.recipe.edit import remove_value, set_value

TEXT = """\
# head
luthier: 1
name: tickets   # what it is called
steps:
  data:
    kind: prepare
    source:
      # by name
      kind: csv
      path: "rows.csv"  # from here
    ops:
      # letters
      #   more of it
      - normalize
      # personal data
      - {kind: pii, action: redact}
      - language
    system: |
      two
      lines
    split: {test: 0.2}   # held out
  # the tuning
  tune: {kind: tune, data: data, technique: lora}

  report: {kind: evaluate, data: data, model: tune}  # end
"""


@pytest.mark.parametrize(
    ("key", "value", "before", "after"),
    [
        (("name",), "mails", "name: tickets   #", "name: mails   #"),
        (("steps", "data", "split", "test"), 0.3, "{test: 0.2}", "{test: 0.3}"),
        (("steps", "data", "split", "train"), 9, "{test: 0.2}", "{test: 0.2, train: 9}"),
        (("steps", "data", "source", "path"), "a, b.csv", '"rows.csv"', "'a, b.csv'"),
        (("steps", "data", "source", "answer"), "x", '# from here\n', '# from here\n      answer: x\n'),
        (("steps", "data", "ops", 0, "case"), True, "- normalize", "- {kind: normalize, case: true}"),
        (("steps", "data", "ops", 3), "near_dedup", "- language\n", "- language\n      - near_dedup\n"),
        (("steps", "data", "system"), "one", "|\n      two\n      lines\n", "one\n"),
        (("steps", "tune", "technique", "r"), 8, "technique: lora}", "technique: {kind: lora, r: 8}}"),
        (("seed",), 7, "model: tune}  # end\n", "model: tune}  # end\nseed: 7\n"),
    ],
)  # fmt: skip
def test_one_setting_is_changed(key: tuple[str | int, ...], value: object, before: str, after: str) -> None:
    assert set_value(TEXT, "r.yaml", key, value) == TEXT.replace(before, after)


@pytest.mark.parametrize(
    ("key", "gone", "left"),
    [
        (("steps", "data", "ops", 0), "      # letters\n      #   more of it\n      - normalize\n", ""),
        (("steps", "data", "ops", 1, "action"), "{kind: pii, action: redact}", "{kind: pii}"),
        (("steps", "data", "source", "path"), '      path: "rows.csv"  # from here\n', ""),
        (("steps", "data", "system"), "    system: |\n      two\n      lines\n", ""),
        (("steps", "tune", "data"), "kind: tune, data: data, ", "kind: tune, "),
        (("steps", "data", "split", "test"), "{test: 0.2}", "{}"),
    ],
)
def test_one_setting_is_removed(key: tuple[str | int, ...], gone: str, left: str) -> None:
    assert remove_value(TEXT, "r.yaml", key) == TEXT.replace(gone, left)


def test_what_is_not_there_is_removed_already_and_odd_layouts_are_refused() -> None:
    assert remove_value(TEXT, "r.yaml", ("steps", "data", "nothing")) == TEXT
    with pytest.raises(RecipeError, match="layout"):
        set_value("a: &x {b: 1}\nc: *x\n", "r.yaml", ("c", "b"), 2)


@settings(max_examples=30)
@given(
    key=st.sampled_from([("name",), ("steps", "tune", "x"), ("steps", "data", "source", "path"), ("a", "b")]),
    value=st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(st.characters(exclude_categories=("Cs", "Cc"))),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner),
        max_leaves=4,
    ),
)  # fmt: skip
def test_any_value_is_read_as_it_was_set(key: tuple[str, ...], value: object) -> None:
    found = yaml.safe_load(set_value(TEXT, "r.yaml", key, value))
    for part in key:
        found = found[part]
    assert found == value


@pytest.mark.parametrize("name", ["support", "grpo-math", "preferences"])
def test_every_setting_of_our_recipes_can_be_changed(name: str) -> None:
    file = Path("recipes") / name / "recipe.yaml"
    text = file.read_text(encoding="utf-8")
    data = yaml.safe_load(text)
    for step_name, step in data["steps"].items():
        for setting in [*step, "new_one"]:
            key = ("steps", step_name, setting)
            changed = set_value(text, str(file), key, "another")
            assert yaml.safe_load(changed)["steps"][step_name] == {**step, setting: "another"}
            if setting in step:
                gone = yaml.safe_load(remove_value(text, str(file), key))["steps"][step_name]
                assert gone == {one: value for one, value in step.items() if one != setting}
