"""The step `mix`: shares against closed forms, books that balance, and no held-out row of one trained on by another."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from luthier.artifacts.dataset import DatasetSummary, read_examples
from luthier.cli.app import run_command
from luthier.core.errors import DataError
from luthier.core.step import ArtifactSpec, PlanContext
from luthier.data.engine.mixture import MixtureSpec, compute_mixture_shares, mixture_row_counts
from luthier.data.history.compare import compare_datasets
from luthier.data.history.lineage import explain_example
from luthier.data.steps.mix import Mix
from luthier.recipe.runner import StepResult
from luthier.recipe.schema import Recipe

PLAIN = MixtureSpec(None, 1.0, None, 1)


# shares


def test_without_wishes_everything_is_taken() -> None:
    assert mixture_row_counts([70, 20, 10], PLAIN) == [70, 20, 10]


def test_weights_without_repeats_cut_the_larger() -> None:
    assert mixture_row_counts([70, 20], PLAIN._replace(weights=[1, 1])) == [20, 20]
    assert mixture_row_counts([70, 20], PLAIN._replace(weights=[3, 1])) == [60, 20]
    assert mixture_row_counts([70, 20], PLAIN._replace(weights=[4, 1])) == [70, 17]


def test_repeats_let_the_smaller_fill_its_part() -> None:
    assert mixture_row_counts([70, 20], PLAIN._replace(weights=[1, 1], repeats=2)) == [40, 40]
    assert mixture_row_counts([70, 20], PLAIN._replace(weights=[1, 1], repeats=9)) == [70, 70]


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_a_temperature_is_its_formula(temperature: float) -> None:
    sizes = [8000, 900, 27]
    raw = [n ** (1 / temperature) for n in sizes]
    assert compute_mixture_shares(sizes, PLAIN._replace(temperature=temperature)) == pytest.approx(
        [one / sum(raw) for one in raw]
    )
    found = mixture_row_counts(sizes, PLAIN._replace(temperature=temperature, rows=20))
    assert found == pytest.approx([20 * one / sum(raw) for one in raw], abs=1)


def test_what_cannot_be_given_is_said() -> None:
    with pytest.raises(DataError, match="can give 20 training rows, and 50 are wanted") as caught:
        mixture_row_counts([70, 20], PLAIN._replace(weights=[1, 1], rows=100))
    assert caught.value.where.field == "data.1"
    with pytest.raises(DataError, match="can give 0"):
        mixture_row_counts([0, 20], PLAIN._replace(weights=[1, 1]))
    with pytest.raises(DataError, match="no training row is left"):
        mixture_row_counts([0, 0], PLAIN)
    assert mixture_row_counts([0, 20], PLAIN) == [0, 20]


@given(
    st.lists(st.integers(1, 500), min_size=2, max_size=5).flatmap(
        lambda sizes: st.tuples(
            st.just(sizes),
            st.none() | st.lists(st.floats(0.1, 10), min_size=len(sizes), max_size=len(sizes)),
        )
    ),
    st.floats(1, 20),
    st.integers(1, 5),
)
def test_amounts_keep_within_repeats_and_near_the_shares(
    asked: tuple[list[int], list[float] | None], temperature: float, repeats: int
) -> None:
    sizes, weights = asked
    ask = MixtureSpec(weights, temperature, None, repeats)
    found = mixture_row_counts(sizes, ask)
    assert all(count <= size * repeats for count, size in zip(found, sizes, strict=True))
    exact = [sum(found) * part for part in compute_mixture_shares(sizes, ask)]
    assert all(abs(count - one) < 1 + 1e-6 for count, one in zip(found, exact, strict=True))
    full = any(count >= size * repeats - 1 for count, size in zip(found, sizes, strict=True))
    assert full or all(count >= size - 1 for count, size in zip(found, sizes, strict=True))


# the step


def lines(name: str, numbers: range | list[int], answer: str = "") -> str:
    rows = [{"prompt": f"{name} question {n}", "answer": answer or f"answer {n} of {name}"} for n in numbers]
    return "".join(json.dumps({**row, "team": f"t{n % 3}"}) + "\n" for n, row in enumerate(rows))


def run(
    folder: Path, files: dict[str, str], mix: str = "", split: str = "{test: 0.25}", seed: int = 7
) -> dict[str, Any]:
    """Prepare each file, and mix them in order."""
    text = f"luthier: 1\nseed: {seed}\nsteps:\n"
    for name, content in files.items():
        (folder / f"{name}.jsonl").write_text(content)
        source = f"{{kind: jsonl, path: {name}.jsonl, prompt: prompt, answer: answer, group: team}}"
        text += f"  {name}: {{kind: prepare, source: {source}, split: {split}, task: text}}\n"
    text += f"  all: {{kind: mix, data: [{', '.join(files)}]{', ' + mix if mix else ''}}}\n"
    (folder / "recipe.yaml").write_text(text)
    recipe = Recipe.load(folder)
    recipe.plan()
    return dict(recipe.run().steps)


def ids(step: StepResult, split: str = "train") -> list[str]:
    return [example.id for example in read_examples(step.artifact, split)]


def test_everything_is_kept_with_its_id_origin_and_group(tmp_path: Path) -> None:
    made = run(tmp_path, {"a": lines("a", range(40)), "b": lines("b", range(20))})
    for split in ("train", "test"):
        whole = pl.concat([made[name].frame(f"examples/{split}.parquet") for name in ("a", "b")])
        assert made["all"].frame(f"examples/{split}.parquet").equals(whole)
    told = DatasetSummary.read(made["all"].artifact)
    assert (told.rows_in, told.dropped, told.made) == (60, {}, {})
    assert [source.file for source in told.sources] == ["a.jsonl", "b.jsonl"]


def test_weights_draw_and_the_books_say_what_was_left(tmp_path: Path) -> None:
    made = run(tmp_path, {"a": lines("a", range(80)), "b": lines("b", range(20))}, "weights: [1, 1]", "{test: 3}")
    found = read_examples(made["all"].artifact, "train")
    names = Counter(example.origin.file for example in found)
    assert names["a.jsonl"] == names["b.jsonl"] > 10
    told = DatasetSummary.read(made["all"].artifact)
    assert told.dropped["not drawn"] == told.rows_in - sum(told.rows.values()) > 0
    events = made["all"].frame("events.parquet")
    assert set(events["id"]) == set(ids(made["a"])) - set(ids(made["all"]))
    dropped = explain_example(made["all"].artifact, events["id"][0])
    assert dropped["dropped"]["reason"] == "not drawn: a"
    assert dropped["origin"]["file"] == "a.jsonl"


def test_repeats_are_copies_with_ids_of_their_own(tmp_path: Path) -> None:
    made = run(
        tmp_path, {"a": lines("a", range(80)), "b": lines("b", range(20))}, "weights: [1, 1], repeats: 3", "{test: 3}"
    )
    small, whole = set(ids(made["b"])), read_examples(made["all"].artifact, "train")
    assert len({example.id for example in whole}) == len(whole)
    copies = [example for example in whole if "augmented" in example.meta]
    assert copies
    for copy in copies:
        assert copy.origin.file == "b.jsonl"
        assert copy.meta["augmented"]["by"] == "mix"
        assert set(copy.meta["augmented"]["parents"]) < small
    times = Counter((copy.meta["augmented"]["parents"][0] if copy in copies else copy.id) for copy in whole)
    assert max(times.values()) - min(times[one] for one in small) <= 2
    assert DatasetSummary.read(made["all"].artifact).made == {"mix": len(copies)}
    assert explain_example(made["all"].artifact, copies[0].id)["made"]["did"] == ["repeated"]


def test_what_one_holds_out_no_other_trains_on(tmp_path: Path) -> None:
    shared = range(30)
    a = lines("same", shared, "one") + lines("a", range(30))
    b = lines("SAME ", [*range(1, 30), 0], "two") + lines(
        "b", range(30)
    )  # other groups, so that other prompts are held out
    made = run(tmp_path, {"a": a, "b": b})
    held = {_prompt(example) for example in read_examples(made["all"].artifact, "test")}
    train = {_prompt(example) for example in read_examples(made["all"].artifact, "train")}
    assert held
    assert not held & train
    told = DatasetSummary.read(made["all"].artifact)
    assert told.dropped["held out in another data set"] > 0
    reasons = set(made["all"].frame("events.parquet")["reason"])
    assert reasons == {"held out in another data set: a", "held out in another data set: b"}


def _prompt(example: Any) -> str:
    return " ".join(example.messages[0].content.casefold().split())


def test_a_row_that_stands_in_both_is_taken_once(tmp_path: Path) -> None:
    made = run(tmp_path, {"a": lines("x", range(40)), "b": lines("x", range(40)) + lines("b", range(20))})
    found = [*ids(made["all"]), *ids(made["all"], "test")]
    assert len(found) == len(set(found))
    assert set(found) <= {*ids(made["a"]), *ids(made["a"], "test"), *ids(made["b"]), *ids(made["b"], "test")}
    told = DatasetSummary.read(made["all"].artifact)
    assert told.dropped["stands in another data set"] > 0
    assert told.rows_in == 100
    drops = made["all"].frame("events.parquet").filter(pl.col("reason") == "stands in another data set: a")
    twice = next(name for name in drops["id"] if name in ids(made["all"]))
    told_of = explain_example(made["all"].artifact, twice)
    assert (told_of["split"], told_of["dropped"]) == ("train", None), "its first copy stands"
    assert [event["reason"] for event in told_of["events"]] == ["stands in another data set: a"]


def test_trace_and_compare_say_what_a_mixture_left_out_and_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {"a": lines("a", range(80)), "b": lines("x", range(40)) + lines("b", range(20)), "c": lines("x", range(40))}
    made = run(tmp_path, files, "rows: 60", "{test: 3}")
    monkeypatch.chdir(tmp_path)
    lost = next(name for name in ids(made["a"]) if name not in ids(made["all"]))
    assert run_command(["lineage", lost]) == 0
    assert "all: dropped by mix: not drawn: a" in capsys.readouterr().out.splitlines()
    kept = set(ids(made["all"])) & set(ids(made["b"])) & set(ids(made["c"]))
    assert run_command(["lineage", min(kept)]) == 0
    told = capsys.readouterr().out.splitlines()
    assert "all: in the split train" in told
    assert "all: came once more and was left out then by mix: stands in another data set: b" in told
    assert run_command(["compare", "recipe.yaml:a", "recipe.yaml:all"]) == 0
    missing = len(set(ids(made["a"])) - set(ids(made["all"])))
    assert f"  not drawn: {missing}" in capsys.readouterr().out.splitlines()


def test_a_row_that_was_made_of_one_left_out_is_no_other_wording_of_it(tmp_path: Path) -> None:
    """What `noise` makes stands at its parent's place: where only the child was drawn, the parent had "changed"."""
    asked = [{"q": f"where is parcel number {n} that was sent today", "a": f"sent on day {n}"} for n in range(60)]
    for name in "ab":
        told = [{**row, "q": f"{name}: {row['q']}"} for row in asked]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in told))
    (tmp_path / "r.yaml").write_text(CARDS.replace("repeats: 2, weights: [1, 1]", "rows: 40"))
    made = Recipe.load(tmp_path / "r.yaml").run().steps
    found = compare_datasets(made["clean"].artifact, made["both"].artifact)
    known, kept = (set(ids(made[name])) for name in ("clean", "both"))
    assert found.changed == []
    assert (set(found.lost), found.lost_because) == (known - kept, {"not drawn": len(known - kept)})


