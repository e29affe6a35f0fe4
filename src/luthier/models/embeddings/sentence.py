"""Sentence encoders in the layout of sentence-transformers, read by transformers, and their pooling.

A text is computed in a batch whose shape (texts, tokens) depends on its own length alone; empty texts fill the batch.
Equal shapes take equal paths through the matrix products, so a vector does not depend on the other texts. The tests
check this bit for bit on the CPU, where larger batches are not faster.

A pooling takes states (texts, tokens, width) and a mask (texts, tokens) of 0 and 1, filled from the left, and returns
(texts, width). Poolings have the names of sentence-transformers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from luthier.core.errors import ModelError, SourceLocation
from luthier.core.system.process import hide_transformers_output
from luthier.models.describe import read_json_object

if TYPE_CHECKING:
    from luthier.models.embeddings.base import Points

Pooling = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def pool_first_token(states: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """The state of the first token (BERT's `[CLS]`)."""
    return states[:, 0]


def pool_max(states: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """The maximum of each dimension."""
    return states.masked_fill(attention_mask[..., None] == 0, -torch.inf).amax(dim=1)


def pool_mean(states: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """The mean of all states."""
    return _sum(states, attention_mask) / attention_mask.sum(dim=1, keepdim=True)


def pool_mean_sqrt_length(states: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """The sum of all states divided by the square root of their count."""
    return _sum(states, attention_mask) / attention_mask.sum(dim=1, keepdim=True).sqrt()


def pool_weighted_mean(states: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """A mean in which later tokens weigh more: 1, 2, 3, … (Muennighoff 2022, SGPT)."""
    weights = attention_mask * torch.arange(1, attention_mask.shape[1] + 1, device=attention_mask.device)
    return _sum(states, weights) / weights.sum(dim=1, keepdim=True)


def pool_last_token(states: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """The state of the last token."""
    return states[torch.arange(len(states), device=states.device), attention_mask.sum(dim=1) - 1]


def _sum(states: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    return (states * weights[..., None]).sum(dim=1)


POOLINGS: Mapping[str, Pooling] = {
    "cls": pool_first_token,
    "max": pool_max,
    "mean": pool_mean,
    "mean_sqrt_len_tokens": pool_mean_sqrt_length,
    "weightedmean": pool_weighted_mean,
    "lasttoken": pool_last_token,
}
"""In the order in which several are concatenated."""


STEP = 16
"""Lengths are rounded up to multiples of this."""
BATCH_TOKENS = {"cpu": 256, "cuda": 16_384}
"""Tokens of a batch, by the kind of device."""
MOST_TOKENS = 8192
"""Maximum tokens of a text where neither the model's files nor the settings give one."""
Layer = Callable[[torch.Tensor], torch.Tensor]


class SentenceEncoder:
    """A loaded encoder: (texts) → (texts, width) of unit length."""

    def __init__(self, folder: Path, *, max_tokens: int | None = None, prompt: str | None = None) -> None:
        from luthier.models.load import move_to_gpu

        modules = _modules(folder)
        self._tokenizer = _tokenizer(folder)
        self._model = move_to_gpu(_model(folder))
        self._settings = _sentence_settings(folder)
        self._pooling = _pooling(folder, modules)
        self._layers = [layer for module in modules for layer in _layers(folder, module)]
        self._prompt = _own_prompt(folder) if prompt is None else prompt
        self._positions = _positions(self._model.config)
        self.max_tokens = min(_own_limit(self._settings, self._positions), max_tokens or MOST_TOKENS)
        self.width = int(self._model.config.hidden_size) * len(self._pooling)
        for layer in self._layers:
            self.width = getattr(layer, "out_features", self.width)

    def points(self, texts: Sequence[str]) -> Points:
        """Return a vector for each text; equal texts are computed once."""
        import numpy as np

        different = sorted(set(texts))
        index_by_text = {text: index for index, text in enumerate(different)}
        ids = self.tokens(different)
        vectors = np.zeros((len(different), self.width), dtype=np.float32)
        for rows, tokens in _batches(ids, BATCH_TOKENS[self._model.device.type], self._positions):
            vectors[rows] = self._computed([ids[row] for row in rows], tokens)
        return vectors[[index_by_text[text] for text in texts]]

    def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each text, with prompt and special tokens, truncated as by the model's files."""
        if not texts:
            return []
        shown = [f"{self._prompt}{text}" for text in texts]
        if self._settings.get("do_lower_case"):
            shown = [text.lower() for text in shown]
        encoded = self._tokenizer(shown, truncation=True, max_length=self.max_tokens, return_attention_mask=False)
        token_ids: list[list[int]] = encoded["input_ids"]
        return token_ids

    def _computed(self, ids: Sequence[Sequence[int]], tokens: int) -> Points:
        """Return the vectors of texts of one length, padded to the one shape of that length."""
        count = max(1, BATCH_TOKENS[self._model.device.type] // tokens)
        batch = torch.zeros((count, tokens), dtype=torch.long)
        attention_mask = torch.zeros((count, tokens), dtype=torch.long)
        attention_mask[:, 0] = 1  # an empty text attends to something, so that nothing is divided by nothing
        for row, own in enumerate(ids):
            batch[row, : len(own)] = torch.tensor(own)
            attention_mask[row, : len(own)] = 1
        batch, attention_mask = batch.to(self._model.device), attention_mask.to(self._model.device)
        with torch.no_grad():
            states = self._model(
                input_ids=batch, attention_mask=attention_mask
            ).last_hidden_state  # (texts, tokens, width)
            pooled = torch.cat([pool(states, attention_mask) for pool in self._pooling], dim=1)
            for layer in self._layers:
                pooled = layer(pooled)
            unit = torch.nn.functional.normalize(pooled, dim=1)
        points: Points = unit[: len(ids)].cpu().numpy()
        return points


def _batches(ids: Sequence[Sequence[int]], batch_tokens: int, most: int) -> Iterator[tuple[list[int], int]]:
    """Yield the indices of texts of one rounded length (at most `most`) that are computed together, and that length."""
    by_length: dict[int, list[int]] = {}
    for index, own in enumerate(ids):
        by_length.setdefault(min(-(-max(1, len(own)) // STEP) * STEP, most), []).append(index)
    for tokens, indices in sorted(by_length.items()):
        count = max(1, batch_tokens // tokens)
        for start in range(0, len(indices), count):
            yield indices[start : start + count], tokens


def _modules(folder: Path) -> list[tuple[str, Path]]:
    """Return the modules after the transformer, by class name, with their folders; mean pooling alone for a plain
    model.
    """
    import json

    path = folder / "modules.json"
    if not path.is_file():
        return []
    try:
        modules = json.loads(path.read_text(encoding="utf-8"))
        return [(str(module["type"]).rpartition(".")[2], folder / str(module["path"])) for module in modules][1:]
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(
            "expected a list of modules with `type` and `path`", where=SourceLocation(file=str(path))
        ) from error


def _pooling(folder: Path, modules: Sequence[tuple[str, Path]]) -> list[Pooling]:
    """Return the poolings of a model; several are concatenated, in sentence-transformers' order."""
    for name, module_path in modules:
        if name == "Pooling":
            config = read_json_object(module_path / "config.json")
            mode = config.get("pooling_mode")
            chosen = [mode] if isinstance(mode, str) else list(mode or [])
            chosen += [name for name in POOLINGS if config.get(f"pooling_mode_{_FLAGS.get(name, name)}")]
            unknown = [entry for entry in chosen if entry not in POOLINGS]
            if unknown or not chosen or config.get("include_prompt") is False:
                what = f"pools in a way that is not read here: {', '.join(unknown) or 'without its prompt'}"
                raise ModelError(what, where=SourceLocation(file=str(module_path / "config.json")), hint=_TAKE)
            return [POOLINGS[entry] for entry in chosen]
    if modules:
        raise ModelError("names no pooling", where=SourceLocation(file=str(folder / "modules.json")), hint=_TAKE)
    return [POOLINGS["mean"]]


_FLAGS = {"cls": "cls_token", "max": "max_tokens", "mean": "mean_tokens", "weightedmean": "weightedmean_tokens"}
"""Older files have one `pooling_mode_…` for each pooling."""
_TAKE = "take another encoder, as `all-minilm-l6-v2`"


def _layers(folder: Path, module: tuple[str, Path]) -> Iterator[Layer]:
    """Yield the layers of a module after pooling; everything ends at unit length."""
    name, path = module
    if name == "Dense":
        yield from _dense(path)
    elif name == "Normalize":
        yield partial(torch.nn.functional.normalize, p=2.0, dim=1)
    elif name != "Pooling":
        where = SourceLocation(file=str(folder / "modules.json"))
        raise ModelError(f"has a module that is not read here: {name}", where=where, hint=_TAKE)


def _dense(path: Path) -> Iterator[Layer]:
    from safetensors.torch import load_file

    from luthier.models.load import move_to_gpu

    config, weights = read_json_object(path / "config.json"), path / "model.safetensors"
    activation = str(config.get("activation_function", "torch.nn.modules.activation.Tanh")).rpartition(".")[2]
    known: dict[str, Layer] = {"Tanh": torch.tanh, "Identity": torch.nn.Identity(), "GELU": torch.nn.functional.gelu}
    if activation not in known or not weights.is_file():
        what = f"no safetensors weights, or an activation that is not read here ({activation})"
        raise ModelError(f"has a dense layer with {what}", where=SourceLocation(file=str(path)), hint=_TAKE)
    tensors = load_file(weights)
    linear = torch.nn.Linear(config["in_features"], config["out_features"], bias=bool(config.get("bias", True)))
    linear.load_state_dict({name.removeprefix("linear."): tensor for name, tensor in tensors.items()})
    yield move_to_gpu(linear.requires_grad_(requires_grad=False))
    yield known[activation]


def _sentence_settings(folder: Path) -> dict[str, Any]:
    path = folder / "sentence_bert_config.json"
    return read_json_object(path) if path.is_file() else {}


def _own_prompt(folder: Path) -> str:
    """Return the default prompt of the model's files."""
    path = folder / "config_sentence_transformers.json"
    config = read_json_object(path) if path.is_file() else {}
    return str((config.get("prompts") or {}).get(config.get("default_prompt_name"), ""))


def _own_limit(settings: dict[str, Any], positions: int) -> int:
    """Return the maximum length by sentence-transformers' file, else the number of positions."""
    return min(int(settings.get("max_seq_length") or positions), positions)


def _positions(config: Any) -> int:
    """Return the number of positions of a model."""
    positions = getattr(config, "max_position_embeddings", None) or MOST_TOKENS
    if getattr(config, "model_type", "") in ("roberta", "xlm-roberta", "camembert", "mpnet"):
        positions -= 2  # their positions begin after the padding's
    return int(positions)


def _tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return _load_pretrained(folder, AutoTokenizer)


def _model(folder: Path) -> Any:
    from transformers import AutoModel

    model = _load_pretrained(folder, AutoModel, use_safetensors=True, dtype=torch.float32).eval()
    if getattr(model.config, "is_encoder_decoder", False):
        what = "is an encoder with a decoder, which is not read as an embedder"
        raise ModelError(what, where=SourceLocation(file=str(folder)), hint=_TAKE)
    return model.requires_grad_(requires_grad=False)


def _load_pretrained(folder: Path, what: Any, **more: Any) -> Any:
    try:
        with hide_transformers_output():
            return what.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **more)
    except (OSError, ValueError, RuntimeError, KeyError, ImportError) as error:
        message = str(error).strip().split("\n", 1)[0]
        raise ModelError(
            f"no encoder can be read: {message}", where=SourceLocation(file=str(folder)), hint="give a whole folder"
        ) from error
