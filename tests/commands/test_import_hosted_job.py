"""From a finished job of a provider to a recipe: what is read, what is written, that it runs and compares with the old
model, and one clear error for whatever is missing; once against `luthier serve --tune` and OpenAI's own client."""

from __future__ import annotations

import io
import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from hosted import KEY, Answer, Provider, providing
from luthier.cli.app import run_command
from luthier.tune.hosted import client as hosted_client
from tests.commanded import command
from tests.tiny_models import own_cache, tickets, tiny_model

SYSTEM = "Sort the message."
URLS = {"fireworks": "FIREWORKS_BASE_URL", "openai": "OPENAI_BASE_URL", "together": "TOGETHER_BASE_URL"}
KEYS = {"fireworks": "FIREWORKS_API_KEY", "openai": "OPENAI_API_KEY", "together": "TOGETHER_API_KEY"}
by_kind = pytest.mark.parametrize("kind", sorted(URLS))


def chats(count: int = 60, first: int = 0) -> bytes:
    rows = [
        {
            "messages": [
                {"role": "system", "content": SYSTEM},
                {"role": "user", "content": row["message"]},
                {"role": "assistant", "content": row["category"]},
            ]
        }
        for row in tickets(first + count)[first:]
    ]
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def pairs(count: int = 40) -> bytes:
    rows = [
        {
            "input": {"messages": [{"role": "user", "content": row["message"]}]},
            "preferred_output": [{"role": "assistant", "content": row["category"]}],
            "non_preferred_output": [{"role": "assistant", "content": "I do not know, sorry"}],
        }
        for row in tickets(count)
    ]
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def jobs(kind: str, method: str, *, held_out: bool = False) -> dict[str, Any]:
    """A finished job as the provider records it."""
    held = "file-1" if held_out else None
    if kind == "openai":
        settings = {"n_epochs": 2, "batch_size": 4, "learning_rate_multiplier": 1.8}
        settings |= {"beta": 0.2} if method == "dpo" else {}
        return {
            "id": "ftjob-9", "object": "fine_tuning.job", "status": "succeeded", "model": "gpt-4.1-mini-2025-04-14",
            "fine_tuned_model": "ft:gpt-4.1-mini:me::9", "training_file": "file-0", "validation_file": held,
            "seed": 42, "trained_tokens": 99, "error": {},
            "method": {"type": method, method: {"hyperparameters": settings}},
        }  # fmt: skip
    if kind == "together":
        dpo = {"method": "dpo", "dpo_beta": 0.2, "dpo_reference_free": False}
        return {
            "id": "ft-9", "status": "completed", "model": "meta-llama/Meta-Llama-3.1-8B-Instruct-Reference",
            "model_output_name": "me/llama-9", "training_file": "file-0", "validation_file": held or "", "n_epochs": 2,
            "batch_size": 4, "learning_rate": 1e-4, "warmup_ratio": 0.1, "max_grad_norm": 1.0, "weight_decay": 0.01,
            "lr_scheduler": {"lr_scheduler_type": "cosine", "lr_scheduler_args": {"min_lr_ratio": 0.0}},
            "training_type": {"type": "Lora", "lora_r": 4, "lora_alpha": 8, "lora_dropout": 0.0,
                              "lora_trainable_modules": "all-linear"},
            "training_method": dpo if method == "dpo" else {"method": "sft", "train_on_inputs": "auto"},
        }  # fmt: skip
    training = {
        "baseModel": "accounts/fireworks/models/llama-v3p1-8b-instruct", "outputModel": "accounts/me/models/m",
        "epochs": 2, "learningRate": 1e-4, "loraRank": 4,
    }  # fmt: skip
    path = "dpoJobs" if method == "dpo" else "supervisedFineTuningJobs"
    common = {
        "name": f"accounts/me/{path}/j9", "state": "JOB_STATE_COMPLETED", "dataset": "accounts/me/datasets/file-0",
        **({"evaluationDataset": "accounts/me/datasets/file-1"} if held else {}),
    }  # fmt: skip
    if method == "dpo":
        return {**common, "trainingConfig": training, "lossConfig": {"method": "DPO", "klBeta": 0.2}}
    return {**common, **training}


def id_of(job: dict[str, Any]) -> str:
    return str(job.get("id") or job["name"].rpartition("/")[2])


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LUTHIER_CACHE", own_cache(tmp_path))
    monkeypatch.setattr(hosted_client, "FIRST_WAIT_S", 0.01)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def provider(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Provider]:
    with providing() as found:
        for kind, variable in URLS.items():
            monkeypatch.setenv(variable, f"{found.root}/v1")
            monkeypatch.setenv(KEYS[kind], KEY)
        monkeypatch.setenv("FIREWORKS_ACCOUNT_ID", "me")
        found.contents["file-0"] = chats()
        yield found


