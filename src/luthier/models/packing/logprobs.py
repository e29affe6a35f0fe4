"""Log-probabilities of a pack's trained tokens, for every objective and every evaluation.

A probe decides once for each model how it is read: it reads a small pack packed and padded and compares the results.
Models with a recurrent state, or with attention outside transformers' registry, are read in padded rows with the same
result. Models with unknown operations on their logits use their own output head.

The last layer computes only the positions of trained tokens after its attention. Its `forward` is replaced only where
it is a plain pair of attention and MLP with a norm before each; `detect_forward_mode` compares the outputs before and
after the replacement.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import PreTrainedModel

from luthier.core.errors import ModelError
from luthier.models.adapters import NO_PROMPT, SoftPrompt, compute_soft_prompt
from luthier.models.attention import PackAttentionState, UnpackableAttentionError, use_pack_attention
from luthier.models.attention.cross import use_cross_attention
from luthier.models.attention.prefix import PackPrefixKV, get_active_prefix_kv
from luthier.models.kernels import gates, norms, rotary
from luthier.models.kernels.forwards import relative_distance
from luthier.models.media.encoder_decoder import (
    attends_to_encoder,
    build_pack_cross_attention,
    build_row_states,
    count_decoder_layers,
)
from luthier.models.media.inputs import (
    build_decoder_inputs,
    compute_positions,
    compute_row_positions,
    has_bidirectional_media,
    holds_media,
    uses_mrope,
)
from luthier.models.media.row_forward import base_reads_media, explain_media_alone, is_prefix_lm, read_rows_alone
from luthier.models.packing.head import LogitTransform, OutputHead
from luthier.models.packing.pack import Pack, TokenRow, build_pack, pad_pack_size
from luthier.models.sequence_head import ends_in_sequence_head, score_hidden_states, unwrap_peft_model

_PARTS = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
_WANTED: ContextVar[Tensor | None] = ContextVar("luthier_wanted", default=None)


class _Last:
    """The replaced forward of a last layer; its own forward when all tokens are needed."""

    def __init__(self, layer: Any) -> None:
        self._layer, self._own = layer, type(layer).forward

    def __call__(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        indices = _WANTED.get()
        if indices is None or args:
            return self._own(self._layer, hidden_states, *args, **kwargs)
        layer = self._layer
        mixed = layer.self_attn(hidden_states=layer.input_layernorm(hidden_states), **kwargs)[0]
        kept = hidden_states.index_select(1, indices) + mixed.index_select(1, indices)
        mlp_out = layer.mlp(layer.post_attention_layernorm(kept))
        return kept + (mlp_out[0] if isinstance(mlp_out, tuple) else mlp_out)  # experts tell their router's scores too


def install_logprob_layer(decoder: Any) -> bool:
    """Replace the forward of a decoder's last layer; False where its layers are not supported."""
    layers = getattr(decoder, "layers", None)
    if not isinstance(layers, torch.nn.ModuleList) or {name for name, _ in layers[-1].named_children()} != _PARTS:
        return False
    layers[-1].forward = _Last(layers[-1])
    return True


def remove_logprob_layer(decoder: Any) -> None:
    """Restore the last layer's own forward."""
    del decoder.layers[-1].forward


@contextmanager
def select_token_positions(indices: Tensor | None) -> Iterator[None]:
    """Let installed last layers compute only these positions (M,); None: all."""
    token = _WANTED.set(indices)
    try:
        yield
    finally:
        _WANTED.reset(token)


def pad_index_count(indices: Tensor) -> Tensor:
    """Pad positions with the first one, so that few sizes occur: kernels are compiled for each."""
    unit = max(8, 1 << max(0, indices.shape[0].bit_length() - 3))
    return torch.cat([indices, indices[:1].expand(-indices.shape[0] % unit)])


FEW_TARGETS = 4
"""Training computes logits in fp32 while at most one token in this many is trained: then it costs almost nothing."""
AGREES = {torch.float64: 1e-5, torch.float32: 1e-3, torch.bfloat16: 8e-2, torch.float16: 2e-2}
_FAULTS = (TypeError, ValueError, AttributeError, LookupError, RuntimeError)
_SEEN_WHOLE = {"full_attention", "sliding_attention", "attention"}


