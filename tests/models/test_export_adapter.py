"""An adapter's export opens in PEFT's own classes from any directory, and its README is a program that runs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from luthier.cli.app import run_command
from luthier.core.artifact import Artifact
from luthier.core.store import Store
from luthier.models.export.checkpoint import export_model_folder
from luthier.models.load import load_model
from luthier.models.quiet import silence_peft_warnings
from luthier.models.sources.hub import HubModelSource
from luthier.tune.objectives.classify import Classify
from luthier.tune.steps.tune import Tune
from luthier.tune.techniques.adapter import BottleneckAdapter
from models.making import full_tune, make_base, tiny_adapter, tiny_base
from tests import ready
from tests.hub import COMMIT, publishing
from tiny_models import tiny_model
from tuning import make_env

IDS = torch.tensor([[1, 50, 60, 70, 80]])


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad(), silence_peft_warnings():
        found: torch.Tensor = model(input_ids=IDS).logits
    return found


def opened_by_peft(folder: Path, name: str = "AutoPeftModelForCausalLM", **more: Any) -> Any:
    import peft

    with silence_peft_warnings():
        return getattr(peft, name).from_pretrained(folder, **more).eval()


def program(folder: Path) -> str:
    """The program in the README of an export."""
    found = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert found, "the README has a program"
    text: str = found[0]
    return text


def run(folder: Path, more: str = "", start: type[subprocess.Popen[Any]] = ready.Popen) -> str:
    """What the README's program prints in the folder of an export, in a process of its own; `subprocess.Popen` starts
    it from nothing."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", program(folder) + more]
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with start(command, cwd=folder, env=environment, **pipes) as process:
        said, complaint = process.communicate()
    assert process.returncode == 0, complaint
    return str(said)


