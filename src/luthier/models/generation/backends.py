"""Backends of a decoder: batched over the paged KV cache, or one sequence at a time for models that cannot
be packed.
"""

from __future__ import annotations

import inspect
from array import array
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from luthier.chat.media import MEDIA_IDS, get_media_key, list_media_keys
from luthier.core.errors import ModelError
from luthier.models.adapters import SoftPrompt, compute_soft_prompt, get_cache_argument_name
from luthier.models.attention.backends import AttentionParams
from luthier.models.attention.cross import CrossAttention
from luthier.models.generation.cpu_decoder import (
    CompiledDecoder,
    ModuleDecoder,
    UnsupportedArchitectureError,
    activate_adapter,
)
from luthier.models.generation.kv_cache import (
    BLOCK,
    BlockAllocator,
    ForwardBatch,
    ForwardBatchPart,
    KVCache,
    SequenceBlocks,
)
from luthier.models.generation.sampling import (
    GenerationRequest,
)
from luthier.models.kernels.forwards import relative_distance
from luthier.models.kernels.linear_ops import LinearStruct, RowKernels, get_row_kernels
from luthier.models.media.encoder_decoder import attends_to_encoder, build_cross_attention
from luthier.models.media.inputs import compute_row_positions, has_bidirectional_media, uses_mrope
from luthier.models.media.row_forward import GenerationRow, explain_media_alone, is_prefix_lm, refuses_chunked_prefill
from luthier.models.packing.head import OutputHead, transform_logits
from luthier.models.packing.logprobs import (
    AGREES,
    detect_forward_mode,
    find_decoder,
)
from luthier.models.sequence_head import unwrap_peft_model


@dataclass(eq=False)
class SequenceState:
    """The state of one request during generation."""

    ticket: int
    ask: GenerationRequest
    end: int
    """Maximum number of tokens, prompt included."""
    ids: list[int]
    """The prompt and the generated tokens."""
    read: int = 0
    """Number of ids with keys and values in the cache."""
    found: int = 0
    """Number of prompt tokens that were in the prefix cache."""
    chance: torch.Generator = field(default_factory=torch.Generator)
    cache_slot: Any = None
    """The backend's own cache of this sequence."""
    turned: list[tuple[int, int, int]] = field(default_factory=list)
    """The three rotary positions of each prompt token, and of the next, where media have grid positions."""

    @property
    def written(self) -> list[int]:
        """The generated tokens."""
        return self.ids[len(self.ask.ids) :]

    @property
    def is_prefilled(self) -> bool:
        """Whether its whole prompt was read."""
        return self.read >= len(self.ask.ids)

    def positions(self, model: Any, count: int, before: int = 0) -> list[tuple[int, int, int]]:
        """Return the three positions of the next tokens to be read, after `before` virtual tokens."""
        if not self.turned:
            self.turned = compute_row_positions(model, [*self.ask.ids, 0], before)
        last = len(self.ask.ids)
        following = self.turned[last][0]
        return [
            self.turned[at] if at < last else (following + at - last,) * 3 for at in range(self.read, self.read + count)
        ]


class PrefillChunk(NamedTuple):
    """The next tokens of a sequence to be prefilled."""

    line: SequenceState
    tokens: int

    @property
    def last(self) -> bool:
        """Whether the sequence is then fully read and gets a next token."""
        return self.line.read + self.tokens == len(self.line.ids)


class DecoderBackend(Protocol):
    """The interface of a decoder's backend: allocates room for sequences and runs forward passes over chunks of
    them."""

    def open(self, line: SequenceState) -> bool:
        """Allocate room for all tokens of a sequence; False while there is none."""

    def schedule_prefill(self, waiting: Sequence[SequenceState], budget: int) -> list[PrefillChunk]:
        """Return the chunks to read next of sequences whose prompts are not fully read: at most `budget` tokens in all,
        at least one chunk.
        """

    def read(self, portions: Sequence[PrefillChunk]) -> Tensor:
        """Read chunks; return (completed, vocab) logits in at least fp32 after the sequences that are then
        fully read.
        """

    def close(self, line: SequenceState) -> None:
        """Free a sequence's room."""

    def switch_adapters(self, model: Any) -> None:
        """Use the same weights with the adapters of `model` from now on."""

    @property
    def cached(self) -> int:
        """Tokens in the prefix cache."""


@dataclass
class _Place:
    """A sequence's own cache, and the virtual tokens before it."""

    room: int
    soft: SoftPrompt
    cache: Any = None


