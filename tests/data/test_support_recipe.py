"""`recipes/support` on customer-support data with damage that was planted: what was found against what was planted."""

from __future__ import annotations

import csv
import json
import random
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from luthier.artifacts.findings import read_flagged_rows
from luthier.recipe.schema import Recipe
from luthier.recipe.workspace import Workspace

ROOT = Path(__file__).resolve().parents[2]
BITEXT = "bitext_customer_support/Bitext_Sample_Customer_Support_Training_Dataset.csv"
ROWS = 900
PII = (
    ("email", "ann.{n}@mailbox.example.org"),
    ("iban", "DE89 3704 0044 0532 0130 00"),
    ("card", "4111 1111 1111 1111"),
    ("ip", "203.0.113.{n}"),
)
QUOTED = """

On Mon, 3 Feb 2025 at 10:04, Kettle & Spade Support <help@kettle.example> wrote:
> Thank you for your message number {n}.
> We shall answer within two days."""
BROKEN = "(Caf\u00c3\u00a9 M\u00c3\u00bcller)"
MENDED = "(Caf\u00e9 M\u00fcller)"


@dataclass
class Damage:
    """Rows with what was done to them, by their own ids."""

    rows: list[dict[str, str]]
    copies: dict[str, str] = field(default_factory=dict)
    """Ids of copies and of the rows that they repeat, exactly or in other spacing and case."""
    pii: dict[str, str] = field(default_factory=dict)
    quoted: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    wrong: dict[str, str] = field(default_factory=dict)
    """Ids of rows with a wrong class, and the right one."""


