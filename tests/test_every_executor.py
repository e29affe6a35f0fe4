"""Every executor keeps an executor's promises: the same bytes, events and answers both ways, the same errors, and a
step that was stopped goes on where it was."""

from __future__ import annotations

import json
import logging
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from cloud_apis import SETTINGS, cloud_apis
from documented import undescribed
from kubernetes_api import kubernetes_api, why_no_kubernetes
from luthier.core.component import components_by_kind
from luthier.core.errors import InputError
from luthier.core.step import Step
from luthier.core.system.packages import is_installed
from luthier.core.system.process import is_process_gone, unique_process_name_of
from luthier.recipe.executor import Executor, parse_executor
from ray_cluster import ray_cluster, why_no_ray
from sky_command import make_sky
from slurm import slurm_cluster, why_no_slurm
from tests import ready
from tests.tiny_models import own_cache

KINDS = sorted(kind for kind, part in components_by_kind(Executor).items() if part.__module__.startswith("luthier."))
MINIMAL = {
    "kubernetes": "{kind: kubernetes, image: luthier}",
    **{kind: json.dumps({"kind": kind, **settings}) for kind, settings in SETTINGS.items()},
}
"""How a kind is asked for, where not by its name."""
STEPS = """
import os, signal, sys, time
from typing import Any, ClassVar, Literal

from luthier.core.artifact import ArtifactType
from luthier.core.errors import DataError, Interrupted, SourceLocation
from luthier.core.step import StepCostEstimate, Step


class ToyResult(ArtifactType):
    '''What a toy makes.'''

    kind: Literal["toy_result"] = "toy_result"

    def describe(self, artifact: Any) -> dict[str, Any]:
        return {}


class Toy(Step):
    '''Work that ends in one way or another.'''

    kind: Literal["toy"] = "toy"
    makes: ClassVar[str] = "toy_result"
    ends: str = "well"

    def make(self, work: Any) -> dict[str, Any]:
        mark = work.scratch / "mark"
        goes_on = mark.exists()
        mark.write_text("here")
        (work.scratch / "pid").write_text(str(os.getpid()))
        for number in range(1, 4):
            if work.report(number, {"loss": 1 / number}, total=3):
                raise Interrupted("stopped by who listens")
        work.events.note(f"of {work.name} with {work.seed}")
        print("noise on standard output")
        sys.stdout.flush()
        if self.ends == "refuse":
            raise DataError("is no good", where=SourceLocation(field="ends"), hint="take another")
        if self.ends == "drive":
            child = work.children.make({"small": Toy()}, "small")
            plan = work.children.plan({"small": Toy()}, "small")
            assert (plan.digest, plan.cached) == (child.digest, True)
        if self.ends == "fault":
            raise ZeroDivisionError("nobody thought of this")
        if self.ends == "interrupt":
            raise KeyboardInterrupt
        if self.ends == "die" and not goes_on:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.ends == "sleep" and not goes_on:
            time.sleep(600)
        if self.ends == "second" and not goes_on:
            raise DataError("not yet")
        (work.folder / "result.json").write_text(f'{{"seed": {work.seed}, "base": "{work.recipe_dir.name}"}}')
        return {"went_on": goes_on}

    def estimate_cost(self, plan_context: Any) -> StepCostEstimate:
        return StepCostEstimate(seconds=1.0, how="a guess")
"""
DRIVER = """
import json, os, sys
from pathlib import Path

from luthier.core.errors import LuthierError
from luthier.core.events import RunEventEmitter
from luthier.recipe.executor import parse_placement
from luthier.recipe.runner import run_recipe
from luthier.recipe.schema import Recipe
from luthier.recipe.workspace import Workspace

placement, told, store = parse_placement([sys.argv[1]]), {}, os.environ.get("STORES")
for name in sys.argv[4:]:
    folder = name.replace("again", "second")
    workspace = Workspace(Path(sys.argv[2]) / folder, store and f"{store}/{folder}")
    recipe = Recipe.load(workspace.find_recipe(None), (), workspace)
    heard = []

    def listen(event):
        heard.append(event.as_json())
        return name == "stop" and event.kind == "progress" and event.done == 2

    try:
        made = run_recipe(recipe, RunEventEmitter(listen), placement=placement)["toy"].artifact
        files = {entry.path: entry.digest for entry in made.manifest.files}
        outcome = {"digest": made.digest, "files": files, "timing": made.timing()}
    except LuthierError as error:
        outcome = error.as_json()
    except Exception as error:
        outcome = {"fault": f"{type(error).__name__}: {error}"}
    told[name] = {"outcome": outcome, "heard": heard}
sys.stderr.write("done\\n")
Path(sys.argv[3]).write_text(json.dumps(told))
"""
RECIPE = "luthier: 1\nname: toys\nseed: 5\nsteps:\n  toy: {{kind: toy, ends: {ends}}}\n"


