"""The value of a prompt without some of its units, which explanations attribute."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from luthier.artifacts.explanation import TargetKind
from luthier.core.errors import ModelError
from luthier.explain.patches import remove_features

if TYPE_CHECKING:
    from luthier.chat.media import MediaProcessor
    from luthier.explain.units import CutPrompt

PACK_TOKENS = 4096
"""Tokens read at once."""
Units = frozenset[int]
"""Numbers of the units that are kept."""


class TargetTokens(NamedTuple):
    """Token ids after the prompt whose log-probabilities count, with their weights; for a head, its output's number."""

    ids: tuple[int, ...]
    weights: tuple[float, ...]


class PromptScorer(ABC):
    """The value of a target after a prompt with some of its units; each set of units is read once."""

    perturbation_only: bool = True

    def __init__(self, cut: CutPrompt, kind: TargetKind, scored_tokens: int = 1) -> None:
        self.cut, self.kind = cut, kind
        self._scored_tokens = scored_tokens
        self._known: dict[Hashable, float] = {}

    def with_cut(self, cut: CutPrompt) -> Self:
        """The prompt in other units, sharing what was already computed."""
        other = copy.copy(self)
        other.cut = cut
        return other

    @property
    def count(self) -> int:
        """Number of units."""
        return len(self.cut.units)

    @property
    def texts_read(self) -> int:
        """Number of computed variants of the prompt."""
        return len(self._known)

    @property
    def full(self) -> float:
        """The value with all units."""
        return self.score([self.all_units])[0]

    @property
    def empty(self) -> float:
        """The value with none."""
        return self.score([frozenset()])[0]

    @property
    def all_units(self) -> Units:
        """All of them."""
        return frozenset(range(self.count))

    def score(self, kept: Sequence[Units]) -> list[float]:
        """The value with each of some sets of units; `ModelError` where it is no number."""
        keys = {entry: self.build_key(entry) for entry in dict.fromkeys(kept)}
        missing = {key: entry for entry, key in keys.items() if key not in self._known}
        if missing:
            found = self._score(list(missing.values()))
            if not all(map(math.isfinite, found)):
                raise build_not_finite_error()
            self._known |= dict(zip(missing, found, strict=True))
        return [self._known[keys[entry]] for entry in kept]

    def to_probability(self, value: float) -> float:
        """Convert a value to the scale of ERASER's measures: the probability of a class, the geometric mean probability
        of an answer's tokens, or of answer A; a reward or a similarity is unchanged.
        """
        if self.kind == "contrast":
            return 1 / (1 + math.exp(-value)) if value > -700 else 0.0
        if self.kind in ("reward", "likeness"):
            return value
        return math.exp(value / self._scored_tokens)

    def build_key(self, kept: Units) -> Hashable:
        """Return the content read with some units, so that equal variants are computed once."""
        return kept

    @abstractmethod
    def _score(self, kept: Sequence[Units]) -> list[float]:
        """The values of sets that were not read yet."""


def build_not_finite_error() -> ModelError:
    """Build the error for a model whose outputs are no numbers."""
    hint = "open it in float32 (`--dtype float32`); a model that diverged in training cannot be explained"
    return ModelError("the model's log-probabilities are not finite", hint=hint)


class LocalPromptScorer(PromptScorer):
    """Scores prompts of a model on this machine: prompts without units are rows of one pack.

    Units of text lose their tokens; patches of pictures get the mean of their picture's features.
    """

    perturbation_only = False

    def __init__(
        self,
        model: Any,
        cut: CutPrompt,
        ids: Sequence[int],
        targets: Sequence[TargetTokens],
        kind: TargetKind,
        media: MediaProcessor | None = None,
    ) -> None:
        super().__init__(cut, kind, sum(1 for weight in targets[0].weights if weight))
        self.model, self.ids, self.targets, self._media = model, tuple(ids), tuple(targets), media

    def _score(self, kept: Sequence[Units]) -> list[float]:
        import torch

        from luthier.models.packing.logprobs import compute_pack_logprobs
        from luthier.models.packing.pack import TokenRow
        from luthier.models.packing.parallel import run_packs
        from luthier.models.packing.prefix_cache import share_prefixes

        rows = [
            TokenRow([*ids, *target.ids], [*[0.0] * len(ids), *target.weights], str(number))
            for number, ids in enumerate(map(self.keep, kept))
            for target in self.targets
        ]
        totals = torch.zeros(len(kept), dtype=torch.float64)
        with torch.no_grad(), share_prefixes(self.model, rows):
            for pack, logps in run_packs(self.model, rows, PACK_TOKENS, partial(compute_pack_logprobs, self.model)):
                numbers = torch.tensor([int(key) for key in pack.keys])[pack.path.cpu()]
                totals.index_add_(0, numbers, logps.double().cpu() * pack.weights.cpu())
        if self._media is not None:
            self._media.forget_variants()
        return totals.tolist()

    def build_key(self, kept: Units) -> Hashable:
        """The ids that are left."""
        return tuple(self.keep(kept))

    def keep(self, kept: Units) -> list[int]:
        """The prompt's ids without the tokens of the units that are not kept, and with variants of its pictures."""
        removed = self.all_units - kept
        patches = {number for number in removed if self.cut.units[number].patch is not None}
        ids: Sequence[int] = self.ids
        if patches:
            assert self._media is not None, "whoever cuts pictures has their processor"
            features = {token for number in patches for token in self.cut.units[number].tokens}
            ids = remove_features(ids, features, self._media)
        removed -= patches
        return [id for id, owner in zip(ids, self.cut.owners, strict=True) if owner not in removed]
