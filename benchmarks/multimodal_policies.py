"""Preferences, policies, serving and preparation with pictures, beside plain transformers, interleaved in one process.

    python benchmarks/multimodal_policies.py [--quick] [--only dpo|grpo|first_token|prepare]

The model, the peer and what is counted are those of `multimodal.py`.

`image_dpo_ratio`: three epochs over pairs of two answers to one picture. Ours reads the reference once; the peer reads
both answers of each pair in one padded batch, in every epoch once for the policy and once for the reference: TRL's
trainer does not compute the reference beforehand for rows with pictures.
`image_grpo_ratio`: eight answers of 16 tokens drawn to each picture, and the step that learns them; the peer draws by
`generate` with its key-value cache, and learns from one padded batch. `image_first_token`: the time to the first token
of an answer to a picture that was asked about before, as a share of the first time. `prepare_pictures`: processor
seconds and the largest memory of the step `prepare`, in a process of its own, over JPEGs of 256 x 192 pixels.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from multimodal import Ours, Peer, build, seconds

GOALS = {"image_dpo_ratio": 6.0, "image_grpo_ratio": 4.0, "image_first_token": 0.2, "prepare_cpu_s": 90.0}
SAMPLES, LENGTH, EPOCHS = 8, 16, 3
BETA = 0.1


class OurPolicies(Ours):
    """Pairs and drawn answers in packs."""

    def learn(self, rows: Sequence[Any], loss_of: Callable[[Any, Any], Any]) -> None:
        """The projector's gradient of a loss of packs."""
        import torch

        from luthier.models.media.towers import gather_leaves, learn_media, list_row_media
        from luthier.models.packing.logprobs import compute_pack_logprobs
        from luthier.models.packing.pack import build_packs

        with learn_media(self.model, lambda: list_row_media(rows)) as media:
            assert media is not None, "the projector learns"
            for pack in build_packs(rows, 4096):
                with gather_leaves() as leaves:
                    loss = loss_of(compute_pack_logprobs(self.model, pack), pack)
                media.gather(leaves.name(torch.autograd.grad(loss, leaves.tensors, allow_unused=True)))
        media.gradients(self.moving)

    def dpo(self, pairs: Sequence[Any]) -> None:
        """Reference and policy; both answers of a pair follow one another."""
        from dataclasses import replace

        from luthier.tune.objective import REFERENCE
        from luthier.tune.objectives.dpo import DpoObjective
        from luthier.tune.training.reference_logprobs import compute_row_logprobs

        rows = [replace(row, key=str(at // 2), group_size=2) for at, row in enumerate(self.rows(pairs))]
        found = compute_row_logprobs(self.model, rows, 4096)
        rows = [replace(row, token_values={REFERENCE: own}) for row, own in zip(rows, found, strict=True)]
        objective = DpoObjective(beta=BETA)
        for _ in range(EPOCHS):
            self.learn(rows, lambda logp, pack: objective.loss(logp, pack, pack.token_values[REFERENCE]).total)

    def grpo(self, prompts: Sequence[Any]) -> None:
        """Draw and learn; advantages are drawn, too."""
        from luthier.models.load import LoadedModel
        from luthier.models.packing.pack import TokenRow
        from luthier.tune.rollout.generate import RolloutPrompt, generate_completions

        loaded = LoadedModel(model=self.model, folder=Path(), name="bench", digest="")
        asked = [
            RolloutPrompt(ids=self.text.prompt(prompt), stream=SAMPLES * at + sample)
            for at, prompt in enumerate(prompts)
            for sample in range(SAMPLES)
        ]
        answers = generate_completions(loaded, self.text, asked, LENGTH)
        rows = [
            TokenRow([*prompt.ids, *answer.ids], [0.0] * len(prompt.ids) + [1.0] * len(answer.ids), str(at))
            for at, (prompt, answer) in enumerate(zip(asked, answers, strict=True))
        ]
        self.learn(rows, lambda logp, pack: (logp * (pack.path.to(logp) % 2 - 0.5)).sum())


class PeerPolicies(Peer):
    """The same in padded batches."""

    def logps(self, inputs: dict[str, Any], learnt: Any) -> Any:
        """(rows,) sums over learnt tokens."""
        import torch

        hidden = self.model.model(**inputs, use_cache=False).last_hidden_state[:, :-1]
        found = torch.zeros(hidden.shape[:2])
        logits = self.model.lm_head(hidden[learnt]).float()
        targets = inputs["input_ids"][:, 1:][learnt]
        found[learnt] = torch.log_softmax(logits, -1).gather(1, targets[:, None])[:, 0]
        return found.sum(1)

    def dpo(self, pairs: Sequence[Any]) -> None:
        import torch

        for _ in range(EPOCHS):
            inputs, learnt = self.inputs(pairs)
            with torch.no_grad():
                before = self.logps(inputs, learnt)
            margin = self.logps(inputs, learnt) - before
            loss = -torch.nn.functional.logsigmoid(BETA * (margin[::2] - margin[1::2])).sum()
            torch.autograd.grad(loss, self.moving)

    def grpo(self, prompts: Sequence[Any]) -> None:
        import torch

        from luthier.chat.media_codec import decode_image

        turns = []
        for (asked,) in prompts:
            image = decode_image(self.contents[asked.media[0].digest])
            parts = [{"type": "image", "image": image}, {"type": "text", "text": asked.content[1:]}]
            turns += [[{"role": "user", "content": parts}]] * SAMPLES
        self.processor.tokenizer.padding_side = "left"
        inputs = dict(
            self.processor.apply_chat_template(
                turns, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True,
                processor_kwargs={"padding": True},
            )
        )  # fmt: skip
        self.processor.tokenizer.padding_side = "right"
        inputs["pixel_values"] = inputs["pixel_values"].to(torch.bfloat16)
        with torch.no_grad():
            written = self.model.generate(**inputs, do_sample=True, max_new_tokens=LENGTH, min_new_tokens=LENGTH)
        whole = {"input_ids": written, "pixel_values": inputs["pixel_values"]}
        whole["attention_mask"] = torch.nn.functional.pad(inputs["attention_mask"], (0, LENGTH), value=1)
        learnt = torch.zeros(written.shape[0], written.shape[1] - 1, dtype=torch.bool)
        learnt[:, -LENGTH:] = True
        signs = torch.arange(len(turns)) % 2 - 0.5
        torch.autograd.grad((self.logps(whole, learnt) * signs).sum(), self.moving)


def compare(figure: str, ours: Callable[[], None], theirs: Callable[[], None], turns: int) -> None:
    """Measure in turns and print; the first turn is warm-up."""
    found: list[tuple[float, float]] = []
    for turn in range(turns):
        own, other = seconds(ours), seconds(theirs)
        print(f"{figure} {turn}: ours {own:.2f} s, transformers {other:.2f} s", flush=True)
        found.append((own, other))
    tell(figure, statistics.median(other / own for own, other in found[1:]), "x")


def tell(figure: str, value: float, unit: str) -> None:
    """One line of JSON with the load while it was measured."""
    load = round(os.getloadavg()[0], 1)
    print(
        json.dumps({"figure": figure, "value": round(value, 3), "goal": GOALS.get(figure), "unit": unit, "load": load})
    )


def measure_first_token(ours: OurPolicies, contents: dict[str, bytes], turns: int) -> None:
    """One decoder for all requests, as `serve` has it: from a request's messages to its first token."""
    from luthier.models.generate import decode_requests
    from luthier.models.generation.engine import ContinuousBatchingDecoder, GenerationRequest
    from luthier.models.load import LoadedModel
    from vision_models import picture, shown

    loaded = LoadedModel(model=ours.model, folder=Path(), name="bench", digest="")
    decoder = ContinuousBatchingDecoder(loaded, tokens=1 << 14)

    def ask(prompt: Any) -> None:
        ids = ours.text.prompt(prompt)
        list(decode_requests(decoder, [GenerationRequest(ids=ids, max_new_tokens=1, stop=ours.text.end_ids)]))

    shares = []
    for turn in range(turns + 1):
        media, content = picture(100 + turn, 128, 128)
        contents[media.digest] = content
        times = [seconds(partial(ask, shown(text, media))) for text in ("What is this?", "And what is that?")]
        print(f"first token {turn}: {times[0]:.3f} s, of the picture asked about again {times[1]:.3f} s", flush=True)
        shares.append(times[1] / times[0])
    tell("image_first_token", statistics.median(shares[1:]), "of the first time")


RECIPE = """
luthier: 1
name: many
steps:
  data:
    kind: prepare
    source: {kind: mediafolder, path: pictures, prompt: "{image} What is it?", answer: label}
    ops: [exact_dedup, media_dedup]
    split: {test: 0.1, group: cluster}
"""


def measure_preparation(folder: Path, count: int) -> None:
    """Prepare so many pictures in a process of its own."""
    import numpy as np
    from PIL import Image

    chance = np.random.default_rng(0)
    for at in range(count):
        small = chance.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        path = folder / "pictures" / str(at % 10) / f"{at}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(small).resize((256, 192), Image.Resampling.BICUBIC).save(path, quality=85)
    (folder / "recipe.yaml").write_text(RECIPE)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begin = time.time()
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1] / "src")}
    subprocess.run([sys.executable, "-m", "luthier", "run", "recipe.yaml"], cwd=folder, env=environment, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(
        f"{count} pictures: {spent:.1f} s of processors, {time.time() - begin:.1f} s, {after.ru_maxrss / 1024:.0f} MB"
    )
    tell("prepare_cpu_s", spent * 10_000 / count, "s for 10,000 pictures")
    tell("prepare_peak_mb", after.ru_maxrss / 1024, f"MB of the largest process, {count} pictures")


def main() -> None:
    """Measure and print."""
    import torch

    from vision_models import picture, shown

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", choices=["dpo", "grpo", "first_token", "prepare"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    turns = 3 if options.quick else 4
    pictures = [picture(seed, 128, 128) for seed in range(8)]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        if options.only in (None, "prepare"):
            measure_preparation(folder, 1000 if options.quick else 10_000)
        if options.only == "prepare":
            return
        (folder / "model").mkdir()
        model = build(folder / "model", quick=options.quick)
        contents = {media.digest: content for media, content in pictures}
        ours, peer = OurPolicies(model, contents), PeerPolicies(model, contents)
        pairs = [
            shown("What is it?", media, answer=answer)
            for media, _ in pictures[:4] for answer in ("a thing of some kind", "another thing that is not here")
        ]  # fmt: skip
        prompts = [shown("What is it?", media) for media, _ in pictures[:2]]
        if options.only in (None, "dpo"):
            compare("image_dpo_ratio", partial(ours.dpo, pairs), partial(peer.dpo, pairs), turns)
        if options.only in (None, "grpo"):
            compare("image_grpo_ratio", partial(ours.grpo, prompts), partial(peer.grpo, prompts), turns)
        if options.only in (None, "first_token"):
            measure_first_token(ours, contents, turns)


if __name__ == "__main__":
    main()