class Site:
    """A folder with an installed package that brings a step, and recipes of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        known = folder / "site" / "toys-1.0.dist-info"
        known.mkdir(parents=True)
        (folder / "site" / "toys.py").write_text(STEPS)
        (known / "METADATA").write_text("Metadata-Version: 2.1\nName: toys\nVersion: 1.0\n")
        (known / "entry_points.txt").write_text("[luthier.parts]\ntoys = toys\n")
        for name in ("LUTHIER_STORE", "LUTHIER_LEDGER"):
            os.environ.pop(name, None)
        paths = os.pathsep.join((str(folder / "site"), *sys.path))
        self.environment = {**os.environ, "PYTHONPATH": paths, "LUTHIER_CACHE": own_cache(folder)}

    def recipe(self, name: str, ends: str) -> Path:
        """A folder with a recipe whose step ends so."""
        (self.folder / name).mkdir()
        (self.folder / name / "recipe.yaml").write_text(RECIPE.format(ends=ends))
        return self.folder / name

    def start(self, folder: Path, *words: str) -> subprocess.Popen[str]:
        """A command in a folder."""
        command = [sys.executable, "-m", "luthier", *words]
        pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return ready.Family(command, cwd=folder, env=self.environment, text=True, **pipes)


@contextmanager
def scheduler(kind: str, site: Site) -> Iterator[tuple[str, dict[str, str]]]:
    """How the executor of a kind is asked for at a site, and the environment in which it finds its scheduler."""
    often = "poll_s: 0.1, grace_s: 5"
    if kind == "slurm":
        with slurm_cluster(site.folder / "slurm") as cluster:
            yield f"{{kind: slurm, {often}}}", cluster
    elif kind == "kubernetes":
        with kubernetes_api(site.folder / "cluster") as (_, cluster):
            yield kubernetes_settings(site), cluster
    elif kind == "ray":
        with ray_cluster() as url:
            env = json.dumps({"PYTHONPATH": site.environment["PYTHONPATH"], "LUTHIER_CACHE": own_cache(site.folder)})
            yield f"{{kind: ray, {often}, address: '{url}', cpus: 1, env: {env}, python: {sys.executable}}}", {}
    elif kind in SETTINGS:
        with s3_store() as bucket, cloud_apis(site.folder / "cloud", bucket) as (_, url, cloud):
            yield cloud_settings(kind, site, url), {**bucket, **cloud}
    elif kind == "sky":
        with s3_store() as bucket:
            program = make_sky(site.folder / "sky")
            yield f"{{kind: sky, {often}, program: {program}, python: {sys.executable}}}", bucket
    else:
        yield kind, {}


def kubernetes_settings(site: Site, **more: Any) -> str:
    """The executor whose pods have the site's folder as their claim."""
    env = {"PYTHONPATH": site.environment["PYTHONPATH"], "OMP_NUM_THREADS": "1"}
    found = {"kind": "kubernetes", "image": "luthier:1", "claim": "data", "mount": str(site.folder), "env": env}
    return json.dumps({**found, "python": sys.executable, "poll_s": 0.1, "grace_s": 5, **more})


