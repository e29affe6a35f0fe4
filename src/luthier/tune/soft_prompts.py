"""What the soft-prompt techniques share: PEFT's wrapper, drawn from the seed alone, and the ids of a start text."""

from __future__ import annotations

from typing import Any

from luthier.core.errors import InputError, Where
from luthier.models.quiet import no_peft_warning

HEAD_ROWS = 256
"""Positions at which the output head runs at once."""
PLACE = "technique.text"


def wrapped(model: Any, config: Any, seed: int) -> Any:
    """PEFT's model over a frozen one, with an fp32 encoder of virtual tokens that is drawn from the seed."""
    import torch
    from peft import get_peft_model

    with torch.random.fork_rng(devices=[]), no_peft_warning():
        torch.manual_seed(seed)
        return get_peft_model(model, config)


def start_ids(model: Any, text: str | None, count: int, seed: int) -> Any:
    """(count,) ids to start from: those of a text, over and over; drawn from the vocabulary by the seed without one."""
    import torch

    device = model.device
    if text is None:
        chance = torch.Generator().manual_seed(seed)
        return torch.randint(model.get_input_embeddings().num_embeddings, (count,), generator=chance).to(device)
    ids = _ids(model, text)
    if not 0 < len(ids) <= count:
        remedy = f"set `tokens: {len(ids)}`, or shorten the text" if ids else "write the text, or choose another init"
        raise InputError(
            f"the text has {len(ids)} tokens, and the prompt {count}", where=Where(field=PLACE), remedy=remedy
        )
    return torch.tensor(ids * -(-count // len(ids)), device=device)[:count]


def _ids(model: Any, text: str) -> list[int]:
    """A text in the model's own tokens; transformers notes in a model where it, and its tokenizer, came from."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model.name_or_path, local_files_only=True, trust_remote_code=False)
    return list(tokenizer(text)["input_ids"])


def check_text(init: str, text: str | None) -> None:
    """Refuse a text that would not be used, and a start from a text that is not there."""
    if (init == "text") != (text is not None):
        raise ValueError("`text` goes with `init: text`, and only with it")
