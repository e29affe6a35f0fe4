"""Log-probabilities of given tokens from hidden states, without logits of all tokens in memory.

The output head runs only at predicted tokens, in chunks. For a frozen head the gradient of each log-probability by its
hidden state is computed in the forward pass; for a trained head each chunk is recomputed in the backward pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from luthier.models.kernels.calls import LayerOpKernels, get_layer_op_kernels
from luthier.models.kernels.head_ops import HeadKernels, get_head_kernels, supports_head
from luthier.models.kernels.onednn import multiply_by_rows, uses_onednn

PIECE_BYTES = 1 << 26
"""Maximum bytes of logits in memory."""
WIDE_COPY_BYTES = 1 << 30
"""Maximum size of a frozen bf16 head (as fp32) that is kept in fp32, too, for exact log-probabilities."""


class LogitTransform(NamedTuple):
    """An architecture's transform of logits: `softcap * tanh(scale * logits / softcap)`."""

    scale: float = 1.0
    softcap: float | None = None


@dataclass(eq=False)
class OutputHead:
    """An output head: a linear layer and the transform of its logits."""

    linear: torch.nn.Linear
    shape: LogitTransform
    _wide: tuple[tuple[int, int], Tensor] | None = field(default=None, repr=False)

    def logprobs(self, hidden: Tensor, targets: Tensor, *, precise: bool = True, first: Tensor | None = None) -> Tensor:
        """Return (N,) log-probabilities in at least fp32 from (N, width) hidden states and (N,) token ids.

        `first` (N,) receives whether the target is the top prediction. `precise` computes the logits in fp32 from bf16
        weights; otherwise they are rounded to the weights' dtype. Gradients are rounded to the weights' dtype in any
        case, like the hidden states.
        """
        bias, narrow = self.linear.bias, self.linear.weight
        if precise and (kernels := self._tiles(hidden)):
            quick: Tensor = _TileLogProbs.apply(hidden, narrow, targets, first, kernels)  # type: ignore[no-untyped-call]
            return quick
        hidden, weight = self._match_dtypes(hidden, precise)
        logprobs: Tensor = _TargetLogProbs.apply(hidden, weight, bias, targets, self.shape, narrow, first)  # type: ignore[no-untyped-call]
        return logprobs

    @torch.no_grad()
    def given(
        self, hidden: Tensor, indices: Tensor, targets: Tensor, *, precise: bool = True, first: Tensor | None = None
    ) -> Tensor:
        """Return (N,) log-probabilities from (M, width) hidden states, (N,) the state that predicts each token, and
        (N,) token ids; `first` as in `logprobs`.

        Many targets may follow one state: its logits are computed once.
        """
        if precise and (kernels := self._tiles(hidden)):
            return kernels.logprobs(hidden, self.linear.weight, targets, indices, first)
        hidden, weight = self._match_dtypes(hidden, precise)
        wide = torch.promote_types(hidden.dtype, torch.float32)
        logprobs = torch.empty(targets.shape[0], dtype=wide, device=hidden.device)
        for piece in _split_rows(hidden.shape[0], weight.shape[0]):
            logits = _logits(hidden[piece], weight, self.linear.bias, self.shape)
            mine = ((indices >= piece.start) & (indices < piece.stop)).nonzero()[:, 0]
            rows = indices[mine] - piece.start
            logprobs[mine] = logits[rows, targets[mine]] - logits.logsumexp(-1)[rows]
            if first is not None:
                first[mine] = logits[rows, targets[mine]] >= logits.amax(-1)[rows]
        return logprobs

    def choices(
        self, hidden: Tensor, targets: Tensor, choices: Tensor, *, temperature: float = 1.0, precise: bool = True
    ) -> Tensor:
        """Return (N, 1 + K) log-probabilities in at least fp32 from (N, width) hidden states, (N,) and (N, K) token
        ids.

        First the target's, then those of the choices from logits divided by `temperature`. Logits exist in chunks, and
        are recomputed in the backward pass.
        """
        hidden, weight = self._match_dtypes(hidden, precise)
        heat = ChoiceTemperature(temperature, self.linear.weight)
        logprobs: Tensor = _ChoiceLogProbs.apply(hidden, weight, self.linear.bias, targets, choices, self.shape, heat)  # type: ignore[no-untyped-call]
        return logprobs

    @torch.no_grad()
    def top(
        self, hidden: Tensor, count: int, *, below: int, temperature: float = 1.0, precise: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Return (N, count) the likeliest token ids below `below`, likeliest first, and their log-probabilities."""
        hidden, weight = self._match_dtypes(hidden, precise)
        chunks = []
        for piece in _split_rows(hidden.shape[0], weight.shape[0]):
            logps = torch.log_softmax(_logits(hidden[piece], weight, self.linear.bias, self.shape) / temperature, -1)
            chunks.append(logps[:, :below].topk(count, dim=-1))
        return torch.cat([topk.indices for topk in chunks]), torch.cat([topk.values for topk in chunks])

    @torch.no_grad()
    def logits(self, hidden: Tensor) -> Tensor:
        """Return (N, vocab) logits in at least fp32 from (N, width) hidden states."""
        hidden, weight = self._match_dtypes(hidden, True)
        return _logits(hidden, weight, self.linear.bias, self.shape)

    def _match_dtypes(self, hidden: Tensor, precise: bool) -> tuple[Tensor, Tensor]:
        """Return hidden states and weight in the dtype in which logits are computed."""
        weight = self.linear.weight
        wide = torch.promote_types(hidden.dtype, torch.float32)
        if precise and weight.dtype != wide:
            return hidden.to(wide), self._cast_weight(wide)
        return hidden.to(weight.dtype), weight

    def _tiles(self, hidden: Tensor) -> HeadKernels | None:
        """Return the kernels with fp32 logits that are never stored, where they support this head and it is frozen.

        They are used with and without gradients: a policy and its reference start with the same bits.
        """
        if (
            self.linear.weight.requires_grad
            or self.linear.bias is not None
            or self.shape != LogitTransform()
            or not supports_head(hidden, self.linear.weight)
        ):
            return None
        return get_head_kernels()

    def _cast_weight(self, dtype: torch.dtype) -> Tensor:
        """Return the weight in a wider dtype: cached when it is frozen and not too large."""
        weight = self.linear.weight
        if weight.requires_grad or weight.numel() * dtype.itemsize > WIDE_COPY_BYTES:
            return weight.to(dtype)
        state = (weight.data_ptr(), weight._version)
        if self._wide is None or self._wide[0] != state:
            self._wide = (state, weight.detach().to(dtype))
        return self._wide[1]


class _TileLogProbs(torch.autograd.Function):
    """Log-probabilities of a frozen head: their gradients by the states are computed in the forward pass."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, first: Tensor | None, kernels: HeadKernels
    ) -> Tensor:
        if not ctx.needs_input_grad[0]:
            return kernels.logprobs(hidden, weight, targets, None, first)
        out, slopes = hidden.new_empty(hidden.shape[0], dtype=torch.float32), torch.empty_like(hidden)
        for piece, some in _iterate_logits(hidden, targets, weight, LogitTransform()):
            is_first = None if first is None else first[piece]
            out[piece] = kernels.slopes(some.hidden, weight, some.targets, some.room, is_first)
            torch.mm(some.room, weight, out=slopes[piece])
        ctx.save_for_backward(slopes)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None, None]:
        (slopes,) = ctx.saved_tensors
        return (slopes * grads[0][:, None]).to(slopes.dtype), None, None, None, None