def cloud_settings(kind: str, site: Site, url: str, **more: Any) -> str:
    """The executor of a cloud whose machines have the site's package."""
    env = {"PYTHONPATH": site.environment["PYTHONPATH"], "LUTHIER_CACHE": own_cache(site.folder)}
    address = {} if kind == "sagemaker" else {"endpoint": url}
    often = {"poll_s": 0.1, "grace_s": 5, "python": sys.executable}
    return json.dumps({"kind": kind, **SETTINGS[kind], **address, "env": env, **often, **more})


@contextmanager
def s3_store() -> Iterator[dict[str, str]]:
    """The environment that leads to a bucket of an S3 server on loopback."""
    import boto3
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "word", "AWS_DEFAULT_REGION": "us-east-1"}
    client = boto3.client(
        "s3",
        endpoint_url=f"http://{host}:{port}",
        region_name="us-east-1",
        aws_access_key_id="key",
        aws_secret_access_key="word",
    )
    client.create_bucket(Bucket="stores")
    try:
        yield {**keys, "AWS_ENDPOINT_URL": f"http://{host}:{port}", "STORES": f"s3://stores/{secrets.token_hex(4)}"}
    finally:
        client.close()
        server.stop()


TOYS = ("well", "stop", "refuse", "fault", "interrupt", "second", "again", "drive")
"""What becomes of the step; `again` follows on `second`."""
QUICK = {
    "kubernetes": ("well", "stop", "refuse", "drive"),
    "ray": ("well", "stop"),
    "sky": ("well", "second", "again"),
    "sagemaker": ("well", "drive"),
    "vertex": ("well", "fault"),
    "azureml": ("well", "interrupt"),
}
"""Those that are tried of the kinds that are not named in full: what jobs answer goes through one class, and each toy
meets one of its heirs; the others are slow tests."""


class Outcomes(dict[tuple[str, bool], dict[str, Any]]):
    """By kind, what came of each toy and what was heard of it; a kind is tried when it is first asked for, and once
    more where a slow test asks for the other toys."""

    def __init__(self, factory: pytest.TempPathFactory) -> None:
        super().__init__()
        self._factory = factory

    def of(self, kind: str, toy: str) -> dict[str, Any]:
        """What came of a toy."""
        found: dict[str, Any] = self[kind, toy in QUICK.get(kind, TOYS)][toy]
        return found

    def __missing__(self, key: tuple[str, bool]) -> dict[str, Any]:
        kind, is_quick = key
        toys = [toy for toy in TOYS if (toy in QUICK.get(kind, TOYS)) == is_quick]
        site = Site(self._factory.mktemp(kind))
        for name in set(toys) - {"again"}:
            site.recipe(name, "well" if name == "stop" else name)
        with scheduler(kind, site) as (asked, cluster):
            command = [sys.executable, "-c", DRIVER, asked, str(site.folder), str(site.folder / "told"), *toys]
            pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
            with ready.Family(command, env={**site.environment, **cluster}, **pipes) as done:
                out, err = done.communicate()
        assert done.returncode == 0, err
        assert out in ("", "noise on standard output\n" * len(toys))
        self[key] = json.loads((site.folder / "told").read_text())
        return self[key]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    """What came of the toys of each kind that a test asks for."""
    return Outcomes(tmp_path_factory)


_NO_BUCKET = "" if is_installed("moto") and is_installed("s3fs") else "a bucket for tests needs moto[server] and s3fs"
WHY_NOT = {
    "slurm": why_no_slurm(),
    "kubernetes": why_no_kubernetes(),
    "ray": why_no_ray(),
    "sky": _NO_BUCKET,
    "sagemaker": _NO_BUCKET,
    "vertex": _NO_BUCKET or ("" if is_installed("google.auth") else "google-auth is not installed"),
    "azureml": _NO_BUCKET or ("" if is_installed("azure.identity") else "azure-identity is not installed"),
}
"""Why a kind cannot be tried here."""


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    if reason := WHY_NOT.get(request.param):
        pytest.skip(reason)
    return str(request.param)


def each_kind(toy: str) -> pytest.MarkDecorator:
    """Every kind; slow for one with which the toy is not among those that are tried each time."""
    return pytest.mark.matrix(*(kind for kind in KINDS if toy in QUICK.get(kind, TOYS)))


