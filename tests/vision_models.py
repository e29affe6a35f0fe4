"""Tiny random models of several families that read pictures, as Hugging Face folders, and pictures to show them."""

from __future__ import annotations

import hashlib
import io
import random
from pathlib import Path
from typing import Any

from luthier.chat.messages import MEDIA_MARK, Media, Message
from tiny_models import tiny_tokenizer
from vision_families import ALONE, FAMILIES


def picture(seed: int, width: int = 36, height: int = 28) -> tuple[Media, bytes]:
    """A picture of noise as PNG."""
    from PIL import Image

    content = io.BytesIO()
    noise = random.Random(seed).randbytes(width * height * 3)
    Image.frombytes("RGB", (width, height), noise).save(content, "PNG")
    value = content.getvalue()
    digest = hashlib.sha256(value).hexdigest()
    media = Media(kind="image", digest=digest, format="png", size=len(value), width=width, height=height)
    return media, value


def resized(content: bytes, width: int, height: int) -> tuple[Media, bytes]:
    """The same picture at another size, as PNG."""
    from PIL import Image

    from luthier.chat.media_codec import media_of_bytes

    file = io.BytesIO()
    Image.open(io.BytesIO(content)).resize((width, height)).save(file, "PNG")
    return media_of_bytes(file.getvalue()), file.getvalue()


def shown(text: str, *media: Media, answer: str = "") -> tuple[Message, ...]:
    """A question with pictures before it, and its answer when there is one."""
    asked = Message(role="user", content=MEDIA_MARK * len(media) + text, media=media)
    return (asked, Message(role="assistant", content=answer)) if answer else (asked,)


def tiny_vision_model(folder: Path, family: str = "llava", seed: int = 0) -> Path:
    """A random model of a family with its tokenizer and processor."""
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText, AutoTokenizer

    tiny = {**FAMILIES, **ALONE}[family]
    folder.mkdir(parents=True, exist_ok=True)
    tiny_tokenizer(folder)
    named: dict[str, Any] = {"extra_special_tokens": tiny.named} if tiny.named else {}
    tokenizer = AutoTokenizer.from_pretrained(folder, **named)
    tokenizer.add_special_tokens({"additional_special_tokens": list(tiny.special)})
    tokenizer.chat_template = tiny.template.replace("IMAGE", tiny.written)
    tiny.processor(tokenizer).save_pretrained(folder)
    torch.manual_seed(seed)
    config = AutoConfig.for_model(tiny.type, **tiny.config(tokenizer.convert_tokens_to_ids))
    model = AutoModelForImageTextToText.from_config(config)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    return folder
