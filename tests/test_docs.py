"""What README and the how-to pages tell a person to type is typed here, on a tiny model."""

from __future__ import annotations

import io
import json
import re
import shlex
import sqlite3
import textwrap
import warnings
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from luthier.cli.app import run_command
from luthier.commands import serve
from luthier.commands.components import (
    describe_role_components,
    find_component,
    list_component_roles,
    list_component_settings,
)
from luthier.core.artifact import Artifact
from luthier.core.component import components_by_kind
from luthier.data.operator import Operator
from luthier.models.describe import describe_model_folder
from luthier.recipe.schema import Recipe
from luthier.tune.hosted.technique import HostedTechnique
from luthier.tune.objective import Objective
from luthier.tune.technique import TechniqueBase
from tests.recipe.test_chat_template import write_chats
from tests.tiny_models import RECIPE, own_cache, small_recipe, tickets, write_csv
from tests.watching import desk_traffic, write_log

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs" / "howto").glob("*.md"))]
PAGES += [ROOT / "docs" / "tutorial.md", ROOT / "docs" / "tutorial-explain.md"]
AXOLOTL = """\
base_model: HuggingFaceTB/SmolLM2-135M-Instruct
datasets: [{path: tickets.csv, type: {field_instruction: message, field_output: category}}]
adapter: lora
micro_batch_size: 4
num_epochs: 1
learning_rate: 0.0002
"""
MONITOR = """\
  watch: {kind: monitor, signals: [latency, {kind: metric, metric: accuracy}], alerts: ["accuracy < 0.9"]}
"""
_SERVE = serve.serve
_HOSTED = {
    "azure": {"url": "https://me.openai.azure.com/openai/v1"},
    "bedrock": {"region": "us-east-1", "bucket": "rows", "role_arn": "arn:aws:iam::123456789012:role/a"},
    "fireworks": {"account": "me"},
    "vertex": {"project": "me", "region": "us-central1", "bucket": "rows"},
}
STEPS = """\
data: {kind: prepare, source: {kind: csv, path: tickets.csv}, split: {test: 0.2}}
questions: {kind: prepare, source: {kind: csv, path: questions.csv}}
preferred: {kind: prepare, source: {kind: csv, path: preferred.csv}}
tune: {kind: tune, data: data}
tune_short: {kind: tune, data: data}
tune_long: {kind: tune, data: data, epochs: 2}
gold: {kind: tune, data: preferred, objective: reward}
report: {kind: evaluate, data: data, model: tune}
guess: {kind: prelabel, data: data, model: tune}
validate: {kind: validate, data: data}
"""
"""What the pages' YAML speaks of without saying it again."""
NOT_TYPED = ("pip ", "./demo", "./check", "luthier schema >", "luthier --install-completion")
"""Commands that install, set a machine up, or need a shell."""


