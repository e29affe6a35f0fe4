"""Families of models that read pictures through the one loop: those that are read row by row, and what a plan says."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from luthier.artifacts.media import MediaWriter
from luthier.chat.media import load_processor
from luthier.chat.media_codec import media_of_bytes
from luthier.chat.messages import Example, ExampleOrigin, Media
from luthier.chat.tokenizer import ChatTokenizer
from luthier.core.step import PlanContext
from luthier.core.store import Store
from luthier.eval.media_ablation import EvalMedia
from luthier.models.describe import describe_model_folder
from luthier.models.export.checkpoint import export_model_folder
from luthier.models.lm.base import ChoiceRequest, GenerateRequest
from luthier.models.lm.local import LocalLM
from luthier.tune.steps.tune import Tune
from tuning import TuneEnv, _data, made, preferring, tune_and_resume
from vision_models import ALONE, FAMILIES, shown, tiny_vision_model

QUICK: dict[str, Any] = {"epochs": 2, "batch_size": 4, "learning_rate": 5e-3, "dtype": "float32", "max_grad_norm": 1.0}
LORA = {"kind": "lora", "r": 4}
GRPO = {
    "kind": "grpo",
    "rewards": [{"kind": "regex", "pattern": "e"}],
    "rollout": {"num_generations": 2, "max_completion_length": 3},
}


def coloured(number: int) -> tuple[Media, bytes]:
    """A picture of its own that is mostly red or mostly blue."""
    from PIL import Image

    file, shade = io.BytesIO(), 150 + 5 * number
    Image.new("RGB", (30, 28), (shade, 20, number) if number % 2 else (20, number, shade)).save(file, "PNG")
    return media_of_bytes(file.getvalue()), file.getvalue()


PICTURES = [coloured(number) for number in range(4)]


def rows() -> list[Example]:
    """Two questions about each picture, and rows of text alone between them."""
    found: list[Example] = []
    for number, (media, _) in enumerate(PICTURES):
        name = "red" if number % 2 else "blue"
        for question in ("what colour is it?", "and now, which one?"):
            found.append(_example(shown(question, media, answer=name), len(found), name))
        if number % 2 == 0:
            found.append(_example(shown("is it a word?", answer="red"), len(found), "red"))
    return found


def _example(messages: Any, number: int, label: str) -> Example:
    origin = ExampleOrigin(source="test", file="test.jsonl", line=number + 1)
    return Example(id=f"{number:016x}", origin=origin, kind="label", messages=messages, label=label)


def put_data(env: TuneEnv, name: str, examples: list[Example]) -> Any:
    def write(folder: Path) -> None:
        _data(folder, {"train": examples, "test": examples[:4]})
        summary = json.loads((folder / "summary.json").read_text())
        labels = ["blue", "red"] if all(row.label for row in examples) else []
        (folder / "summary.json").write_text(json.dumps({**summary, "labels": labels}))
        with MediaWriter(folder) as writer:
            for media, content in PICTURES:
                writer.add(media, content)

    return made(env.store, name, "dataset", write)


@pytest.fixture
def bench_of(tmp_path: Path) -> Callable[[str], TuneEnv]:
    def build(family: str) -> TuneEnv:
        store = Store(tmp_path / "store")

        def base(folder: Path) -> None:
            tiny_vision_model(folder, family)
            (folder / "model.json").write_text(json.dumps({"name": "tiny"}))

        found = TuneEnv(store, made(store, "base", "model", base), None, [])  # type: ignore[arg-type]
        found.data = put_data(found, "prepare", rows())
        return found

    return build


def plan(env: TuneEnv, step: Tune) -> Any:
    inputs = {"data": env.data, "model": env.base}
    return step.estimate_cost(PlanContext(inputs=inputs, upstream={}, recipe_dir=env.base.folder))


@pytest.mark.matrix("full-mllama", "lora-paligemma")
@pytest.mark.parametrize("family", ALONE)
@pytest.mark.parametrize("technique", [LORA, {"kind": "full"}], ids=["lora", "full"])
def test_what_is_read_alone_ends_in_the_same_bytes(
    bench_of: Callable[[str], TuneEnv], family: str, technique: dict[str, Any]
) -> None:
    env = bench_of(family)
    step = Tune(data="data", technique=technique, save_steps=2, **QUICK)
    whole, again = tune_and_resume(env, step)
    assert whole == again
    assert "adapter/adapter_model.safetensors" in whole or "processor_config.json" in whole
    assert any("rows with pictures are read one by one, as" in text for text in env.said("note"))
    assert "rows with pictures are read one by one, as" in plan(env, step).how


@pytest.mark.matrix("paligemma")
@pytest.mark.parametrize("family", ALONE)
def test_what_is_read_alone_learns_from_its_pictures(bench_of: Callable[[str], TuneEnv], family: str) -> None:
    env = bench_of(family)
    settings = {**QUICK, "epochs": 20, "learning_rate": 1e-2}
    model = env.tune(Tune(data="data", technique={"kind": "full"}, **settings))
    lm = LocalLM(model, "float32", read_media=EvalMedia(env.data).read)
    questions = [row for row in rows() if row.messages[0].media]
    requests = [ChoiceRequest(prompt=row.messages[:1], options=("red", "blue")) for row in questions]
    assert [found.index for found in lm.choose(requests)] == [int(row.label == "blue") for row in questions]
    written = lm.generate([GenerateRequest(prompt=row.messages[:1], max_tokens=6) for row in questions])
    assert [found.text for found in written] == [row.label for row in questions]


@pytest.mark.matrix("mllama-objective2", "paligemma-objective3", "mllama-dpo")
@pytest.mark.parametrize("objective", ["dpo", {"kind": "classify", "head": "sequence"}, GRPO, {"kind": "reward"}])
@pytest.mark.parametrize("family", ALONE)
def test_objectives_read_rows_alone(bench_of: Callable[[str], TuneEnv], family: str, objective: Any) -> None:
    env = bench_of(family)
    if objective in ("dpo", {"kind": "reward"}):
        pairs = [preferring(row, "blue" if row.label == "red" else "red") for row in rows()]
        env.data = put_data(env, "pairs", [pair.model_copy(update={"label": None}) for pair in pairs])
    made_of = env.tune(Tune(data="data", technique=LORA, objective=objective, **{**QUICK, "epochs": 1}))
    assert (made_of.folder / "adapter" / "adapter_model.safetensors").is_file()


@pytest.mark.matrix("qwen3_omni", "gemma3", "idefics3", "qwen3_vl_moe", "llava", "mllama", "paligemma")
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")
@pytest.mark.filterwarnings("ignore:The following .*_pattern keys:RuntimeWarning")  # PEFT's own, of mixtures
@pytest.mark.parametrize("family", [*FAMILIES, *ALONE])
def test_an_adapter_of_each_family_loads_in_plain_peft(
    bench_of: Callable[[str], TuneEnv], family: str, tmp_path: Path
) -> None:
    """With its projector; merged, it opens in plain transformers, with its processor and a card."""
    from peft import PeftModel
    from safetensors.torch import load_file
    from transformers import AutoModelForImageTextToText

    env = bench_of(family)
    model = env.tune(Tune(data="data", technique=LORA, **{**QUICK, "epochs": 1}))
    plain = AutoModelForImageTextToText.from_pretrained(env.base.folder, dtype=torch.float32)
    adapted = PeftModel.from_pretrained(plain, model.folder / "adapter").eval()
    saved = load_file(model.folder / "adapter" / "adapter_model.safetensors")
    own = {
        name.replace(".modules_to_save.default", "").replace(".default", ""): value
        for name, value in adapted.named_parameters()
        if ".original_module." not in name
    }
    assert set(saved) <= set(own)
    assert all(torch.equal(value, own[key]) for key, value in saved.items())
    settings = json.loads((model.folder / "adapter" / "adapter_config.json").read_text())
    assert settings["modules_to_save"]
    export_model_folder(model, tmp_path / "out", "merged")
    merged = AutoModelForImageTextToText.from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
    with torch.no_grad():
        ids = torch.tensor([[5, 6, 7, 8, 9]])
        torch.testing.assert_close(merged(input_ids=ids).logits, adapted(input_ids=ids).logits, atol=1e-4, rtol=1e-4)
    assert type(load_processor(tmp_path / "out")).__name__ == type(load_processor(env.base.folder)).__name__
    assert "README.md" in {path.name for path in (tmp_path / "out").iterdir()}


@pytest.mark.parametrize("family", [*FAMILIES, *ALONE])
def test_a_plan_counts_the_tokens_of_rows_with_pictures(bench_of: Callable[[str], TuneEnv], family: str) -> None:
    env = bench_of(family)
    step = Tune(data="data", technique=LORA, **QUICK)
    text = ChatTokenizer.load(env.base.folder)
    read = sum(len(text.encode(row.messages).ids) for row in rows())
    assert plan(env, step).tokens == pytest.approx(QUICK["epochs"] * read, rel=0.15)


@pytest.mark.parametrize("family", [*FAMILIES, *ALONE])
def test_each_part_is_described(tmp_path: Path, family: str) -> None:
    parts = describe_model_folder(tiny_vision_model(tmp_path, family)).parts
    assert set(parts) - {"audio"} == {"language", "projector", "vision"}
    assert all(parts.values())
