"""Rows with pictures per CPU-second beside plain transformers, on one thread, interleaved in one process.

    python benchmarks/multimodal.py [--quick] [--only images|speech]

A LLaVA with random weights: a decoder of the shape of SmolLM2-135M (with `--quick` a third of its layers and five of
its nine heads, of the same size) and a small vision transformer of 256 tokens a picture. The peer is transformers' own
model and processor with padded rows, at its best settings on a CPU: bf16 weights, one forward and backward for the
batch, logits at learnt tokens alone. Both learn the projector; decoder and encoder are frozen. What is counted is
process time of one step, from bytes and messages to gradients; the first step of each is warm-up.

`speech_ratio`: three epochs of LoRA in the decoder of a model of Whisper tiny's shape with random weights, a sound a
row. Ours is the whole step `tune`, from the data set to the saved adapter; the peer is Hugging Face's Seq2SeqTrainer
with PEFT in bf16, from the sounds' bytes to the end of training.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent / "src"), str(HERE.parent / "tests")]
GOALS = {"image_shared_ratio": 10.0, "image_plain_ratio": 3.0, "image_labels_ratio": 5.0, "speech_ratio": 5.0}
QUESTIONS = 8


def build(folder: Path, *, quick: bool) -> Path:
    """The composed model's folder."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from luthier.models.media.compose import VisionEncoder, compose_llava
    from tiny_models import tiny_tokenizer

    tiny_tokenizer(folder)
    torch.manual_seed(0)
    width, layers, heads = (320, 10, 5) if quick else (576, 30, 9)
    config = LlamaConfig(
        vocab_size=49152, hidden_size=width, intermediate_size=width * 8 // 192 * 64, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=heads // 3 or 1, max_position_embeddings=2048,
        tie_word_embeddings=True, bos_token_id=1, eos_token_id=2, pad_token_id=2,
    )  # fmt: skip
    encoder = VisionEncoder.new(image_size=128, patch_size=8, hidden_size=192, layers=4, heads=3)
    decoder = LlamaForCausalLM(config).to(torch.bfloat16)
    model, processor = compose_llava(decoder, AutoTokenizer.from_pretrained(folder), encoder, 0)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


class Ours:
    """Packs of rows with pictures."""

    def __init__(self, folder: Path, contents: dict[str, bytes]) -> None:
        import torch

        from luthier.chat.tokenizer import ChatTokenizer
        from luthier.models.load import open_folder
        from luthier.models.media.towers import attach_media
        from luthier.models.packing.logprobs import detect_forward_mode

        self.text, self.model = ChatTokenizer.load(folder), open_folder(folder, torch.bfloat16)
        self.moving = freeze(self.model)
        attach_media(self.model, self.text.media, contents.__getitem__)
        detect_forward_mode(self.model)

    def rows(self, conversations: Sequence[Any]) -> list[Any]:
        from luthier.models.packing.pack import TokenRow

        encoded = self.text.encode_many(conversations)
        return [TokenRow(row.ids, list(map(float, row.loss_mask)), str(at)) for at, row in enumerate(encoded)]

    def step(self, conversations: Sequence[Any]) -> None:
        import torch

        from luthier.models.media.towers import gather_leaves, learn_media, list_row_media
        from luthier.models.packing.logprobs import compute_pack_logprobs
        from luthier.models.packing.pack import build_packs

        rows = self.rows(conversations)
        with learn_media(self.model, lambda: list_row_media(rows)) as media:
            assert media is not None, "the projector learns"
            for pack in build_packs(rows, 4096):
                with gather_leaves() as leaves:
                    loss = -compute_pack_logprobs(self.model, pack).sum()
                media.gather(leaves.name(torch.autograd.grad(loss, leaves.tensors, allow_unused=True)))
        media.gradients(self.moving)

    def score(self, conversations: Sequence[Any]) -> None:
        import torch

        from luthier.models.packing.logprobs import compute_pack_logprobs
        from luthier.models.packing.pack import build_packs

        with torch.no_grad():
            for pack in build_packs(self.rows(conversations), 4096, share_from=1):
                compute_pack_logprobs(self.model, pack)


