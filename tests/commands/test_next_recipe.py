"""From a served model to the next recipe: which model it goes on from, what it keeps, and which labels it learns."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from luthier.annotation.queue import AnnotationQueue, AnswerSubmission
from luthier.artifacts.dataset import list_splits, read_examples
from luthier.artifacts.media import MediaReader
from luthier.chat.messages import MEDIA_MARK, Message
from luthier.cli.app import run_command
from luthier.commands.review.fill import fill_review_queue
from luthier.commands.review.queues import ReviewSettings, build_rules, create_review_queue
from luthier.commands.review.rounds import read_next_round, write_next_round
from luthier.core.errors import UnknownName
from luthier.recipe.planner import build_recipe_plan
from luthier.recipe.schema import Recipe
from luthier.recipe.workspace import Workspace
from luthier.traces.feedback import append_redacted_records
from luthier.traces.record import Feedback, Trace
from luthier.traces.recorder import TraceRecorder
from luthier.traces.retention import RetentionPolicy
from luthier.traces.store import read_latest_feedback
from tests.commanded import command
from tests.tiny_models import RECIPE, own_cache, small_recipe
from vision_models import picture

SHARES = {"account": 0.1, "billing": 0.8, "delivery": 0.1}


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as `new` and `run` leave it: `support/recipe.yaml`, and what it made."""
    folder = tmp_path_factory.mktemp("circle")
    with pytest.MonkeyPatch.context() as patch:
        _here(folder, patch)
        (folder / "support").mkdir()
        small_recipe(folder / "support", RECIPE.replace("name: tickets", "name: support"))
        assert run_command(["run", "support"]) == 0
    return folder


