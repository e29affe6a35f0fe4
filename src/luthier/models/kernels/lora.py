"""LoRA as one matrix product: `[x | x A] · [W | s B]`, so that small updates survive bf16.

Adding a low-rank delta to an output that was already rounded to bf16 loses most of a new adapter's contribution. Here
base and adapter are summed inside one product, in fp32, and rounded once; it also saves a pass over the output. Layers
that read the very same input (queries, keys and values; gate and up) become one product together. Layers stay PEFT's
own: only their `forward` is replaced, and PEFT's own is used whenever an adapter is disabled or merged, several are
active, or dropout is active. Where a layer has several adapters, the active one is used; gradients must be taken before
another is activated.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor

from luthier.models.kernels.linear_ops import AdapterSlice, LinearKernels, get_linear_kernels, supports_linear
from luthier.models.kernels.onednn import multiply_by_rows


class WeightGradientReceiver(Protocol):
    """Receives the factors of adapters' weight gradients, in place of the gradients."""

    def fits(self, x: Tensor) -> bool:
        """Return whether a layer's input has the expected tokens; the layer's own forward is used otherwise."""

    def receive(self, weight: torch.nn.Parameter, states: Tensor, slopes: Tensor) -> None:
        """Receive (tokens, in) the input of a weight (out, in), and (tokens, out) the output gradient: the weight's
        gradient is their product, summed over the tokens.
        """


_RECEIVER: ContextVar[WeightGradientReceiver | None] = ContextVar("luthier_weight_gradient_receiver", default=None)


@contextmanager
def send_weight_gradients(receiver: WeightGradientReceiver) -> Iterator[None]:
    """Let layers with the fused forward send the factors of their gradients within a context."""
    token = _RECEIVER.set(receiver)
    try:
        yield
    finally:
        _RECEIVER.reset(token)


def install_fused_lora(model: torch.nn.Module) -> int:
    """Install the fused forward in every supported LoRA layer; returns their number.

    Frozen weights are copied out of memory-mapped files, which would otherwise take memory in addition to the joint
    matrices: those of the layers when their matrices are built, all others now.
    """
    taken, moving = 0, set[int]()
    for parent in model.modules():
        family = _Family()
        for layer in parent.children():
            if isinstance(layer, LoraLinear) and not _has_fused_forward(layer) and _can(layer):
                layer.forward = _Forward(layer, family)
                taken += 1
                moving.add(id(layer.base_layer.weight))
    if taken:
        for parameter in model.parameters():
            if not parameter.requires_grad and id(parameter) not in moving:
                parameter.data = parameter.data.clone()
    return taken


def restore_peft_forward(model: torch.nn.Module) -> None:
    """Restore PEFT's own forward in every layer."""
    for module in model.modules():
        if _has_fused_forward(module):
            del module.forward


@contextmanager
def use_peft_forward(layers: Sequence[torch.nn.Module]) -> Iterator[None]:
    """Use PEFT's own forward of some layers within a context."""
    forwards = [(layer, layer.__dict__.pop("forward")) for layer in layers if _has_fused_forward(layer)]
    try:
        yield
    finally:
        for layer, forward in forwards:
            layer.forward = forward


def _has_fused_forward(layer: torch.nn.Module) -> bool:
    return isinstance(layer.__dict__.get("forward"), _Forward)


def _can(layer: LoraLinear) -> bool:
    """Return whether the layer is one plain low-rank adapter over one plain linear layer."""
    plain = type(layer.base_layer) is torch.nn.Linear and not layer.fan_in_fan_out
    return plain and len(layer.active_adapters) == 1 and not getattr(layer, "lora_variant", None)


class _Forward:
    """The fused forward of one layer, alone or with those that read the same input."""

    def __init__(self, layer: LoraLinear, family: _Family) -> None:
        self.layer, self._family = layer, family
        self._peft = type(layer).forward

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        receiver = _RECEIVER.get()
        if args or kwargs or not self.applies or (receiver is not None and not receiver.fits(x)):
            out: Tensor = self._peft(self.layer, x, *args, **kwargs)
            return out
        return self._family.read(self, x)

    @property
    def applies(self) -> bool:
        """Whether one product is equivalent to what the layer computes now."""
        layer = self.layer
        if layer.disable_adapters or layer.merged or len(layer.active_adapters) != 1:
            return False
        if self.adapter not in layer.lora_B:
            return False
        dropping = layer.training and not isinstance(layer.lora_dropout[self.adapter], torch.nn.Identity)
        frozen = not layer.base_layer.weight.requires_grad
        return frozen and not dropping and layer.lora_B[self.adapter].bias is None

    @property
    def adapter(self) -> str:
        """The active adapter."""
        active: str = self.layer.active_adapters[0]
        return active

    @property
    def down(self) -> Tensor:
        """A (rank, in)."""
        weight: Tensor = self.layer.lora_A[self.adapter].weight
        return weight

    @property
    def up(self) -> Tensor:
        """B (out, rank)."""
        weight: Tensor = self.layer.lora_B[self.adapter].weight
        return weight

    @property
    def scale(self) -> float:
        """Scale of the adapter's output."""
        return float(self.layer.scaling[self.adapter])


