"""Log-probabilities of a pack's learnt tokens: the one reading that every objective and every evaluation shares.

How a model is read is found out once, by a probe: a small pack is read packed and padded, and the two must agree.
Models that carry a state from token to token, or that do not use transformers' attention registry, are read in padded
rows with the same result; models that do more to their logits than is known are asked for their own logits.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import PreTrainedModel

from luthier.core.errors import ModelError
from luthier.models import gates, norms, rotary
from luthier.models.attention import Pass, Unpackable, packed
from luthier.models.attention.begun import Begun, begun_of
from luthier.models.forwards import distance
from luthier.models.head import Head, Shape
from luthier.models.last_layer import in_few_sizes, install, only, remove
from luthier.models.pack import Pack, Row, pack, rounded
from luthier.models.sequence import is_sequence, plain_model, score
from luthier.models.soft import NO_PROMPT, SoftPrompt, soft_prompt

FEW_TARGETS = 4
"""Training reads logits in fp32 while at most one token in this many is learnt: below that it costs next to nothing."""
AGREES = {torch.float64: 1e-5, torch.float32: 1e-3, torch.bfloat16: 8e-2, torch.float16: 2e-2}
_FAULTS = (TypeError, ValueError, AttributeError, LookupError, RuntimeError)
_SEEN_WHOLE = {"full_attention", "sliding_attention", "attention"}


@dataclass(frozen=True, eq=False)
class Reading:
    """How a model is read: packed or in padded rows (and why), and with which head (None: its own logits)."""

    packed: bool
    why: str
    head: Head | None
    short: bool = False
    """Whether the last layer goes on only where somebody reads."""
    turn: int | None = None
    """Rotary positions of a whole batch change when a row in it is longer than this; such rows are read alone."""


def logprobs(
    model: torch.nn.Module, pack: Pack, *, quick: bool = True, whole: bool = False, as_learnt: bool = False,
    first: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """(N,) log-probabilities of the pack's targets, in fp32 (float64 when the model is).

    For a pack with choices (N, 1 + K): the target's, then those of the choices at the pack's temperature. With a
    sequence head the targets are numbers of its outputs, and a single output is given as it is. `whole` lets every
    layer see every token, for those who watch the layers. `as_learnt` rounds logits as they are rounded while the model
    learns, also where no gradient is wanted. Into `first` (N,) is written whether nothing is likelier than the target,
    where no choices are told of.
    """
    inner, how, soft = plain_model(model), reading(model), soft_prompt(model)
    how = replace(how, short=False) if whole else how
    pack = pack.on(next(inner.parameters()).device)
    if is_sequence(inner):
        scores = score(inner, _hidden(inner, pack, soft, how, quick))
        return scores[:, 0] if scores.shape[1] == 1 else _chosen(scores, pack, first)
    if how.head is None:
        return _chosen(_own_logits(inner, pack, soft, how.turn), pack, first)
    if pack.choices is None and not torch.is_grad_enabled():
        sources, places = torch.unique(pack.sources, return_inverse=True)
        path = torch.empty_like(sources).scatter_(0, places, pack.path)  # any row that a state lies on
        hidden = _hidden(inner, replace(pack, sources=sources, path=path), soft, how, quick)
        return how.head.given(hidden, places, pack.targets, precise=not as_learnt or _precise(pack), first=first)
    hidden = _hidden(inner, pack, soft, how, quick)
    precise = not (torch.is_grad_enabled() or as_learnt) or _precise(pack)
    if pack.choices is None:
        return how.head.logprobs(hidden, pack.targets, precise=precise, first=first)
    return how.head.choices(hidden, pack.targets, pack.choices, temperature=pack.temperature, precise=precise)


def states(model: torch.nn.Module, pack: Pack) -> Tensor:
    """(N, width) what the last layer says where the pack's targets are predicted, for heads of other kinds."""
    inner, how, soft = plain_model(model), reading(model), soft_prompt(model)
    return _hidden(inner, pack.on(next(inner.parameters()).device), soft, how, True)


def _precise(pack: Pack) -> bool:
    """Whether logits are computed in fp32 while a pack is learnt."""
    return pack.sources.shape[0] * FEW_TARGETS <= pack.tokens


