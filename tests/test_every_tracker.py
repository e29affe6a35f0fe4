"""What every tracker promises: others' readers find each step once, even after a kill; the artifact is the same."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from documented import undescribed
from luthier.core.component import check_installed, components_by_kind
from luthier.core.errors import InputError, MissingExtra, SystemResourceError
from luthier.tune.steps.tune import Tune
from luthier.tune.tracker import TrackedTraining, Tracker, flatten_tracked_settings
from luthier.tune.trackers.tensorboard import TensorBoard
from tests import ready
from tuning import TuneEnv, interrupted, make_env

TRACKERS = components_by_kind(Tracker)
KINDS = sorted(TRACKERS)
SLOW = {"mlflow", "wandb"}
"""Members that take seconds to begin: a database with all its migrations, a process of its own."""
MEMBERS = [pytest.param(kind, marks=pytest.mark.slow if kind in SLOW else ()) for kind in KINDS]
Points = dict[int, dict[str, float]]
OTHERWISE: dict[tuple[str, str], Any] = {
    ("mlflow", "experiment"): "other",
    ("trackio", "project"): "other",
    ("wandb", "project"): "other",
}
"""Another value for each field but `folder`, which must change where the run stands."""
FIELDS = [pytest.param(*key, marks=pytest.mark.slow if key[0] in SLOW else ()) for key in OTHERWISE]


def installed(kind: str) -> None:
    pytest.importorskip(TRACKERS[kind].package, reason=f"{kind} is not installed")


def tensorboard(folder: Path, name: str, where: str) -> Points:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder / name))
    found.Reload()
    assert "seed" in found.Tensors("settings/text_summary")[0].tensor_proto.string_val[0].decode()
    assert found.Tensors("ended/text_summary")[-1].tensor_proto.string_val[0] == b"finished"
    return points((event.step, tag, event.value) for tag in found.Tags()["scalars"] for event in found.Scalars(tag))


def mlflow(folder: Path, name: str, where: str) -> Points:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(where)
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id], f"attributes.run_name = '{name}'")
    assert run.info.status == "FINISHED"
    assert run.data.params["seed"] == "3"
    told = [(tag, client.get_metric_history(run.info.run_id, tag)) for tag in run.data.metrics]
    return points((one.step, tag, one.value) for tag, history in told for one in history)


def trackio(folder: Path, name: str, where: str) -> Points:
    from trackio.sqlite_storage import SQLiteStorage

    assert SQLiteStorage.get_run_config(where, name)["seed"] == 3
    assert "finished" in {alert["title"] for alert in SQLiteStorage.get_alerts(where, name)}
    logs = SQLiteStorage.get_logs(where, name)
    numbers = [
        (log["step"], tag, value) for log in logs for tag, value in log.items() if isinstance(value, int | float)
    ]
    return points(one for one in numbers if one[1] != "step")


def wandb(folder: Path, name: str, where: str) -> Points:
    from wandb.proto.wandb_internal_pb2 import Record

    found = []
    for file in sorted(folder.glob(f"wandb/offline-run-*-{name}*/*.wandb")):
        records, until = list[Any](), time.monotonic() + 20
        while not any(record.HasField("exit") for record in records):  # its own process writes a little later
            assert time.monotonic() < until, "the end is never written"
            time.sleep(0.1)
            records = [Record.FromString(data) for data in leveldb(file.read_bytes()[7:])]
        (run,) = {record.run.project for record in records if record.HasField("run")}
        assert run == where
        for record in records:
            item = {"/".join(one.nested_key) or one.key: one.value_json for one in record.history.item}
            found += [(record.history.step.num, tag, float(value)) for tag, value in item.items() if tag[0] != "_"]
    return points(iter(found))


def leveldb(data: bytes) -> list[bytes]:
    """Records of W&B's transaction log: LevelDB's log format after a header of seven bytes."""
    found, parts, at = [], b"", 0
    while at + 7 <= len(data):
        left = 32768 - (at + 7) % 32768
        if left < 7:
            at += left
            continue
        size, kind = struct.unpack("<HB", data[at + 4 : at + 7])
        parts += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # a whole record, or the last part of one
            found.append(parts)
            parts = b""
    return found


def points(told: Any) -> Points:
    """By step and name; nothing stands twice."""
    found: Points = {}
    for step, tag, value in told:
        assert tag not in found.setdefault(step, {}), f"{tag} of step {step} stands twice"
        found[step][tag] = value
    return found


READERS: dict[str, Callable[[Path, str, str], Points]] = {
    "tensorboard": tensorboard, "mlflow": mlflow, "trackio": trackio, "wandb": wandb,
}  # fmt: skip


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> TuneEnv:
    return make_env(tmp_path_factory.mktemp("shop"))


def step(*trackers: Any) -> Tune:
    return Tune(data="data", max_train_samples=32, batch_size=8, dtype="float32", save_steps=2, report_to=trackers)


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_documented(kind: str) -> None:
    tracker = TRACKERS[kind]
    assert tracker.summary()
    assert undescribed(tracker) == []
    assert tracker.model_json_schema()["properties"]["kind"]["const"] == kind


@pytest.mark.filterwarnings("ignore")  # what other people's libraries say of one another
@pytest.mark.parametrize("kind", MEMBERS)
def test_its_own_reader_finds_every_step_once_also_after_a_kill(kind: str, env: TuneEnv, tmp_path: Path) -> None:
    installed(kind)
    tracker = {"kind": kind, "folder": str(tmp_path)}
    watched = step(tracker)
    interrupted(env, watched)
    name = f"tune-{env.tune_digest(watched)[:8]}"
    made = env.tune(watched)
    where = getattr(TRACKERS[kind](), "experiment", getattr(TRACKERS[kind](), "project", ""))
    found = READERS[kind](tmp_path, name, where)
    assert sorted(found) == [1, 2, 3, 4]
    lines = [json.loads(line) for line in (made.folder / "log.jsonl").read_text().splitlines()]
    for line in lines:
        told = found[line["step"]]
        for number in ("loss", "lr", "grad_norm"):
            assert told[number] == pytest.approx(line[number], rel=1e-6)
        assert told["rows_per_s"] > 0


@pytest.mark.filterwarnings("ignore")
def _writes_and_dies(folder: Path) -> None:
    writer = TRACKERS["wandb"]().open(tracked(), folder)
    for step in (1, 2, 3):
        writer.step(step, {"loss": 1.0 / step})
    time.sleep(3)
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_steps_of_an_offline_run_outlive_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """W&B keeps them in memory for 15 seconds unless told otherwise."""
    installed("wandb")
    monkeypatch.delenv("WANDB_SERVICE", raising=False)  # else this process's own writes on, and holds the run's id
    process = multiprocessing.get_context("spawn").Process(target=_writes_and_dies, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    from wandb.proto.wandb_internal_pb2 import Record

    records = [Record.FromString(data) for data in leveldb(file.read_bytes()[7:])]
    assert [one.history.step.num for one in records if one.HasField("history")] == [1, 2, 3]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("kind", "name"), FIELDS)
def test_every_field_changes_where_the_run_stands(kind: str, name: str, tmp_path: Path) -> None:
    installed(kind)
    writer = TRACKERS[kind].model_validate({"kind": kind, name: "other"}).begin(tracked(), tmp_path)
    writer.step(1, {"loss": 0.5})
    writer.end("finished")
    assert READERS[kind](tmp_path / "runs", "tune-12345678", "other")[1]["loss"] == 0.5


def tracked(done: int = 0, name: str = "tune-12345678") -> TrackedTraining:
    return TrackedTraining(name=name, settings={"seed": 3}, done=done)


BEGUN = """
import sys, warnings
from pathlib import Path
from luthier.core.component import components_by_kind
from luthier.tune.tracker import TrackedTraining, Tracker