def damaged(rows: list[dict[str, str]], seed: int) -> Damage:
    """Plant damage; no row bears two kinds of it."""
    chance = random.Random(seed)
    places = chance.sample(range(len(rows)), 240)
    found = Damage([dict(row) for row in rows])
    labels = sorted({row["category"] for row in rows})
    for number, place in enumerate(places):
        row = found.rows[place]
        kind = number % 5
        if kind == 0:
            what = PII[number // 5 % len(PII)][1].format(n=number)
            row["instruction"] += f", write to {what}" if "@" in what else f", mine is {what}"
            found.pii[row["id"]] = what
        elif kind == 1:
            row["instruction"] += QUOTED.format(n=number)
            found.quoted.append(row["id"])
        elif kind == 2:
            row["instruction"] += f" {BROKEN}"
            found.broken.append(row["id"])
        elif kind == 3:
            found.wrong[row["id"]] = row["category"]
            row["category"] = chance.choice([label for label in labels if label != row["category"]])
        else:
            copy = {**row, "id": f"copy{number}"}
            if number % 2:
                copy["instruction"] = copy["instruction"].upper().replace(" ", "  ")
            found.copies[copy["id"]] = row["id"]
            found.rows.append(copy)
    return found


def _clean(folder: Path) -> list[dict[str, str]]:
    """Rows of the larger classes with different words, each with an id."""
    with (folder / BITEXT).open(encoding="utf-8", newline="") as file:
        rows = [{"instruction": row["instruction"], "category": row["category"]} for row in csv.DictReader(file)]
    different = list({row["instruction"].casefold(): row for row in rows}.values())
    counts = Counter(row["category"] for row in different)
    chosen = [row for row in different if counts[row["category"]] >= 150]
    random.Random(1).shuffle(chosen)
    return [{"id": f"r{number}", **row} for number, row in enumerate(chosen[:ROWS])]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Damage, dict[str, Any]]:
    """The recipe's own steps, those of models left out, over damaged rows."""
    real = ROOT.parent / "shared" / "data"
    if not (real / BITEXT).is_file():
        pytest.skip("the real customer-support data is not beside the repository (shared/data)")
    folder = tmp_path_factory.mktemp("planted")
    damage = damaged(_clean(real), 5)
    with (folder / "tickets.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["id", "instruction", "category"])
        writer.writeheader()
        writer.writerows(damage.rows)
    mapped = ("prompt=instruction", "answer=category", "group=", "id=id", f"path={folder / 'tickets.csv'}")
    whole = Recipe.load(ROOT / "recipes" / "support", [f"steps.data.source.{one}" for one in mapped])
    steps = {name: whole.steps[name] for name in ("data", "look", "more")}
    recipe = Recipe(name="planted", seed=whole.seed, steps=steps)
    recipe._workspace = Workspace.open(folder)  # nothing is read from the recipe's own folder
    return damage, dict(recipe.run().steps)


def _rows(made: dict[str, Any], name: str = "data") -> dict[str, dict[str, Any]]:
    """Every row that was kept by its own id."""
    frames = [pl.read_parquet(path) for path in sorted((made[name].artifact.folder / "examples").glob("*.parquet"))]
    rows = [row for frame in frames for row in frame.iter_rows(named=True)]
    return {json.loads(row["meta"])["id"]: row for row in rows if "augmented" not in json.loads(row["meta"])}


@pytest.mark.slow
@pytest.mark.data
def test_every_row_is_kept_or_dropped_with_its_reason(made: tuple[Damage, dict[str, Any]]) -> None:
    damage, steps = made
    summary = steps["data"].artifact.read_json("summary.json")
    assert summary["rows_in"] == len(damage.rows)
    assert sum(summary["rows"].values()) + sum(summary["dropped"].values()) == len(damage.rows)


@pytest.mark.slow
@pytest.mark.data
def test_no_copy_stands_beside_what_it_repeats(made: tuple[Damage, dict[str, Any]]) -> None:
    damage, steps = made
    kept = _rows(steps)
    assert [copy for copy, first in damage.copies.items() if copy in kept and first in kept] == []
    untouched = [row["id"] for row in damage.rows if row["id"] not in damage.copies]
    assert sum(name in kept for name in untouched) >= 0.8 * len(untouched), "few real rows are near copies of others"


@pytest.mark.slow
@pytest.mark.data
def test_no_personal_data_is_left_anywhere(made: tuple[Damage, dict[str, Any]]) -> None:
    damage, steps = made
    written = [path for name in ("data", "more") for path in steps[name].artifact.folder.rglob("*.parquet")]
    texts = " ".join(
        str(value) for path in written for row in pl.read_parquet(path).iter_rows() for value in row if value
    )
    assert damage.pii
    assert [what for what in damage.pii.values() if what in texts] == []
    counted = steps["data"].artifact.read_json("summary.json")["counts"]["pii"]
    for kind, _ in PII:
        planted = sum(1 for name, what in damage.pii.items() if _kind(what) == kind)
        assert sum(counted[kind].values()) >= planted


def _kind(what: str) -> str:
    if "@" in what:
        return "email"
    return "iban" if what.startswith("DE") else "ip" if "." in what else "card"


@pytest.mark.slow
@pytest.mark.data
def test_quoted_replies_go_and_broken_letters_are_mended(made: tuple[Damage, dict[str, Any]]) -> None:
    damage, steps = made
    kept = _rows(steps)
    quoted = [kept[name]["messages"] for name in damage.quoted if name in kept]
    assert len(quoted) >= 30
    assert not any("wrote:" in text or "within two days" in text for text in quoted)
    broken = [json.loads(kept[name]["messages"])[-2]["content"] for name in damage.broken if name in kept]
    assert len(broken) >= 30
    assert all(text.endswith(MENDED) for text in broken)


@pytest.mark.slow
@pytest.mark.data
def test_wrong_classes_are_among_the_findings(made: tuple[Damage, dict[str, Any]]) -> None:
    damage, steps = made
    kept = {row["id"]: name for name, row in _rows(steps).items()}
    named = {kept[mark.id] for mark in read_flagged_rows(steps["look"].artifact) if mark.finding == "label_errors"}
    planted = {name for name in damage.wrong if name in kept.values()}
    found = named & planted
    assert len(planted) >= 30
    assert len(found) >= 0.6 * len(planted), "30 of 47 when this was written: eleven classes, ten words a row"
    assert len(found) >= 0.85 * len(named), "30 of 32 when this was written"


@pytest.mark.slow
@pytest.mark.data
def test_rare_classes_are_filled_up_by_rows_that_know_their_parents(made: tuple[Damage, dict[str, Any]]) -> None:
    _, steps = made
    before, after = (
        pl.read_parquet(steps[name].artifact.folder / "examples" / "train.parquet") for name in ("data", "more")
    )
    counts = [Counter(frame["label"]) for frame in (before, after)]
    assert min(counts[1].values()) / max(counts[1].values()) > min(counts[0].values()) / max(counts[0].values())
    ids = set(before["id"])
    made_rows = [json.loads(meta)["augmented"] for meta in after["meta"] if "augmented" in json.loads(meta)]
    assert made_rows
    assert all(set(one["parents"]) <= ids for one in made_rows)
    assert {one["by"] for one in made_rows} == {"balance"}
    did = " ".join(what for one in made_rows for what in one["did"])
    assert "in the place of" in did, "templates"
    assert "said as" in did
