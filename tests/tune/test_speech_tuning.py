"""Sounds and transcripts through the one loop: techniques and objectives, resumed to the same bytes, as PEFT reads
them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from luthier.artifacts.media import MediaReader, MediaWriter
from luthier.artifacts.training import TrainingRecord
from luthier.chat.media_codec import decode_audio
from luthier.chat.messages import Example, ExampleOrigin, Media
from luthier.core.errors import ModelError
from luthier.core.store import Store
from luthier.eval.local_model import InferenceSettings, LocalEvalModel
from luthier.eval.media_ablation import SILENT_TITLE, BlindEvalModel, EvalMedia
from luthier.eval.task import read_held_out_task
from luthier.models.describe import describe_model_folder
from luthier.models.lm.local import LocalLM
from luthier.tune.steps.tune import Tune
from luthier.tune.techniques.full import FullFineTuning
from luthier.tune.techniques.lora import Lora
from spoken import sound, spoken, tiny_speech
from tuning import TuneEnv, _data, made, preferring, tune_and_resume

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
QUICK: dict[str, Any] = {"epochs": 2, "batch_size": 4, "learning_rate": 5e-3, "dtype": "float32", "max_grad_norm": 1.0}
LORA = {"kind": "lora", "r": 4}
BOTH = {**LORA, "on": ["language", "audio"]}
GRPO = {
    "kind": "grpo",
    "rewards": [{"kind": "regex", "pattern": "[a-m]"}],
    "rollout": {"num_generations": 2, "max_completion_length": 3},
}
SOUNDS = [sound(number) for number in range(6)]
LONG, LONG_BYTES = sound(9, 2.5)
"""Longer than the two seconds that the tiny model hears."""


def rows(medium: Media | None = None) -> list[Example]:
    """Two transcripts of each sound, and one of a sound that is too long where it is given."""
    found = [_row(media, [" one", " two"][number % 2]) for number, (media, _) in enumerate(SOUNDS)]
    found += [_row(media, [" one", " two"][number % 2] + " more") for number, (media, _) in enumerate(SOUNDS)]
    return [*found, *([_row(medium, " one")] if medium else [])]


def _row(media: Media, answer: str) -> Example:
    origin = ExampleOrigin(source="test", file="test.jsonl", line=1)
    return Example(
        id=f"{media.digest[:8]}{len(answer):08x}", origin=origin, kind="chat", messages=spoken(media, answer)
    )


def make_env(tmp_path: Path, family: str = "whisper", train: list[Example] | None = None) -> TuneEnv:
    store = Store(tmp_path / "store")

    def base(folder: Path) -> None:
        tiny_speech(folder, family)
        (folder / "model.json").write_text(json.dumps({"name": "tiny"}))

    def data(folder: Path) -> None:
        _data(folder, {"train": train or rows(), "test": rows()[:6]})
        with MediaWriter(folder) as writer:
            for media, content in [*SOUNDS, (LONG, LONG_BYTES)]:
                writer.add(media, content)

    return TuneEnv(store, made(store, "base", "model", base), made(store, "prepare", "dataset", data), [])


@pytest.fixture
def env(tmp_path: Path) -> TuneEnv:
    return make_env(tmp_path)


LAYERS = {"kind": "layers", "last": 1}


@pytest.mark.matrix("technique0-moonshine")
@pytest.mark.parametrize(
    ("technique", "family"),
    [(LORA, "moonshine"), (BOTH, "whisper"), (LAYERS, "whisper"), ({"kind": "full"}, "whisper")],
)
def test_killed_it_ends_in_the_same_bytes(technique: dict[str, Any], family: str, tmp_path: Path) -> None:
    whole, again = tune_and_resume(
        make_env(tmp_path, family), Tune(data="data", technique=technique, save_steps=2, **QUICK)
    )
    assert whole == again
    assert "adapter/adapter_model.safetensors" in whole or "model.safetensors" in whole


def test_a_frozen_encoder_reads_no_sound_again(env: TuneEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    from luthier.models.media import encoder_decoder

    heard: list[int] = []
    own = encoder_decoder.encode_sounds

    def encode(model: Any, inputs: Any) -> Any:
        heard.append(len(inputs))
        return own(model, inputs)

    monkeypatch.setattr(encoder_decoder, "encode_sounds", encode)
    env.tune(Tune(data="data", technique=LORA, **QUICK))
    assert sum(heard) == len(SOUNDS), "once in two epochs"
    env.tune(Tune(data="data", technique=LORA, **{**QUICK, "learning_rate": 1e-3}))
    assert sum(heard) == len(SOUNDS), "and not in another training"


def test_a_full_tuning_opens_in_transformers(env: TuneEnv) -> None:
    from transformers import WhisperForConditionalGeneration, WhisperProcessor

    model = env.tune(Tune(data="data", technique={"kind": "full"}, **QUICK))
    plain = WhisperForConditionalGeneration.from_pretrained(model.folder, dtype=torch.float32)
    processor = WhisperProcessor.from_pretrained(model.folder)
    samples, rate = decode_audio(SOUNDS[0][1])
    heard = processor(samples, sampling_rate=rate, return_tensors="pt").input_features
    lm = LocalLM(model, "float32", read_media=MediaReader(env.data).read)
    prompt = torch.tensor([lm.text.plain_ids(lm.text.prompt(rows()[0].messages[:1]))])
    with torch.no_grad():
        logits = plain(input_features=heard, decoder_input_ids=prompt).logits[0, -1].log_softmax(-1)
    assert abs(_likelihood(lm, int(logits.argmax())) - float(logits.max())) < 1e-4
    before = WhisperForConditionalGeneration.from_pretrained(env.base.folder, dtype=torch.float32)
    name = "model.encoder.embed_positions.weight"
    assert torch.equal(before.state_dict()[name], plain.state_dict()[name]), "transformers keeps these fixed, too"
    described = describe_model_folder(env.base.folder)
    assert FullFineTuning().trainable(described) == TrainingRecord.read(model).trainable_parameters


def test_adapters_load_in_plain_peft(env: TuneEnv) -> None:
    from peft import PeftModel
    from transformers import WhisperForConditionalGeneration, WhisperProcessor

    model = env.tune(Tune(data="data", technique=BOTH, **QUICK))
    plain = WhisperForConditionalGeneration.from_pretrained(env.base.folder, dtype=torch.float32)
    adapted = PeftModel.from_pretrained(plain, model.folder / "adapter").eval()
    described = describe_model_folder(env.base.folder)
    assert Lora(r=4, on=("language", "audio")).trainable(described) == TrainingRecord.read(model).trainable_parameters
    samples, rate = decode_audio(SOUNDS[0][1])
    processor = WhisperProcessor.from_pretrained(env.base.folder)
    heard = processor(samples, sampling_rate=rate, return_tensors="pt").input_features
    lm = LocalLM(model, "float32", read_media=MediaReader(env.data).read)
    prompt = torch.tensor([lm.text.plain_ids(lm.text.prompt(rows()[0].messages[:1]))])
    with torch.no_grad():
        logits = adapted.get_base_model()(input_features=heard, decoder_input_ids=prompt).logits[0, -1].log_softmax(-1)
    assert abs(_likelihood(lm, int(logits.argmax())) - float(logits.max())) < 1e-4


def _likelihood(lm: LocalLM, token: int) -> float:
    from luthier.models.generate import compute_loglikelihoods

    prompt = lm.text.prompt(rows()[0].messages[:1])
    return compute_loglikelihoods(lm.loaded.model, [(prompt, [token])])[0].logprob


OTHERS: list[Any] = [
    "ia3",
    "adapter",
    {"kind": "qlora", "r": 4, "group": 16},
    {**LORA, "lora_dropout": 0.1},
    {**LORA, "use_dora": True},
    {**LORA, "on": ["audio"]},
]


@pytest.mark.parametrize("technique", OTHERS, ids=str)
def test_other_techniques_move_what_is_written(env: TuneEnv, technique: Any) -> None:
    model = env.tune(Tune(data="data", technique=technique, **{**QUICK, "epochs": 1}))
    read = MediaReader(env.data).read
    tuned, base = (LocalLM(artifact, "float32", read_media=read) for artifact in (model, env.base))
    end = base.text.tokenizer.eos_token_id
    assert abs(_likelihood(tuned, end) - _likelihood(base, end)) > 1e-4


@pytest.mark.parametrize("objective", ["dpo", GRPO])
def test_other_objectives_hear_sounds(objective: Any, tmp_path: Path) -> None:
    train = [preferring(row, " ten") for row in rows()] if objective == "dpo" else None
    env = make_env(tmp_path, train=train)
    model = env.tune(Tune(data="data", objective=objective, technique=LORA, **{**QUICK, "epochs": 1}))
    assert TrainingRecord.read(model).trainable_parameters > 0


def test_a_sound_that_is_too_long_is_counted(tmp_path: Path) -> None:
    import polars

    model = make_env(tmp_path, train=rows(LONG)).tune(Tune(data="data", technique=LORA, **{**QUICK, "epochs": 1}))
    table = polars.read_parquet(model.folder / "training_examples.parquet")
    left = table.filter(polars.col("nothing") != "")
    assert left["nothing"].to_list() == ["the sound is longer than the 2 seconds that the model hears"]
    assert len(table) == len(rows()) + 1


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"technique": "prompt"}, "virtual tokens of a pack would attend to one sound"),
        ({"technique": {**LORA, "on": ["language", "vision"]}}, "the model has no part 'vision'"),
        ({"objective": "reward"}, "no head for classes"),
    ],
)
def test_what_cannot_be_learnt_is_refused(env: TuneEnv, settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ModelError, match=says):
        Tune(data="data", **settings).agree(describe_model_folder(env.base.folder))


def test_a_blind_model_is_given_silence(env: TuneEnv) -> None:
    media = EvalMedia(env.data)
    question = InferenceSettings(normalize="sum", max_new_tokens=4, dtype="float32", likelihood=True)
    model = LocalEvalModel.of(env.base, question, name="base", title="the base", read_media=media.read)
    blind = BlindEvalModel(model, media, silent=True)
    assert blind.title == SILENT_TITLE
    task = read_held_out_task(env.data, "test", None, pairs=False)
    seen, unseen = model.answer(task.examples, task), blind.answer(task.examples, task)
    own = [reply.logprob for reply in unseen]
    assert len(set(own[::2])) == len(set(own[1::2])) == 1, "all silence of one length sounds alike"
    assert [reply.logprob for reply in seen] != own