@torch.no_grad()
def likeliest(model: torch.nn.Module, pack: Pack, count: int, *, below: int, temperature: float) -> Pack:
    """The pack with the `count` tokens that a model finds likeliest at each learnt token, and their log-probabilities.

    Log-probabilities are those of logits divided by `temperature`; only ids below `below` are taken, all at most.
    """
    inner, how, soft = plain_model(model), reading(model), soft_prompt(model)
    here = pack.on(next(inner.parameters()).device)
    count = min(count, below)
    if how.head is None:
        logps = torch.log_softmax(_own_logits(inner, here, soft, how.turn) / temperature, -1)
        found, choices = logps[:, :below].topk(count)
    else:
        hidden = _hidden(inner, here, soft, how, True)
        choices, found = how.head.top(hidden, count, below=below, temperature=temperature)
    device = pack.ids.device
    return replace(pack, choices=choices.to(device), teacher=found.to(device), temperature=temperature)


@torch.no_grad()
def ranked(model: torch.nn.Module, pack: Pack) -> tuple[Tensor, Tensor]:
    """(N,) log-probabilities of the pack's targets, and (N,) bool: whether each is the likeliest where it stands."""
    inner, how, soft = plain_model(model), reading(model), soft_prompt(model)
    here = pack.on(next(inner.parameters()).device)
    if how.head is None:
        logps = torch.log_softmax(_own_logits(inner, here, soft, how.turn), -1)
        return logps.gather(1, here.targets[:, None])[:, 0], logps.argmax(-1) == here.targets
    hidden = _hidden(inner, here, soft, how, True)
    first, _ = how.head.top(hidden, 1, below=how.head.linear.weight.shape[0])
    return how.head.logprobs(hidden, here.targets), first[:, 0] == here.targets


@torch.no_grad()
def begin(model: torch.nn.Module, ids: Sequence[int]) -> Begun:
    """Read by itself what packs of a model that is read packed begin with."""
    inner, begun = plain_model(model), Begun(ids)
    alone = pack([Row([*ids, 0], [0.0] * len(ids) + [1.0])]).on(next(inner.parameters()).device)
    with packed(inner, alone, begun=begun):
        decoder_of(inner)(input_ids=alone.ids[None], position_ids=alone.positions[None], use_cache=False)
    return begun


_READINGS: WeakKeyDictionary[torch.nn.Module, Reading] = WeakKeyDictionary()


def reading(model: torch.nn.Module) -> Reading:
    """Find out, once for each model, how it is read."""
    inner = plain_model(model)
    if inner not in _READINGS:
        with torch.no_grad(), answering(inner):
            _READINGS[inner] = _find_out(inner)
    return _READINGS[inner]


@contextmanager
def answering(model: Any) -> Iterator[None]:
    """A model without its dropout, for as long as it is only asked."""
    learning = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        model.eval()
        for module in learning:
            module.training = True


def forget(model: torch.nn.Module) -> None:
    """Let it be found out anew how a model is read, after its layers were changed."""
    _READINGS.pop(plain_model(model), None)


def _hidden(model: Any, pack: Pack, soft: SoftPrompt, how: Reading, quick: bool) -> Tensor:
    """(N, width) hidden states at the pack's sources."""
    turned = how.turn is not None and pack.tokens > 0 and soft.count + int(pack.positions.max()) >= how.turn
    if turned or not how.packed:
        return _hidden_padded(model, pack, soft, how.turn)
    return _hidden_packed(model, rounded(soft.above(pack)), soft, quick, short=how.short)


def _hidden_packed(model: Any, pack: Pack, soft: SoftPrompt, quick: bool, *, short: bool) -> Tensor:
    begun = begun_of(pack) if not soft.count else None
    known = begun.known if begun is not None else 0
    sources, count = pack.sources - known, pack.sources.shape[0]
    read = in_few_sizes(sources) if short and 0 < count < pack.tokens - known else None
    told = {"input_ids": pack.ids[None, known:]} if known else soft.inputs_of(model, pack)
    with packed(model, pack, quick=quick, cached=soft.cached, begun=begun), only(read):
        states: Tensor = decoder_of(model)(
            **told, position_ids=pack.positions[None, known:], use_cache=False
        ).last_hidden_state
    return states[0].index_select(0, sources) if read is None else states[0, :count]