def read(place: Path, name: str = "home") -> tuple[dict[str, Any], str]:
    text = (place / name / "recipe.yaml").read_text()
    loaded: dict[str, Any] = yaml.safe_load(text)
    return loaded, text


@by_kind
@pytest.mark.parametrize("method", ["supervised", "dpo"])
def test_a_job_becomes_a_recipe(kind: str, method: str, provider: Provider, place: Path) -> None:
    job = jobs(kind, method)
    provider.jobs = [job]
    provider.contents["file-0"] = pairs() if method == "dpo" else chats()
    assert run_command(["new", "home", "--from", f"{kind}:{id_of(job)}"]) == 0
    recipe, text = read(place)
    tune, old = recipe["steps"]["tune"], recipe["steps"]["old"]["source"]
    dpo = method == "dpo"
    assert tune["objective"] == ({"kind": "dpo", "beta": 0.2} if dpo else {"kind": "sft", "train_on": "all"})
    assert tune["epochs"] == 2
    assert old["key_env"] == KEYS[kind]
    assert old["model"] == (job.get("fine_tuned_model") or job.get("model_output_name") or "accounts/me/models/m")
    assert recipe["steps"]["report"]["compare_with"] == "old"
    assert (place / "home" / "training.jsonl").read_bytes() == provider.contents["file-0"]
    if kind == "openai":
        assert (recipe["seed"], tune["batch_size"], recipe["model"]) == (42, 4, "qwen3-8b")
        assert "learning_rate" not in tune
        assert "learning_rate_multiplier: 1.8: no counterpart: the provider does not publish" in text
        assert "a choice: an open model of 8.2B; nobody publishes the size of gpt-4.1-mini" in text
    else:
        assert recipe["model"] == "llama-3.1-8b-instruct"
        assert tune["learning_rate"] == 1e-4
        assert tune["technique"]["r"] == 4
    assert "terms" in text
    assert "#   augmenters: [{kind: instruct}]" in text
    assert KEY not in text


@by_kind
def test_validation_rows_are_held_out(kind: str, provider: Provider, place: Path) -> None:
    job = jobs(kind, "supervised", held_out=True)
    provider.jobs, provider.contents["file-1"] = [job], chats(12, 60)
    assert run_command(["new", "home", "--from", f"{kind}:{id_of(job)}"]) == 0
    recipe, _ = read(place)
    assert recipe["steps"]["held_out"]["split"] == {"test": 12, "train": 0}
    assert recipe["steps"]["data"] == {"kind": "mix", "data": ["training", "held_out"]}
    assert (place / "home" / "validation.jsonl").read_bytes() == chats(12, 60)


