"""The tree of errors: every class has an exit code, a sentence and the documented JSON shape."""

from __future__ import annotations

import inspect
import json

import pytest

from luthier.core import errors
from luthier.core.errors import DataError, InputError, LuthierError, SourceLocation, did_you_mean

CLASSES = [found for _, found in inspect.getmembers(errors, inspect.isclass) if issubclass(found, LuthierError)]


@pytest.mark.parametrize("kind", CLASSES)
def test_every_error_has_an_exit_code_a_sentence_and_a_shape(kind: type[LuthierError]) -> None:
    error = kind("is wrong", where=SourceLocation(file="rows.jsonl", line=17, field="role"), hint="change it")
    assert error.exit_code == (130 if kind is errors.Interrupted else 2)
    assert str(error) == "rows.jsonl:17 (role): is wrong\n  → change it"
    assert json.loads(json.dumps(error.as_json())) == {
        "error": {
            "kind": kind.__name__,
            "message": "is wrong",
            "where": {"file": "rows.jsonl", "line": 17, "field": "role"},
            "hint": "change it",
        }
    }


@pytest.mark.parametrize("kind", CLASSES)
def test_every_error_stands_in_the_drawn_tree(kind: type[LuthierError]) -> None:
    assert kind.__name__ in (errors.__doc__ or "")
    assert inspect.getdoc(kind)
    assert issubclass(kind, InputError) or kind in (LuthierError, errors.CorruptArtifact, errors.Interrupted)


def test_places_are_shown_as_far_as_they_are_known() -> None:
    assert str(DataError("x")) == "x"
    assert str(DataError("x", where=SourceLocation(field="steps.tune"))) == "steps.tune: x"
    assert str(DataError("x", where=SourceLocation(file="a.csv", line=3))) == "a.csv:3: x"
    assert DataError("x").as_json()["error"]["where"] == {"file": None, "line": None, "field": None}


def test_the_nearest_name_is_suggested() -> None:
    assert did_you_mean("lorra", ["lora", "full"]) == "did you mean 'lora'?"
    assert did_you_mean("zzz", ["b", "a"]) == "known: a, b"
    assert did_you_mean("zzz", [f"name{number:02}" for number in range(20)]).endswith(", …")
    assert did_you_mean("zzz", []) == "there is none yet"
    assert did_you_mean("acc", ["mcc", "accuracy"]) == "did you mean 'accuracy'?"
    assert did_you_mean("smmol", ["qwen", "smol-long-name", "smol-longer-name"]) == (
        "did you mean 'smol-long-name' or 'smol-longer-name'?"
    )
    assert did_you_mean("smol", ["smol-1", "qwen", "smol-2"]) == "did you mean 'smol-1' or 'smol-2'?"