def test_compare_finds_reasons_in_the_data_sets_that_a_mixture_was_made_of(tmp_path: Path) -> None:
    files = {"a": lines("a", range(40)), "b": lines("b", range(20))}
    before = run(tmp_path, files)["all"]
    recipe = tmp_path / "recipe.yaml"
    text = recipe.read_text().replace("group: team}", "group: team}, ops: [{kind: exclude_ids, rows: []}]", 1)
    gone = ids(before)[0]
    recipe.write_text(text.replace("rows: []", f"ids: ['{gone}']"))
    found = compare_datasets(before.artifact, Recipe.load(tmp_path).run().steps["all"].artifact)
    assert found.lost == [gone]
    assert found.lost_because == {"left out by hand": 1}


def test_the_draw_is_a_function_of_seed_and_ids(tmp_path: Path) -> None:
    files = {"a": lines("a", range(80)), "b": lines("b", range(20))}
    folders = [tmp_path / name for name in ("one", "two", "three", "four")]
    for folder in folders:
        folder.mkdir()
    one, two = (run(folder, files, "rows: 40", "{test: 3}")["all"] for folder in folders[:2])
    assert [entry.digest for entry in one.artifact.manifest.files] == [
        entry.digest for entry in two.artifact.manifest.files
    ]
    other = run(folders[2], files, "rows: 40", "{test: 3}", seed=8)["all"]
    assert set(ids(one)) != set(ids(other))
    more = run(folders[3], files, "rows: 50", "{test: 3}")["all"]
    assert set(ids(one)) < set(ids(more))