warnings.simplefilter("ignore")
kind, folder, name = sys.argv[1:]
tracker = components_by_kind(Tracker)[kind].model_validate({"kind": kind})
print("ready", flush=True)
sys.stdin.readline()
writer = tracker.begin(TrackedTraining(name=name, settings={"seed": 3}, done=0), Path(folder))
writer.step(1, {"loss": 0.5})
writer.end("finished")
"""
"""One run, in a process of its own, which begins with another."""


@pytest.mark.matrix("trackio")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", MEMBERS)
def test_two_runs_that_begin_at_once_stand_side_by_side(kind: str, tmp_path: Path) -> None:
    installed(kind)
    names, pipes = ("one-12345678", "two-12345678"), {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    both = [ready.Popen([sys.executable, "-c", BEGUN, kind, str(tmp_path), name], text=True, **pipes) for name in names]
    assert [one.stdout.readline() for one in both if one.stdout] == ["ready\n"] * 2
    for one in both:
        assert one.stdin is not None
        one.stdin.write("go\n")
        one.stdin.flush()
    for one in both:
        one.communicate(timeout=120)
    assert [one.returncode for one in both] == [0, 0]
    where = getattr(TRACKERS[kind](), "experiment", getattr(TRACKERS[kind](), "project", ""))
    if kind == "trackio":
        TRACKERS[kind]().begin(tracked(), tmp_path)  # its reader knows one folder, that of the process's last run
    for name in names:
        assert READERS[kind](tmp_path / "runs", name, where)[1]["loss"] == 0.5


@pytest.mark.parametrize("name", ["a?b", "50%20"])
def test_a_folder_that_mlflow_would_take_for_another_is_refused(name: str, tmp_path: Path) -> None:
    installed("mlflow")
    with pytest.raises(InputError, match="MLflow cannot keep a database in a folder with") as caught:
        TRACKERS["mlflow"].model_validate({"kind": "mlflow", "folder": name}).begin(tracked(), tmp_path)
    assert caught.value.where.field == "report_to"


@pytest.mark.parametrize("project", ["a/b", "what?", "", "p" * 129])
def test_a_project_that_wandb_does_not_take_is_refused_with_the_recipe(project: str) -> None:
    with pytest.raises(ValidationError, match="project"):
        TRACKERS["wandb"].model_validate({"kind": "wandb", "project": project})


def test_every_field_is_tried() -> None:
    fields = {(kind, name) for kind in KINDS for name in TRACKERS[kind].model_fields if name not in ("kind", "folder")}
    assert fields == OTHERWISE.keys(), "add another value of each field to OTHERWISE"


def test_trackers_decide_neither_name_nor_bytes(env: TuneEnv, tmp_path: Path) -> None:
    watched = step(TensorBoard(folder=str(tmp_path)))
    assert watched.recipe_digest({}, {}, 3) == step().recipe_digest({}, {}, 3)
    plain = {entry.path: entry.digest for entry in env.tune(step()).manifest.files}
    assert {entry.path: entry.digest for entry in env.tune(watched).manifest.files} == plain
    assert not (env.work(step()).recipe_dir / "runs").exists()


def test_a_library_that_is_missing_is_said_before_anything_runs(env: TuneEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TensorBoard, "package", "no_such_library")
    for run in (lambda: check_installed(step("tensorboard"), Path()), lambda: env.tune(step("tensorboard"))):
        with pytest.raises(MissingExtra, match="no_such_library, which is not installed") as caught:
            run()
        assert "pip install 'luthier[tensorboard]'" in caught.value.hint


def test_a_folder_that_is_in_the_way_is_said(env: TuneEnv, tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(SystemResourceError, match="is in the way") as caught:
        env.tune(step(TensorBoard(folder=str(tmp_path / "runs"))))
    assert caught.value.where.file == str(tmp_path / "runs")


def test_settings_stand_by_dotted_name() -> None:
    told = flatten_tracked_settings({"technique": {"kind": "lora", "r": 4}, "targets": ["a", "b"], "rows": None})
    assert told == {"technique.kind": "lora", "technique.r": 4, "targets": '["a", "b"]', "rows": None}
