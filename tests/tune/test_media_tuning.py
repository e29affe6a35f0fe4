"""Rows with pictures through the one loop: techniques and objectives, resumed to the same bytes, as PEFT reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from luthier.artifacts.media import MediaReader, MediaWriter
from luthier.artifacts.training import TrainingRecord
from luthier.chat.media import MediaProcessor, load_processor
from luthier.chat.media_codec import decode_image
from luthier.chat.messages import MEDIA_MARK, Example, ExampleOrigin, Media, Message
from luthier.core.errors import RecipeError
from luthier.core.store import Store
from luthier.eval.local_model import InferenceSettings, LocalEvalModel
from luthier.eval.media_ablation import BLIND, BlindEvalModel, EvalMedia
from luthier.models.lm.base import ChoiceRequest, GenerateRequest
from luthier.models.lm.local import LocalLM
from luthier.models.shapes import find_part
from luthier.tune.steps.tune import Tune
from luthier.tune.techniques.lora import Lora
from tuning import TuneEnv, _data, made, preferring, tune_and_resume
from vision_models import shown, tiny_vision_model

QUICK: dict[str, Any] = {"epochs": 2, "batch_size": 4, "learning_rate": 5e-3, "dtype": "float32", "max_grad_norm": 1.0}
TOWERS = {"kind": "layers", "last": 0, "names": ["*vision_tower.encoder*", "*multi_modal_projector*"]}
LORA = {"kind": "lora", "r": 4}
GRPO = {
    "kind": "grpo",
    "rewards": [{"kind": "regex", "pattern": "e"}],
    "rollout": {"num_generations": 2, "max_completion_length": 3},
}


def coloured(number: int) -> tuple[Media, bytes]:
    """A picture of its own that is mostly red or mostly blue."""
    import io

    from PIL import Image

    from luthier.chat.media_codec import media_of_bytes

    file = io.BytesIO()
    shade = 150 + 5 * number
    Image.new("RGB", (30, 28), (shade, 20, number) if number % 2 else (20, number, shade)).save(file, "PNG")
    return media_of_bytes(file.getvalue()), file.getvalue()


PICTURES = [coloured(number) for number in range(6)]


def rows() -> list[Example]:
    """Two questions about each picture, and rows of text alone between them."""
    found = []
    for number, (media, _) in enumerate(PICTURES):
        name = "red" if number % 2 else "blue"
        for question in ("what colour is it?", "and now, which one?"):
            messages = shown(question, media, answer=name)
            found.append(_example(messages, len(found), name))
        if number % 4 == 0:
            found.append(_example(shown("is it a word?", answer="red"), len(found), "red"))
    return found


def _example(messages: tuple[Message, ...], number: int, label: str) -> Example:
    origin = ExampleOrigin(source="test", file="test.jsonl", line=number + 1)
    return Example(id=f"{number:016x}", origin=origin, kind="label", messages=messages, label=label)


@pytest.fixture
def env(tmp_path: Path) -> TuneEnv:
    store = Store(tmp_path / "store")

    def base(folder: Path) -> None:
        tiny_vision_model(folder)
        (folder / "model.json").write_text(json.dumps({"name": "tiny"}))

    def data(folder: Path) -> None:
        _data(folder, {"train": rows(), "test": rows()[:8]})
        summary = json.loads((folder / "summary.json").read_text())
        (folder / "summary.json").write_text(json.dumps({**summary, "labels": ["blue", "red"]}))
        with MediaWriter(folder) as writer:
            for media, content in PICTURES:
                writer.add(media, content)

    return TuneEnv(store, made(store, "base", "model", base), made(store, "prepare", "dataset", data), [])


@pytest.mark.matrix("lora")
@pytest.mark.parametrize("technique", [LORA, TOWERS, {"kind": "full"}], ids=["lora", "towers", "full"])
def test_killed_it_ends_in_the_same_bytes(env: TuneEnv, technique: dict[str, Any]) -> None:
    whole, again = tune_and_resume(env, Tune(data="data", technique=technique, save_steps=2, **QUICK))
    assert whole == again
    assert "adapter/adapter_model.safetensors" in whole or "processor_config.json" in whole


@pytest.mark.matrix("1")
@pytest.mark.parametrize("parts", [1, 2])
def test_what_tells_the_pictures_apart_is_learnt(env: TuneEnv, parts: int) -> None:
    """Colours are learnt, which the text does not tell; grey pictures are answered by chance."""
    settings = {**QUICK, "epochs": 10, "learning_rate": 1e-2, "parts": parts}
    model = env.tune(Tune(data="data", technique={"kind": "full"}, **settings))
    read, questions = EvalMedia(env.data), [row for row in rows() if row.messages[0].media]
    lm = LocalLM(model, "float32", read_media=read.read)
    requests = [ChoiceRequest(prompt=row.messages[:1], options=("red", "blue")) for row in questions]
    chosen = [response.index for response in lm.choose(requests)]
    assert chosen == [int(row.label == "blue") for row in questions]
    written = lm.generate([GenerateRequest(prompt=row.messages[:1], max_tokens=6) for row in questions])
    assert [response.text for response in written] == [row.label for row in questions]


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")
def test_adapters_load_in_plain_peft(env: TuneEnv) -> None:
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText

    model = env.tune(Tune(data="data", technique=LORA, **QUICK))
    plain = AutoModelForImageTextToText.from_pretrained(env.base.folder, dtype=torch.float32)
    adapted = PeftModel.from_pretrained(plain, model.folder / "adapter").eval()
    settings = json.loads((model.folder / "adapter" / "adapter_config.json").read_text())
    assert settings["modules_to_save"] == ["multi_modal_projector"]
    processor, reader = load_processor(env.base.folder), MediaReader(env.data)
    lm = LocalLM(model, "float32", read_media=reader.read)
    messages = rows()[0].messages[:1]
    turn = {"role": "user", "content": [{"type": "image", "image": decode_image(reader.read(PICTURES[0][0].digest))}]}
    turn["content"] += [{"type": "text", "text": messages[0].content.replace(MEDIA_MARK, "")}]
    inputs = processor.apply_chat_template(
        [turn], tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
    )
    with torch.no_grad():
        logits = adapted(**inputs).logits[0, -1].log_softmax(-1)
    first, _ = lm.text.options(messages, ["red"])[1][0][0], None
    from luthier.models.generate import compute_loglikelihoods

    found = compute_loglikelihoods(lm.loaded.model, [(lm.text.prompt(messages), [first])])[0].logprob
    assert abs(found - float(logits[first])) < 1e-4


@pytest.mark.parametrize("objective", ["dpo", {"kind": "classify"}, {"kind": "classify", "head": "label"}, GRPO])
def test_every_objective_reads_pictures(env: TuneEnv, objective: Any, tmp_path: Path) -> None:
    kind = objective if isinstance(objective, str) else objective["kind"]
    if kind == "dpo":
        pairs = [preferring(row, "blue" if row.label == "red" else "red") for row in rows()]
        pairs = [pair.model_copy(update={"label": None}) for pair in pairs]

        def data(folder: Path) -> None:
            _data(folder, {"train": pairs})
            with MediaWriter(folder) as writer:
                for media, content in PICTURES:
                    writer.add(media, content)

        env.data = made(Store(tmp_path / "store"), "pairs", "dataset", data)
    model = env.tune(Tune(data="data", objective=objective, technique=LORA, **{**QUICK, "epochs": 1}))
    assert TrainingRecord.read(model).trainable_parameters > 0


def test_a_blind_model_is_shown_grey(env: TuneEnv) -> None:
    media = EvalMedia(env.data)
    question = InferenceSettings(normalize="sum", max_new_tokens=4, dtype="float32", likelihood=False)
    model = LocalEvalModel.of(env.base, question, name="base", title="the base", read_media=media.read)
    blind = BlindEvalModel(model, media)
    assert blind.name == BLIND
    assert blind.digest != model.digest
    from luthier.eval.task import read_held_out_task

    task = read_held_out_task(env.data, "test", None, pairs=False)
    seen, unseen = model.answer(task.examples, task), blind.answer(task.examples, task)
    scores = [[reply.scores for reply in replies] for replies in (seen, unseen)]
    assert len({json.dumps(one) for one in (scores[1][0], scores[1][3])}) == 1, "all pictures look alike to it"
    assert scores[0] != scores[1]


RANKED = [({"kind": "lora", "r": 4, "on": ["language", "projector", "vision"]}, 2), (LORA, 2), (TOWERS, 4)]


@pytest.mark.parametrize(
    ("technique", "processes"),
    [pytest.param(*case, marks=[pytest.mark.slow] * (at > 0)) for at, case in enumerate(RANKED)],
)
def test_ranks_write_the_bytes_of_one_process(env: TuneEnv, technique: dict[str, Any], processes: int) -> None:
    step = Tune(data="data", technique=technique, parts=4, **QUICK)
    whole = {entry.path: entry.digest for entry in env.tune(step).manifest.files}
    env.store.remove(env.tune_digest(step))
    together = step.model_copy(update={"processes": processes})
    assert {entry.path: entry.digest for entry in env.tune(together).manifest.files} == whole


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["distil", GRPO])
def test_ranks_write_the_bytes_of_one_process_under(env: TuneEnv, objective: Any, tmp_path: Path) -> None:
    def base(folder: Path) -> None:
        tiny_vision_model(folder, seed=5)
        (folder / "model.json").write_text(json.dumps({"name": "tiny"}))

    more: dict[str, Any] = {"objective": objective}
    if objective == "distil":
        env.__dict__["teacher"] = made(env.store, "teacher", "model", base)
        more = {"objective": {"kind": "distil", "logits": "live"}, "teacher": "teacher"}
    step = Tune(data="data", technique=LORA, parts=2, **{**QUICK, "epochs": 1}, **more)
    whole = {entry.path: entry.digest for entry in env.tune(step).manifest.files}
    env.store.remove(env.tune_digest(step))
    again = env.tune(step.model_copy(update={"processes": 2}))
    assert {entry.path: entry.digest for entry in again.manifest.files} == whole


def test_each_part_has_its_own_learning_rate(env: TuneEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    """After one step of SGD, how far each part went is its rate."""
    from luthier.tune.training.trainer import Trainer

    moved: dict[str, torch.Tensor] = {}
    run = Trainer.run

    def watched(self: Trainer, *args: Any) -> list[str]:
        before = {name: one.detach().clone() for name, one in self._model.named_parameters() if one.requires_grad}
        found = run(self, *args)
        moved.update(
            {name: one.detach() - before[name] for name, one in self._model.named_parameters() if name in before}
        )
        return found

    monkeypatch.setattr(Trainer, "run", watched)
    plain = {**QUICK, "learning_rate": 1e-2, "max_steps": 1, "warmup_ratio": 0.0, "optimizer": "sgd", "epochs": 1}
    env.tune(Tune(data="data", technique={"kind": "full"}, **plain))
    once = dict(moved)
    rates = {"projector": 1e-3, "vision": 3e-3}
    env.tune(Tune(data="data", technique={"kind": "full"}, part_learning_rates=rates, **plain))
    for name, distance in moved.items():
        share = {"projector": 0.1, "vision": 0.3}.get(find_part(name), 1.0)
        torch.testing.assert_close(distance, share * once[name], atol=1e-6, rtol=1e-3)


def test_a_projector_beside_adapters_learns_as_whole_weights_do() -> None:
    """A tenth of the adapters' rate, unless it has one of its own."""
    lora = Lora(loraplus_lr_ratio=4)
    inner = "base_model.model.model."
    assert lora.rate_of(f"{inner}multi_modal_projector.modules_to_save.default.linear_1.weight") == 0.1
    assert lora.rate_of(f"{inner}language_model.layers.0.mlp.up_proj.lora_A.default.weight") == 1
    assert lora.rate_of(f"{inner}language_model.layers.0.mlp.up_proj.lora_B.default.weight") == 4