def _here(folder: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setenv("LUTHIER_CACHE", own_cache(folder))
    patch.setenv("LUTHIER_PII_KEY", "for tests")
    patch.delenv("LUTHIER_TRAFFIC", raising=False)
    patch.chdir(folder)


@pytest.fixture
def desk(ran: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The same without traffic."""
    _here(ran, monkeypatch)
    yield ran
    shutil.rmtree(ran / "support" / ".luthier" / "traffic", ignore_errors=True)
    for left in (*(ran / "support").glob("better*"), *(ran / "support").glob("best*"), *ran.glob("better")):
        shutil.rmtree(left) if left.is_dir() else left.unlink()


def digest(recipe: str = "support/recipe.yaml", step: str = "tune") -> str:
    return build_recipe_plan(Recipe.load(recipe), costs_of=())[step].digest


def answered(count: int, release: str, name: str = "support:tune", *, hours_ago: float = 1, **more: Any) -> list[Trace]:
    """Requests that a model answered with a class."""
    begin = datetime.now(UTC) - timedelta(hours=hours_ago)
    told: dict[str, Any] = {"operation": "label", "model": name, "release": release, "scores": SHARES} | more
    return [
        Trace(
            id=f"{name}-{hours_ago}-{number}",
            timestamp=begin + timedelta(seconds=number),
            messages=(Message(role="user", content=f"My invoice {number} is wrong"),),
            answer=Message(role="assistant", content="billing"),
            user=f"U-{number}",
            **told,
        )
        for number in range(count)
    ]


def labelled(traces: list[Trace], label: str = "billing") -> list[Feedback]:
    return [Feedback(trace=one.id, timestamp=one.timestamp + timedelta(seconds=1), label=label) for one in traces]


def keep(*records: Any) -> None:
    append_redacted_records(Path("support/.luthier/traffic"), [one for some in records for one in some])


def steps_of(file: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(Path(file).read_text())["steps"]
    return found


def test_new_goes_on_from_the_served_model_and_keeps_its_rows(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = digest()
    asked = answered(4, first)
    keep(asked, labelled(asked))
    capsys.readouterr()
    assert run_command(["new", "better", "--from", "traces"]) == 0
    printed = capsys.readouterr().out
    assert "wrote support/better.yaml" in printed
    assert "model: goes on from support/recipe.yaml:tune, which answered as support:tune (4 requests)" in printed
    assert "the 90 rows of that recipe stay; what people said makes 4 rows more" in printed
    steps = steps_of("support/better.yaml")
    assert [*steps] == ["data-1", "tune-1", "said-1", "data", "tune", "report", "gate"]
    assert steps["tune"]["model"] == "tune-1", "tuning starts from the served model"
    assert steps["data"] == {"kind": "mix", "data": ["data-1", "said-1"]}
    assert steps["report"]["compare_with"] == "tune-1"
    planned = build_recipe_plan(Recipe.load("support/better.yaml"))
    assert planned["tune-1"].digest == first
    assert planned["tune-1"].cached
    assert run_command(["run", "support/better.yaml"]) in (0, 1, 3)

    # and round again, from what was served next: no step takes the name of another
    asked = answered(2, digest("support/better.yaml"), "better:tune", hours_ago=0.5)
    keep(asked, labelled(asked))
    capsys.readouterr()
    assert run_command(["new", "best", "--from", "traces"]) == 0
    printed = capsys.readouterr().out
    assert "goes on from support/better.yaml:tune, which answered as better:tune (2 requests)" in printed
    assert "the model with the most recent request among 2: better:tune (" in printed
    assert "--base-recipe RECIPE:STEP chooses another, --model BASE starts from a base model" in printed
    steps = steps_of("support/best.yaml")
    before = {"data-1", "tune-1", "said-1", "data-2", "tune-2"}
    assert {*steps} == before | {"said-2", "data", "tune", "report", "gate"}
    planned = build_recipe_plan(Recipe.load("support/best.yaml"))
    assert planned["tune-2"].digest == digest("support/better.yaml")
    assert planned["tune-1"].digest == first
    (desk / "support" / "best.yaml").unlink()
    (desk / "support" / "best.jsonl").unlink()
    assert run_command(["new", "best", "--from", "traces", "--base-recipe", "support/recipe.yaml:tune"]) == 0
    assert [*steps_of("support/best.yaml")] == ["data-1", "tune-1", "said-1", "data", "tune", "report", "gate"]


def test_pictures_of_requests_go_on_into_the_next_recipe(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    medium, content = picture(1)
    shown = Message(role="user", content=f"{MEDIA_MARK} My invoice is torn", media=(medium,))
    asked = [one.model_copy(update={"messages": (shown,)}) for one in answered(4, digest())]
    keep(asked, labelled(asked))
    with TraceRecorder(Path("support/.luthier/traffic"), RetentionPolicy(media="bytes")) as recorder:
        recorder.keep_media({medium: content})
    assert run_command(["new", "better", "--from", "traces"]) == 0
    assert "4 rows more" in capsys.readouterr().out
    assert run_command(["run", "support/better.yaml", "--only", "said-1"]) == 0
    plan = build_recipe_plan(Recipe.load("support/better.yaml"))
    made = plan.artifact("said-1")
    (example,) = {one.messages[-2] for split in list_splits(made) for one in read_examples(made, split)}
    assert example.content == f"{MEDIA_MARK} My invoice is torn"
    with MediaReader(made) as reader:
        assert reader.read(example.media[0].digest) == content


def test_feedback_in_another_folder_is_named_where_there_is_none_here(
    desk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = answered(2, digest())
    keep(asked, labelled(asked))
    (desk / "other").mkdir()
    small_recipe(desk / "other", RECIPE.replace("r: 4", "r: 2"))
    try:
        append_redacted_records(desk / ".luthier" / "traffic", list(answered(2, digest(), hours_ago=0.5)))
        assert run_command(["new", "better", "--from", "traces"]) == 2
    finally:
        shutil.rmtree(desk / "other")
        shutil.rmtree(desk / ".luthier" / "traffic")
    assert "`--base-recipe support/recipe.yaml` reads it" in " ".join(capsys.readouterr().err.split())


def test_conditions_choose_among_what_was_said(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = answered(4, digest())
    keep(asked, labelled(asked[:3]), labelled(asked[3:], "account"))
    assert run_command(["new", "better", "--from", "traces", "--where", "label = 'account'"]) == 0
    assert "makes 1 row more" in capsys.readouterr().out
    assert run_command(["new", "better", "--from", "traces"]) == 2
    assert "was not touched" in capsys.readouterr().err
    assert run_command(["new", "best", "--from", "traces", "--where", "label = 'delivery'"]) == 2
    assert "people said nothing of support:tune that can be learnt from (--where)" in capsys.readouterr().err


def test_without_a_known_model_it_is_said_that_the_base_learns_little(
    desk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = answered(4, "0123456789abcdef0123456789abcdef", "elsewhere:tune")
    keep(asked, labelled(asked[:2]), labelled(asked[2:], "account"))
    assert run_command(["new", "better", "--from", "traces"]) == 0
    said = (
        "starts from the base model smollm2-135m-instruct on 4 rows of traffic alone, which is little: "
        "a new model wants 50 or more. No recipe here makes a model that answered: elsewhere:tune (0123456789ab"
    )
    assert said in capsys.readouterr().out
    assert said in (desk / "better" / "recipe.yaml").read_text()


def test_a_base_that_is_named_is_started_from(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = answered(4, digest())
    keep(asked, labelled(asked[:2]), labelled(asked[2:], "account"))
    assert run_command(["new", "better", "--from", "traces", "--model", "support/tiny-model"]) == 0
    assert "on 4 rows of traffic alone, which is little" in capsys.readouterr().out
    assert yaml.safe_load((desk / "better" / "recipe.yaml").read_text())["model"] == "../support/tiny-model"


def test_a_model_that_its_recipe_no_longer_makes_is_known_by_its_name(
    desk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = answered(4, "0123456789abcdef0123456789abcdef")
    keep(asked, labelled(asked))
    assert run_command(["new", "better", "--from", "traces"]) == 0
    assert "changed since, so `luthier run` makes tune anew" in capsys.readouterr().out
    assert [*steps_of("support/better.yaml")][:2] == ["data-1", "tune-1"]


def test_a_label_that_is_no_class_is_refused_at_the_command_line(
    desk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keep(answered(4, digest()))
    name = "support:tune-1-{}".format
    assert run_command(["feedback", name(0), "--label", "Delivry"]) == 2
    told = capsys.readouterr().err
    assert "label: 'Delivry' is no class of support:tune" in told
    assert "its classes: delivery, billing, account. To add a new class, give --new-class" in told
    assert run_command(["feedback", name(0), "--correction", "Delivry"]) == 2, "the class is corrected by a class"
    assert "'Delivry' is no class of support:tune" in capsys.readouterr().err
    assert run_command(["feedback", name(0), "--up", "--new-class"]) == 2
    assert run_command(["feedback", name(0), "--label", " Delivery "]) == 0
    assert run_command(["feedback", name(1), "--label", "legal", "--new-class"]) == 0
    found = read_latest_feedback(Path("support/.luthier/traffic"))
    assert {one.label for every in found.values() for one in every} == {"delivery", "legal"}
    assert run_command(["new", "better", "--from", "traces"]) == 0
    assert "new to the data, right or misspelt: 'legal' (1 row;" in capsys.readouterr().out


def test_classes_of_a_model_that_wrote_text_are_those_of_its_data(
    desk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A classifier that is served by `--engine torch` tells no scores."""
    keep(answered(1, digest(), operation="chat", scores=None))
    assert run_command(["feedback", "support:tune-1-0", "--label", "Delivry"]) == 2
    assert "its classes: delivery, billing, account" in capsys.readouterr().err
    assert run_command(["feedback", "support:tune-1-0", "--correction", "Say hello first."]) == 0


def test_chat_says_that_a_temperature_changes_nothing_for_a_classifier(
    desk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["chat", "support/recipe.yaml:tune", "-p", "My invoice is wrong", "--max-tokens", "2"]
    assert run_command(asked) == 0
    plain = capsys.readouterr()
    assert "temperature" not in plain.err
    assert run_command([*asked, "--temperature", "2"]) == 0
    said = capsys.readouterr()
    assert said.out == plain.out
    assert (
        "warning: --temperature changes nothing: this model was trained to answer with a class and is read greedily"
        in said.err
    )


@pytest.mark.slow  # a server of its own
def test_the_circle_over_http(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with command(desk, "support/recipe.yaml:tune") as running:
        client = running.client()
        asked = [{"role": "user", "content": "My invoice is wrong"}]
        name = client.chat.completions.create(model="support:tune", messages=asked, temperature=0.7).id  # type: ignore[arg-type]  # plain mappings do

        def tell(**more: Any) -> httpx.Response:
            url = f"{running.told['url']}/feedback"
            return httpx.post(url, json={"id": name, **more}, trust_env=False, timeout=60)

        refused = tell(label="Biling")
        assert refused.status_code == 422
        error = refused.json()["error"]
        assert (error["param"], error["code"]) == ("label", "unknown_class")
        assert error["message"] == (
            "'Biling' is no class of support:tune; its classes: billing, delivery, account. "
            'To add a new class, send "new_class": true'
        )
        assert tell(label="billing", user="a").status_code == 200
        assert tell(label="Legal", new_class=True, user="b").status_code == 200
        running.stop()
    capsys.readouterr()
    assert run_command(["new", "better", "--from", "traces"]) == 0
    assert "goes on from support/recipe.yaml:tune" in capsys.readouterr().out
    (row,) = [json.loads(line) for line in (desk / "support" / "better.jsonl").read_text().splitlines()]
    assert row["label"] == "Legal", "the last that was said counts"


def test_failures_that_reviewers_corrected_become_a_standing_test(
    desk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A part of them is held out in every round from now on, and the gate asks for more than the served model knows."""
    workspace = Workspace.open(desk)
    asked = answered(60, digest())
    keep(asked)
    with workspace.open_ledger() as ledger:
        rules = ReviewSettings(rules=build_rules(chance=1), since=datetime.now(UTC) - timedelta(days=1))
        queue = create_review_queue(ledger, "All", rules, project="support", by="olga")
        fill_review_queue(ledger, workspace, queue)
        people = AnnotationQueue(ledger, queue.id)
        while (item := people.next_item("rita")) is not None:
            values = {"verdict": "wrong", "label": ("delivery", "account")[item.id % 2], "types": ["incorrect"]}
            people.submit("rita", AnswerSubmission(id=f"rita-{item.id}", item=item.id, values=values))
        written = write_next_round(ledger, workspace, queue)
        assert written.path.name == "support-2.yaml"
        assert 10 <= written.standing <= 26
        assert written.rows == 60 - written.standing
        shown = read_next_round(workspace, queue, "support-2.yaml")
        assert (shown.row_count, shown.tested_count) == (written.rows, written.standing)
        assert {row["trace"] for row in shown.rows}.isdisjoint({row["trace"] for row in shown.tested})
        with pytest.raises(UnknownName):
            read_next_round(workspace, queue, "../support/recipe.yaml")
    steps = steps_of("support/support-2.yaml")
    assert steps["data"] == {"kind": "mix", "data": ["data-1", "said-2", "failures-2"]}
    assert steps["failures-2"]["split"] == {"test": 0, "validation": 1_000_000, "train": 0}
    assert steps["failures-report"]["split"] == "validation"
    assert steps["failures-report"]["compare_with"] == "tune-1"
    assert steps["failures-gate"] == {
        "kind": "gate", "evaluation": "failures-report", "rules": ["accuracy > against"],
    }  # fmt: skip
    assert run_command(["run", "support/support-2.yaml"]) in (0, 1, 3)
    capsys.readouterr()
    assert run_command(["show", "support/support-2.yaml:failures-report", "--json"]) == 0
    assert f'"rows": {written.standing}' in capsys.readouterr().out
    asked = answered(4, digest("support/support-2.yaml"), "support-2:tune", hours_ago=0.5)
    keep(asked, labelled(asked, "account"))
    assert run_command(["new", "support-3", "--from", "traces"]) == 0
    steps = steps_of("support/support-3.yaml")
    assert {"data-2", "failures-2", "failures-report", "failures-gate"} <= {*steps}, "the test goes on"
    assert steps["failures-report"]["compare_with"] == "tune-2"
    for left in (desk / "support").glob("support-*"):
        left.unlink()
