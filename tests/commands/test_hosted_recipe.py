"""A recipe whose model a provider tunes: planned, run, evaluated, gated, watched and served like any other; once by a
provider on this machine, once by `luthier serve --tune` itself."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path

import pytest

from hosted import KEY, Provider, providing
from luthier.cli.app import run_command
from luthier.tune.hosted import client as hosted_client
from tests import ready
from tests.commanded import command
from tests.tiny_models import own_cache, tickets, tiny_model, write_csv

RECIPE = """\
name: hosted
steps:
  data: {{kind: prepare, source: {{kind: csv, path: tickets.csv}}, task: label, split: {{test: 0.2}}}}
  tune:
    kind: tune
    data: data
    technique: {{kind: openai, model: base, url: "{url}/v1", key_env: {key}, epochs: 1, poll_s: 0.1, upload: {upload}}}
  report: {{kind: evaluate, data: data, model: tune}}
  verdict: {{kind: gate, evaluation: report, rules: ["accuracy >= 0"]}}
  watch: {{kind: monitor, data: data, evaluation: report}}
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LUTHIER_CACHE", own_cache(tmp_path))
    monkeypatch.setenv("PROVIDER_KEY", KEY)
    monkeypatch.setattr(hosted_client, "FIRST_WAIT_S", 0.05)
    monkeypatch.chdir(tmp_path)
    write_csv(tmp_path / "tickets.csv", tickets(60))
    return tmp_path


def write(place: Path, url: str, key: str = "PROVIDER_KEY", upload: str = "true") -> None:
    (place / "recipe.yaml").write_text(RECIPE.format(url=url, key=key, upload=upload))


def test_every_later_step_works_unchanged(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with providing() as provider:
        write(place, provider.root, upload="false")
        assert run_command(["plan", "recipe.yaml"]) != 0
        assert "would be sent to" in capfd.readouterr().err
        write(place, provider.root)
        assert run_command(["plan", "recipe.yaml"]) == 0
        assert not provider.asked
        assert run_command(["run", "recipe.yaml"]) == 0
        assert run_command(["show", "recipe.yaml:tune"]) == 0
        assert run_command(["run", "recipe.yaml"]) == 0
        assert len(provider.jobs) == 1
        _serve(place, provider)
    said = capfd.readouterr()
    assert KEY not in said.out + said.err
    for path in place.rglob("*"):
        if path.is_file() and "traffic" not in path.parts:
            assert KEY.encode() not in path.read_bytes(), path


def _serve(place: Path, provider: Provider) -> None:
    with command(place, "recipe.yaml:tune", start=ready.Popen) as running:
        client = running.client()
        [model] = client.models.list().data
        asked = client.chat.completions.create(model=model.id, messages=[{"role": "user", "content": "My invoice"}])
        assert asked.choices[0].message.content == "billing"
    assert provider.count("POST /v1/chat/completions") > 1


WEIGHTS = """\
name: fetched
model: ./tiny
steps:
  data: {{kind: prepare, source: {{kind: csv, path: tickets.csv}}, task: label, split: {{test: 0.2}}}}
  tune: {{kind: tune, data: data, {more}}}
  report: {{kind: evaluate, data: data, model: tune, tasks: []}}
  verdict: {{kind: gate, evaluation: report, rules: ["accuracy >= 0"]}}
"""


def test_fetched_weights_are_evaluated_gated_and_served_here(place: Path) -> None:
    tiny_model(place / "tiny")
    (place / "recipe.yaml").write_text(WEIGHTS.format(more="technique: {kind: lora, r: 4}, max_steps: 1"))
    assert run_command(["run", "recipe.yaml", "--only", "tune"]) == 0
    [adapter] = place.rglob("adapter")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for path in adapter.iterdir():
            tar.add(path, path.name)
    with providing() as provider:
        provider.contents["adapter"] = buffer.getvalue()
        told = f"kind: together, model: base, url: '{provider.root}/v1', key_env: PROVIDER_KEY, poll_s: 0.1"
        more = f"technique: {{{told}, epochs: 1, upload: true, weights: true}}"
        (place / "recipe.yaml").write_text(WEIGHTS.format(more=more))
        assert run_command(["run", "recipe.yaml"]) == 0
        assert provider.count("POST /v1/chat/completions") == 0
    with command(place, "recipe.yaml:tune", start=ready.Popen) as running:
        client = running.client()
        [model] = client.models.list().data
        messages = [{"role": "user", "content": "My invoice"}]
        assert client.chat.completions.create(model=model.id, messages=messages, max_tokens=3).choices


@pytest.mark.slow
def test_our_own_server_is_a_provider(place: Path) -> None:
    server = place / "server"
    server.mkdir()
    tiny_model(server / "tiny-model")
    with command(server, "--tune", "base=./tiny-model", "--no-traces", start=subprocess.Popen) as running:
        write(place, str(running.told["url"]).removesuffix("/v1"), key="null")
        assert run_command(["run", "recipe.yaml", "--only", "report"]) == 0
        [job] = running.client().fine_tuning.jobs.list().data
        assert job.status == "succeeded"
        assert (job.metadata or {})["luthier"]