def _hidden_padded(model: Any, pack: Pack, soft: SoftPrompt = NO_PROMPT, turn: int | None = None) -> Tensor:
    return _unshared(decoder_of(model), "last_hidden_state", model, pack, soft, turn)


def _own_logits(model: Any, pack: Pack, soft: SoftPrompt = NO_PROMPT, turn: int | None = None) -> Tensor:
    """(N, vocab) logits as the model itself computes them."""
    logits = _unshared(model, "logits", model, pack, soft, turn)
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _chosen(logits: Tensor, pack: Pack, first: Tensor | None = None) -> Tensor:
    """Log-probabilities of targets, and of choices when the pack has them, from (N, vocab) logits."""
    if first is not None:
        torch.ge(logits.gather(1, pack.targets[:, None])[:, 0], logits.amax(-1), out=first)
    one = torch.log_softmax(logits, -1).gather(1, pack.targets[:, None])
    if pack.choices is None:
        return one[:, 0]
    return torch.cat([one, torch.log_softmax(logits / pack.temperature, -1).gather(1, pack.choices)], 1)


def _unshared(part: Any, wanted: str, model: Any, pack: Pack, soft: SoftPrompt, turn: int | None) -> Tensor:
    """(N, x): what a part of a model says at the pack's sources, each row read whole after the virtual tokens.

    Rows stand side by side, padded at their ends; alone where a longer one would turn the positions of the others.
    """
    rows = [torch.tensor(ids, dtype=torch.int64, device=pack.ids.device) for ids in pack.unpack()]
    longest = max(len(row) for row in rows)
    places = pack.positions[pack.sources]

    def read(ids: Tensor, seen: Tensor) -> Tensor:
        """(rows, places, x), without the virtual tokens."""
        seen = torch.cat([seen.new_ones(len(seen), soft.count), seen], 1)
        said = part(**soft.inputs(model, ids), **soft.past(part, len(ids)), attention_mask=seen, use_cache=False)
        states: Tensor = getattr(said, wanted)
        return states[:, states.shape[1] - ids.shape[1] :]

    if turn is not None and soft.count + longest > turn:
        alone = torch.cat([read(row[None], torch.ones_like(row)[None])[0] for row in rows if len(row)])
        begins = torch.tensor([0, *(len(row) for row in rows)], device=alone.device).cumsum(0)
        return alone.index_select(0, begins[pack.path] + places)
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    seen = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    return read(ids, seen).flatten(0, 1).index_select(0, pack.path * longest + places)


def decoder_of(model: Any) -> Any:
    """The part of a model that ends in hidden states; some name something else their decoder."""
    found = model.get_decoder()
    if found is not model and isinstance(found, PreTrainedModel):
        return found
    return next(child for child in model.children() if isinstance(child, PreTrainedModel))


def _find_out(model: Any) -> Reading:
    norms.install(model)
    gates.install(model)
    rotary.install(model)
    device = next(model.parameters()).device
    config = model.config.get_text_config()
    probe = _probe(config.vocab_size).on(device)
    padded = _hidden_padded(model, probe)
    _refuse_foresight(model, probe, padded)
    why = _why_padded(model, probe, padded)
    head = _head(model, probe, padded)
    return Reading(packed=not why, why=why, head=head, short=not why and _short(model, probe), turn=_turn(config))


def _short(model: Any, probe: Pack) -> bool:
    """Let the last layer go on only where somebody reads, when that gives the same."""
    decoder = decoder_of(model)
    if not install(decoder):
        return False
    few = replace(probe, sources=probe.sources[::5])
    found, wanted = (_hidden_packed(model, few, NO_PROMPT, True, short=short) for short in (True, False))
    if same := distance(found, wanted) <= AGREES[wanted.dtype] / 10:
        return same
    remove(decoder)
    return False