class _TargetLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        shape: LogitTransform,
        narrow: Tensor,
        first: Tensor | None,
    ) -> Tensor:
        trained = ctx.needs_input_grad[1] or ctx.needs_input_grad[2]
        wide = torch.promote_types(hidden.dtype, torch.float32)
        out = torch.empty(hidden.shape[0], dtype=wide, device=hidden.device)
        slopes = torch.empty_like(hidden) if ctx.needs_input_grad[0] and not trained else None
        for piece, some in _iterate_logits(hidden, targets, weight, shape):
            is_first = None if first is None else first[piece]
            out[piece], logits_slope = _compute_slice(some, weight, bias, shape, slopes is not None, is_first)
            if slopes is not None:
                slopes[piece] = multiply_by_rows(logits_slope.to(narrow.dtype), narrow.t())
        ctx.shape, ctx.trained = shape, trained
        ctx.save_for_backward(*((hidden, weight, bias, targets) if trained else (slopes,)))
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        if not ctx.trained:
            (slopes,) = ctx.saved_tensors
            return (slopes * grad[:, None]).to(slopes.dtype), None, None, None, None, None, None
        hidden, weight, bias, targets = ctx.saved_tensors
        d_hidden, d_weight = torch.empty_like(hidden), torch.zeros_like(weight)
        d_bias = None if bias is None else torch.zeros_like(bias)
        for piece, some in _iterate_logits(hidden, targets, weight, ctx.shape):
            _, slope = _compute_slice(some, weight, bias, ctx.shape, True, by=grad[piece])
            slope = slope.to(weight.dtype)
            d_hidden[piece] = slope @ weight
            d_weight.addmm_(slope.t(), some.hidden)
            if d_bias is not None:
                d_bias += slope.sum(0)
        return d_hidden, d_weight, d_bias, None, None, None, None