class UnbatchedBackend:
    """Reads sequences one by one."""

    def __init__(self, model: Any, tokens: int) -> None:
        self._whole, self._model = model, unwrap_peft_model(model)
        self._free = tokens
        self._device = next(self._model.parameters()).device
        self._cache_name = get_cache_argument_name(self._model)
        self._takes_positions = "position_ids" in inspect.signature(self._model.forward).parameters
        self._stateful = bool(getattr(self._model, "_is_stateful", False))
        self._media_alone = explain_media_alone(self._model)
        self._text_alone = is_prefix_lm(self._model)

    cached = 0

    def open(self, line: SequenceState) -> bool:
        """Allocate room for all tokens of a sequence; False while there is none."""
        if line.end > self._free:
            return False
        with activate_adapter(self._whole, line.ask.adapter):
            line.cache_slot = _Place(line.end, compute_soft_prompt(self._whole))
        self._free -= line.end
        return True

    def schedule_prefill(self, waiting: Sequence[SequenceState], budget: int) -> list[PrefillChunk]:
        """Return one whole prompt: recurrent states cannot be read in chunks."""
        return [PrefillChunk(line, len(line.ids) - line.read) for line in waiting[:1] if budget]

    def read(self, portions: Sequence[PrefillChunk]) -> Tensor:
        """Return (sequences, vocab) logits after each chunk."""
        return torch.cat([self._read(portion) for portion in portions])

    def close(self, line: SequenceState) -> None:
        """Free a sequence's cache."""
        self._free += line.cache_slot.room
        line.cache_slot = None

    def switch_adapters(self, model: Any) -> None:
        """Use other adapters over the same weights."""
        self._whole = model

    def _read(self, portion: PrefillChunk) -> Tensor:
        line, slot = portion.line, portion.line.cache_slot
        if self._text_alone or (self._media_alone and list_media_keys(line.ask.ids)):
            return self._read_alone(portion)
        ids = torch.tensor([line.ids[line.read : line.read + portion.tokens]], device=self._device)
        with activate_adapter(self._whole, line.ask.adapter):
            inputs = self._begin(slot, ids) if slot.cache is None else {"input_ids": ids}
            end = slot.soft.count + line.read + portion.tokens
            begin = end - portion.tokens
            if not line.read and not slot.soft.cached:
                begin = 0
            kept: dict[str, Any] = {self._cache_name: slot.cache}
            if self._takes_positions and uses_mrope(self._model) and list_media_keys(line.ask.ids):
                ahead = [(at, at, at) for at in range(slot.soft.count - begin)] if not begin else []
                positions = [*ahead, *line.positions(self._model, portion.tokens, slot.soft.count)]
                kept["position_ids"] = torch.tensor(positions, device=self._device).T[:, None]
            elif self._takes_positions:
                kept["position_ids"] = torch.arange(begin, end, device=self._device)[None]
            attention_mask = None if self._stateful else ids.new_ones(1, end)
            out = self._model(**inputs, attention_mask=attention_mask, use_cache=True, logits_to_keep=1, **kept)
        logits: Tensor = out.logits[:, -1]
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def _read_alone(self, portion: PrefillChunk) -> Tensor:
        """Return (1, vocab) logits of a sequence with media, read as in transformers' own generation."""
        line, slot = portion.line, portion.line.cache_slot
        if slot.soft.count:
            raise ModelError(f"virtual tokens cannot stand before a row with media: {self._media_alone}")
        with activate_adapter(self._whole, line.ask.adapter):
            if slot.cache is None:
                slot.cache = GenerationRow(self._model, line.ids)
            logits: Tensor = slot.cache.read(line.ids[line.read : line.read + portion.tokens])
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def _begin(self, slot: _Place, ids: Tensor) -> dict[str, Any]:
        """Return a cache with the virtual tokens' keys and values, and the inputs after them."""
        from transformers import DynamicCache

        from luthier.models.generation.kv_cache import preallocate_cache

        slot.cache = slot.soft.fill(preallocate_cache(DynamicCache(config=self._model.config)), 1)
        whole = {"token_type_ids": (ids >= MEDIA_IDS).long()} if has_bidirectional_media(self._model, ids) else {}
        return {**slot.soft.inputs(self._model, ids), **whole}


_ATTENTION_PARAMS: WeakKeyDictionary[torch.nn.Module, dict[int, AttentionParams]] = WeakKeyDictionary()
"""Attention parameters of the layers, by model; empty for a model that the kernels do not support."""


def open_compiled_decoder(model: Any, past: KVCache) -> CompiledDecoder | None:
    """Open the compiled decoder of a model over a KV cache; None when its architecture is not supported."""
    kernels, inner = get_row_kernels(), unwrap_peft_model(model)
    if kernels is None:
        return None
    if inner not in _ATTENTION_PARAMS:
        with torch.no_grad():
            _ATTENTION_PARAMS[inner] = _try_kernel_attention(kernels, model)
    past.attention_params |= _ATTENTION_PARAMS[inner]
    try:
        return CompiledDecoder(kernels, model, find_decoder(inner), past) if _ATTENTION_PARAMS[inner] else None
    except (UnsupportedArchitectureError, AttributeError):
        return None