def test_classes_meet_classes_and_become_text_beside_text(tmp_path: Path) -> None:
    rows = {name: lines(name, range(30), answer) for name, answer in (("a", "yes"), ("b", "no"))}
    (tmp_path / "c.jsonl").write_text(rows["a"] + rows["b"])
    (tmp_path / "d.jsonl").write_text(
        rows["b"].replace("b q", "d q") + rows["a"].replace("a q", "e q").replace("yes", "so")
    )
    (tmp_path / "t.jsonl").write_text(lines("t", range(40)))
    text = "luthier: 1\nsteps:\n"
    for name, task in (("c", "label"), ("d", "label"), ("t", "text")):
        source = f"{{kind: jsonl, path: {name}.jsonl, prompt: prompt, answer: answer}}"
        text += f"  {name}: {{kind: prepare, source: {source}, split: {{test: 6}}, task: {task}}}\n"
    text += "  same: {kind: mix, data: [c, d]}\n  other: {kind: mix, data: [c, t]}\n"
    (tmp_path / "recipe.yaml").write_text(text)
    made = Recipe.load(tmp_path).run().steps
    told = DatasetSummary.read(made["same"].artifact)
    assert (told.task, told.labels) == ("label", ["no", "so", "yes"])
    told = DatasetSummary.read(made["other"].artifact)
    assert (told.task, told.labels) == ("text", [])
    found = read_examples(made["other"].artifact, "train")
    assert {(example.kind, example.label) for example in found} == {("chat", None)}


