"""Adapters over one base share it: each writes what it writes alone, and comes and goes unnoticed by the others."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file, save_file

from luthier.chat.messages import Message
from luthier.core.artifact import Artifact
from luthier.core.errors import ModelError
from luthier.core.hashing import digest_of
from luthier.models.generation.engine import ContinuousBatchingDecoder
from luthier.models.load import ADAPTER
from luthier.models.multi_lora import can_share_base
from luthier.serve import engine_loop, label_engine
from luthier.serve.engine import ModelRunner
from luthier.serve.engines.label import LabelEngine
from luthier.serve.engines.torch import TorchEngine
from luthier.serve.openai.protocol import ModelUnavailableError
from luthier.serve.request import AggregatedOutput, EngineRequest
from luthier.tune.objectives.sft import Sft
from luthier.tune.steps.tune import Tune
from luthier.tune.techniques.adapter import BottleneckAdapter
from luthier.tune.techniques.full import FullFineTuning
from luthier.tune.techniques.lora import Lora
from luthier.tune.techniques.qlora import Qlora
from serving import serving
from tuning import TuneEnv, examples, finish, make_env

ENGINE = TorchEngine(dtype="float32")
WORDS = ["Where is the parcel?", "I lost my password", "Refund me", "The courier never came"]


class SharedBases(NamedTuple):
    """A base and what was tuned from it."""

    tuning: TuneEnv
    base: Artifact
    one: Artifact
    other: Artifact
    dora: Artifact
    packed: Artifact
    whole: Artifact
    bottleneck: Artifact
    twice: Artifact
    """An adapter over the adapter `one`."""


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> SharedBases:
    place = make_env(tmp_path_factory.mktemp("shared"), examples(16))

    def tuned(technique: Any, model: Artifact | None = None, rate: float = 3e-2) -> Artifact:
        step = Tune(
            data="data", technique=technique, objective=Sft(), batch_size=8, learning_rate=rate, epochs=2,
            dtype="float32",
        )  # fmt: skip
        return place.tune(step, model=model, seed=3 if model is None else 4)

    one = tuned(Lora(r=4))
    other = tuned(Lora(r=8, target_modules=["q_proj", "down_proj"], init_lora_weights="gaussian"), rate=9e-2)
    return SharedBases(
        place, place.base, one, other, dora=tuned(Lora(r=2, use_dora=True)), packed=tuned(Qlora(r=2, group=16)),
        whole=tuned(FullFineTuning()), bottleneck=tuned(BottleneckAdapter(size=2)), twice=tuned(Lora(r=4), model=one),
    )  # fmt: skip


@pytest.fixture(autouse=True)
def _nothing_stays() -> Iterator[None]:
    before = engine_loop._OPEN.standing(), writers()
    yield
    assert (engine_loop._OPEN.standing(), writers()) == before


def writers() -> set[threading.Thread]:
    return {one for one in threading.enumerate() if one.name == "luthier-writer"}


def query(words: str, tokens: int = 12) -> EngineRequest:
    return EngineRequest(
        messages=(Message(role="user", content=words),), max_tokens=tokens, logprobs=True, top_logprobs=2
    )


async def answered(model: ModelRunner, words: str, tokens: int = 12) -> AggregatedOutput:
    found = AggregatedOutput()
    async for piece in model.answer(query(words, tokens)):
        found.add(piece)
    return found


def told(found: AggregatedOutput) -> Any:
    """Every byte of an answer and every bit of its probabilities."""
    return [(one.chosen, one.top) for one in found.tokens], found.text, found.finish


def alone(artifact: Artifact, tokens: int = 12) -> list[Any]:
    """What a model answers that is opened with a base of its own."""

    async def run() -> list[Any]:
        found = [told(await answered(model, words, tokens)) for words in WORDS]
        await model.close()
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("luthier.models.multi_lora.can_share_base", lambda model: False)
        model = ENGINE.open(artifact)
    assert model._standing.adapter is None  # type: ignore[attr-defined]
    return asyncio.run(run())


def base_of(model: ModelRunner) -> Any:
    return model._standing.base  # type: ignore[attr-defined]


def close(*models: ModelRunner) -> None:
    async def run() -> None:
        for model in models:
            await model.close()

    asyncio.run(run())


def test_adapters_over_one_base_write_what_each_writes_alone(env: SharedBases) -> None:
    artifacts = [env.base, env.one, env.other]
    wanted = [alone(one) for one in artifacts]
    assert len({str(one) for one in wanted}) == 3, "the adapters say something of their own"
    models = [ENGINE.open(one) for one in artifacts]
    assert len({id(base_of(one)) for one in models}) == 1
    assert [one.digest for one in models] == [one.digest for one in artifacts]

    async def run() -> list[Any]:
        return await asyncio.gather(*(answered(model, words) for words in WORDS for model in models))

    found = [told(one) for one in asyncio.run(run())]
    assert [found[at::3] for at in range(3)] == wanted
    close(*models)


@pytest.mark.matrix("order1")
@pytest.mark.parametrize("order", [(0, 1, 2), (1, 2, 0), (2, 0, 1)])
def test_they_come_and_go_in_any_order(env: SharedBases, order: tuple[int, ...]) -> None:
    artifacts = [[env.base, env.one, env.other][at] for at in order]
    wanted = {one.digest: alone(one) for one in artifacts}
    models: list[ModelRunner] = []

    async def check() -> None:
        for model in models:
            assert [told(await answered(model, words)) for words in WORDS] == wanted[model.digest]

    for artifact in artifacts:
        models.append(ENGINE.open(artifact))
        asyncio.run(check())
    while models:
        close(models.pop(0))
        asyncio.run(check())


def test_who_is_being_answered_notices_nobody(env: SharedBases, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = {one.digest: alone(one, 60)[0] for one in (env.base, env.one)}
    steps, once = threading.Semaphore(8), ContinuousBatchingDecoder.step
    monkeypatch.setattr(ContinuousBatchingDecoder, "step", lambda self: (steps.acquire(), once(self))[1])
    base, one = ENGINE.open(env.base), ENGINE.open(env.one)
    writer = base_of(base).writer

    async def between_steps(work: Any) -> Any:
        """Let a step end whenever something waits for it."""
        task = asyncio.ensure_future(work)
        while not task.done():
            if writer._works:
                steps.release()
            await asyncio.sleep(0.02)
        return await task

    async def run() -> None:
        long = [asyncio.ensure_future(answered(model, WORDS[0], 60)) for model in (base, one)]
        for _ in range(3):  # an adapter comes, and goes again, in the middle of both answers
            late = await between_steps(asyncio.to_thread(ENGINE.open, env.other))
            await between_steps(late.close())
        steps.release(1000)
        assert [told(await task) for task in long] == [wanted[env.base.digest], wanted[env.one.digest]]
        await base.close()
        await one.close()

    asyncio.run(run())


def test_who_is_answered_by_what_is_closed_hears_so(env: SharedBases, monkeypatch: pytest.MonkeyPatch) -> None:
    free, once = threading.Event(), ContinuousBatchingDecoder.step
    monkeypatch.setattr(ContinuousBatchingDecoder, "step", lambda self: (free.wait(0.02), once(self))[1])
    base, one = ENGINE.open(env.base), ENGINE.open(env.one)

    async def run() -> None:
        kept, cut = (asyncio.ensure_future(answered(model, WORDS[0], 40)) for model in (base, one))
        while base.running + one.running < 2:
            await asyncio.sleep(0.01)
        assert (base.running, one.running, base.waiting) == (1, 1, 0), "each counts its own"
        await one.close()
        free.set()
        with pytest.raises(ModelUnavailableError, match="closed"):
            await cut
        with pytest.raises(ModelUnavailableError, match="closed"):
            await answered(one, WORDS[0])
        await one.close()  # once more does nothing
        assert len((await kept).tokens) == 40 or (await kept).finish == "stop"
        await base.close()

    asyncio.run(run())


def test_the_base_is_in_memory_once(env: SharedBases) -> None:
    models = [ENGINE.open(one) for one in (env.one, env.other, env.base)]
    model = base_of(models[0])._model
    names = {name.rpartition("lora_")[0] for name, _ in model.named_parameters() if "lora_" in name}
    weights = [one for name, one in model.named_parameters() if "lora_" not in name]
    plain = load_file(env.base.folder / "model.safetensors")
    assert names
    assert sum(one.numel() for one in weights) == sum(one.numel() for one in plain.values())
    adapters = [load_file(one.folder / ADAPTER / "adapter_model.safetensors") for one in (env.one, env.other)]
    learnt = sum(one.numel() for name, one in model.named_parameters() if "lora_" in name)
    assert learnt == sum(one.numel() for found in adapters for one in found.values())
    close(models[1])
    left = sum(one.numel() for name, one in model.named_parameters() if "lora_" in name)
    assert left == sum(one.numel() for one in adapters[0].values())
    close(models[0])
    after = base_of(models[2])._model
    assert not [name for name, _ in after.named_parameters() if "lora_" in name]
    assert not hasattr(after, "peft_config")
    close(models[2])


def test_only_plain_lora_shares(env: SharedBases) -> None:
    assert [can_share_base(one) for one in (env.base, env.one, env.other, env.whole, env.twice)] == [True] * 5
    assert not any(can_share_base(one) for one in (env.dora, env.packed, env.bottleneck))
    first = ENGINE.open(env.base)
    for artifact in (env.dora, env.packed, env.bottleneck, env.whole, env.twice):
        wanted, model = alone(artifact), ENGINE.open(artifact)
        assert base_of(model) is not base_of(first)
        assert [told(asyncio.run(answered(model, words))) for words in WORDS] == wanted
        close(model)
    close(first)


def test_a_base_is_the_same_by_whatever_name_it_came(env: SharedBases) -> None:
    store, digest = env.tuning.store, digest_of(["another name"])
    folder, _ = store.begin(digest)
    shutil.copytree(env.base.folder, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("manifest.json"))
    (folder / "model.json").write_text('{"name": "another"}')
    again = finish(store, digest, "base", "model", {})
    wanted = [alone(one) for one in (again, env.one)]
    models = [ENGINE.open(one) for one in (again, env.one)]
    assert base_of(models[0]) is base_of(models[1])
    assert [[told(asyncio.run(answered(one, words))) for words in WORDS] for one in models] == wanted
    close(*models)


def test_models_share_only_where_their_settings_agree(env: SharedBases) -> None:
    engines = [ENGINE, TorchEngine(dtype="float32", temperature=0.5), TorchEngine(dtype="float32", max_num_seqs=2)]
    first, same, apart = (engine.open(env.base) for engine in engines)
    assert base_of(first) is base_of(same)
    assert base_of(first) is not base_of(apart)
    close(first, same, apart)


def spoilt(env: SharedBases, wrong: str, digest: str) -> Artifact:
    """An adapter whose last weight is missing, or has another shape."""
    store = env.tuning.store
    folder, _ = store.begin(digest)
    for name in (f"{ADAPTER}/adapter_config.json", "training.json"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(env.one.folder / name, folder / name)
    weights = load_file(env.one.folder / ADAPTER / "adapter_model.safetensors")
    last = sorted(weights)[-1]
    del weights[last]
    if wrong == "shape":
        weights[last] = torch.zeros(3, 3)
    save_file(weights, folder / ADAPTER / "adapter_model.safetensors")
    return finish(store, digest, "tune", "model", dict(env.one.manifest.inputs))


@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize("wrong", ["shape", "missing"])
def test_an_adapter_that_does_not_fit_changes_nothing(env: SharedBases, beside: bool, wrong: str) -> None:
    broken = spoilt(env, wrong, digest_of([beside, wrong]))
    kept = [ENGINE.open(one) for one in [env.base, env.other][: 1 + beside]]
    with pytest.raises(ModelError, match="does not fit its base model"):
        ENGINE.open(broken)
    for model, artifact in zip(kept, [env.base, env.other], strict=False):
        assert [told(asyncio.run(answered(model, words))) for words in WORDS] == alone(artifact)
    close(*kept)
    with pytest.raises(ModelError, match="does not fit its base model"):
        ENGINE.open(broken)


def test_a_gateway_lists_each(env: SharedBases, tmp_path: Path) -> None:
    artifacts = {"base": env.base, "one": env.one, "other": env.other}

    def opening(artifact: Artifact) -> Callable[[], ModelRunner]:
        return lambda: ENGINE.open(artifact)

    models = {name: opening(artifact) for name, artifact in artifacts.items()}
    before = len(engine_loop._OPEN.standing())
    with serving(models, tmp_path / "ledger.db") as served:
        assert [one.id for one in served.client().models.list()] == list(artifacts)
        for name, artifact in artifacts.items():
            said = served.client().chat.completions.create(
                model=name, messages=[{"role": "user", "content": WORDS[0]}], max_tokens=12
            )
            assert said.choices[0].message.content == alone(artifact)[0][1]
        assert len(engine_loop._OPEN.standing()) == before + 1
        metrics = served.get("/metrics").text
        assert all(f'model="{name}"' in metrics for name in artifacts)


CLASSES = LabelEngine(dtype="float32", calibrate=0)


def scored(models: list[ModelRunner]) -> list[Any]:
    """The probabilities of each of several classifiers, all of them asked at once: who is read together, time decides,
    and with it the last bits."""

    async def one(model: ModelRunner, words: str) -> Any:
        found = AggregatedOutput()
        async for piece in model.answer(EngineRequest(messages=(Message(role="user", content=words),))):
            found.add(piece)
        assert found.scores is not None
        return list(found.scores.values())

    async def run() -> list[Any]:
        asked = await asyncio.gather(*(one(model, words) for words in WORDS for model in models))
        each = (asked[at :: len(models)] for at in range(len(models)))
        return [[share for shares in answers for share in shares] for answers in each]

    return asyncio.run(run())


def standing() -> dict[Any, int]:
    """How many models stand on each open base; tests before this one may have left some open."""
    return dict(label_engine._OPEN.standing())


def alike(found: list[Any], wanted: list[Any]) -> bool:
    return all(one == pytest.approx(other, abs=1e-5) for one, other in zip(found, wanted, strict=True))


def test_classifiers_over_one_base_share_it(env: SharedBases) -> None:
    before = standing()
    kinds = [env.one, env.other, env.dora]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("luthier.models.multi_lora.can_share_base", lambda model: False)
        apart = [CLASSES.open(artifact) for artifact in kinds]
    wanted = scored(apart)
    for model in apart:
        asyncio.run(model.close())
    assert not alike(wanted[:1], wanted[1:2])

    models = [CLASSES.open(artifact) for artifact in kinds]
    bases = [model._judge._reader.base for model in models]  # type: ignore[attr-defined]
    assert bases[0] is bases[1]
    assert bases[0] is not bases[2], "DoRA is no plain LoRA"
    assert sum(standing().values()) == sum(before.values()) + 2
    assert alike(scored(models), wanted)
    asyncio.run(models[0].close())
    asyncio.run(models[0].close())
    assert alike(scored(models[1:]), wanted[1:]), "the others stay when one goes"
    back = CLASSES.open(env.one)
    assert alike(scored([back]), wanted[:1])
    for model in (models[1], models[2], back):
        asyncio.run(model.close())
    assert standing() == before


def test_a_classifier_that_cannot_be_opened_leaves_no_base(env: SharedBases, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise ModelError("no")

    before = standing()
    for place in ("luthier.models.multi_lora.add_adapter", "luthier.serve.engines.label._fitted"):
        with monkeypatch.context() as patch:
            patch.setattr(place, broken)
            with pytest.raises(ModelError):
                CLASSES.open(env.one)
        assert standing() == before
