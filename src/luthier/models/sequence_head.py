"""Models with a sequence head, which returns a few scores after a row's last token.

They are transformers' `...ForSequenceClassification`: a decoder and a linear layer `score_hidden_states`. Several
outputs are classes, read as log-probabilities. A single output is read as it is (a reward).
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
"""The one output of a reward model's head."""
SCORE = "score."
"""How the names of a sequence head's parameters begin."""


def unwrap_peft_model(model: Any) -> Any:
    """The transformers model itself, with adapters in place, without PEFT's wrapper around it."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def ends_in_sequence_head(model: Any) -> bool:
    """Whether a plain model ends in a sequence head."""
    return type(model).__name__.endswith("ForSequenceClassification")


def get_peft_task_type(model: Any) -> str:
    """What PEFT calls a model's task: with SEQ_CLS it trains and saves the sequence head beside the adapter."""
    return "SEQ_CLS" if ends_in_sequence_head(model) else "CAUSAL_LM"


def get_head_outputs(model: Any) -> tuple[str, ...]:
    """The outputs of a plain model's sequence head, in order; none for a language model. One alone is a reward,
    whatever its settings call it (transformers, unasked, `LABEL_0`)."""
    return _named(model.config.id2label) if ends_in_sequence_head(model) else ()


def read_head_outputs(folder: Path) -> tuple[str, ...]:
    """The outputs of the head of a Hugging Face folder, read from its `config.json`."""
    config = read_json_object(folder / "config.json")
    kind = str((config.get("architectures") or [""])[0])
    if not kind.endswith("ForSequenceClassification"):
        return ()
    usual = {number: f"LABEL_{number}" for number in range(config.get("num_labels", 2))}  # transformers' own
    return _named({int(number): name for number, name in (config.get("id2label") or usual).items()})


def _named(names: Mapping[int, Any]) -> tuple[str, ...]:
    found = tuple(str(name) for _, name in sorted(names.items()))
    return (REWARD,) if len(found) == 1 else found


def get_padding_id(tokenizer: Any) -> int | None:
    """The id by which rows are padded, before which transformers reads a sequence head: the tokenizer's own, or its end
    of text where it has none (as TRL has it). Training, judging and other programs must mean the same by it."""
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
    """The same for an open model, whose folder holds its tokenizer; else what its settings say."""
    if (found := read_padding_id(Path(model.name_or_path))) is not None:
        return found
    config = model.config.get_text_config()
    ends = config.eos_token_id if config.pad_token_id is None else config.pad_token_id
    first: int | None = ends[0] if isinstance(ends, list) else ends
    return first


def add_sequence_head(model: Any, outputs: Sequence[str]) -> Any:
    """A plain language model with a sequence head in place of its language head, over the very same decoder.

    The head begins at zero: all outputs alike, and no random number needed. A model that has these outputs already is
    returned as it is; `ModelError` for other outputs, or when transformers has no sequence head for the architecture.
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
            made: Any = AutoModelForSequenceClassification.from_config(config)
    except ValueError as error:
        raise _headless(model) from error
    prefix = made.base_model_prefix
    decoder: Any = getattr(model, prefix, None)
    if not isinstance(getattr(made, "score", None), torch.nn.Linear) or type(decoder) is not type(
        getattr(made, prefix)
    ):
        raise _headless(model)
    setattr(made, prefix, decoder)
    score, weight = made.score, next(decoder.parameters())
    made.score = torch.nn.Linear(
        score.in_features, score.out_features, score.bias is not None, weight.device, model.dtype
    )
    with torch.no_grad():
        for parameter in made.score.parameters():
            parameter.zero_()
    made.config.update({"architectures": [type(made).__name__]})
    return made.eval()


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
    """Ids up to the last one that is no padding, after which transformers reads a sequence head."""
    kept = list(ids)
    while len(kept) > 1 and kept[-1] == pad:
        kept.pop()
    return kept


def score_hidden_states(model: Any, hidden: Tensor) -> Tensor:
    """(N, width) hidden states of a plain model to (N, outputs) scores, in at least fp32."""
    import torch

    wide = torch.promote_types(hidden.dtype, torch.float32)
    head = model.score
    if head.weight.dtype == wide:
        scores: Tensor = head(hidden.to(wide))  # those who watch layers see it
        return scores
    bias = None if head.bias is None else head.bias.to(wide)
    return torch.nn.functional.linear(hidden.to(wide), head.weight.to(wide), bias)


def refuse_sequence_head(model: Any) -> None:
    """`ModelError` for a plain model that writes no text."""
    if ends_in_sequence_head(model):
        raise ModelError(
            f"this model names one of {len(get_head_outputs(model))} classes and writes no text",
            hint="evaluate it, or tune with `head: label` for a model that can be talked with",
        )