_FIRST, _THEN = 21, 3
"""Tokens of the trial: two chunks, over more than one block."""


def _try_kernel_attention(kernels: RowKernels, model: Any) -> dict[int, AttentionParams]:
    """Return the attention parameters of a model's layers, if the kernels agree with its modules."""
    inner = unwrap_peft_model(model)
    plain = KVCache(2)
    expected = _states(ModuleDecoder(inner, plain).read, inner)
    ours = KVCache(2)
    ours.attention_params = plain.attention_params
    try:
        lean = CompiledDecoder(kernels, model, find_decoder(inner), ours)
        if not lean.knows(None):
            return {}
        params = _states(lambda ids, visit: lean.ended(lean.read(ids, visit, [None])), inner)
    except (UnsupportedArchitectureError, AttributeError):  # a part that is called otherwise
        return {}
    same = relative_distance(params, expected) <= AGREES[expected.dtype] / 2
    return plain.attention_params if same else {}


def _states(read: Any, model: Any) -> torch.Tensor:
    """Return the hidden states of a few tokens, read in two chunks."""
    device = next(model.parameters()).device
    vocabulary = model.config.get_text_config().vocab_size
    ids = torch.tensor([(7 * at + 3) % vocabulary for at in range(_FIRST + _THEN)], device=device)
    table = array("i", range(-(-(_FIRST + _THEN) // BLOCK)))
    first = read(ids[:_FIRST], ForwardBatch([ForwardBatchPart(0, _FIRST, table)], device))
    then = read(ids[_FIRST:], ForwardBatch([ForwardBatchPart(_FIRST, _THEN, table)], device))
    return torch.cat([first, then])


class BatchedBackend:
    """Reads many sequences at once."""

    def __init__(self, model: Any, head: OutputHead, tokens: int) -> None:
        self._whole, self._model, self._head = model, unwrap_peft_model(model), head
        self._device = next(self._model.parameters()).device
        self._blocks = BlockAllocator(-(-tokens // BLOCK))
        self._past = KVCache(self._blocks.count)
        self._open_model()

    @property
    def cached(self) -> int:
        """Tokens in the prefix cache."""
        return self._blocks.cached

    def open(self, line: SequenceState) -> bool:
        """Allocate all blocks that a sequence may need; False while there are too few."""
        self._notice()
        sequence_blocks = self._blocks.hold(line.ask.adapter, line.ask.ids, line.end)
        if sequence_blocks is None:
            return False
        line.cache_slot = sequence_blocks
        line.read = line.found = len(sequence_blocks.known) * BLOCK
        return True

    def schedule_prefill(self, waiting: Sequence[SequenceState], budget: int) -> list[PrefillChunk]:
        """Return prompts in their order, up to the budget; a prefix that another sequence is reading now is
        waited for.
        """
        prefill_chunks: list[PrefillChunk] = []
        started_keys: set[Hashable] = set()
        for line in waiting:
            if line.read % BLOCK == 0:
                line.read = max(line.read, self._blocks.find(line.cache_slot, line.ask.ids))
                line.found = max(line.found, line.read) if not prefill_chunks else line.found
            key = self._blocks.next(line.cache_slot, line.ask.ids)
            count = min(budget, len(line.ids) - line.read)
            if count and key not in started_keys:
                started_keys.add(key)
                prefill_chunks.append(PrefillChunk(line, count))
                budget -= count
        return prefill_chunks

    @torch.no_grad()
    def read(self, portions: Sequence[PrefillChunk]) -> Tensor:
        """Return (completed, vocab) logits after the sequences that are fully read."""
        self._notice()
        lean = self._lean
        if lean is not None and all(lean.knows(portion.line.ask.adapter) for portion in portions):
            logits = self._by_kernels(lean, portions)
        else:
            logits = self._by_modules(portions)
        for line, count in portions:
            self._blocks.keep(line.cache_slot, line.ids[: line.read + count])
        return logits

    def close(self, line: SequenceState) -> None:
        """Free a sequence's blocks; they stay in the prefix cache while there is room."""
        sequence_blocks: SequenceBlocks = line.cache_slot
        self._blocks.release(sequence_blocks)
        line.cache_slot = None

    def switch_adapters(self, model: Any) -> None:
        """Use other adapters over the same weights; cached blocks of unchanged adapters stay valid."""
        self._whole = model
        self._open_model()

    def _open_model(self) -> None:
        """Inspect the model as it is now, with its loaded adapters."""
        self._adapters = tuple(getattr(self._whole, "peft_config", ()))
        self._parameters = list(self._model.parameters())
        self._state = self._weights()
        self._plugged = ModuleDecoder(self._model, self._past)
        self._lean: CompiledDecoder | None = None
        if not uses_mrope(self._model):
            self._lean = open_compiled_decoder(self._whole, self._past)

    def _notice(self) -> None:
        """Clear the prefix cache after a change of weights, and detect newly loaded adapters."""
        if self._adapters != tuple(getattr(self._whole, "peft_config", ())):
            self._open_model()
            self._blocks.forget()
        elif (state := self._weights()) != self._state:
            self._state = state
            self._blocks.forget()

    def _weights(self) -> list[int]:
        """Return the address and version of all weights."""
        return [number for parameter in self._parameters for number in (parameter.data_ptr(), parameter._version)]

    def _by_kernels(self, lean: CompiledDecoder, portions: Sequence[PrefillChunk]) -> Tensor:
        ids, visit, lasts = self._laid_out(portions)
        states = lean.read(ids, visit, [portion.line.ask.adapter for portion in portions])
        return self._logits(lean.ended(states.index_select(0, lasts)))

    def _by_modules(self, portions: Sequence[PrefillChunk]) -> Tensor:
        """Read the sequences of each adapter in a pass of their own."""
        logits: dict[int, Tensor] = {}
        groups: dict[str | None, list[int]] = {}
        for at, portion in enumerate(portions):
            groups.setdefault(portion.line.ask.adapter, []).append(at)
        for adapter, indices in groups.items():
            some = [portions[at] for at in indices]
            ids, visit, lasts = self._laid_out(some)
            with activate_adapter(self._whole, adapter):
                states = self._plugged.read(ids, visit, self._compute_media_positions(some), self._cross(some))
                rows = self._logits(states.index_select(0, lasts))
            logits |= dict(zip([at for at in indices if portions[at].last], rows, strict=True))
        width = self._head.linear.weight.shape[0]
        return (
            torch.stack([logits[at] for at in sorted(logits)]) if logits else torch.empty(0, width, dtype=torch.float32)
        )

    def _compute_media_positions(self, portions: Sequence[PrefillChunk]) -> Tensor | None:
        """Return (3, 1, T) positions of the new tokens, where media have grid positions."""
        if not uses_mrope(self._model) or not any(list_media_keys(line.ask.ids) for line, _ in portions):
            return None
        positions = [position for line, count in portions for position in line.positions(self._model, count)]
        return torch.tensor(positions, device=self._device).T[:, None]

    def _cross(self, portions: Sequence[PrefillChunk]) -> CrossAttention | None:
        """Return the clips that the new tokens attend to, where a decoder has an encoder."""
        if not attends_to_encoder(self._model):
            return None
        return build_cross_attention(self._model, [(get_media_key(line.ask.ids[0]), count) for line, count in portions])

    def _laid_out(self, portions: Sequence[PrefillChunk]) -> tuple[Tensor, ForwardBatch, Tensor]:
        """Return the new tokens of all sequences concatenated, their batch layout, and the last tokens of completed
        sequences.
        """
        ids = [id_ for line, count in portions for id_ in line.ids[line.read : line.read + count]]
        visit = ForwardBatch(
            [ForwardBatchPart(line.read, count, line.cache_slot.table) for line, count in portions], self._device
        )
        lasts = [end for end, portion in zip(visit.ends, portions, strict=True) if portion.last]
        return (
            torch.tensor(ids, device=self._device),
            visit,
            torch.tensor(lasts, dtype=torch.int64, device=self._device),
        )

    def _logits(self, hidden: Tensor) -> Tensor:
        """Return (N, vocab) logits in at least fp32 from (N, width) hidden states, each row as it would be alone."""
        weight, kernels = self._head.linear.weight, get_row_kernels()
        if kernels is None or weight.device.type != "cpu" or weight.dtype not in (torch.float32, torch.bfloat16):
            return self._head.logits(hidden)
        head_weights = LinearStruct.of(weight, self._head.linear.bias)
        return transform_logits(kernels.product(head_weights, hidden.float().contiguous()), self._head.shape)


def open_backend(model: object, tokens: int) -> DecoderBackend:
    """Open the backend of a model: batched where that is supported, else one sequence at a time."""
    mode = detect_forward_mode(model)  # type: ignore[arg-type]
    whole = refuses_chunked_prefill(unwrap_peft_model(model))
    if (
        mode.packed
        and mode.head is not None
        and mode.turn is None
        and not whole
        and not compute_soft_prompt(model).count
    ):
        return BatchedBackend(model, mode.head, tokens)
    return UnbatchedBackend(model, tokens)