class ChoiceTemperature(NamedTuple):
    """The temperature of choices, and the weight in whose dtype gradients flow back."""

    temperature: float
    narrow: Tensor


class _ChoiceLogProbs(torch.autograd.Function):
    """(N, 1 + K) log-probabilities; the backward pass recomputes the logits of each chunk.

    With g the incoming gradient, the gradient of the logits is `onehot(target) g_0 - p g_0` plus `(onehot(choices) g_k
    - p_T sum g_k) / T`, where p and p_T are the probabilities at temperatures 1 and T.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        choices: Tensor,
        shape: LogitTransform,
        heat: ChoiceTemperature,
    ) -> Tensor:
        logprobs = []
        for piece in _split_rows(hidden.shape[0], weight.shape[0]):
            logits = _logits(hidden[piece], weight, bias, shape)
            one = logits.gather(1, targets[piece, None]) - logits.logsumexp(-1, keepdim=True)
            logits.div_(heat.temperature)
            logprobs.append(torch.cat([one, logits.gather(1, choices[piece]) - logits.logsumexp(-1, keepdim=True)], 1))
        ctx.shape, ctx.heat = shape, heat
        ctx.save_for_backward(hidden, weight, bias, targets, choices)
        return torch.cat(logprobs) if logprobs else hidden.new_zeros(0, 1 + choices.shape[1])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        hidden, weight, bias, targets, choices = ctx.saved_tensors
        trained = ctx.needs_input_grad[1] or ctx.needs_input_grad[2]
        narrow = weight if trained else ctx.heat.narrow
        d_hidden = torch.empty_like(hidden)
        d_weight = torch.zeros_like(weight) if trained else None
        d_bias = torch.zeros_like(bias) if trained and bias is not None else None
        for piece in _split_rows(hidden.shape[0], weight.shape[0]):
            logits = _logits(hidden[piece], weight, bias, ctx.shape)
            slope = _choice_slopes(logits, targets[piece], choices[piece], grad[piece], ctx.shape, ctx.heat.temperature)
            slope = slope.to(narrow.dtype)
            d_hidden[piece] = (slope @ narrow).to(hidden.dtype)
            if d_weight is not None:
                d_weight.addmm_(slope.t(), hidden[piece])
            if d_bias is not None:
                d_bias += slope.sum(0)
        return d_hidden, d_weight, d_bias, None, None, None, None


def _choice_slopes(
    logits: Tensor, targets: Tensor, choices: Tensor, grad: Tensor, shape: LogitTransform, temperature: float
) -> Tensor:
    """Return (n, vocab) the gradient of the loss by the raw logits, from (n, 1 + K) gradients of log-probabilities."""
    first, rest = grad[:, :1], grad[:, 1:] / temperature
    slope = torch.softmax(logits, -1).mul_(-first)
    slope.addcmul_(torch.softmax(logits / temperature, -1), rest.sum(-1, keepdim=True), value=-1)
    slope.scatter_add_(1, targets[:, None], first).scatter_add_(1, choices, rest)
    if shape.softcap is not None:
        slope.mul_(1 - (logits / shape.softcap) ** 2)
    return slope if shape.scale == 1.0 else slope.mul_(shape.scale)


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, shape: LogitTransform) -> Tensor:
    return _wide(_project(hidden, weight, bias), shape)


def _project(hidden: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor | None = None) -> Tensor:
    """Return (n, vocab) raw logits, in `out` where possible."""
    if uses_onednn(hidden, weight):
        raw = multiply_by_rows(hidden, weight)
        return raw if bias is None else raw.add_(bias)
    if out is None:
        return torch.nn.functional.linear(hidden, weight, bias)
    return torch.mm(hidden, weight.t(), out=out) if bias is None else torch.addmm(bias, hidden, weight.t(), out=out)


def _wide(raw: Tensor, shape: LogitTransform) -> Tensor:
    """Apply the architecture's transform to raw logits, in at least fp32."""
    return transform_logits(raw.to(torch.promote_types(raw.dtype, torch.float32)), shape)


