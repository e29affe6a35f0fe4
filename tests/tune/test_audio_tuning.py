"""Rows with sounds through the one loop: parts with rates of their own, resumed to the same bytes, read by PEFT."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from audio_models import played, sound, tiny_audio_model
from explain.sounds import PITCHES, beep
from luthier.artifacts.media import MediaReader, MediaWriter
from luthier.chat.media import load_processor
from luthier.chat.media_codec import decode_audio
from luthier.chat.messages import MEDIA_MARK, Example, ExampleOrigin, Message
from luthier.core.store import Store
from luthier.eval.media_ablation import EvalMedia
from luthier.models.lm.base import ChoiceRequest
from luthier.models.lm.local import LocalLM
from luthier.tune.steps.tune import Tune
from tuning import TuneEnv, _data, made, tune_and_resume

QUICK: dict[str, Any] = {"epochs": 2, "batch_size": 4, "learning_rate": 5e-3, "dtype": "float32", "max_grad_norm": 1.0}
PROJECTOR = {"kind": "layers", "last": 0, "names": ["*multi_modal_projector*"]}
EARS = {"kind": "lora", "r": 4, "on": ["language", "projector", "audio"]}
SOUNDS = [(pitch, *beep(seed, 2 + seed, pitch)) for seed in range(3) for pitch in PITCHES]
LONG, LONG_BYTES = sound(9, 2.5)


def example(messages: tuple[Message, ...], number: int, label: str) -> Example:
    origin = ExampleOrigin(source="test", file="test.jsonl", line=number + 1)
    return Example(id=f"{number:016x}", origin=origin, kind="label", messages=messages, label=label)


def rows() -> list[Example]:
    """Two questions about each sound, and a row of text between them."""
    found = [example(played("is it a word?", answer="low"), 0, "low")]
    for pitch, media, _ in SOUNDS:
        for question in ("which pitch?", "and now, how is it?"):
            found.append(example(played(question, media, answer=pitch), len(found), pitch))
    return found


@pytest.fixture
def env(tmp_path: Path) -> TuneEnv:
    store = Store(tmp_path / "store")

    def base(folder: Path) -> None:
        tiny_audio_model(folder)
        (folder / "model.json").write_text(json.dumps({"name": "tiny"}))

    def data(folder: Path) -> None:
        _data(folder, {"train": [*rows(), example(played("?", LONG, answer="low"), 99, "low")], "test": rows()[:4]})
        summary = json.loads((folder / "summary.json").read_text())
        (folder / "summary.json").write_text(json.dumps({**summary, "labels": sorted(PITCHES)}))
        with MediaWriter(folder) as writer:
            for _, media, content in SOUNDS:
                writer.add(media, content)
            writer.add(LONG, LONG_BYTES)

    return TuneEnv(store, made(store, "base", "model", base), made(store, "prepare", "dataset", data), [])


@pytest.mark.matrix("lora")
@pytest.mark.parametrize("technique", [EARS, PROJECTOR], ids=["lora", "projector"])
def test_killed_it_ends_in_the_same_bytes(env: TuneEnv, technique: dict[str, Any]) -> None:
    rates = {"audio": 1e-3} if technique is EARS else {}
    whole, again = tune_and_resume(
        env, Tune(data="data", technique=technique, save_steps=2, part_learning_rates=rates, **QUICK)
    )
    assert whole == again


def test_a_sound_that_is_too_long_is_counted(env: TuneEnv) -> None:
    model = env.tune(Tune(data="data", technique=PROJECTOR, **{**QUICK, "epochs": 1}))
    table = pl.read_parquet(model.folder / "training_examples.parquet")
    said = " ".join(str(value) for value in table.filter(pl.col("id") == f"{99:016x}").row(0))
    assert "longer than the 2 seconds" in said


@pytest.mark.slow
def test_pitches_are_learnt(env: TuneEnv) -> None:
    model = env.tune(Tune(data="data", technique={"kind": "full"}, **{**QUICK, "epochs": 24, "learning_rate": 3e-3}))
    lm = LocalLM(model, "float32", read_media=EvalMedia(env.data).read)
    questions = [row for row in rows() if row.messages[0].media]
    requests = [ChoiceRequest(prompt=row.messages[:1], options=tuple(sorted(PITCHES))) for row in questions]
    chosen = [sorted(PITCHES)[response.index] for response in lm.choose(requests)]
    assert chosen == [row.label for row in questions]


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")
def test_adapters_load_in_plain_peft(env: TuneEnv) -> None:
    from peft import PeftModel
    from transformers import AutoModelForSeq2SeqLM

    from luthier.models.generate import compute_loglikelihoods

    model = env.tune(Tune(data="data", technique=EARS, **QUICK))
    plain = AutoModelForSeq2SeqLM.from_pretrained(env.base.folder, dtype=torch.float32)
    adapted = PeftModel.from_pretrained(plain, model.folder / "adapter").eval()
    names = [name for name, _ in adapted.named_parameters() if "lora_A" in name]
    assert any("audio_tower" in name for name in names)
    assert any("language_model" in name for name in names)
    processor, reader = load_processor(env.base.folder), MediaReader(env.data)
    lm = LocalLM(model, "float32", read_media=reader.read)
    messages = rows()[1].messages[:1]
    samples, _ = decode_audio(reader.read(messages[0].media[0].digest))
    parts = [{"type": "audio", "audio": samples}, {"type": "text", "text": messages[0].content.replace(MEDIA_MARK, "")}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": parts}],
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        add_generation_prompt=True,
    )
    with torch.no_grad():
        logits = adapted(**inputs).logits[0, -1].log_softmax(-1)
    first = lm.text.options(messages, ["high"])[1][0][0]
    found = compute_loglikelihoods(lm.loaded.model, [(lm.text.prompt(messages), [first])])[0].logprob
    assert abs(found - float(logits[first])) < 1e-4