def named_base(folder: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((folder / "adapter_config.json").read_text())
    return told


def test_a_base_that_is_nowhere_published_goes_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoTokenizer

    store, base = tiny_base(tmp_path)
    adapter = tiny_adapter(store, base)
    monkeypatch.chdir(tmp_path)
    to = export_model_folder(adapter, Path("out"), "adapter")
    assert named_base(to)["base_model_name_or_path"] == str(tmp_path / "out" / "base")
    monkeypatch.chdir("/")
    wanted = logits(load_model(adapter, "float32").model)
    torch.testing.assert_close(logits(opened_by_peft(to)), wanted)
    tokenizer = AutoTokenizer.from_pretrained(to)
    assert tokenizer.chat_template == AutoTokenizer.from_pretrained(base.folder).chat_template
    assert str(tmp_path) not in (to / "README.md").read_text()


@pytest.mark.slow  # the two after it run their programs each time
def test_the_program_of_the_readme_runs_and_its_folder_may_be_moved(tmp_path: Path) -> None:
    store, base = tiny_base(tmp_path)
    adapter = tiny_adapter(store, base)
    to = export_model_folder(adapter, tmp_path / "out", "adapter")
    moved = to.rename(tmp_path / "elsewhere")
    show = "\nprint('and', float(model(ids['input_ids']).logits[0, -1, 7]))"
    said = run(moved, show, start=subprocess.Popen)
    assert "and " in said
    assert "base_model_name_or_path" in (moved / "README.md").read_text()


def test_the_program_of_a_whole_model_puts_the_prompt_in_front(tmp_path: Path) -> None:
    _, base = tiny_base(tmp_path)
    before = {"messages": [{"role": "system", "content": "Answer in one word."}], "system": "usual"}
    to = export_model_folder(base, tmp_path / "out", "hf", before=before)
    assert "'system', 'user'" in run(to, "\nprint([turn['role'] for turn in messages])")


def test_without_its_base_the_adapter_names_the_stores(tmp_path: Path) -> None:
    store, base = tiny_base(tmp_path)
    adapter = tiny_adapter(store, base)
    to = export_model_folder(adapter, tmp_path / "out", "adapter", with_base=False)
    assert not (to / "base").exists()
    assert named_base(to)["base_model_name_or_path"] == str(base.folder)
    torch.testing.assert_close(logits(opened_by_peft(to)), logits(load_model(adapter, "float32").model))
    with silence_peft_warnings():
        exec(compile(program(to).replace('"."', repr(str(to))), "README.md", "exec"), found := {})
    torch.testing.assert_close(logits(found["model"]), logits(load_model(adapter, "float32").model))


@pytest.mark.parametrize("under", ["adapter", "full"])
def test_what_was_tuned_over_a_model_made_here_goes_along_with_it(tmp_path: Path, under: str) -> None:
    store, base = tiny_base(tmp_path)
    lower = tiny_adapter(store, base, seed=1) if under == "adapter" else full_tune(store, base)
    upper = tiny_adapter(store, lower, seed=2)
    to = export_model_folder(upper, tmp_path / "out", "adapter")
    torch.testing.assert_close(
        logits(opened_by_peft(to)), logits(load_model(upper, "float32").model), atol=1e-5, rtol=1e-4
    )


def test_a_base_of_the_hub_is_named_with_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with publishing(tiny_model(tmp_path / "tiny"), "models", "acme/tiny", monkeypatch, tmp_path / "hub-cache"):
        store = Store(tmp_path / "store")
        adapter = tiny_adapter(store, make_base(store, HubModelSource(id="acme/tiny", online=True), tmp_path))
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", os.environ["HF_ENDPOINT"])  # was read when imported
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", os.environ["HF_HUB_CACHE"])
        to = export_model_folder(adapter, tmp_path / "out", "adapter")
        assert not (to / "base").exists()
        told = named_base(to)
        assert (told["base_model_name_or_path"], told["revision"]) == ("acme/tiny", COMMIT)
        torch.testing.assert_close(logits(opened_by_peft(to)), logits(load_model(adapter, "float32").model))
        assert f'from_pretrained("acme/tiny", revision="{COMMIT}")' in program(to)
        beside = export_model_folder(adapter, tmp_path / "beside", "adapter", with_base=True)
    assert named_base(beside)["base_model_name_or_path"] == str(beside / "base")
    torch.testing.assert_close(logits(opened_by_peft(beside)), logits(load_model(adapter, "float32").model))


def test_a_sequence_head_and_a_type_of_our_own_open_as_the_readme_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = make_env(tmp_path)
    quick = {"batch_size": 16, "learning_rate": 5e-3, "dtype": "float32"}
    for step in (
        Tune(data="data", objective=Classify(head="sequence"), **quick),
        Tune(data="data", technique=BottleneckAdapter(), **quick),
    ):
        tuned = env.tune(step)
        to = export_model_folder(tuned, tmp_path / tuned.digest, "adapter")
        monkeypatch.chdir(to)
        with silence_peft_warnings():
            exec(compile(program(to), "README.md", "exec"), found := {})
        torch.testing.assert_close(logits(found["model"]), logits(load_model(tuned, "float32").model))
        if "classes" in found:
            name = "AutoPeftModelForSequenceClassification"
            auto = opened_by_peft(to, name, num_labels=len(found["classes"]))
            auto.config.pad_token_id = found["model"].config.pad_token_id
            torch.testing.assert_close(logits(auto), logits(load_model(tuned, "float32").model))


@pytest.mark.slow
@pytest.mark.model
def test_the_real_models_adapter_opens_from_anywhere(
    smollm2: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "store", shared=Store(smollm2.folder.parent.parent))
    adapter = tiny_adapter(store, smollm2)
    to = export_model_folder(adapter, tmp_path / "out", "adapter")
    monkeypatch.chdir("/")
    opened = opened_by_peft(to, dtype="float32")
    torch.testing.assert_close(logits(opened), logits(load_model(adapter, "float32").model), atol=1e-3, rtol=1e-3)
    assert run(to).strip(), "it answers"


@pytest.mark.model
def test_a_model_of_the_catalog_goes_out_by_its_name(
    smollm2: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_command(["export", "smollm2-135m-instruct", "--to", "out"]) == 0
    assert run(tmp_path / "out").strip(), "it answers"