def test_it_is_documented_and_its_settings_come_back(kind: str) -> None:
    member = components_by_kind(Executor)[kind]
    assert member.summary()
    assert undescribed(member) == []
    executor = parse_executor(MINIMAL.get(kind, kind))
    assert Executor.parse(executor.settings()) == executor


QUOTED = {"python", "program", "context", "mount", "setup"}
"""Settings that hold any text: each executor's own tests show that it is quoted."""
NASTY = "x$(touch harm) `touch harm`\n'\"; touch harm\n- a: {b}"
MANUAL = Path(__file__).parents[1] / "docs" / "howto" / "clusters.md"


@pytest.mark.parametrize("kind", KINDS)
def test_the_page_on_clusters_names_it(kind: str) -> None:
    assert f"| `{kind}`" in MANUAL.read_text()


@pytest.mark.parametrize("kind", KINDS)
def test_no_setting_takes_what_a_shell_or_yaml_would_read(kind: str) -> None:
    member = components_by_kind(Executor)[kind]
    known = {"kind": kind, **yaml.safe_load(MINIMAL.get(kind, f"{{kind: {kind}}}"))}
    words = [name for name, field in member.model_fields.items() if "str" in str(field.annotation)]
    for name in set(words) - QUOTED - {"kind"}:
        wrong: Any = NASTY
        if "tuple" in str(member.model_fields[name].annotation):
            wrong = [NASTY]
        elif "dict" in str(member.model_fields[name].annotation):
            wrong = {NASTY: "x"}
        with pytest.raises(InputError) as error:
            parse_executor(json.dumps({**known, name: wrong}))
        assert error.value.where.field == "--on", name


@pytest.mark.parametrize("kind", KINDS)
def test_a_setting_that_there_is_not_is_refused_with_the_nearest(kind: str) -> None:
    known = yaml.safe_load(MINIMAL.get(kind, f"{{kind: {kind}}}"))
    with pytest.raises(InputError, match="there is no setting 'nonsense' here"):
        parse_executor(json.dumps({**known, "nonsense": 1}))


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_of_a_recipe_takes_it(kind: str) -> None:
    step = Step.parse(
        {"kind": "base", "source": {"kind": "folder", "path": "x"}, "on": yaml.safe_load(MINIMAL.get(kind, kind))}
    )
    assert step.on is not None
    assert step.on.kind == kind
    assert "on" not in step.hashed_settings()


def test_it_makes_the_bytes_of_the_local_one_and_measures_them(told: Outcomes, kind: str) -> None:
    made, local = told.of(kind, "well")["outcome"], told.of("local", "well")["outcome"]
    assert (made["digest"], made["files"]) == (local["digest"], local["files"])
    assert made["timing"].keys() == local["timing"].keys()
    assert made["timing"]["predicted"]["how"] == "a guess"
    assert made["timing"]["measures"] == {"went_on": False}


def is_aside(text: str) -> bool:
    """Whether it is what the step printed, or that its job was submitted."""
    return "noise" in text or "submitted the job" in text or " waits: " in text


def test_events_come_in_order_and_name_the_step(told: Outcomes, kind: str) -> None:
    heard = [event for event in told.of(kind, "well")["heard"] if not is_aside(event.get("text", ""))]
    assert [event["kind"] for event in heard] == [
        "run", "start", "note", "progress", "progress", "progress", "note", "done", "end",
    ], [event.get("text") for event in heard]  # fmt: skip
    assert {event.get("step") for event in heard[1:-1]} == {"toy"}
    assert [event["measures"]["loss"] for event in heard[3:6]] == [1.0, 0.5, 1 / 3]
    assert heard[6]["text"] == "of toy with 5"


@each_kind("drive")
def test_a_step_that_drives_others_makes_them_as_its_own(told: Outcomes, kind: str) -> None:
    driven, local = told.of(kind, "drive"), told.of("local", "drive")
    assert driven["outcome"]["digest"] == local["outcome"]["digest"]
    heard = [(event["kind"], event["step"]) for event in driven["heard"] if event.get("step") == "toy.small"]
    assert [name for name, _ in heard if name not in ("note", "progress")] == ["start", "done"]
    assert heard.count(("progress", "toy.small")) == 3


