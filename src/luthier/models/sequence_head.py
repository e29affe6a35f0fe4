"""Models with a sequence head, which returns scores after a row's last token.

They are transformers' `...ForSequenceClassification`: a decoder and a linear layer `score`. Several outputs are
classes, read as log-probabilities. A single output is used as it is (a reward).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.core.errors import ModelError
from luthier.core.system.process import hide_transformers_output
from luthier.models.describe import read_json_object

if TYPE_CHECKING:
    from torch import Tensor

    from luthier.chat.messages import Message

    Conversations = Sequence[tuple[Message, ...]]

REWARD = "reward"
"""The output of a reward model's head."""
SCORE = "score."
"""Prefix of a sequence head's parameters."""


def unwrap_peft_model(model: Any) -> Any:
    """Return the transformers model, with adapters in place, without PEFT's wrapper."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def ends_in_sequence_head(model: Any) -> bool:
    """Return whether a model ends in a sequence head."""
    return type(model).__name__.endswith("ForSequenceClassification")


def get_peft_task_type(model: Any) -> str:
    """Return PEFT's name of a model's task: with SEQ_CLS it trains and saves the sequence head with the adapter."""
    return "SEQ_CLS" if ends_in_sequence_head(model) else "CAUSAL_LM"


def get_head_outputs(model: Any) -> tuple[str, ...]:
    """Return the outputs of a model's sequence head, in order; empty for a language model.

    A single output is a reward, whatever its label is (by default transformers' `LABEL_0`).
    """
    return _named(model.config.id2label) if ends_in_sequence_head(model) else ()


def read_head_outputs(folder: Path) -> tuple[str, ...]:
    """Return the outputs of the head of a Hugging Face folder, from its `config.json`."""
    config = read_json_object(folder / "config.json")
    kind = str((config.get("architectures") or [""])[0])
    if not kind.endswith("ForSequenceClassification"):
        return ()
    usual = {number: f"LABEL_{number}" for number in range(config.get("num_labels", 2))}  # transformers' own
    return _named({int(number): name for number, name in (config.get("id2label") or usual).items()})


def _named(names: Mapping[int, Any]) -> tuple[str, ...]:
    labels = tuple(str(name) for _, name in sorted(names.items()))
    return (REWARD,) if len(labels) == 1 else labels


def get_padding_id(tokenizer: Any) -> int | None:
    """Return the padding id, before which transformers reads a sequence head: the tokenizer's own, or else its
    end-of-text id (as in TRL).

    Training, evaluation and other programs must use the same one.
    """
    pad: int | None = tokenizer.pad_token_id
    end: int | None = tokenizer.eos_token_id
    return end if pad is None else pad


def read_padding_id(folder: Path) -> int | None:
    """Read the padding id of the tokenizer in a model's folder; None where there is none."""
    from transformers import AutoTokenizer

    if not (folder / "tokenizer.json").is_file():
        return None
    return get_padding_id(AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False))


def _padding(model: Any) -> int | None:
    """Return the padding id of a loaded model, from its folder's tokenizer; else from its settings."""
    if (padding := read_padding_id(Path(model.name_or_path))) is not None:
        return padding
    config = model.config.get_text_config()
    ends = config.eos_token_id if config.pad_token_id is None else config.pad_token_id
    first: int | None = ends[0] if isinstance(ends, list) else ends
    return first


def add_sequence_head(model: Any, outputs: Sequence[str]) -> Any:
    """Return a language model with a sequence head in place of its language head, over the same decoder.

    The head is initialized to zero: all outputs are equal, and no random number is needed. A model that already has
    these outputs is returned as it is; `ModelError` for other outputs, or when transformers has no sequence head for
    the architecture.
    """
    import torch
    from transformers import AutoModelForSequenceClassification

    import luthier.models.media.sequence_heads  # noqa: F401  # makes those of models that read pictures known

    if ends_in_sequence_head(model):
        return _check_outputs(model, outputs)
    config = model.config.__class__.from_dict({**model.config.to_dict(), **_labels(outputs)})
    config.get_text_config().pad_token_id = _padding(model)
    config._name_or_path = model.config._name_or_path
    config._attn_implementation = model.config._attn_implementation
    for part in config.sub_configs:
        if (own := getattr(model.config, part, None)) is not None:  # a decoder may know fewer ways than its encoder
            getattr(config, part)._attn_implementation = own._attn_implementation
    try:
        with torch.device("meta"), hide_transformers_output():
            headed: Any = AutoModelForSequenceClassification.from_config(config)
    except ValueError as error:
        raise _headless(model) from error
    prefix = headed.base_model_prefix
    decoder: Any = getattr(model, prefix, None)
    if not isinstance(getattr(headed, "score", None), torch.nn.Linear) or type(decoder) is not type(
        getattr(headed, prefix)
    ):
        raise _headless(model)
    setattr(headed, prefix, decoder)
    score, weight = headed.score, next(decoder.parameters())
    headed.score = torch.nn.Linear(
        score.in_features, score.out_features, score.bias is not None, weight.device, model.dtype
    )
    with torch.no_grad():
        for parameter in headed.score.parameters():
            parameter.zero_()
    headed.config.update({"architectures": [type(headed).__name__]})
    return headed.eval()


def _check_outputs(model: Any, outputs: Sequence[str]) -> Any:
    if get_head_outputs(model) != tuple(outputs):
        has, expected = ", ".join(get_head_outputs(model)), ", ".join(outputs) or "none"
        hint = "begin with the base model, or with data of the same classes and `head: sequence`"
        raise ModelError(f"this model has a sequence head for {has}; wanted are {expected}", hint=hint)
    return model


def _headless(model: Any) -> ModelError:
    hint = "use `head: label`, which works with every language model"
    return ModelError(f"transformers has no sequence head for {type(model).__name__}", hint=hint)


def _labels(outputs: Sequence[str]) -> dict[str, Any]:
    return {
        "id2label": {str(number): name for number, name in enumerate(outputs)},
        "label2id": {name: number for number, name in enumerate(outputs)},
        "problem_type": "regression" if len(outputs) == 1 else "single_label_classification",
    }


def get_head_config(model: Any) -> dict[str, Any]:
    """Return the config.json entries that a sequence head changes: architecture, labels and padding id."""
    config = model.config
    names = list(get_head_outputs(model))
    return {
        "architectures": [type(model).__name__],
        "pad_token_id": config.get_text_config().pad_token_id,
        **_labels(names),
    }


def strip_padding(ids: Sequence[int], pad: int | None) -> list[int]:
    """Return ids up to the last one that is not padding, where transformers reads a sequence head."""
    kept = list(ids)
    while len(kept) > 1 and kept[-1] == pad:
        kept.pop()
    return kept


def score_hidden_states(model: Any, hidden: Tensor) -> Tensor:
    """Return (N, outputs) scores in at least fp32 from (N, width) hidden states of a model."""
    import torch

    wide = torch.promote_types(hidden.dtype, torch.float32)
    head = model.score
    if head.weight.dtype == wide:
        scores: Tensor = head(hidden.to(wide))  # those who watch layers see it
        return scores
    bias = None if head.bias is None else head.bias.to(wide)
    return torch.nn.functional.linear(hidden.to(wide), head.weight.to(wide), bias)


def refuse_sequence_head(model: Any) -> None:
    """Raise `ModelError` for a model that cannot generate text."""
    if ends_in_sequence_head(model):
        raise ModelError(
            f"this model names one of {len(get_head_outputs(model))} classes and writes no text",
            hint="evaluate it, or tune with `head: label` for a model that can be talked with",
        )
