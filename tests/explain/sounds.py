"""A tiny model that was taught to name the pitch of the one beep in a second of noise, wherever it stands."""

from __future__ import annotations

import atexit
import hashlib
import random
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from audio_models import played, tiny_audio_model
from luthier.chat.media_codec import encode_wav
from luthier.chat.messages import Media
from luthier.chat.tokenizer import ChatTokenizer

RATE, PLACES = 16_000, 10
PITCHES = {"high": 3000.0, "low": 400.0}
QUESTION = "which pitch has the beep?"
QUESTIONS = (QUESTION, "what is it?", "", "tell me the pitch", "please listen")


def beep(seed: int, place: int, pitch: str) -> tuple[Media, bytes]:
    """A second of faint noise as WAV, of which one tenth beeps."""
    samples = np.random.default_rng(seed).normal(0, 0.003, RATE)
    length = RATE // PLACES
    samples[place * length : (place + 1) * length] += 0.6 * np.sin(
        2 * np.pi * PITCHES[pitch] * np.arange(length) / RATE
    )
    content = encode_wav(samples.astype(np.float32), RATE)
    digest = hashlib.sha256(content).hexdigest()
    return Media(kind="audio", digest=digest, format="wav", size=len(content), seconds=1.0, rate=RATE), content


def teach_sounds(folder: Path, steps: int = 80) -> Path:
    """Save the model; it is trained once for all tests of a process."""
    shutil.copytree(_train(steps), folder, dirs_exist_ok=True)
    return folder


@cache
def _train(steps: int) -> Path:
    import torch
    from transformers import AutoModelForSeq2SeqLM

    folder = Path(tempfile.mkdtemp(prefix="luthier-beep-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    tiny_audio_model(folder)
    model: Any = AutoModelForSeq2SeqLM.from_pretrained(folder)
    text, draw = ChatTokenizer.load(folder), random.Random(0)
    assert text.media is not None
    torch.manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(steps):
        cases = [(draw.randrange(PLACES), draw.choice(sorted(PITCHES))) for _ in range(12)]
        sounds = [beep(draw.randrange(100), place, pitch) for place, pitch in cases]
        rows = [
            text.encode(played(draw.choice(QUESTIONS), media, answer=pitch))
            for (media, _), (_, pitch) in zip(sounds, cases, strict=True)
        ]
        longest = max(len(row.ids) for row in rows)
        ids = torch.tensor([[*text.plain_ids(row.ids), *[2] * (longest - len(row.ids))] for row in rows])
        learnt = torch.tensor([[*row.loss_mask, *[False] * (longest - len(row.ids))] for row in rows])
        inputs = [text.media.build_inputs(text.media.meet(media), content) for media, content in sounds]
        heard = {name: torch.cat([one[name] for one in inputs]) for name in inputs[0]}
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * min(1.0, (steps - step) / (steps / 2))
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), **heard).logits
        targets = ids.masked_fill(~learnt, -100)[:, 1:].reshape(-1)
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].reshape(len(targets), -1), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.save_pretrained(folder)
    return folder