def test_what_rows_are_expected_to_hold_is_that_of_all_in_their_shares() -> None:
    told = [
        ArtifactSpec(rows={"train": 30}, examples=[{"of": "one"}] * 30),
        ArtifactSpec(rows={"train": 10}, examples=[{"of": "other"}] * 30),
        ArtifactSpec(rows={"train": 5}),
    ]
    outlines = {f"data.{at}": one for at, one in enumerate(told)}
    found = Mix(data=["one", "other", "unseen"]).outline(
        PlanContext(inputs={}, upstream={}, recipe_dir=Path(), outlines=outlines)
    )
    assert Counter(one["of"] for one in found.examples) == {"one": 30, "other": 10}


def test_a_plan_tells_the_rows_before_anything_is_made(tmp_path: Path) -> None:
    made = run(tmp_path, {"a": lines("a", range(80)), "b": lines("b", range(40))}, "weights: [1, 1]")
    recipe = Recipe.load(tmp_path, ["steps.all.weights=[2,1]"])
    planned = recipe.plan()["all"]
    assert planned.forecast is not None
    assert "120 rows" in planned.forecast.how
    assert DatasetSummary.read(made["all"].artifact).rows_in == 120


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"data": ("a",)}, "at least 2"),
        ({"data": ("a", "a")}, "named twice"),
        ({"data": ("a", "b"), "weights": (1,)}, "give one for each"),
        ({"data": ("a", "b"), "weights": (1, 2), "temperature": 2}, "keep one"),
        ({"data": ("a", "b"), "weights": (1, 0)}, "greater than 0"),
    ],
)
def test_wishes_that_do_not_fit_are_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        Mix(**settings)


