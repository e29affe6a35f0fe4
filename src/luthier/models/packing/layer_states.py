"""Hidden states of every layer at the positions that predict a pack's targets, and logits from any layer (logit lens).

Layers are observed by hooks during the usual reading of a pack, so that every architecture works, packed or padded,
without code of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from luthier.models.adapters import SoftPrompt, compute_soft_prompt
from luthier.models.media.encoder_decoder import count_decoder_layers
from luthier.models.packing.logprobs import (
    _compute_hidden_states,
    _own_logits,
    detect_forward_mode,
    find_decoder,
    is_read_packed,
)
from luthier.models.packing.pack import Pack, TokenRow, build_pack
from luthier.models.sequence_head import ends_in_sequence_head, score_hidden_states, unwrap_peft_model

PIECE_NUMBERS = 1 << 24
"""Maximum number of logits compared at once."""


class LayerStates(NamedTuple):
    """A model's hidden states of a pack at its N sources."""

    layers: tuple[Tensor, ...]
    """(N, width) each: the input of the first layer, then the output of each one."""
    hidden: Tensor
    """(N, width): after the final norm, the head's input."""
    logits: Tensor | None
    """(N, vocab), where the model's own head is needed; None where `LayerReader.compute_logits` computes them from
    `hidden`."""


class LayerReader:
    """Reads the layers of one model, with its currently active adapters."""

    def __init__(self, model: Any) -> None:
        self.model, self.inner = model, unwrap_peft_model(model)
        self._how = replace(detect_forward_mode(model), short=False)
        self.layers = find_layers(self.inner)
        self.norm = self._find_norm()

    @torch.no_grad()
    def read(self, pack: Pack) -> LayerStates:
        """Return the hidden states of a pack."""
        soft = compute_soft_prompt(self.model)
        pack = pack.on(next(self.inner.parameters()).device)
        outputs: list[list[Tensor]] = [[] for _ in range(len(self.layers) + 1)]
        with ExitStack() as hooks:
            if len(self.layers):
                first = self.layers[0].register_forward_pre_hook(
                    lambda _, args, kwargs: outputs[0].append(args[0] if args else kwargs["hidden_states"]),
                    with_kwargs=True,
                )
                hooks.callback(first.remove)
            for captured, layer in zip(outputs[1:], self.layers, strict=True):
                handle = layer.register_forward_hook(
                    lambda _, args, out, captured=captured: captured.append(_get_first_output(out))
                )
                hooks.callback(handle.remove)
            hidden = _compute_hidden_states(self.inner, pack, soft, self._how, True)
        packed = is_read_packed(self._how, pack, soft)
        layers = tuple(self._at_sources(captured, pack, soft, packed=packed) for captured in outputs if captured)
        own = None
        if self._how.head is None and not ends_in_sequence_head(self.inner):
            own = _own_logits(self.inner, pack, soft, self._how)
        return LayerStates(layers, hidden, own)

    @torch.no_grad()
    def compute_logits(self, hidden: Tensor) -> Tensor:
        """Return (N, vocab) logits, or (N, classes) scores, in at least fp32 from (N, width) states after the final
        norm.
        """
        if ends_in_sequence_head(self.inner):
            return score_hidden_states(self.inner, hidden)
        assert self._how.head is not None, "models with a head of their own give their logits with the states"
        return self._how.head.logits(hidden)

    @property
    def has_lens(self) -> bool:
        """Whether logits can be computed from every layer: final norm and head are supported."""
        head = self._how.head is not None or ends_in_sequence_head(self.inner)
        return head and self.norm is not None and len(self.layers) > 0

    @torch.no_grad()
    def read_lens(self, states: Tensor) -> Tensor:
        """Return the logits from (N, width) states of any layer, as if it were the last."""
        assert self.norm is not None
        return self.compute_logits(self.norm(states))

    def pieces(self, rows: int) -> Iterator[slice]:
        """Yield slices of rows whose logits fit into memory."""
        outputs = self.inner.config.get_text_config().vocab_size
        size = max(1, PIECE_NUMBERS // outputs)
        yield from (slice(at, min(at + size, rows)) for at in range(0, rows, size))

    def _at_sources(self, captured: list[Tensor], pack: Pack, soft: SoftPrompt, *, packed: bool) -> Tensor:
        if packed:
            return captured[0][0].index_select(0, pack.sources + soft.count)
        lengths = [len(ids) for ids in pack.unpack()]
        positions = pack.positions[pack.sources]
        if len(captured) == 1:
            longest = max(lengths)
            rows = captured[0][:, captured[0].shape[1] - longest :]
            return rows.flatten(0, 1).index_select(0, pack.path * longest + positions)
        begins = torch.tensor([0, *lengths], device=positions.device).cumsum(0)
        alone = torch.cat(
            [own[0, own.shape[1] - length :] for own, length in zip(captured, filter(None, lengths), strict=True)]
        )
        return alone.index_select(0, begins[pack.path] + positions)

    @torch.no_grad()
    def _find_norm(self) -> Any:
        """Return the module between the last layer and the head; None if not found."""
        if not len(self.layers):
            return None
        decoder, called = find_decoder(self.inner), list[tuple[Any, Tensor, Tensor]]()
        ids = [7, 3, 5, 2, 9]
        pack = build_pack([TokenRow(ids, [0.0, *[1.0] * (len(ids) - 1)])])
        pack = pack.on(next(self.inner.parameters()).device)
        last = list[Tensor]()
        with ExitStack() as hooks:
            for module in decoder.children():
                if not isinstance(module, torch.nn.ModuleList):
                    handle = module.register_forward_hook(
                        lambda part, args, out: (
                            called.append((part, args[0], out))
                            if args and isinstance(args[0], Tensor) and isinstance(out, Tensor)
                            else None
                        )
                    )
                    hooks.callback(handle.remove)
            handle = self.layers[-1].register_forward_hook(lambda _, args, out: last.append(_get_first_output(out)))
            hooks.callback(handle.remove)
            out = decoder(input_ids=pack.ids[None], use_cache=False).last_hidden_state
        norm = [part for part, given, output in called if torch.equal(given, last[-1]) and torch.equal(output, out)]
        return norm[-1] if norm else None


def find_layers(model: Any) -> torch.nn.ModuleList:
    """Return a decoder's layers, in order; None where they are not one list of the expected length."""
    decoder, count = find_decoder(model), count_decoder_layers(model.config)
    lists = [module for module in decoder.children() if isinstance(module, torch.nn.ModuleList)]
    return next((module for module in lists if len(module) == count), torch.nn.ModuleList())


def _get_first_output(output: Any) -> Tensor:
    first: Tensor = output[0] if isinstance(output, tuple) else output
    return first