def _split_rows(rows: int, vocabulary: int, size_of_one: int = 4) -> list[slice]:
    size = max(16, PIECE_BYTES // (size_of_one * vocabulary))
    return [slice(begin, min(begin + size, rows)) for begin in range(0, rows, size)]


class _Some(NamedTuple):
    """States (n, width), the tokens (n,) that follow them, and a buffer for their logits (n, vocab)."""

    hidden: Tensor
    targets: Tensor
    room: Tensor


def _iterate_logits(
    hidden: Tensor, targets: Tensor, weight: Tensor, shape: LogitTransform
) -> Iterator[tuple[slice, _Some]]:
    """Yield chunks that share one buffer: the system zeroes new memory, which takes as long as the products."""
    narrow = _get_kernels(hidden, shape) is not None
    pieces = _split_rows(hidden.shape[0], weight.shape[0], hidden.element_size() if narrow else 4)
    room = hidden.new_empty(max((piece.stop - piece.start for piece in pieces), default=0), weight.shape[0])
    for piece in pieces:
        yield piece, _Some(hidden[piece], targets[piece], room[: piece.stop - piece.start])


def _get_kernels(like: Tensor, shape: LogitTransform) -> LayerOpKernels | None:
    """Return the kernels, where they support a head with this transform."""
    return get_layer_op_kernels(like) if shape == LogitTransform() else None


def _compute_slice(
    some: _Some, weight: Tensor, bias: Tensor | None, shape: LogitTransform, slopes: bool, first: Tensor | None = None,
    by: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Return log-probabilities (n,) of the targets and, if requested, their gradients by the raw logits (n, vocab),
    times `by` (n,) if given.

    `first` (n,) receives whether the target is the top prediction.
    """
    hidden, targets, room = some
    raw = _project(hidden, weight, bias, room)
    if quick := _get_kernels(raw, shape):
        return quick.chosen_(raw, targets, first, slopes=slopes, by=by), raw
    logits = _wide(raw, shape)
    chosen = targets[:, None]
    target = logits.gather(1, chosen)
    bend = None if shape.softcap is None or not slopes else 1 - (logits / shape.softcap) ** 2
    most = logits.amax(-1, keepdim=True)
    if first is not None:
        torch.ge(target[:, 0], most[:, 0], out=first)
    shares = logits.sub_(most).exp_()  # the piece is ours: nothing else needs its logits
    total = shares.sum(-1, keepdim=True)
    logprobs = (target - most - total.log())[:, 0]
    if not slopes:
        return logprobs, logprobs
    slope = shares.div_(-total)
    slope.scatter_add_(1, chosen, torch.ones_like(chosen, dtype=slope.dtype))
    if bend is not None:
        slope.mul_(bend)
    if by is not None:
        slope.mul_(by[:, None])
    return logprobs, slope if shape.scale == 1.0 else slope.mul_(shape.scale)


def transform_logits(logits: Tensor, shape: LogitTransform) -> Tensor:
    """Apply the architecture's transform to logits."""
    if shape.scale != 1.0:
        logits = logits * shape.scale
    if shape.softcap is not None:
        logits = torch.tanh(logits / shape.softcap) * shape.softcap
    return logits