def test_a_rate_of_a_part_that_stands_still_is_refused(env: TuneEnv) -> None:
    with pytest.raises(RecipeError, match="for vision, and nothing of it moves"):
        env.tune(Tune(data="data", technique=LORA, part_learning_rates={"vision": 1e-5}, **QUICK))


def test_steps_of_text_alone_pass_where_only_what_reads_pictures_learns(env: TuneEnv) -> None:
    """One row a step: the loss of a row of text depends on nothing that moves."""
    model = env.tune(Tune(data="data", technique=TOWERS, **{**QUICK, "batch_size": 1, "epochs": 1}))
    lines = [json.loads(line) for line in (model.folder / "log.jsonl").read_text().splitlines()]
    assert len(lines) == len(rows())
    assert sum(line["grad_norm"] == 0 for line in lines) == sum(not row.messages[0].media for row in rows())


@pytest.mark.matrix("frozen", "learning")
@pytest.mark.parametrize(
    ("technique", "again"),
    [({**LORA, "on": ["language"]}, 0), (LORA, 0), ({**LORA, "on": ["language", "vision"]}, None)],
    ids=["frozen", "projector", "learning"],
)
def test_a_frozen_tower_reads_no_picture_again_in_a_later_run(
    env: TuneEnv, monkeypatch: pytest.MonkeyPatch, technique: dict[str, Any], again: int | None
) -> None:
    """Features lie on the disk, by the weights of the tower; the bytes of what is learnt are the same."""
    read: list[int] = []
    build = MediaProcessor.build_inputs
    monkeypatch.setattr(
        MediaProcessor, "build_inputs", lambda self, key, content: (read.append(key), build(self, key, content))[1]
    )
    step = Tune(data="data", technique=technique, **{**QUICK, "epochs": 1})
    whole = {entry.path: entry.digest for entry in env.tune(step).manifest.files}
    assert read
    read.clear()
    env.store.remove(env.tune_digest(step))
    assert {entry.path: entry.digest for entry in env.tune(step).manifest.files} == whole
    assert len(read) == again or (again is None and read)
