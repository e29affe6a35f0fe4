"""Draw completions from the step's language model, and strip what it wraps around an answer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from luthier.chat.messages import Message
from luthier.models.lm.base import ChoiceRequest, GenerateRequest, LanguageModel, Response

TOP_P = 0.95
"""Only the likeliest tokens that together have this share are drawn from."""


def draw_completions(
    lm: LanguageModel,
    prompts: Sequence[tuple[Message, ...]],
    seeds: Sequence[int],
    *,
    max_tokens: int,
    temperature: float,
) -> list[Response]:
    """Sample one completion for each conversation, stripped of surrounding whitespace; seeds have 64 bits."""
    requests = [
        GenerateRequest(
            prompt=prompt,
            max_tokens=max_tokens,
            temperature=temperature,
            top_p=TOP_P,
            seed=seed >> 33,  # what fits 31 bits is taken by every endpoint
            stream=seed >> 1,
            truncate_prompt=False,
        )
        for prompt, seed in zip(prompts, seeds, strict=True)
    ]
    return [replace(response, text=response.text.strip()) for response in lm.generate(requests)]


def choose_options(
    lm: LanguageModel, prompts: Sequence[tuple[Message, ...]], options: Sequence[str]
) -> list[str | None]:
    """Return the option that the model names for each conversation; None where it names none."""
    chosen = lm.choose([ChoiceRequest(prompt=prompt, options=tuple(options)) for prompt in prompts])
    return [None if choice_response.index is None else options[choice_response.index] for choice_response in chosen]


_QUOTES = {'"': '"', "'": "'", "“": "”", "„": "“", "«": "»", "`": "`"}
_LEAD = re.compile(r"\A[^\n:]{0,80}:[ \t]*\n+(?=\S)")
_BULLET = re.compile(r"\A(?:[-*•]|\d{1,2}[.)])[ \t]+")


def strip_answer_wrapping(text: str) -> str:
    """The answer without an announcing line (`Here it is:`), a bullet, or quotes around the whole."""
    text = _LEAD.sub("", text.strip())
    text = _BULLET.sub("", text).strip()
    if len(text) > 1 and _QUOTES.get(text[0]) == text[-1] and text[0] not in text[1:-1]:
        text = text[1:-1].strip()
    return text
