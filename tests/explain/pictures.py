"""A tiny model that was taught to name the colour of the one bright block of a picture, wherever it stands."""

from __future__ import annotations

import atexit
import hashlib
import io
import random
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from luthier.chat.media import load_processor
from luthier.chat.messages import Media
from luthier.chat.tokenizer import ChatTokenizer
from vision_models import shown, tiny_vision_model

SIDE, CELL = 28, 7
COLOURS = {"red": (255, 40, 40), "blue": (40, 40, 255)}
QUESTION = "which colour is the block?"
QUESTIONS = (QUESTION, "what is it?", "", "tell me the colour", "please look")


def bright(seed: int, place: int, colour: str) -> tuple[Media, bytes]:
    """A dark picture of 4 x 4 cells as PNG, one of which is bright."""
    from PIL import Image

    image = Image.new("RGB", (SIDE, SIDE), (seed % 7, seed % 5, seed % 3))
    x, y = place % 4 * CELL, place // 4 * CELL
    image.paste(COLOURS[colour], (x, y, x + CELL, y + CELL))
    out = io.BytesIO()
    image.save(out, "PNG")
    content = out.getvalue()
    digest = hashlib.sha256(content).hexdigest()
    return Media(kind="image", digest=digest, format="png", size=len(content), width=SIDE, height=SIDE), content


def teach_pictures(folder: Path, steps: int = 60) -> Path:
    """Save the model; it is trained once for all tests of a process."""
    shutil.copytree(_train(steps), folder, dirs_exist_ok=True)
    return folder


@cache
def _train(steps: int) -> Path:
    import torch
    from transformers import AutoModelForImageTextToText

    folder = Path(tempfile.mkdtemp(prefix="luthier-bright-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    tiny_vision_model(folder)
    model: Any = AutoModelForImageTextToText.from_pretrained(folder)
    text, processor, draw = ChatTokenizer.load(folder), load_processor(folder), random.Random(0)
    torch.manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(steps):
        cases = [(draw.randrange(16), draw.choice(sorted(COLOURS))) for _ in range(12)]
        pictures = [bright(draw.randrange(100), place, colour) for place, colour in cases]
        rows = [
            text.encode(shown(draw.choice(QUESTIONS), media, answer=colour))
            for (media, _), (_, colour) in zip(pictures, cases, strict=True)
        ]
        longest = max(len(row.ids) for row in rows)
        ids = torch.tensor([[*text.plain_ids(row.ids), *[2] * (longest - len(row.ids))] for row in rows])
        learnt = torch.tensor([[*row.loss_mask, *[False] * (longest - len(row.ids))] for row in rows])
        pixels = torch.cat([_read_pixels(processor, content) for _, content in pictures])
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * min(1.0, (steps - step) / (steps / 2))
        loss = model(input_ids=ids, pixel_values=pixels, labels=ids.masked_fill(~learnt, -100)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.save_pretrained(folder)
    return folder


def _read_pixels(processor: Any, content: bytes) -> Any:
    from luthier.chat.media_codec import decode_image

    return processor.image_processor(decode_image(content), return_tensors="pt")["pixel_values"]
