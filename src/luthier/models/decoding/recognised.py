"""Which models are read lean: found out once for each, by reading a few tokens both ways."""

from __future__ import annotations

from array import array
from typing import Any
from weakref import WeakKeyDictionary

import torch

from luthier.models.attention.plain import Manner
from luthier.models.decoding.blocks import BLOCK
from luthier.models.decoding.lean import Lean, Unknown
from luthier.models.decoding.past import Part, Past, Visit
from luthier.models.decoding.plugged import Plugged
from luthier.models.forwards import distance
from luthier.models.kernels.rows import Rows, rows_kernels
from luthier.models.logprobs import AGREES, decoder_of
from luthier.models.sequence import plain_model

_MANNERS: WeakKeyDictionary[torch.nn.Module, dict[int, Manner]] = WeakKeyDictionary()
"""By model: how its layers attend; nothing for one that is not read lean."""
_FIRST, _THEN = 21, 3
"""Tokens of the trial: in two portions, over more than one block."""


def lean_of(model: Any, past: Past) -> Lean | None:
    """The lean reading of a model, into a past; None where its modules are to be asked."""
    kernels, inner = rows_kernels(), plain_model(model)
    if kernels is None:
        return None
    if inner not in _MANNERS:
        with torch.no_grad():
            _MANNERS[inner] = _tried(kernels, model)
    past.manners |= _MANNERS[inner]
    try:
        return Lean(kernels, model, decoder_of(inner), past) if _MANNERS[inner] else None
    except (Unknown, AttributeError):
        return None


def _tried(kernels: Rows, model: Any) -> dict[int, Manner]:
    """How a model's layers attend, when reading it lean gives what its modules give."""
    inner = plain_model(model)
    plain = Past(2)
    wanted = _states(Plugged(inner, plain).read, inner)
    ours = Past(2)
    ours.manners = plain.manners
    try:
        lean = Lean(kernels, model, decoder_of(inner), ours)
        if not lean.knows(None):
            return {}
        found = _states(lambda ids, visit: lean.ended(lean.read(ids, visit, [None])), inner)
    except (Unknown, AttributeError):  # a part that is called otherwise
        return {}
    same = distance(found, wanted) <= AGREES[wanted.dtype] / 2
    return plain.manners if same else {}


def _states(read: Any, model: Any) -> torch.Tensor:
    """What a reading gives for a few tokens, in two portions."""
    device = next(model.parameters()).device
    vocabulary = model.config.get_text_config().vocab_size
    ids = torch.tensor([(7 * at + 3) % vocabulary for at in range(_FIRST + _THEN)], device=device)
    table = array("i", range(-(-(_FIRST + _THEN) // BLOCK)))
    first = read(ids[:_FIRST], Visit([Part(0, _FIRST, table)], device))
    then = read(ids[_FIRST:], Visit([Part(_FIRST, _THEN, table)], device))
    return torch.cat([first, then])
