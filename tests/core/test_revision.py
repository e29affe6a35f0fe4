"""Which code decides which step: for a file of each package, the steps that a changed line makes again."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import luthier
from luthier.core.component import iter_components
from luthier.core.revision import UNDECIDING, SourceTree, installed_source_tree
from luthier.core.step import Step

SOURCE = {"kind": "csv", "path": "tickets.csv", "prompt": "message", "answer": "category"}
STEPS = {
    "prepare": {"kind": "prepare", "source": SOURCE, "ops": ["normalize"]},
    "redact": {"kind": "prepare", "source": SOURCE, "ops": [{"kind": "pii", "ner": "minilm"}]},
    "synonyms": {"kind": "augment", "data": "data", "augmenters": ["synonyms"]},
    "tune": {"kind": "tune", "data": "data"},
    "code": {"kind": "tune", "data": "data", "objective": {"kind": "grpo", "rewards": ["unit_tests"]}},
    "evaluate": {"kind": "evaluate", "data": "data", "model": "tune", "metrics": ["accuracy"]},
    "gate": {"kind": "gate", "evaluation": "report", "rules": ["accuracy > base"]},
    "base": {"kind": "base", "source": {"kind": "folder", "path": "model"}},
}
LEARNING = {"tune", "code"}
ASKING = {*LEARNING, "evaluate", "gate"}


def _roots(name: str) -> set[str]:
    return {type(part).__module__ for part in iter_components(Step.parse(STEPS[name]))}


@pytest.fixture(scope="module")
def deciding() -> dict[str, set[str]]:
    """The files that decide each step, below the program's folder."""
    found, program = {}, installed_source_tree()
    for name in STEPS:
        modules = program.closure(_roots(name))
        paths = {program.files[module] for module in modules} | program.resources(modules)
        found[name] = {path.relative_to(program.root).as_posix() for path in paths}
    return found


@pytest.mark.parametrize(
    ("file", "made_again"),
    [
        ("cli/app.py", set()),
        ("recipe/runner.py", set()),
        ("serve/app.py", set()),
        ("monitor/alerts.py", set()),
        ("traces/record.py", set()),
        ("core/errors.py", set()),
        ("core/store.py", set()),
        ("core/events.py", set()),
        ("core/db/engine.py", set()),
        ("tune/forecast.py", set()),
        ("models/cost.py", set()),
        ("eval/cost.py", set()),
        ("eval/report/templates/evaluation.html.jinja", set()),
        ("eval/report/collect.py", set()),
        ("core/hashing.py", {*STEPS}),
        ("core/system/sandbox.py", {"code", "evaluate", "gate"}),
        ("core/wordnet/__init__.py", {"synonyms", "evaluate", "gate"}),
        ("pii/addresses/rules.toml", {"redact", "gate"}),
        ("pii/known_organisations.txt", {"redact"}),
        ("data/ops/normalize.py", {"prepare"}),
        ("data/row.py", {"prepare", "redact", "synonyms"}),
        ("tune/training/trainer.py", LEARNING),
        ("tune/cost.py", LEARNING),
        ("tune/techniques/lora.py", LEARNING),
        ("tune/techniques/prefix.py", set()),
        ("tune/rewards/scorer.py", {"code"}),
        ("models/packing/pack.py", {*ASKING, "synonyms"}),
        ("models/kernels/linear.c", {*ASKING, "synonyms"}),
        ("models/gguf/reader.py", set()),
        ("models/sources/folder.py", {"base"}),
        ("chat/tokenizer.py", {*ASKING, "synonyms"}),
        ("eval/local_model.py", {"evaluate", "gate"}),
        ("eval/gate_vocabulary.py", {"gate"}),
        ("core/expressions.py", {"gate"}),
    ],
)
def test_a_changed_line_makes_exactly_these_steps_again(
    deciding: dict[str, set[str]], file: str, made_again: set[str]
) -> None:
    assert (installed_source_tree().root / file).is_file()
    assert {name for name, files in deciding.items() if file in files} == made_again


def test_a_revision_follows_these_files_and_no_others(tmp_path: Path, deciding: dict[str, set[str]]) -> None:
    root = Path(
        shutil.copytree(luthier.__path__[0], tmp_path / "luthier", ignore=shutil.ignore_patterns("__pycache__"))
    )
    before = SourceTree(root).revision(_roots("code"))
    assert before == installed_source_tree().revision(_roots("code"))
    for file in ("core/system/sandbox.py", "models/kernels/linear.c", "pii/addresses/rules.toml", "core/events.py"):
        text = (root / file).read_bytes()
        (root / file).write_bytes(text + b"\n")
        assert (SourceTree(root).revision(_roots("code")) != before) == (file in deciding["code"]), file
        (root / file).write_bytes(text)


def test_every_file_beside_the_code_is_read_by_a_module_that_names_it() -> None:
    program = installed_source_tree()
    named = program.resources(program.files)
    files = {path for path in program.root.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    left = {path.name for path in files - named if "__pycache__" not in path.parts}
    assert left <= {"py.typed", "script.py.mako", "addresses.md", "organisations.md", "pyproject.toml"}


def test_every_role_has_its_members() -> None:
    from luthier.commands.components import list_component_roles
    from luthier.core.component import components_by_kind

    role_modules = installed_source_tree().role_modules
    for role in (one for one in list_component_roles().values() if one.__module__ in installed_source_tree().files):
        modules = {
            part.__module__ for part in components_by_kind(role).values() if part.__module__.startswith("luthier.")
        }
        assert modules <= set(role_modules[role.__name__]), role


def test_modules_that_decide_nothing_exist() -> None:
    assert [name for name in UNDECIDING if name not in installed_source_tree().files] == []


def test_imports_are_those_that_python_makes() -> None:
    """What Python has loaded after importing a step's module is in its closure, or decides nothing."""
    for module in ("luthier.data.steps.prepare", "luthier.tune.steps.tune", "luthier.eval.steps.evaluate"):
        code = f"import sys, {module}; print(*(name for name in sys.modules if name.startswith('luthier.')))"
        told = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
        closure = installed_source_tree().closure([module])
        lacking = {name for name in told if name not in closure and "import " in installed_source_tree().text(name)}
        undeciding = {name for name in lacking if any(name == one or name.startswith(f"{one}.") for one in UNDECIDING)}
        behind = installed_source_tree().closure(
            {inner for name in undeciding for inner in installed_source_tree().imports(name)}
        )  # what only those import
        assert lacking - undeciding <= behind, lacking - undeciding - behind
