"""Adapters that a provider hands out: fetched, checked, and used like those that were tuned here."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pytest
import torch
from safetensors.torch import load_file, save

from hosted import KEY, Answer, Provider, providing
from luthier.core.artifact import Artifact
from luthier.core.errors import ModelError
from luthier.core.step import PlanContext
from luthier.models.load import get_model_name, is_adapter, is_endpoint, load_model
from luthier.tune.hosted import client as hosted_client
from luthier.tune.hosted.weights import SETTINGS, WEIGHTS
from luthier.tune.steps.tune import Tune
from luthier.tune.technique import TechniqueBase
from tuning import TuneEnv, make_env

KINDS = ["fireworks", "together"]


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Iterator[Provider]:
    monkeypatch.setattr(hosted_client, "FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(hosted_client, "LONGEST_WAIT_S", 0.02)
    monkeypatch.setenv("PROVIDER_KEY", KEY)
    with providing() as found:
        yield found


@pytest.fixture
def env(tmp_path: Path) -> TuneEnv:
    return make_env(tmp_path)


@pytest.fixture
def tuned(env: TuneEnv) -> Artifact:
    """An adapter of the same model, as a provider would make one."""
    return env.tune(Tune(data="data", technique=TechniqueBase.parse({"kind": "lora", "r": 4}), max_steps=1))


def step(provider: Provider, kind: str, **fields: Any) -> Tune:
    account = {"account": "me"} if kind == "fireworks" else {}
    usual = {"model": "base", "url": f"{provider.root}/v1", "key_env": "PROVIDER_KEY", "upload": True}
    settings = {"kind": kind, **usual, **account, "poll_s": 0.01, "patience_s": 2.0, "weights": True, **fields}
    model = "model" if settings["weights"] else None
    return Tune(data="data", model=model, technique=TechniqueBase.parse(settings))


def pack(adapter: Path, packing: str = "zstd") -> bytes:
    """An archive as Together sends one, with other files in it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz" if packing == "gzip" else "w") as tar:
        for name in (SETTINGS, WEIGHTS):
            tar.add(adapter / name, f"out/{name}")
        for name, kind in (("../../evil.py", tarfile.REGTYPE), (f"x/{SETTINGS}", tarfile.SYMTYPE)):
            member = tarfile.TarInfo(name)
            member.type = kind
            tar.addfile(member, io.BytesIO())
    if packing != "zstd":
        return buffer.getvalue()
    return pyarrow.compress(buffer.getvalue(), codec="zstd", asbytes=True)  # type: ignore[no-any-return]


def serve(provider: Provider, tuned: Artifact, packing: str = "zstd") -> None:
    adapter = tuned.folder / "adapter"
    provider.contents |= {name: (adapter / name).read_bytes() for name in (SETTINGS, WEIGHTS)}
    provider.contents["adapter"] = pack(adapter, packing)


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_is_fetched_and_answers_as_it_did(
    kind: str, provider: Provider, env: TuneEnv, tuned: Artifact
) -> None:
    serve(provider, tuned)
    made = env.tune(step(provider, kind))
    assert is_adapter(made)
    assert not is_endpoint(made)
    assert get_model_name(made).endswith(f"+{kind}")
    ids = torch.arange(1, 9)[None]
    with torch.no_grad():
        one, two = (load_model(model, "float32").model(ids).logits for model in (tuned, made))
    assert torch.equal(one, two)
    assert made.read_json("job.json")["adapter"]
    assert sorted(path.name for path in (made.folder / "adapter").iterdir()) == [SETTINGS, WEIGHTS]
    assert not list(env.store.root.rglob("evil.py"))
    assert KEY not in "".join(event.text + event.details for event in env.heard)


@pytest.mark.parametrize("packing", ["plain", "gzip"])
def test_other_archives_are_read(packing: str, provider: Provider, env: TuneEnv, tuned: Artifact) -> None:
    serve(provider, tuned, packing)
    assert is_adapter(env.tune(step(provider, "together")))


def test_the_job_is_the_same_with_and_without_weights(provider: Provider, env: TuneEnv, tuned: Artifact) -> None:
    serve(provider, tuned)
    assert is_endpoint(env.classify(step(provider, "together", weights=False)))
    env.tune(step(provider, "together"))
    assert len(provider.jobs) == 1


def test_what_an_adapter_needs_is_planned(provider: Provider, env: TuneEnv) -> None:
    with_weights, without = step(provider, "together"), step(provider, "together", weights=False, epochs=1)
    assert "model" in with_weights.inputs()
    plan = PlanContext(inputs={"model": env.base, "data": env.data}, upstream={}, recipe_dir=Path())
    assert not with_weights.outline(plan).remote
    assert with_weights.estimate_cost(plan).tokens
    assert without.technique.outline(plan).remote


BAD: list[tuple[str, Any, str]] = [
    ("nothing", lambda provider: provider.contents.pop(WEIGHTS), "has no adapter_model.safetensors"),
    ("garbage", lambda provider: provider.contents.update({WEIGHTS: b"garbage"}), "is no adapter"),
    ("kind", lambda provider: provider.contents.update({SETTINGS: b'{"peft_type": "IA3"}'}), "of the kind IA3"),
    ("settings", lambda provider: provider.contents.update({SETTINGS: b"[]"}), "adapter_config.json"),
]


@pytest.mark.parametrize(("name", "spoil", "sentence"), BAD)
def test_what_is_no_adapter_is_refused(
    name: str, spoil: Any, sentence: str, provider: Provider, env: TuneEnv, tuned: Artifact
) -> None:
    serve(provider, tuned)
    spoil(provider)
    with pytest.raises(ModelError, match=sentence):
        env.tune(step(provider, "fireworks"))


def test_an_adapter_of_another_model_is_refused(provider: Provider, env: TuneEnv, tuned: Artifact) -> None:
    serve(provider, tuned)
    weights = load_file(tuned.folder / "adapter" / WEIGHTS)
    key = next(one for one in weights if ".lora_A." in one)
    provider.contents[WEIGHTS] = save({**weights, key: torch.zeros(4, 3)})
    with pytest.raises(ModelError, match="the adapter does not fit"):
        env.tune(step(provider, "fireworks"))
    provider.contents[WEIGHTS] = save({key.replace("layers.0", "layers.99"): weights[key]})
    with pytest.raises(ModelError, match=r"which .* does not have"):
        env.tune(step(provider, "fireworks"))
    assert len(provider.jobs) == 1


def test_no_archive_and_other_bytes_are_refused(provider: Provider, env: TuneEnv, tuned: Artifact) -> None:
    serve(provider, tuned)
    provider.contents["adapter"] = b"\x28\xb5\x2f\xfdgarbage"
    with pytest.raises(ModelError, match="is no archive"):
        env.tune(step(provider, "together"))
    provider.contents["adapter"] = pack(tuned.folder / "adapter")[:200]
    with pytest.raises(ModelError, match=r"is no archive|has no adapter"):
        env.tune(step(provider, "together"))
    provider.jobs, provider.files = [], []
    flipped = Answer(provider.contents[WEIGHTS][:-1] + b"x", headers={"x-goog-hash": "md5=AAAAAAAAAAAAAAAAAAAAAA=="})
    provider.faults[f"GET /signed/{WEIGHTS}"] = [flipped] * 2
    assert is_adapter(env.tune(step(provider, "fireworks")))
    assert sum("sent other bytes than its digest says" in text for text in env.said("note")) == 2