class Peer:
    """transformers' model and processor."""

    def __init__(self, folder: Path, contents: dict[str, bytes]) -> None:
        import torch
        from transformers import AutoModelForImageTextToText

        from luthier.chat.media import load_processor

        self.processor, self.contents = load_processor(folder), contents
        self.processor.tokenizer.padding_side = "right"
        self.model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.bfloat16).eval()
        self.moving = freeze(self.model)

    def inputs(self, conversations: Sequence[Any]) -> tuple[dict[str, Any], Any]:
        """Padded rows, and the places whose next token is learnt."""
        import torch

        from luthier.chat.media_codec import decode_image

        turns, prompts = [], []
        for asked, answered in conversations:
            image = decode_image(self.contents[asked.media[0].digest])
            parts = [{"type": "image", "image": image}, {"type": "text", "text": asked.content[1:]}]
            prompts.append([{"role": "user", "content": parts}])
            turns.append([*prompts[-1], {"role": "assistant", "content": [{"type": "text", "text": answered.content}]}])
        more = {"tokenize": True, "return_dict": True, "return_tensors": "pt", "processor_kwargs": {"padding": True}}
        whole = self.processor.apply_chat_template(turns, **more)
        read = self.processor.apply_chat_template(prompts, add_generation_prompt=True, **more)
        begins, ends = read["attention_mask"].sum(1), whole["attention_mask"].sum(1)
        places = torch.arange(whole["input_ids"].shape[1] - 1)
        learnt = (places >= begins[:, None] - 1) & (places < ends[:, None] - 2)
        whole["pixel_values"] = whole["pixel_values"].to(torch.bfloat16)
        return dict(whole), learnt

    def loss(self, conversations: Sequence[Any]) -> Any:
        import torch

        inputs, learnt = self.inputs(conversations)
        hidden = self.model.model(**inputs, use_cache=False).last_hidden_state[:, :-1][learnt]
        logits = self.model.lm_head(hidden).float()
        return torch.nn.functional.cross_entropy(logits, inputs["input_ids"][:, 1:][learnt], reduction="sum")

    def step(self, conversations: Sequence[Any]) -> None:
        import torch

        torch.autograd.grad(self.loss(conversations), self.moving)

    def score(self, conversations: Sequence[Any]) -> None:
        import torch

        with torch.no_grad():
            self.loss(conversations)


class Speech:
    """Three epochs of Whisper by LoRA, ours and the trainer's."""

    epochs, batch = 3, 4

    def __init__(self, folder: Path, count: int) -> None:
        from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration

        from luthier.core.store import Store
        from spoken import sound, tiny_speech
        from tuning import made

        self.sounds = [sound(number, 1.0) for number in range(count)]
        self.place, self.model = folder / "runs", folder / "whisper"
        self.model.mkdir()
        tiny_speech(self.model)
        own = json.loads((self.model / "config.json").read_text())
        ids = {name: own[name] for name in own if name.endswith("_token_id")}
        WhisperForConditionalGeneration(WhisperConfig(**ids)).save_pretrained(self.model)
        WhisperFeatureExtractor().save_pretrained(self.model)
        (self.model / "processor_config.json").unlink()
        (self.model / "model.json").write_text('{"name": "whisper"}')
        self.store = Store(self.place / "store")

        def copy(target: Path) -> None:
            shutil.copytree(self.model, target, dirs_exist_ok=True)

        self.base = made(self.store, "base", "model", copy)
        self.data = made(self.store, "prepare", "dataset", self._write)
        self.turns = 0

    def _write(self, folder: Path) -> None:
        from luthier.artifacts.media import MediaWriter
        from luthier.chat.messages import Example, ExampleOrigin
        from spoken import spoken
        from tuning import _data

        origin = ExampleOrigin(source="test", file="test.jsonl", line=1)
        rows = [
            Example(id=media.digest[:16], origin=origin, kind="chat", messages=spoken(media, " one two three"))
            for media, _ in self.sounds
        ]
        _data(folder, {"train": rows})
        with MediaWriter(folder) as writer:
            for media, content in self.sounds:
                writer.add(media, content)

    def ours(self) -> None:
        from luthier.tune.steps.tune import Tune
        from tuning import TuneEnv

        self.turns += 1  # another learning rate is another artifact
        assert self.store.kept is not None
        shutil.rmtree(self.store.kept / "features", ignore_errors=True)  # each turn reads all sounds itself
        step = Tune(
            data="data", technique={"kind": "lora", "r": 8}, epochs=self.epochs, batch_size=self.batch,
            dtype="bfloat16", learning_rate=1e-3 * self.turns,
        )  # fmt: skip
        TuneEnv(self.store, self.base, self.data, []).tune(step)

    def peer(self) -> None:
        import torch
        from peft import LoraConfig, get_peft_model
        from transformers import (
            Seq2SeqTrainer,
            Seq2SeqTrainingArguments,
            WhisperFeatureExtractor,
            WhisperForConditionalGeneration,
        )

        from luthier.chat.media_codec import decode_audio
        from luthier.chat.tokenizer import ChatTokenizer
        from spoken import spoken

        text, extractor = ChatTokenizer.load(self.model), WhisperFeatureExtractor.from_pretrained(self.model)
        rows = []
        for media, content in self.sounds:
            samples, rate = decode_audio(content)
            features = extractor(samples, sampling_rate=rate, return_tensors="pt").input_features[0]
            ids = text.plain_ids(text.encode(spoken(media, " one two three")).ids)[1:]
            rows.append({"input_features": features.to(torch.bfloat16), "labels": torch.tensor(ids)})
        model = WhisperForConditionalGeneration.from_pretrained(self.model, dtype=torch.bfloat16)
        linear = (name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear))
        targets = [name for name in linear if name.startswith("model.decoder")]
        settings = Seq2SeqTrainingArguments(
            output_dir=str(self.place / "peer"), num_train_epochs=self.epochs, save_strategy="no", bf16=True,
            per_device_train_batch_size=self.batch, report_to=[], disable_tqdm=True, use_cpu=True, learning_rate=1e-3,
            remove_unused_columns=False, label_names=["labels"], logging_strategy="no",
        )  # fmt: skip
        trainer = Seq2SeqTrainer(
            model=get_peft_model(model, LoraConfig(r=8, lora_alpha=32, target_modules=targets)),
            args=settings, train_dataset=rows, data_collator=_stack,
        )  # fmt: skip
        trainer.train()