def _refuse_foresight(model: Any, probe: Pack, padded: Tensor) -> None:
    """`ModelError` when what a model says of a token depends on tokens that come after it."""
    ids = probe.ids.clone()
    ends = probe.starts[1:][probe.leaf] - 1
    ids[ends] = (ids[ends] + 1) % model.config.get_text_config().vocab_size
    earlier = ~torch.isin(probe.sources, ends.to(probe.sources.device))
    other = _hidden_padded(model, replace(probe, ids=ids))
    if distance(other[earlier], padded[earlier]) > AGREES[padded.dtype]:
        remedy = "take a model that was trained to predict the next token"
        raise ModelError(f"{type(model).__name__} sees the tokens that it is to predict", remedy=remedy)


def _turn(config: Any) -> int | None:
    """From which length on a model turns all positions otherwise (longrope, dynamic scaling)."""
    told = getattr(config, "rope_parameters", None) or {}
    for rope in (told, *(part for part in told.values() if isinstance(part, dict))):
        if rope.get("rope_type") == "longrope":
            return int(rope.get("original_max_position_embeddings") or config.max_position_embeddings)
        if rope.get("rope_type") == "dynamic":
            return int(config.max_position_embeddings)
    return None


def _probe(vocabulary: int) -> Pack:
    """Two rows that begin alike, part, and are wholly read."""
    ids = [(7 * at + 3) % vocabulary for at in range(18)]
    rows = [[*ids[:6], *ids[6:11]], [*ids[:6], *ids[11:]]]
    return pack([Row(row, [0.0] + [1.0] * (len(row) - 1)) for row in rows], share_from=2)


def _why_padded(model: Any, probe: Pack, padded: Tensor) -> str:
    """Why the model cannot be read packed; empty when it can."""
    decoder = decoder_of(model)
    if why := _why_not_tried(model, decoder):
        return why
    try:
        with packed(model, probe) as now:
            whole = decoder(input_ids=probe.ids[None], position_ids=probe.positions[None], use_cache=False)
    except Unpackable as error:
        return str(error)
    except _FAULTS as error:  # whatever a new architecture does with no mask: it has been read padded already
        return f"it does not read packs: {str(error).splitlines()[0]}"
    if why := _why_unknown(model.config.get_text_config(), now):
        return why
    difference = distance(whole.last_hidden_state[0].index_select(0, probe.sources), padded)
    return "" if difference <= AGREES[padded.dtype] else f"packed and padded rows differ by {difference:.1%}"


def _why_not_tried(model: Any, decoder: Any) -> str:
    """Why there is no need to try."""
    if getattr(model, "_is_stateful", False):
        return "it carries a state from token to token"
    if "position_ids" not in inspect.signature(decoder.forward).parameters:
        return "it does not take positions"
    if not hasattr(sys.modules[type(decoder).__module__], "ALL_ATTENTION_FUNCTIONS"):
        return "it does not use the attention registry"
    return ""


def _why_unknown(config: Any, now: Pass) -> str:
    """Why attention cannot be trusted to go through the registry in every layer, sliding windows included."""
    layers: int = config.num_hidden_layers
    if len(now.windows) != layers:
        return f"{len(now.windows)} of its {layers} layers use the attention registry"
    kinds: Sequence[str] = getattr(config, "layer_types", None) or ()
    if unknown := sorted(set(kinds) - _SEEN_WHOLE):
        return f"it has layers of the kind {unknown[0]}"
    windows = sum(window is not None for window in now.windows)
    sliding = sum(kind == "sliding_attention" for kind in kinds)
    return f"{windows} of its {sliding} sliding layers say so" if kinds and sliding > windows else ""


def _head(model: Any, probe: Pack, hidden: Tensor) -> Head | None:
    """The model's head when its logits are understood: checked against the model's own."""
    linear = model.get_output_embeddings()
    if type(linear) is not torch.nn.Linear or linear.in_features != hidden.shape[1]:
        return None
    head = Head(linear, _shape(model.config.get_text_config()))
    own = _chosen(_own_logits(model, probe), probe)
    found = head.logprobs(hidden, probe.targets, precise=False)
    return head if distance(found, own) <= AGREES[hidden.dtype] else None


def _shape(config: Any) -> Shape:
    scale = getattr(config, "logit_scale", None) or 1.0
    if divisor := getattr(config, "logits_scaling", None):
        scale /= divisor
    return Shape(float(scale), getattr(config, "final_logit_softcapping", None))