class _Family:
    """LoRA layers of one parent.

    Their first pass is recorded: layers called consecutively with the very same input are computed together from then
    on. Each call checks whether the input is the same.
    """

    def __init__(self) -> None:
        self._runs: list[list[_Forward]] = []
        self._watched: Tensor | None = None
        self._products: dict[_Forward, _Product] = {}

    def read(self, member: _Forward, x: Tensor) -> Tensor:
        """Return one layer's output."""
        if member not in self._products and not self._watch(member, x):
            return _Product([member], passing=True).read(member, x)
        return self._products[member].read(member, x)

    def _watch(self, member: _Forward, x: Tensor) -> bool:
        """Record which layer reads which input; True when a pass is over and all groups are known."""
        if any(member in run for run in self._runs):
            self._watched = None
            for run in self._runs:
                self._products |= dict.fromkeys(run, _Product(run))
            return True
        if self._watched is x and self._runs:
            self._runs[-1].append(member)
        else:
            self._runs.append([member])
        self._watched = x
        return False


class _Product:
    """One product for a group of layers; their base weights are views of its joint matrix, stored once.

        joint = [W1 | s B1  0 ]   (out, in + rank), for two layers
                [W2 | 0  s B2]

    Columns grow with the adapters' ranks. Where a member has no adapter now, each of the others reads its own rows.
    """

    def __init__(self, members: Sequence[_Forward], *, passing: bool = False) -> None:
        self.members, self._passing = tuple(members), passing
        self.width = members[0].down.shape[1]
        self.outs = _spans([member.up.shape[0] for member in members])
        self._joint: Tensor | None = None
        self._laid_out: tuple[AdapterSlice, ...] = ()
        self._now = _Now()

    def read(self, member: _Forward, x: Tensor) -> Tensor:
        """Return one member's output; the first call computes all members, the others find theirs ready."""
        now = self._now
        if now.input is not x or member not in now.ahead:
            members = self.members if all(other.applies for other in self.members) else (member,)
            now.ahead, now.input = dict(zip(members, self._compute(members, x), strict=True)), x
        outputs = now.ahead.pop(member)
        if not now.ahead:
            now.input = None
        return outputs

    def _compute(self, members: Sequence[_Forward], x: Tensor) -> list[Tensor]:
        """Return (…, out) of some adjacent members."""
        ranks = _spans([member.up.shape[1] for member in members])
        outs = [self.outs[self.members.index(member)] for member in members]
        parts = tuple(
            AdapterSlice(out, rank, forward.scale) for out, rank, forward in zip(outs, ranks, members, strict=True)
        )
        joint = self._join_weights(members, parts)
        flat = x.reshape(-1, self.width).to(joint.dtype)
        weights = [weight for member in members for weight in (member.down, member.up)]
        receiver = _RECEIVER.get()
        kernels = get_linear_kernels() if receiver is None and supports_linear(flat, parts) else None
        outputs: tuple[Tensor, ...] = (
            _Apply.apply(flat, joint, parts, receiver, *weights)  # type: ignore[no-untyped-call]
            if kernels is None
            else _Compiled.apply(flat, joint, parts, kernels, *weights)  # type: ignore[no-untyped-call]
        )
        biases = [member.layer.base_layer.bias for member in members]
        shaped = [part.view(*x.shape[:-1], -1) for part in outputs]
        return [part if bias is None else part + bias for part, bias in zip(shaped, biases, strict=True)]

    def _join_weights(self, members: Sequence[_Forward], parts: tuple[AdapterSlice, ...]) -> Tensor:
        """Return the rows of some members with their current adapters; base weights are views of the left part."""
        columns = self.width + parts[-1].rank.stop
        joint = self._allocate_joint(columns)
        if parts != self._laid_out:
            joint[:, self.width :] = 0
            self._laid_out = parts
        for member, part in zip(members, parts, strict=True):
            rank = slice(self.width + part.rank.start, self.width + part.rank.stop)
            joint[part.out, rank] = member.up.detach() * part.scale
        return joint[parts[0].out.start : parts[-1].out.stop, :columns]

    def _allocate_joint(self, columns: int) -> Tensor:
        """Return the joint matrix of all members, with at least `columns` columns."""
        joint, weights = self._joint, [member.layer.base_layer.weight for member in self.members]
        at_home = joint is not None and all(
            weight.data_ptr() == joint[span].data_ptr() for weight, span in zip(weights, self.outs, strict=True)
        )
        if joint is None or joint.shape[1] < columns or not at_home:
            shape = (self.outs[-1].stop, columns)
            joint = torch.zeros(shape, dtype=weights[0].dtype, device=weights[0].device)
            for weight, span in zip(weights, self.outs, strict=True):
                joint[span, : self.width] = weight.detach()
                if not self._passing:  # else each would leave a hole that is too small for the next
                    weight.data = joint[span, : self.width]
            self._joint = joint
        return joint