def _stack(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    import torch

    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def measure_speech(place: Path, *, quick: bool) -> None:
    """Rows per CPU-second of both, in turns."""
    speech, found = Speech(place, 12 if quick else 32), list[tuple[float, float]]()
    for turn in range(2 if quick else 3):
        own, theirs = seconds(speech.ours), seconds(speech.peer)
        count = len(speech.sounds) * speech.epochs
        rates = f"ours {count / own:.2f} rows/s, Seq2SeqTrainer {count / theirs:.2f} rows/s"
        print(
            f"speech_ratio {turn}: ours {own:.2f} s, Seq2SeqTrainer {theirs:.2f} s for {count} rows ({rates})",
            flush=True,
        )
        found.append((own, theirs))
    value = statistics.median(theirs / own for own, theirs in found[1:])
    line = {"figure": "speech_ratio", "value": round(value, 2), "goal": GOALS["speech_ratio"], "unit": "x"}
    print(json.dumps({**line, "peer": "transformers 5.24 with peft 0.21", "device": platform.processor() or "cpu"}))


def freeze(model: Any) -> list[Any]:
    """Let the projector alone move."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("multi_modal_projector" in name)
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def seconds(work: Callable[[], None]) -> float:
    """Processor time."""
    begin = time.process_time()
    work()
    return time.process_time() - begin


def main() -> None:
    """Measure and print."""
    import torch

    from vision_models import picture, shown

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", choices=["images", "speech"], help="measure a part alone")
    asked_for = parser.parse_args()
    quick = asked_for.quick
    torch.set_num_threads(1)
    if asked_for.only != "images":
        with tempfile.TemporaryDirectory() as place:
            measure_speech(Path(place), quick=quick)
    if asked_for.only == "speech":
        return
    pictures = [picture(seed, 128, 128) for seed in range(16)]
    asked = [f"Question {number}: what do you see in this part of it?" for number in range(10)]
    shared = [shown(text, media, answer="a thing") for media, _ in pictures[:2] for text in asked[:QUESTIONS]]
    plain = [shown(f"{asked[at % 10]} ({at})", media, answer="a thing") for at, (media, _) in enumerate(pictures)]
    labels = [shown(asked[0], pictures[0][0], answer=f"label {number}") for number in range(10)]
    with tempfile.TemporaryDirectory() as place:
        folder = build(Path(place), quick=quick)
        contents = {media.digest: content for media, content in pictures}
        ours, peer = Ours(folder, contents), Peer(folder, contents)
        works = {"image_shared_ratio": (shared, "step"), "image_plain_ratio": (plain, "step")}
        works["image_labels_ratio"] = (labels, "score")
        for figure, (rows, verb) in works.items():
            found: list[tuple[float, float]] = []
            for turn in range(3 if quick else 4):
                own, theirs = (seconds(partial(getattr(who, verb), rows)) for who in (ours, peer))
                print(f"{figure} {turn}: ours {own:.2f} s, transformers {theirs:.2f} s for {len(rows)} rows")
                found.append((own, theirs))
            value = statistics.median(theirs / own for own, theirs in found[1:])
            line = {"figure": figure, "value": round(value, 2), "goal": GOALS[figure], "unit": "x"}
            print(json.dumps({**line, "peer": "transformers 5.24", "device": platform.processor() or "cpu"}))


if __name__ == "__main__":
    main()