# the data card


CARDS = """\
luthier: 1
name: cards
steps:
  clean: {kind: prepare, source: {kind: jsonl, path: a.jsonl, prompt: q, answer: a}, ops: [pii], split: {test: 0.2}}
  bare: {kind: prepare, source: {kind: jsonl, path: b.jsonl, prompt: q, answer: a}, split: {test: 0.2}}
  more: {kind: augment, data: clean, augmenters: [noise]}
  both: {kind: mix, data: [more, bare], repeats: 2, weights: [1, 1]}
"""


def test_the_card_of_a_mixture_tells_of_all_that_was_done_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every data set that was made of another was once said to have been searched for personal data by nobody."""
    for name in "ab":
        asked = [
            {"q": f"where is parcel {name}{n} of jo{n}@shop.example now", "a": f"sent on day {n}"} for n in range(40)
        ]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked))
    (tmp_path / "r.yaml").write_text(CARDS)
    monkeypatch.chdir(tmp_path)
    assert run_command(["run", "r.yaml"]) == 0
    cards = {}
    for name in ("more", "both"):
        assert run_command(["export", f"r.yaml:{name}", "--to", name]) == 0
        cards[name] = (tmp_path / name / "README.md").read_text(encoding="utf-8")
    assert "Personal data" not in cards["more"]
    assert "nobody looked for any in 1 of the 2 data sets that this one began with (no operator `pii`)" in cards["both"]
    done = yaml.safe_load(cards["both"].partition("```yaml\n")[2].partition("```")[0])
    assert sorted(one["kind"] for one in done) == ["augment", "mix", "prepare", "prepare"]
    assert [one["kind"] for one in done][-1] == "mix"
    assert "Texts were edited by pii." in cards["both"]
    counts = re.findall(r"\| (read|train|test|dropped|made by).*? \| (\d+) \|", cards["both"])
    came = sum(int(count) for what, count in counts if what in ("read", "made by"))
    assert came == sum(int(count) for what, count in counts if what in ("train", "test", "dropped"))


def test_a_test_split_that_was_given_is_what_is_measured_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What the page on mixing says of a saved folder, and where `new` points at it."""
    import datasets

    def rows(first: int, more: int) -> datasets.Dataset:
        told = [
            {"text": f"how do I pay bill {n} {n * 7919}", "label": ["no", "yes"][n % 2]} for n in range(first, more)
        ]
        return datasets.Dataset.from_list(told)

    datasets.DatasetDict({"train": rows(0, 60), "test": rows(59, 80)}).save_to_disk(tmp_path / "saved")
    assert run_command(["new", str(tmp_path / "mine"), "--from", str(tmp_path / "saved")]) == 0
    assert "there are train, test (`luthier docs mix`: a test split that is given)" in capsys.readouterr().out
    page = (Path(__file__).parents[2] / "docs" / "howto" / "mix.md").read_text(encoding="utf-8")
    told = page.partition("## A test split that is given")[2].partition("```yaml\n")[2].partition("```")[0]
    steps = {name: step for name, step in yaml.safe_load(told)["steps"].items() if name != "tune"}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({"luthier": 1, "name": "given", "seed": 7, "steps": steps}))
    made = Recipe.load(tmp_path / "recipe.yaml").run()
    assert DatasetSummary.read(made["data"].artifact).rows == {"train": 59, "test": 21}
