"""Several runs on the same rows: the first against each, one correction over all comparisons."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from luthier.core.errors import InputError
from luthier.metrics.paired import adjust_holm
from luthier.recipe.compare import compare_many, compare_two
from tests.targets import target


def written(folder: Path, name: str, share: float, rows: int = 120) -> str:
    """A file of predictions of which about a share is right."""
    draw = random.Random(name)
    path = folder / f"{name}.jsonl"
    lines = [
        {"id": str(row), "reference": "ab"[row % 2], "prediction": "ab"[row % 2] if draw.random() < share else "c"}
        for row in range(rows)
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    return str(path)


def test_the_first_stands_against_each(tmp_path: Path) -> None:
    good, bad, same = (written(tmp_path, name, share) for name, share in (("a", 0.9), ("b", 0.5), ("c", 0.88)))
    found = compare_many(target(good), [target(bad), target(same)], ["accuracy", "macro_f1"])
    assert list(found.facts["others"]) == [bad, same]
    alone = {
        other: compare_two(target(good), target(other), ["accuracy", "macro_f1"]).facts["comparisons"]
        for other in (bad, same)
    }
    rows = [row for other in (bad, same) for row in found.facts["others"][other]["comparisons"]]
    before = [row for other in (bad, same) for row in alone[other]]
    assert [row["difference"] for row in rows] == [row["difference"] for row in before]
    assert [row["p_holm"] for row in rows] == adjust_holm([row["p"] for row in before])
    assert any(mine["p_holm"] > its["p_holm"] for mine, its in zip(rows, before, strict=True))
    said = "\n".join(found.lines())
    assert f"minus {bad}" in said
    assert "smallest detectable difference:" in said


def test_a_file_against_itself_is_remarked_on(tmp_path: Path) -> None:
    one, other = target(written(tmp_path, "a", 0.5)), target(written(tmp_path, "b", 0.6))
    assert next(compare_two(one, one, ["accuracy"]).lines()) == "both are the same file: nothing can differ"
    assert "identical" not in compare_two(one, other, ["accuracy"]).facts


def test_each_is_named_once(tmp_path: Path) -> None:
    one, other = target(written(tmp_path, "a", 0.5)), target(written(tmp_path, "b", 0.5))
    for others in ([other, other], [one, other]):
        with pytest.raises(InputError, match="named twice"):
            compare_many(one, others)