@dataclass(frozen=True, eq=False)
class ForwardMode:
    """How a model is read: packed or in padded rows (and why), and with which head (None: its own logits)."""

    packed: bool
    why: str
    head: OutputHead | None
    short: bool = False
    """Whether the last layer computes only the positions that are needed."""
    turn: int | None = None
    """Row length above which the rotary positions of a whole batch change; such rows are read alone."""
    apart: bool = False
    """Whether rows attend to an encoder, each to its own clip; when they are not packed they are read alone."""
    media_alone: str = ""
    """Why a row with media is read alone through the model's own forward; empty where it is packed."""
    text_alone: bool = False
    """Whether text rows are read alone, too."""


def compute_pack_logprobs(
    model: torch.nn.Module, pack: Pack, *, quick: bool = True, whole: bool = False, training_precision: bool = False,
    first: Tensor | None = None, embeddings: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Return (N,) log-probabilities of the pack's targets, in fp32 (float64 when the model is).

    For a pack with choices (N, 1 + K): the target's, then those of the choices at the pack's temperature. With a
    sequence head the targets are indices of its outputs, and a single output is returned as it is.

    `whole` lets every layer compute every token, for observers of the layers. `training_precision` rounds logits as in
    training, also without gradients. `first` (N,) receives whether the target is the top prediction, in packs without
    choices. `embeddings` (T, width) replace those of the pack's tokens, to take gradients by them.
    """
    inner, mode, soft = unwrap_peft_model(model), detect_forward_mode(model), compute_soft_prompt(model)
    mode = replace(mode, short=False) if whole else mode
    soft = soft if embeddings is None else replace(soft, leaves=embeddings)
    pack = pack.on(next(inner.parameters()).device)
    if ends_in_sequence_head(inner):
        scores = score_hidden_states(inner, _compute_hidden_states(inner, pack, soft, mode, quick))
        return scores[:, 0] if scores.shape[1] == 1 else _gather_logprobs(scores, pack, first)
    if mode.head is None or (_is_alone(mode, pack) and not base_reads_media(inner)):
        return _gather_logprobs(_own_logits(inner, pack, soft, mode), pack, first)
    if pack.choices is None and not torch.is_grad_enabled() and not _is_alone(mode, pack):
        sources, indices = torch.unique(pack.sources, return_inverse=True)
        path = torch.empty_like(sources).scatter_(0, indices, pack.path)  # any row that a state lies on
        hidden = _compute_hidden_states(inner, replace(pack, sources=sources, path=path), soft, mode, quick)
        return mode.head.given(
            hidden, indices, pack.targets, precise=not training_precision or _needs_fp32_logits(pack), first=first
        )
    hidden = _compute_hidden_states(inner, pack, soft, mode, quick)
    precise = not (torch.is_grad_enabled() or training_precision) or _needs_fp32_logits(pack)
    if pack.choices is None:
        return mode.head.logprobs(hidden, pack.targets, precise=precise, first=first)
    return mode.head.choices(hidden, pack.targets, pack.choices, temperature=pack.temperature, precise=precise)


def compute_pack_states(model: torch.nn.Module, pack: Pack) -> Tensor:
    """Return (N, width) last hidden states at the positions that predict the pack's targets."""
    inner, mode, soft = unwrap_peft_model(model), detect_forward_mode(model), compute_soft_prompt(model)
    return _compute_hidden_states(inner, pack.on(next(inner.parameters()).device), soft, mode, True)


def _needs_fp32_logits(pack: Pack) -> bool:
    """Return whether training computes a pack's logits in fp32."""
    return pack.sources.shape[0] * FEW_TARGETS <= pack.tokens


@torch.no_grad()
def compute_top_tokens(model: torch.nn.Module, pack: Pack, count: int, *, below: int, temperature: float) -> Pack:
    """Return the pack with the model's `count` likeliest tokens at each trained token, and their log-probabilities.

    Log-probabilities are those of logits divided by `temperature`; only ids below `below` are returned.
    """
    inner, mode, soft = unwrap_peft_model(model), detect_forward_mode(model), compute_soft_prompt(model)
    here = pack.on(next(inner.parameters()).device)
    count = min(count, below)
    if mode.head is None or (_is_alone(mode, here) and not base_reads_media(inner)):
        logps = torch.log_softmax(_own_logits(inner, here, soft, mode) / temperature, -1)
        top, choices = logps[:, :below].topk(count)
    else:
        hidden = _compute_hidden_states(inner, here, soft, mode, True)
        choices, top = mode.head.top(hidden, count, below=below, temperature=temperature)
    device = pack.ids.device
    return replace(pack, choices=choices.to(device), teacher=top.to(device), temperature=temperature)


@torch.no_grad()
def compute_logprobs_and_top1(model: torch.nn.Module, pack: Pack) -> tuple[Tensor, Tensor]:
    """Return (N,) log-probabilities of the pack's targets, and (N,) bool: whether each is the top prediction."""
    inner, mode, soft = unwrap_peft_model(model), detect_forward_mode(model), compute_soft_prompt(model)
    here = pack.on(next(inner.parameters()).device)
    if mode.head is None or (_is_alone(mode, here) and not base_reads_media(inner)):
        logps = torch.log_softmax(_own_logits(inner, here, soft, mode), -1)
        return logps.gather(1, here.targets[:, None])[:, 0], logps.argmax(-1) == here.targets
    hidden = _compute_hidden_states(inner, here, soft, mode, True)
    first, _ = mode.head.top(hidden, 1, below=mode.head.linear.weight.shape[0])
    return mode.head.logprobs(hidden, here.targets), first[:, 0] == here.targets


@torch.no_grad()
def compute_prefix_kv(model: torch.nn.Module, ids: Sequence[int]) -> PackPrefixKV:
    """Compute the keys and values of a prefix of packs, once for all of them."""
    inner, prefix_kv = unwrap_peft_model(model), PackPrefixKV(ids)
    alone = build_pack([TokenRow([*ids, 0], [0.0] * len(ids) + [1.0])]).on(next(inner.parameters()).device)
    inputs = build_decoder_inputs(inner, alone.ids[None])  # towers do not attend as packs do
    cross = build_pack_cross_attention(inner, alone) if attends_to_encoder(inner) else None
    with use_pack_attention(alone, prefix_kv=prefix_kv), use_cross_attention(cross):
        find_decoder(inner)(
            **inputs, **(cross.inputs if cross else {}), position_ids=compute_positions(inner, alone), use_cache=False
        )
    return prefix_kv


_READINGS: WeakKeyDictionary[torch.nn.Module, ForwardMode] = WeakKeyDictionary()


def detect_forward_mode(model: torch.nn.Module) -> ForwardMode:
    """Detect, once for each model, how it is read."""
    inner = unwrap_peft_model(model)
    if inner not in _READINGS:
        with torch.no_grad(), disable_dropout(inner):
            _READINGS[inner] = _find_out(inner)
    return _READINGS[inner]


@contextmanager
def disable_dropout(model: Any) -> Iterator[None]:
    """Context manager: disable a model's dropout."""
    modules = list(model.modules())  # passed through once: `eval` and `train` take a while where a step is short
    learning = {module for module in modules if module.training}
    for module in learning:
        module.training = False
    try:
        yield
    finally:
        for module in modules:
            if module.training != (module in learning):
                module.training = module in learning


def clear_forward_mode(model: torch.nn.Module) -> None:
    """Clear the stored forward mode of a model, after its layers were changed."""
    _READINGS.pop(unwrap_peft_model(model), None)


def _compute_hidden_states(model: Any, pack: Pack, soft: SoftPrompt, mode: ForwardMode, quick: bool) -> Tensor:
    """Return (N, width) hidden states at the pack's sources."""
    if _is_alone(mode, pack):
        _refuse_soft_prompt(soft, mode)
        return read_rows_alone(model, pack, states=True)
    if not is_read_packed(mode, pack, soft):
        return _hidden_padded(model, pack, soft, mode.turn)
    return _hidden_packed(model, pad_pack_size(soft.above(pack)), soft, quick, short=mode.short)


def is_read_packed(mode: ForwardMode, pack: Pack, soft: SoftPrompt) -> bool:
    """Return whether a pack is read packed, rather than in padded rows."""
    if mode.apart and soft.count:
        return False  # virtual tokens attend to a sound, and rows have different ones
    turned = mode.turn is not None and pack.tokens > 0 and soft.count + int(pack.positions.max()) >= mode.turn
    return mode.packed and not turned and not _is_alone(mode, pack)


def _is_alone(mode: ForwardMode, pack: Pack) -> bool:
    """Return whether the rows of a pack are read one by one, because of media in one of them."""
    return mode.text_alone or (bool(mode.media_alone) and holds_media(pack.ids))


def _refuse_soft_prompt(soft: SoftPrompt, mode: ForwardMode) -> None:
    """Raise `ModelError` for virtual tokens, or given embeddings, where rows are read by the model's own forward."""
    if soft.count or soft.leaves is not None:
        raise ModelError(
            f"embeddings cannot be put before or in the place of a row with media: {mode.media_alone}",
            hint="tune with a technique that learns weights, such as lora; explain with one that removes words",
        )


def _hidden_packed(model: Any, pack: Pack, soft: SoftPrompt, quick: bool, *, short: bool) -> Tensor:
    prefix_kv = get_active_prefix_kv(pack) if not soft.count and soft.leaves is None else None
    known = prefix_kv.known if prefix_kv is not None else 0
    sources, count = pack.sources - known, pack.sources.shape[0]
    read = pad_index_count(sources) if short and 0 < count < pack.tokens - known else None
    inputs = build_decoder_inputs(model, pack.ids[None, known:]) if known else soft.inputs_of(model, pack)
    positions = compute_positions(model, pack)[..., known:]
    cross = build_pack_cross_attention(model, pack, known) if attends_to_encoder(model) else None
    inputs |= cross.inputs if cross is not None else {}
    with (
        use_cross_attention(cross),
        use_pack_attention(
            pack, quick=quick, cached=soft.cached, prefix_kv=prefix_kv, mutual=has_bidirectional_media(model, pack.ids)
        ),
        select_token_positions(read),
    ):
        states: Tensor = find_decoder(model)(**inputs, position_ids=positions, use_cache=False).last_hidden_state
    return states[0].index_select(0, sources) if read is None else states[0, :count]


def _hidden_padded(model: Any, pack: Pack, soft: SoftPrompt = NO_PROMPT, turn: int | None = None) -> Tensor:
    return _run_rows_unshared(find_decoder(model), "last_hidden_state", model, pack, soft, turn)


def _own_logits(model: Any, pack: Pack, soft: SoftPrompt = NO_PROMPT, mode: ForwardMode | None = None) -> Tensor:
    """Return (N, vocab) logits of the model's own head."""
    if mode is not None and _is_alone(mode, pack):
        _refuse_soft_prompt(soft, mode)
        logits = read_rows_alone(model, pack, states=False)
    else:
        logits = _run_rows_unshared(model, "logits", model, pack, soft, None if mode is None else mode.turn)
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _gather_logprobs(logits: Tensor, pack: Pack, first: Tensor | None = None) -> Tensor:
    """Return log-probabilities of targets, and of choices if the pack has them, from (N, vocab) logits."""
    if first is not None:
        torch.ge(logits.gather(1, pack.targets[:, None])[:, 0], logits.amax(-1), out=first)
    one = torch.log_softmax(logits, -1).gather(1, pack.targets[:, None])
    if pack.choices is None:
        return one[:, 0]
    return torch.cat([one, torch.log_softmax(logits / pack.temperature, -1).gather(1, pack.choices)], 1)


def _run_rows_unshared(
    part: Any, output_name: str, model: Any, pack: Pack, soft: SoftPrompt, turn: int | None
) -> Tensor:
    """Return (N, x): a part's output at the pack's sources, with each row read whole after the virtual tokens.

    Rows are padded at their ends; read alone where a longer one would change the rotary positions of the others.
    """
    rows = [torch.tensor(ids, dtype=torch.int64, device=pack.ids.device) for ids in pack.unpack()]
    if soft.leaves is not None and not all(map(len, rows)):
        raise ValueError("embeddings are given for a pack with rows of which nothing is read")
    longest = max(len(row) for row in rows)
    positions = pack.positions[pack.sources]

    def read(ids: Tensor, mask: Tensor, numbers: Sequence[int]) -> Tensor:
        """(rows, places, x), without the virtual tokens."""
        mask = torch.cat([mask.new_ones(len(mask), soft.count), mask], 1)
        inputs = soft.inputs_of_rows(model, ids, pack, numbers)
        if attends_to_encoder(model):
            inputs = {**inputs, **build_row_states(model, ids)}
        if holds_media(ids) and uses_mrope(model):
            inputs["position_ids"] = _positions_of_rows(model, ids, soft.count)
        output = part(**inputs, **soft.past(part, len(ids)), attention_mask=mask, use_cache=False)
        states: Tensor = getattr(output, output_name)
        return states[:, states.shape[1] - ids.shape[1] :]

    alone_each = attends_to_encoder(model) and holds_media(pack.ids)
    if alone_each or (turn is not None and soft.count + longest > turn):
        alone = torch.cat(
            [read(row[None], torch.ones_like(row)[None], [at])[0] for at, row in enumerate(rows) if len(row)]
        )
        begins = torch.tensor([0, *(len(row) for row in rows)], device=alone.device).cumsum(0)
        return alone.index_select(0, begins[pack.path] + positions)
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    return read(ids, mask, range(len(rows))).flatten(0, 1).index_select(0, pack.path * longest + positions)


def _positions_of_rows(model: Any, ids: Tensor, before: int) -> Tensor:
    """Return (3, rows, before + tokens) positions of padded rows after `before` virtual tokens."""
    ahead = [(position, position, position) for position in range(before)]
    rows = [ahead + compute_row_positions(model, row, before) for row in ids.tolist()]
    return torch.tensor(rows, device=ids.device).permute(2, 0, 1)


def find_decoder(model: Any) -> Any:
    """Return the part of a model that ends in hidden states; `decoder` means something else in some architectures."""
    decoder = model.get_decoder()
    if decoder is not model and isinstance(decoder, PreTrainedModel):
        return decoder
    return next(child for child in model.children() if isinstance(child, PreTrainedModel))


def _find_out(model: Any) -> ForwardMode:
    norms.install_fast_norm(model)
    gates.install_gated_mlp(model)
    rotary.install_fast_rotary(model)
    device = next(model.parameters()).device
    config = model.config.get_text_config()
    probe = _probe(config.vocab_size).on(device)
    padded = _hidden_padded(model, probe)
    _refuse_foresight(model, probe, padded)
    why = _why_padded(model, probe, padded)
    head = _head(model, probe, padded)
    return ForwardMode(
        packed=not why,
        why=why,
        head=head,
        short=not why and _shorten_last_layer(model, probe),
        turn=_find_rope_switch_length(config),
        media_alone=explain_media_alone(model),
        apart=attends_to_encoder(model),
        text_alone=is_prefix_lm(model),
    )


def _shorten_last_layer(model: Any, probe: Pack) -> bool:
    """Let the last layer compute only the needed positions, when the result is the same."""
    decoder = find_decoder(model)
    if not install_logprob_layer(decoder):
        return False
    few = replace(probe, sources=probe.sources[::5])
    actual, expected = (_hidden_packed(model, few, NO_PROMPT, True, short=short) for short in (True, False))
    if same := relative_distance(actual, expected) <= AGREES[expected.dtype] / 10:
        return same
    remove_logprob_layer(decoder)
    return False


def _refuse_foresight(model: Any, probe: Pack, padded: Tensor) -> None:
    """Raise `ModelError` for a model whose predictions depend on later tokens."""
    ids = probe.ids.clone()
    ends = probe.starts[1:][probe.leaf] - 1
    ids[ends] = (ids[ends] + 1) % model.config.get_text_config().vocab_size
    earlier = ~torch.isin(probe.sources, ends.to(probe.sources.device))
    other = _hidden_padded(model, replace(probe, ids=ids))
    if relative_distance(other[earlier], padded[earlier]) > AGREES[padded.dtype]:
        hint = "take a model that was trained to predict the next token"
        raise ModelError(f"{type(model).__name__} sees the tokens that it is to predict", hint=hint)


def _find_rope_switch_length(config: Any) -> int | None:
    """Return the length above which a model changes all rotary positions (longrope, dynamic scaling)."""
    params = getattr(config, "rope_parameters", None) or {}
    for rope in (params, *(part for part in params.values() if isinstance(part, dict))):
        if rope.get("rope_type") == "longrope":
            return int(rope.get("original_max_position_embeddings") or config.max_position_embeddings)
        if rope.get("rope_type") == "dynamic":
            return int(config.max_position_embeddings)
    return None


def _probe(vocabulary: int) -> Pack:
    """Return two rows with a common prefix, all tokens of which are needed."""
    ids = [(7 * at + 3) % vocabulary for at in range(18)]
    rows = [[*ids[:6], *ids[6:11]], [*ids[:6], *ids[11:]]]
    return build_pack([TokenRow(row, [0.0] + [1.0] * (len(row) - 1)) for row in rows], share_from=2)


def _why_padded(model: Any, probe: Pack, padded: Tensor) -> str:
    """Return why the model cannot be read packed; empty when it can."""
    decoder = find_decoder(model)
    if why := _why_not_tried(model, decoder):
        return why
    try:
        with use_pack_attention(probe) as now:
            whole = decoder(input_ids=probe.ids[None], position_ids=probe.positions[None], use_cache=False)
    except UnpackableAttentionError as error:
        return str(error)
    except _FAULTS as error:  # whatever a new architecture does with no mask: it has been read padded already
        return f"it does not read packs: {str(error).splitlines()[0]}"
    if why := _why_unknown(model.config.get_text_config(), now):
        return why
    difference = relative_distance(whole.last_hidden_state[0].index_select(0, probe.sources), padded)
    return "" if difference <= AGREES[padded.dtype] else f"packed and padded rows differ by {difference:.1%}"


def _why_not_tried(model: Any, decoder: Any) -> str:
    """Return why packing need not be tried."""
    if getattr(model, "_is_stateful", False):
        return "it carries a state from token to token"
    if "position_ids" not in inspect.signature(decoder.forward).parameters:
        return "it does not take positions"
    if not hasattr(sys.modules[type(decoder).__module__], "ALL_ATTENTION_FUNCTIONS"):
        return "it does not use the attention registry"
    return ""


def _why_unknown(config: Any, now: PackAttentionState) -> str:
    """Return why attention might bypass the registry in some layer, sliding windows included."""
    layers = count_decoder_layers(config)
    if len(now.windows) != layers:
        return f"{len(now.windows)} of its {layers} layers use the attention registry"
    kinds: Sequence[str] = getattr(config, "layer_types", None) or ()
    if unknown := sorted(set(kinds) - _SEEN_WHOLE):
        return f"it has layers of the kind {unknown[0]}"
    windows = sum(window is not None for window in now.windows)
    sliding = sum(kind == "sliding_attention" for kind in kinds)
    return f"{windows} of its {sliding} sliding layers say so" if kinds and sliding > windows else ""


def _head(model: Any, probe: Pack, hidden: Tensor) -> OutputHead | None:
    """Return the model's head when its logits are supported: checked against the model's own."""
    linear = model.get_output_embeddings()
    if type(linear) is not torch.nn.Linear or linear.in_features != hidden.shape[1]:
        return None
    head = OutputHead(linear, _shape(model.config.get_text_config()))
    if attends_to_encoder(model):  # without a sound, a model that transcribes is a decoder and a linear head
        return head
    own = _gather_logprobs(_own_logits(model, probe), probe)
    logits = head.logprobs(hidden, probe.targets, precise=False)
    return head if relative_distance(logits, own) <= AGREES[hidden.dtype] else None


def _shape(config: Any) -> LogitTransform:
    scale = getattr(config, "logit_scale", None) or 1.0
    if divisor := getattr(config, "logits_scaling", None):
        scale /= divisor
    return LogitTransform(float(scale), getattr(config, "final_logit_softcapping", None))