@pytest.mark.matrix("False")
@pytest.mark.parametrize("held_out", [False, True])
def test_the_recipe_runs_and_compares_with_the_old_model(
    held_out: bool, provider: Provider, place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    tiny_model(place / "tiny")
    provider.jobs, provider.contents["file-1"] = [jobs("openai", "supervised", held_out=held_out)], chats(12, 60)
    assert run_command(["new", "home", "--from", "openai:ftjob-9", "--model", "tiny"]) == 0
    assert run_command(["run", "home/recipe.yaml"]) == 0
    assert run_command(["show", "home/recipe.yaml:report", "--json"]) == 0
    assert '"against"' in capfd.readouterr().out
    assert provider.count("POST /v1/chat/completions") >= 6
    text = (place / "home" / "recipe.yaml").read_text()
    taught = "\n".join(
        f"  {line.removeprefix('  # ')}" if line.startswith(("  # taught", "  #   ")) else line
        for line in text.splitlines()
    )
    (place / "home" / "taught.yaml").write_text(taught)
    assert run_command(["plan", "home/taught.yaml"]) == 0


def test_a_full_tuning_of_together_is_full(provider: Provider, place: Path) -> None:
    job = {**jobs("together", "supervised"), "training_type": {"type": "Full"}, "batch_size": "max"}
    provider.jobs = [job]
    assert run_command(["new", "home", "--from", "together:ft-9"]) == 0
    recipe, text = read(place)
    assert recipe["steps"]["tune"]["technique"] == {"kind": "full"}
    assert "batch_size: max: no counterpart: the provider chose it" in text


ERRORS: list[tuple[dict[str, Any], str]] = [
    ({"status": "running", "fine_tuned_model": None}, "is not done yet"),
    ({"status": "failed", "error": {"message": f"bad rows {KEY}"}}, "failed: bad rows …"),
    ({"status": "cancelled"}, "was cancelled"),
    ({"method": {"type": "reinforcement", "reinforcement": {}}}, "was tuned by reinforcement"),
    ({"training_file": "file-7"}, "the file file-7 of the job is gone"),
    ({"id": "ftjob-8"}, "knows no job 'ftjob-9' of yours"),
]


@pytest.mark.parametrize(("changes", "sentence"), ERRORS)
def test_what_is_missing_is_one_clear_error(
    changes: dict[str, Any], sentence: str, provider: Provider, place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    provider.looks = 10**6
    provider.jobs = [{**jobs("openai", "supervised"), "looks": 0, **changes}]
    assert run_command(["new", "home", "--from", "openai:ftjob-9"]) != 0
    said = capfd.readouterr().err
    assert sentence in said
    assert KEY not in said
    assert not (place / "home").exists()


@pytest.mark.parametrize(
    ("content", "sentence"), [(b"", "is empty"), (b"a,b\n1,2\n", "not one JSON object a line"), (b"[1]\n", "row 1")]
)
def test_files_that_hold_no_rows_are_refused(
    content: bytes, sentence: str, provider: Provider, capfd: pytest.CaptureFixture[str]
) -> None:
    provider.jobs, provider.contents["file-0"] = [jobs("openai", "supervised")], content
    assert run_command(["new", "home", "--from", "openai:ftjob-9"]) != 0
    assert sentence in capfd.readouterr().err


def test_a_key_is_asked_for_before_anything_is_sent(
    provider: Provider, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for variable in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "FIREWORKS_ACCOUNT_ID"):
        monkeypatch.delenv(variable)
    assert run_command(["new", "home", "--from", "openai:ftjob-9"]) != 0
    assert "OPENAI_API_KEY is not set, and https://api.openai.com/v1 wants a key" in capfd.readouterr().err
    assert run_command(["new", "home", "--from", "fireworks:j9"]) != 0
    assert "FIREWORKS_ACCOUNT_ID is not set" in capfd.readouterr().err
    monkeypatch.setenv("OPENAI_BASE_URL", "http://example.com/v1")
    assert run_command(["new", "home", "--from", "openai:ftjob-9"]) != 0
    assert "OPENAI_BASE_URL is not as openai wants it" in capfd.readouterr().err
    for name in ("openai:", "openai:../x"):
        assert run_command(["new", "home", "--from", name]) != 0
        assert "names no job" in capfd.readouterr().err
    assert run_command(["new", "home", "--from", "openai:ftjob-9", "--prompt", "x"]) != 0
    assert run_command(["new", "home", "--from", "openai:ftjob-9", "--without", "dedup"]) != 0
    assert provider.asked == []


def test_what_is_there_is_not_touched(provider: Provider, place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    provider.jobs = [jobs("openai", "supervised")]
    (place / "home").mkdir()
    (place / "home" / "training.jsonl").write_text("mine")
    assert run_command(["new", "home", "--from", "openai:ftjob-9"]) != 0
    assert "it was not touched" in capfd.readouterr().err
    assert (place / "home" / "training.jsonl").read_text() == "mine"


def test_a_busy_provider_is_asked_again(provider: Provider, place: Path) -> None:
    provider.jobs = [jobs("openai", "supervised")]
    provider.faults["GET /v1/fine_tuning/jobs/ftjob-9"] = [Answer({}, 429), Answer(status=None)]
    provider.faults["GET /v1/files/file-0/content"] = [Answer({}, 503), Answer(status=None)]
    assert run_command(["new", "home", "--from", "openai:ftjob-9"]) == 0
    assert (place / "home" / "training.jsonl").read_bytes() == chats()


@pytest.mark.slow
def test_a_job_of_our_own_server_comes_home(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = place / "server"
    server.mkdir()
    tiny_model(server / "tiny-model")
    with command(server, "--tune", "base=./tiny-model", "--no-traces", start=subprocess.Popen) as running:
        client = running.client()
        ids = [
            client.files.create(file=(name, io.BytesIO(rows)), purpose="fine-tune").id
            for name, rows in (("train.jsonl", chats()), ("held.jsonl", chats(10, 60)))
        ]
        job = client.fine_tuning.jobs.create(
            model="base", training_file=ids[0], validation_file=ids[1], seed=5, hyperparameters={"n_epochs": 1}
        )
        while (state := client.fine_tuning.jobs.retrieve(job.id).status) not in ("succeeded", "failed"):
            time.sleep(0.5)
        assert state == "succeeded"
        monkeypatch.setenv("OPENAI_BASE_URL", str(running.told["url"]))
        monkeypatch.delenv("OPENAI_API_KEY", raising=False)
        assert run_command(["new", "home", "--from", f"openai:{job.id}", "--model", "server/tiny-model"]) == 0
        recipe, _ = read(place)
        assert (recipe["seed"], recipe["steps"]["tune"]["epochs"]) == (5, 1)
        assert "key_env" not in recipe["steps"]["old"]["source"]
        assert (place / "home" / "validation.jsonl").read_bytes() == chats(10, 60)
        assert run_command(["run", "home/recipe.yaml"]) == 0
