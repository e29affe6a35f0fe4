"""The whole circle on a tiny model: released, gone wrong, alerted, corrected, tuned again, gated, released."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from luthier.cli.app import run_command
from luthier.core.files import seal, unseal, write_aside
from luthier.flow.monitor import open_monitor
from luthier.flow.release import listed
from luthier.traffic.record import Feedback, Trace
from luthier.traffic.write import write
from watching import desk_traffic
from workshop import RECIPE, small_recipe

MONITOR = """\
  monitor:
    kind: monitor
    signals: [{kind: metric, metric: accuracy}]
    alerts: [{when: "accuracy < 0.9 on 50 labels", name: wrong}]
"""
NEXT = """\
luthier: 1
name: again
seed: 3
model: tiny-model
steps:
  before:
    kind: prepare
    source: {kind: csv, path: tickets.csv, prompt: message, answer: category}
    ops: [normalise, exact_dedup]
    split: {test: 30}
  said:
    kind: prepare
    source: {kind: traces, makes: labels}
    split: {test: 0}
  data: {kind: mix, data: [before, said]}
  tune:
    kind: tune
    data: data
    technique: {kind: lora, r: 4}
    rows_per_step: 8
    learning_rate: 1.0e-2
    precision: float32
  report: {kind: evaluate, data: data, model: tune, metrics: [accuracy]}
  gate: {kind: gate, report: report, rules: ["accuracy >= 0.0"]}
"""


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model that was released and is watched, and traffic in which it went wrong a while ago."""
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("LUTHIER_TRAFFIC", raising=False)
    monkeypatch.chdir(tmp_path)
    small_recipe(tmp_path, RECIPE + MONITOR)
    (tmp_path / "next.yaml").write_text(NEXT)
    assert run_command(["run", "recipe.yaml"]) == 0
    assert run_command(["release", "desk@prod", "recipe.yaml:tune"]) == 0
    assert run_command(["watch", "recipe.yaml", "--then", "next.yaml", "--release", "desk@prod", "--once"]) == 0
    log = desk_traffic(200, wrong=[range(100, 200)], every_s=2)
    shift = datetime.now(UTC) - timedelta(minutes=2) - log[-1].at
    write(tmp_path / ".luthier" / "traffic", [one.model_copy(update={"at": one.at + shift}) for one in log])
    state = open_monitor("recipe.yaml").kept / "state.json"
    kept: dict[str, Any] = unseal(state.read_bytes(), state)
    write_aside(state, seal({**kept, "looked": kept["looked"] - 1800}))
    return tmp_path


def watch(*more: str) -> int:
    return run_command(["watch", "recipe.yaml", "--then", "next.yaml", "--release", "desk@prod", "--once", *more])


def test_the_circle_closes(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = listed()[0].stable
    capsys.readouterr()
    assert watch() == 0
    printed = capsys.readouterr().out
    assert "warning: wrong (tickets)" in printed
    assert "released: desk@prod is again:tune" in printed
    after = listed()[0].stable
    assert after.digest != before.digest
    assert after.word == "next.yaml:tune"
    assert watch() == 0
    assert "released" not in capsys.readouterr().out, "one alert makes one turn"


def test_what_fails_the_gate_is_not_released(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (desk / "next.yaml").write_text(NEXT.replace("accuracy >= 0.0", "accuracy >= 1.01"))
    before = listed()
    assert watch() == 0
    assert "not released: the gate says FAIL" in capsys.readouterr().out
    assert listed() == before
    assert watch() == 0
    assert "learns from" not in capsys.readouterr().out, "nothing new was said"

    (desk / "next.yaml").write_text(NEXT)
    more = desk_traffic(160, wrong=[range(160)], every_s=0.1, seed=1)
    shift = datetime.now(UTC) - timedelta(seconds=30) - more[-1].at
    renamed = [_renamed(one).model_copy(update={"at": one.at + shift}) for one in more]
    write(desk / ".luthier" / "traffic", renamed)
    assert watch() == 0
    printed = capsys.readouterr().out
    assert "wrong fired: " in printed, "the alert fires on, and much more was said"
    assert "released: desk@prod is again:tune" in printed


def _renamed(event: Trace | Feedback) -> Trace | Feedback:
    """As another request than that of the same number before."""
    name = "id" if isinstance(event, Trace) else "trace"
    return event.model_copy(update={name: f"later-{getattr(event, name)}"})


def test_tries_are_bounded(tmp_path: Path) -> None:
    from luthier.flow.monitor import Look
    from luthier.flow.watch import TRIES, Circle, _due

    write(tmp_path, [opinion for opinion in desk_traffic(100) if isinstance(opinion, Feedback)])
    circle = Circle(recipe=tmp_path, then=tmp_path, alias="desk@prod")
    on, off = Look([], frozenset({"wrong"})), Look([], frozenset())

    def due(look: Look, said: int, tries: int) -> int | None:
        found = _due(circle, look, {"failed": {"alert": "wrong", "said": said, "tries": tries}}, tmp_path)
        return found and found["tries"]

    assert due(on, 50, 1) == 2
    assert due(on, 80, 1) is None, "too little is new"
    assert due(on, 50, TRIES) is None
    assert due(off, 50, 1) is None
    assert _due(circle, on, {}, tmp_path) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (RECIPE, "learns from no traffic"),
        (NEXT[: NEXT.index("  gate:")], "has no gate"),
    ],
)
def test_a_circle_that_cannot_close_is_refused(
    text: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from luthier.core.errors import RecipeError
    from luthier.flow.watch import Circle, check
    from watching import plan_of

    small_recipe(tmp_path)
    (tmp_path / "next.yaml").write_text(text)

    class Opened:
        plan = plan_of(tmp_path, ["latency"])

    circle = Circle(recipe=tmp_path / "recipe.yaml", then=tmp_path / "next.yaml", alias="desk@prod")
    with pytest.raises(RecipeError, match=said):
        check(circle, Opened())  # type: ignore[arg-type]  # only its plan is read
