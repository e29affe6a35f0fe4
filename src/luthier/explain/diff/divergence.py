"""Divergence of next-token distributions, drift of hidden states and logit lens, pack by pack."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from luthier.explain.scorer import PACK_TOKENS, build_not_finite_error

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from luthier.models.packing.layer_states import LayerReader, LayerStates
    from luthier.models.packing.pack import Pack, TokenRow

    Floats = NDArray[np.float64]
    Integers = NDArray[np.int64]

Switch = Callable[[], AbstractContextManager[None]]
"""Entered while one of two models reads."""
LENS_TOKENS = 512
"""Answer tokens that are read off every layer, evenly from the first to the last."""


class AnswerTokens(NamedTuple):
    """Measures at every answer token, N in all, in the order of the rows."""

    row: Integers
    """(N,) number of its row."""
    position: Integers
    """(N,) its place in the answer."""
    token: Integers
    """(N,) its id, or the number of a class."""
    kl: Floats
    """(N,) KL(after ‖ before) in nats; NaN where the distributions are over different things."""
    logprob_before: Floats
    logprob_after: Floats
    top_before: Integers
    """(N,) the likeliest token."""
    top_after: Integers


class LensReadings(NamedTuple):
    """Logit lens: M answer tokens read off L + 1 layers."""

    first_before: Floats
    """(M, L + 1): 1 where the answer's token is the likeliest."""
    first_after: Floats


class PairReadings(NamedTuple):
    """Everything that comes of reading rows with both models."""

    tokens: AnswerTokens
    distance: Floats
    """(rows, L + 1): summed over a row's answer tokens, ‖after - before‖ / ‖before‖ of the hidden state."""
    cosine: Floats
    """(rows, L + 1): the same of the cosine."""
    counts: Integers
    """(rows,): answer tokens."""
    lens: LensReadings | None


def read_pair(
    after: Any,
    before: Any,
    rows: Sequence[tuple[TokenRow, TokenRow]],
    use_base: Switch,
    *,
    comparable: bool = True,
    lens_tokens: int = LENS_TOKENS,
    progress: Callable[[int], None] | None = None,
) -> PairReadings:
    """Read rows with a tuned model and its base, each pack once with either; memory is bounded by the pack.

    A pair of rows is the same answer after either model's own prompt. `use_base` is entered while the base reads, which
    may be the same module.

    Raises:
        ModelError: hidden states or probabilities that are not finite.
    """
    from luthier.models.packing.layer_states import LayerReader

    readers = [LayerReader(after)]
    with use_base():
        readers.append(LayerReader(before))
    collector = _PairCollector(rows, readers, (nullcontext, use_base), lens_tokens)
    for numbers in _groups([row for row, _ in rows]):
        mine, its = (_pack([rows[number][side] for number in numbers]) for side in (0, 1))
        own = readers[0].read(mine)
        with use_base():
            base = readers[1].read(its)
        collector.add(mine, numbers, (own, base), comparable=comparable)
        if progress is not None:
            progress(len(numbers))
    return collector.finish()


def _pack(rows: Sequence[TokenRow]) -> Pack:
    from luthier.models.packing.pack import build_pack

    return build_pack(rows)


def _groups(rows: Sequence[TokenRow]) -> Iterator[list[int]]:
    """Numbers of the rows of each pack."""
    from luthier.models.packing.pack import split_rows

    number = {id(row): at for at, row in enumerate(rows)}
    for group in split_rows(rows, PACK_TOKENS):
        yield [number[id(row)] for row in group]


