"""What a training computes, in operations: the terms in which its pace is kept, and the next one's time is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from luthier.models.load import cpu_has_tiles
from luthier.models.speed import cores, flops_per_s, has_gpu, over_fp32

if TYPE_CHECKING:
    from luthier.models.describe import Description
    from luthier.models.pack import Pack

TILES_LEARNING = 3.85
"""How much quicker trainings are in bf16 where the processor multiplies tiles (AMX) than numpy's fp32 products: fitted
to packs of 190 to 4,200 tokens, of rows of 50 to 1,040, of which few or nearly all were learnt."""
NARROW_LEARNING = 2.42
"""The same where it multiplies bf16 without tiles (AVX512-BF16): on an AMD EPYC, packs of 70 to 1,700 tokens."""
AT_ONCE = 1.12
"""How much quicker trainings are whose layers with adapters are read in one call."""
PACK_TOKENS = 120
"""A pack takes as long, beside its tokens, as numpy's product takes for so many of them: weights that are laid out
anew, the calls of every layer, and lanes that wait for one another. Fitted to the same packs in two lanes; 105 in fp32
on the EPYC."""
NARROW_PACK_TOKENS = 60
"""The same of bf16 without tiles."""
ALONE = 1.2
"""How much longer a step takes that is too small for two lanes: two cores share each small product of it. Seen: 1.15 in
bf16 without tiles, 1.2 and 1.3 in fp32."""
TILES_ALONE = 1.45
"""The same on a processor with tiles, whose products are over sooner: up to 1.6 seen."""


class Computed(NamedTuple):
    """What is computed of packs that a model learns from."""

    packs: float = 0
    tokens: float = 0
    """Shared prefixes once in each pack."""
    learnt: float = 0
    """Tokens whose probability is asked for: the head reads no others."""
    keys: float = 0
    """Tokens that each token sees, itself among them, added up."""

    @classmethod
    def of(cls, pack: Pack, times: int = 1) -> Computed:
        """What one pack takes when it is read so many times."""
        return cls(times, times * pack.tokens, times * len(pack.targets), times * int((pack.positions + 1).sum()))

    def and_of(self, other: Computed) -> Computed:
        """Both together."""
        return Computed(*(one + more for one, more in zip(self, other, strict=True)))


def operations_of(model: Description, trainable: int, *, bits: int, headed: bool) -> Callable[[Computed], float]:
    """What tells the floating-point operations of one step's products, and those that would have been done in what
    packs take besides.

    A frozen weight takes part four times a token (twice forward, twice in the slope of its input), one that learns six
    times; each of attention's two products is made three times over. Where a model is `headed`, its own head stands in
    the place of that of the vocabulary, and is as good as nothing.
    """
    moving = 6 if trainable > model.parameters / 2 else 4
    layers = moving * (model.parameters - model.embedding_parameters)
    head = 0 if headed else moving * model.vocab * model.hidden_size
    attention = 12 * model.layers * model.heads * model.head_dim
    narrow = bits == 16 and not cpu_has_tiles()
    beside = (NARROW_PACK_TOKENS if narrow else PACK_TOKENS) * gain(bf16=bits == 16)
    alone = TILES_ALONE if cpu_has_tiles() else ALONE
    lanes = 1 if has_gpu() else cores()

    def operations(computed: Computed) -> float:
        read = layers * (computed.tokens + beside * computed.packs)
        whole = read + head * computed.learnt + attention * computed.keys
        return whole * alone if computed.packs <= 1 < lanes else whole

    return operations


def gain(*, bf16: bool) -> float:
    """What trainings reach on this machine over numpy's fp32 product on one processor."""
    return over_fp32(bf16=bf16, tiles=TILES_LEARNING, narrow=NARROW_LEARNING)


def speed_here(*, bf16: bool) -> float:
    """Operations a second of trainings on this machine, from matrix products measured just now and before."""
    return flops_per_s(bf16=bf16, tiles=TILES_LEARNING, narrow=NARROW_LEARNING)