@each_kind("stop")
def test_a_listener_stops_the_step_at_once(told: Outcomes, kind: str) -> None:
    stopped = told.of(kind, "stop")
    assert stopped["outcome"]["error"]["kind"] == "Interrupted"
    assert "stopped by who listens" in stopped["outcome"]["error"]["message"]
    assert sum(event["kind"] == "progress" for event in stopped["heard"]) == 2


@each_kind("refuse")
def test_an_error_keeps_its_class_place_and_remedy(told: Outcomes, kind: str) -> None:
    error, local = (told.of(one, "refuse")["outcome"]["error"] for one in (kind, "local"))
    assert (error["kind"], error["message"], error["hint"]) == ("DataError", "is no good", "take another")
    assert error["where"] | {"file": ""} == local["where"] | {"file": ""}
    assert error["where"]["field"] == "steps.toy.ends"


@each_kind("fault")
def test_a_fault_is_no_error_of_the_user(told: Outcomes, kind: str) -> None:
    assert "ZeroDivisionError: nobody thought of this" in told.of(kind, "fault")["outcome"]["fault"]


@each_kind("interrupt")
def test_an_interruption_says_what_is_kept(told: Outcomes, kind: str) -> None:
    error = told.of(kind, "interrupt")["outcome"]["error"]
    assert (error["kind"], error["hint"]) == ("Interrupted", "run it again to go on")


@each_kind("second")
def test_a_step_goes_on_from_its_scratch_folder(told: Outcomes, kind: str) -> None:
    assert told.of(kind, "second")["outcome"]["error"]["message"] == "not yet"
    assert told.of(kind, "again")["outcome"]["timing"]["measures"] == {"went_on": True}


def test_an_unknown_executor_is_refused_with_those_that_there_are() -> None:
    for text in ("processes", "[1", "{kind: process, nonsense: 1}"):
        with pytest.raises(InputError) as error:
            parse_executor(text)
        assert error.value.where.field == "--on"
    with pytest.raises(InputError, match="did you mean 'process'"):
        parse_executor("proces")


def test_a_killed_process_is_one_error_and_the_run_goes_on(tmp_path: Path) -> None:
    site = Site(tmp_path)
    folder = site.recipe("mine", "die")
    run = site.start(folder, "run", "--on", "process", "--json")
    out, err = run.communicate(timeout=300)
    error = json.loads(out)["error"]
    assert (run.returncode, error["kind"]) == (2, "StepKilled"), err
    assert error["message"].startswith("its process was ended by SIGKILL")
    assert error["where"]["field"] == "steps.toy"
    again = site.start(folder, "run", "--on", "process", "--json")
    out, err = again.communicate(timeout=300)
    assert again.returncode == 0, err
    made = Path(json.loads(out)["steps"]["toy"]["path"])
    assert json.loads((made / "timing.json").read_text())["measures"] == {"went_on": True}


def _pid_of_step(folder: Path) -> int:
    """The process of the step that sleeps, once it is there."""
    for _ in range(1200):
        for path in (folder / ".luthier").rglob("pid"):
            if text := path.read_text():
                return int(text)
        time.sleep(0.1)
    raise AssertionError("no step began")


@pytest.mark.parametrize(("how", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_the_process_of_a_step_ends_with_the_run(tmp_path: Path, how: signal.Signals, code: int) -> None:
    site = Site(tmp_path)
    run = site.start(site.recipe("mine", "sleep"), "run", "--on", "process")
    name = unique_process_name_of(_pid_of_step(tmp_path / "mine"))
    time.sleep(1.0)
    run.send_signal(how)
    run.communicate(timeout=120)
    assert run.returncode == code
    for _ in range(600):
        if is_process_gone(name):
            return
        time.sleep(0.1)
    raise AssertionError("the step's process goes on without its run")