def commands() -> dict[str, list[str]]:
    """Every `luthier …` line of the console blocks, by page, in the page's order."""
    found: dict[str, list[str]] = {}
    for page in PAGES:
        for block in re.findall(r"```console\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            lines = re.findall(r"^\$ (.*?)(?:\s+#.*)?$", block, re.MULTILINE)
            found.setdefault(page.name, []).extend(line for line in lines if not line.startswith(NOT_TYPED))
    return {page: lines for page, lines in found.items() if lines}


def python_blocks() -> list[tuple[str, str]]:
    """Every Python block of the how-to pages."""
    pages = sorted((ROOT / "docs" / "howto").glob("*.md"))
    return [
        (page.name, block)
        for page in pages
        for block in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    ]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the pages' commands make sense: a recipe that was run, tickets, predictions."""
    folder = tmp_path_factory.mktemp("docs")
    more = "  ask: {kind: human_eval, evaluation: report, annotators: [anna, ben]}\n" + MONITOR
    small_recipe(folder, RECIPE + more + "  validate: {kind: validate, data: data, checks: [few_rows]}\n")
    write_log(folder / "log.jsonl", desk_traffic(60))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LUTHIER_CACHE", own_cache(folder))
        patch.chdir(folder)
        assert run_command(["run", "recipe.yaml"]) == 0
        assert run_command(["rate", ":ask", "--as", "ben", "--sheet", "ben.csv"]) == 0
    _write_answers(folder)
    _write_traffic(folder / ".luthier" / "traffic")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LUTHIER_TRAFFIC", str(folder / ".luthier" / "traffic"))
        assert run_command(["traces", "export", str(folder / "all.jsonl")]) == 0
    return folder


def _write_traffic(folder: Path) -> None:
    """Requests, most of them corrected, and one that the pages name."""
    from luthier.traces.feedback import append_redacted_records
    from tests.traces.conftest import opinion, trace

    asked = [trace(number, user=f"C-{number % 7}") for number in range(40)]
    said = [opinion(number, rating=-1, correction=f"In depot {number * 31 % 97}.") for number in range(2, 40)]
    append_redacted_records(folder, [*asked, *said])


def _write_answers(folder: Path) -> None:
    row = {"question": "how many hours has a day", "prediction": "a day has 24 hours", "reference": "24"}
    for name in ("answers", "a", "b"):
        told = [{**row, "id": str(number)} for number in range(6)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in told))
    program = {"prediction": "def two():\n    return 2", "reference": "assert two() == 2"}
    (folder / "programs.jsonl").write_text(json.dumps(program) + "\n")


def _write_database(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE tickets (id INTEGER PRIMARY KEY, message TEXT, category TEXT, customer TEXT)")
        put = "INSERT INTO tickets (message, category, customer) VALUES (:message, :category, :customer)"
        database.executemany(put, tickets(60))


def _served_a_moment(
    workspace: Any, models: Sequence[str], place: Any, *, tell: Callable[[Any], None], **more: Any
) -> int:
    """Serve until it listens, on any free port."""

    def told(listening: Any) -> None:
        tell(listening)
        listening.stop()

    return _SERVE(workspace, models, replace(place, port=0), tell=told, **more)


def _first_id() -> str:
    from luthier.artifacts.dataset import read_examples
    from tests.targets import artifact_of

    return read_examples(artifact_of("recipe.yaml:data").artifact, "test")[0].id


@pytest.mark.parametrize("page", commands())
def test_the_commands_of_a_page_work_one_after_another(
    page: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LUTHIER_CACHE", own_cache(place))
    monkeypatch.setenv("LUTHIER_TRAFFIC", str(place / ".luthier" / "traffic"))
    monkeypatch.setattr("luthier.commands.serve.serve", _served_a_moment)
    monkeypatch.setattr("luthier.studio.server.serve_studio", lambda studio, bound, tell: None)
    for number, line in enumerate(commands()[page]):
        words = _typed(line)
        assert words[0] == "luthier", f"{page}: what is typed is Luthier's"
        monkeypatch.chdir(_new_place(tmp_path / str(number)) if words[1] == "new" else place)
        monkeypatch.setattr("sys.stdin", io.StringIO())
        assert run_command(words[1:]) in (0, 1, 3), line


def _typed(line: str) -> list[str]:
    """The words of a page's line, said of the recipe and the rows that are here."""
    line = line.replace("moved/recipe.yaml", "recipe.yaml").replace("calls/recipe.yaml", "recipe.yaml")
    line = line.replace("support/recipe.yaml", "recipe.yaml").replace("support:", "recipe.yaml:")
    line = line.replace("recipes/why/recipe.yaml", "recipe.yaml").replace("why:tune", "recipe.yaml:tune")
    line = line.replace("--against smollm2-135m-instruct", "--against tiny-model")
    line = re.sub(r"(?<![\w-])support(?![\w-])", "recipe.yaml", line) if " new " not in line else line
    line = line.replace("recipes/headlines/recipe.yaml", "recipe.yaml").replace("recipes/headlines", "recipe.yaml")
    line = line.replace("EXAMPLE", _first_id()) if "EXAMPLE" in line else line
    return shlex.split(line) + (["-p", "hello", "--max-tokens", "4"] if " chat " in line else [])


def _new_place(folder: Path) -> Path:
    """A folder with the files from which the pages begin a recipe."""
    folder.mkdir()
    write_csv(folder / "tickets.csv", tickets(60))
    _write_database(folder / "tickets.db")
    (folder / "axolotl.yaml").write_text(AXOLOTL, encoding="utf-8")
    write_chats(folder)
    return folder


@pytest.mark.parametrize(("page", "block"), python_blocks(), ids=lambda value: str(value)[:40])
def test_the_python_of_the_pages_runs(page: str, block: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUTHIER_CACHE", own_cache(place))
    monkeypatch.chdir(place)
    if "import lightning" in block:
        pytest.importorskip("lightning", reason="Lightning is not installed: its example was not run")
    code = block.replace('"smollm2-135m-instruct"', '"tiny-model"')
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if page == "interop.md" else "error")  # what other people's loops say
        exec(compile(code, page, "exec"), {})  # the page's own words


def yaml_blocks() -> list[tuple[str, str]]:
    """Every piece of a recipe on the pages, with its page and line; comments alone and workflows of others are none."""
    found = []
    for page in [*PAGES, *(ROOT / "docs" / f"tutorial-{name}.md" for name in ("data", "photographs"))]:
        text = page.read_text(encoding="utf-8")
        for block in re.finditer(r"```(?:\{code-block\} )?yaml\n(.*?)```", text, re.DOTALL):
            told = yaml.safe_load(textwrap.dedent(block[1]))
            if told and "jobs" not in told:
                found.append((f"{page.name}:{text[: block.start()].count(chr(10)) + 1}", block[1]))
    return found


class _RecipeLoader(yaml.SafeLoader):
    """Keys are texts, as in a recipe: `on` is none of YAML 1.1's words for true."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        for key, _ in node.value:
            key.tag = "tag:yaml.org,2002:str"
        return super().construct_mapping(node, deep)


@pytest.mark.parametrize(("page", "block"), yaml_blocks(), ids=lambda value: str(value)[:40])
def test_the_yaml_of_the_pages_is_a_recipe_or_a_part_of_one(page: str, block: str, tmp_path: Path) -> None:
    recipe = _whole(yaml.load(textwrap.dedent(block), _RecipeLoader))
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    assert Recipe.load(tmp_path / "recipe.yaml").all_steps(), page


def _whole(told: Any) -> dict[str, Any]:
    """A recipe around a piece of one: the settings, the step or the steps that a page shows."""
    if "luthier" in told:
        return dict(told)
    known: dict[str, Any] = yaml.safe_load(STEPS)
    about = {"luthier": 1, "name": "page", "model": "smollm2-135m-instruct"}
    if isinstance(told, list):
        told = {"ops": told}
    if "steps" in told:
        steps = told["steps"]
    elif told.keys() & {"ops", "source"}:
        steps = {"data": {**known["data"], **told}}
    elif "objective" in told:
        steps = {"tune": {**known["tune"], **told}}
    elif "embedder" in told:
        steps = {"validate": {**known["validate"], "checks": [{"kind": "embedding_outliers", **told}]}}
    else:
        about, steps = ({**about, **told}, {}) if "model" in told else (about, told)
    return {**about, "steps": {**known, **steps}}


def test_the_settings_that_other_tools_are_mapped_to_exist() -> None:
    parts = [
        find_component(role, kind)
        for role, base in list_component_roles().items()
        for kind in describe_role_components(base)
    ]
    known = {setting["name"] for part in parts for setting in list_component_settings(part)} | {*Recipe.model_fields}
    kinds = {
        *components_by_kind(TechniqueBase),
        *components_by_kind(Objective),
        *components_by_kind(Operator),
        "prepare",
        "source",
    }
    page = (ROOT / "docs" / "howto" / "coming-from.md").read_text(encoding="utf-8").partition("## Training settings")[2]
    lines = page.partition("## lm-eval")[0].splitlines()
    rows = [line.split(" | ")[1] for line in lines if line.startswith("| `")]
    rows += [line for line in lines if line.startswith("- in ") or "have the same names" in line]
    named = re.compile(r"`(?:(?:objective|technique|source)\.)?([a-z_]+(?:\.[a-z_]+)*)(?:: [\w-]+)?`")
    found = {name for row in rows for name in named.findall(row)}
    assert len(found) > 50
    assert found - known - kinds == set()


def _techniques() -> dict[str, list[str]]:
    """The rows of the table of techniques, by kind."""
    page = (ROOT / "docs" / "howto" / "choose-technique.md").read_text(encoding="utf-8")
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| `")]
    return {row[0].strip("`"): row for row in rows}


def test_the_table_of_techniques_names_them_all() -> None:
    own = {kind for kind, part in components_by_kind(TechniqueBase).items() if part.__module__.startswith("luthier.")}
    assert set(_techniques()) == own


@pytest.mark.model
def test_the_numbers_of_the_table_are_the_codes(smollm2: Artifact) -> None:
    model = describe_model_folder(smollm2.folder)
    for kind, row in _techniques().items():
        hosted = issubclass(components_by_kind(TechniqueBase)[kind], HostedTechnique)
        technique = TechniqueBase.parse({"kind": kind, "model": "base", **_HOSTED.get(kind, {})} if hosted else kind)
        assert row[2] == f"{technique.trainable(model):,}", kind
        assert row[3] == f"{technique.footprint(model, 4096) / 1e9:.1f} GB", kind