class _PairCollector:
    """Gathers what packs tell, a few numbers for each token."""

    def __init__(
        self,
        rows: Sequence[tuple[TokenRow, TokenRow]],
        readers: Sequence[LayerReader],
        switches: tuple[Switch, Switch],
        lens_tokens: int,
    ) -> None:
        self._sides = tuple(zip(readers, switches, strict=True))
        counts = [len(row.targets) for row, _ in rows]
        self.counts = np.array(counts, dtype=np.int64)
        self._begins = np.concatenate([[0], self.counts.cumsum()])
        total = int(self._begins[-1])
        self._row = np.repeat(np.arange(len(rows)), counts)
        self._position = np.arange(total) - self._begins[self._row]
        self._token = np.zeros(total, dtype=np.int64)
        self._numbers = np.full((3, total), np.nan)
        self._tops = np.zeros((2, total), dtype=np.int64)
        picked = np.unique(np.linspace(0, total - 1, min(total, lens_tokens)).round().astype(np.int64))
        self._lens_index = {int(at): index for index, at in enumerate(picked)}
        self._lens: tuple[Any, Any] | None = None
        self._drift: tuple[Any, Any] | None = None

    def add(
        self, pack: Pack, numbers: Sequence[int], states: tuple[LayerStates, LayerStates], *, comparable: bool
    ) -> None:
        """Add a pack."""
        import torch

        rows = torch.tensor(numbers)[pack.path.cpu()].numpy()
        counts: dict[int, int] = {}
        indices = []
        for row in rows.tolist():
            indices.append(int(self._begins[row]) + counts.get(row, 0))
            counts[row] = counts.get(row, 0) + 1
        where = np.array(indices)
        self._token[where] = pack.targets.cpu().numpy()
        self._add_drift(rows, states)
        if not comparable:
            return
        targets = pack.targets.to(states[0].hidden.device)
        for piece in self._sides[0][0].pieces(len(indices)):
            one, other = (self._logprobs(side, state, piece) for side, state in enumerate(states))
            picks = targets[piece, None]
            kl = torch.where(one.isneginf(), 0.0, one.exp() * (one - other)).sum(-1)
            values = torch.stack([kl, other.gather(1, picks)[:, 0], one.gather(1, picks)[:, 0]]).double().cpu().numpy()
            if not np.isfinite(values).all():
                raise build_not_finite_error()
            self._numbers[:, where[piece]] = values
            self._tops[:, where[piece]] = torch.stack([other.argmax(-1), one.argmax(-1)]).cpu().numpy()
        if all(reader.has_lens for reader, _ in self._sides):
            self._add_lens(where, targets, states)

    def _logprobs(self, side: int, states: LayerStates, piece: slice) -> Tensor:
        import torch

        reader, switch = self._sides[side]
        with switch():
            logits = states.logits[piece] if states.logits is not None else reader.compute_logits(states.hidden[piece])
        return torch.log_softmax(logits, -1)

    def _add_drift(self, rows: NDArray[Any], states: tuple[LayerStates, LayerStates]) -> None:
        import torch

        if len(states[0].layers) != len(states[1].layers) or states[0].hidden.shape != states[1].hidden.shape:
            return
        distance, cosine = [], []
        for one, other in zip(states[0].layers, states[1].layers, strict=True):
            mine, its = one.double(), other.double()
            moved, norm = (mine - its).norm(dim=1), its.norm(dim=1)
            nothing = norm == 0  # a padding token's embedding
            distance.append(torch.where(nothing, (moved > 0).double(), moved / norm.where(~nothing, norm.new_ones(1))))
            cosine.append(torch.where(moved == 0, 1.0, torch.nn.functional.cosine_similarity(mine, its, dim=1)))
        if not distance:
            return
        if self._drift is None:
            self._drift = tuple(np.zeros((len(self.counts), len(distance))) for _ in range(2))  # type: ignore[assignment]
        assert self._drift is not None
        for total, values in zip(self._drift, (distance, cosine), strict=True):
            table = torch.stack(values, 1).cpu().numpy()
            if not np.isfinite(table).all():
                raise build_not_finite_error()
            np.add.at(total, rows, table)

    def _add_lens(self, where: NDArray[Any], targets: Tensor, states: Sequence[LayerStates]) -> None:
        import torch

        mine = [(at, self._lens_index[token]) for at, token in enumerate(where.tolist()) if token in self._lens_index]
        if not mine:
            return
        picks = torch.tensor([at for at, _ in mine], device=targets.device)
        into = [index for _, index in mine]
        tables = []
        for (reader, switch), state in zip(self._sides, states, strict=True):
            columns = []
            for layer in state.layers:
                hidden, expected, found = layer.index_select(0, picks), targets[picks], []
                for piece in reader.pieces(len(mine)):
                    with switch():
                        logits = reader.read_lens(hidden[piece])
                    found.append(logits.argmax(-1) == expected[piece])
                columns.append(torch.cat(found))
            tables.append(torch.stack(columns, 1).double().cpu().numpy())
        if self._lens is None:
            self._lens = tuple(np.zeros((len(self._lens_index), table.shape[1])) for table in tables)  # type: ignore[assignment]
        assert self._lens is not None
        for total, table in zip(self._lens, tables, strict=True):
            total[into] = table

    def finish(self) -> PairReadings:
        """All that was gathered."""
        kl, before, after = self._numbers
        empty = np.zeros((len(self.counts), 0))
        distance, cosine = self._drift if self._drift is not None else (empty, empty)
        return PairReadings(
            AnswerTokens(
                row=self._row, position=self._position, token=self._token, kl=np.maximum(kl, 0.0),
                logprob_before=before, logprob_after=after, top_before=self._tops[0], top_after=self._tops[1],
            ),
            distance,
            cosine,
            self.counts,
            None if self._lens is None else LensReadings(self._lens[1], self._lens[0]),
        )  # fmt: skip


def find_settled_layers(first: Floats) -> list[int]:
    """For each token that is likeliest at the last layer, the layer from which on it is."""
    settled = []
    for row in first:
        if row[-1]:
            misses = np.flatnonzero(row == 0)
            settled.append(int(misses[-1]) + 1 if len(misses) else 0)
    return settled