class _Now(threading.local):
    """Results that one thread has computed for the other layers of a group, and their input."""

    def __init__(self) -> None:
        self.ahead: dict[_Forward, Tensor] = {}
        self.input: Tensor | None = None


def _spans(sizes: Sequence[int]) -> list[slice]:
    ends = [sum(sizes[: at + 1]) for at in range(len(sizes))]
    return [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]


class _Apply(torch.autograd.Function):
    """Compute (tokens, in) to (tokens, out) of each member; views of one tensor do not support `add_`."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        joint: Tensor,
        parts: tuple[AdapterSlice, ...],
        receiver: WeightGradientReceiver | None,
        *weights: Tensor,
    ) -> tuple[Tensor, ...]:
        down = torch.cat([weight.to(x.dtype) for weight in weights[::2]])  # (rank, in)
        both = torch.cat([x, multiply_by_rows(x, down)], 1)  # (tokens, in + rank)
        ctx.save_for_backward(both, down)
        ctx.parts, ctx.joint, ctx.dtype = parts, joint, weights[0].dtype
        ctx.receiver, ctx.weights = receiver, weights if receiver is not None else ()
        return _split_outputs(multiply_by_rows(both, joint), parts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        both, down = ctx.saved_tensors
        width = down.shape[1]
        grad = _side_by_side(grads)
        if ctx.needs_input_grad[0]:
            through = multiply_by_rows(grad, ctx.joint.t())  # (tokens, in + rank)
            inner = through[:, width:].contiguous()
            d_x = through[:, :width].addmm_(inner, down)
        else:  # nothing below learns
            inner, d_x = grad @ ctx.joint[:, width:], None
        inside = both[:, width:].contiguous()
        if ctx.receiver is not None:
            _send(ctx, grad, both[:, :width], inner, inside)
            return d_x, None, None, None, *(None for _ in ctx.weights)
        d_down = (inner.t() @ both)[:, :width].to(ctx.dtype)  # what is whole need not be copied for a product
        grads_of_weights: list[Tensor] = []
        first = ctx.parts[0].out.start
        for out, rank, scale in ctx.parts:
            own = inside if len(ctx.parts) == 1 else inside[:, rank].contiguous()
            own_grad = grad[:, out.start - first : out.stop - first]
            grads_of_weights += [d_down[rank], (own_grad.t() @ own).to(ctx.dtype).mul_(scale)]
        return d_x, None, None, None, *grads_of_weights


def _send(ctx: Any, grad: Tensor, x: Tensor, inner: Tensor, inside: Tensor) -> None:
    """Send the factors of the gradients of each member's A and B."""
    first = ctx.parts[0].out.start
    for part, down, up in zip(ctx.parts, ctx.weights[::2], ctx.weights[1::2], strict=True):
        ctx.receiver.receive(down, x, inner[:, part.rank])
        own_grad = grad[:, part.out.start - first : part.out.stop - first]
        ctx.receiver.receive(up, inside[:, part.rank] * part.scale, own_grad)


class _Compiled(torch.autograd.Function):
    """Compute the product by a kernel, which needs no joint input and multiplies no zeros."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, joint: Tensor, parts: tuple[AdapterSlice, ...], kernels: LinearKernels, *weights: Tensor
    ) -> tuple[Tensor, ...]:
        down = torch.cat([weight.to(x.dtype) for weight in weights[::2]])  # (rank, in)
        whole, inside = kernels.forward(x, down, joint, parts)
        ctx.save_for_backward(x, down, inside)
        ctx.parts, ctx.joint, ctx.kernels, ctx.dtype = parts, joint, kernels, weights[0].dtype
        return _split_outputs(whole, parts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, down, inside = ctx.saved_tensors
        d_x, d_down, d_ups = ctx.kernels.back(
            grads, x, down, ctx.joint, ctx.parts, inside, through=ctx.needs_input_grad[0]
        )
        grads_of_weights = [
            entry.to(ctx.dtype)
            for part, d_up in zip(ctx.parts, d_ups, strict=True)
            for entry in (d_down[part.rank], d_up)
        ]
        return d_x, None, None, None, *grads_of_weights


def _split_outputs(whole: Tensor, parts: tuple[AdapterSlice, ...]) -> tuple[Tensor, ...]:
    """Split (tokens, out) of all members into each one's."""
    first = parts[0].out.start
    if len(parts) == 1:
        return (whole,)
    return tuple(whole[:, part.out.start - first : part.out.stop - first] for part in parts)


def _side_by_side(parts: Sequence[Tensor]) -> Tensor:
    """Concatenate (tokens, a), (tokens, b), … to (tokens, a + b + …); adjacent views are not copied."""
    first, width = parts[0], sum(part.shape[1] for part in parts)
    end = first.data_ptr()
    for part in parts:
        if part.data_ptr() != end or part.stride() != (width, 1) or _base(part) != _base(first):
            return torch.cat(list(parts), 1)
        end += part.shape[1] * part.element_size()
    return first.as_strided((first.shape[0], width), (width, 1))


def _base(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
