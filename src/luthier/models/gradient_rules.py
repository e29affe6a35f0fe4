"""AttnLRP as gradient rules: within a context, gradient times input is layer-wise relevance.

Gradients of queries and keys count a quarter and of values a half before attention, so that its kernels need no change;
norms keep their scale as a constant; gated products count half; activations pass relevance through (Achtibat et al.
2024, "AttnLRP", and the gradient form of its authors). The rule of a module is found by trying one module of each
class; classes with parameters of their own and no rule are reported. The rules are active in the current thread only. A
forward pass computes the same values with and without them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from luthier.models.shapes import find_part

_ACTIVE: ContextVar[bool] = ContextVar("luthier_gradient_rules", default=False)
_FAULTS = (TypeError, ValueError, AttributeError, LookupError, RuntimeError, AssertionError)
_AGREES = {torch.float64: 1e-5, torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 4e-3}
_LINEAR = ("Linear", "Conv1D", "Embedding", "Conv1d", "Conv2d")
"""Suffixes of names of linear classes, which need no rule."""
_TINY = 1e-10

Weight = Callable[[Any], Any]
_WEIGHTS: tuple[Weight, ...] = (
    lambda module: getattr(module, "weight", 1.0),
    lambda module: 1.0 + getattr(module, "weight", 0.0),
    lambda module: 1.0,
)


def are_gradient_rules_active() -> bool:
    """Return whether this thread's gradients follow the rules: kernels that bypass a model's activations must not be
    used then.
    """
    return _ACTIVE.get()


def apply_attention_rule(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries, keys and values unchanged; under the rules their gradients count a quarter, a quarter
    and a half.
    """
    if not _ACTIVE.get():
        return query, key, value
    return _scaled(query, 0.25), _scaled(key, 0.25), _scaled(value, 0.5)


class GradientRules(NamedTuple):
    """The rule of each class of a model's modules, and the classes with parameters of their own and no rule."""

    taken: dict[str, str]
    """The rule of each class: `norm`, `activation` or `gate`."""
    missing: tuple[str, ...]


@contextmanager
def use_gradient_rules(model: torch.nn.Module) -> Iterator[GradientRules]:
    """Let this thread's gradients through a model follow the rules of AttnLRP."""
    rules = _RULES.get(model)
    if rules is None:
        rules = _RULES[model] = _find_rules(model)
    with _LOCK:
        rules.users += 1
        if rules.users == 1:
            rules.install()
    token = _ACTIVE.set(True)
    try:
        yield rules.found
    finally:
        _ACTIVE.reset(token)
        with _LOCK:
            rules.users -= 1
            if not rules.users:
                rules.remove()


class _Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0] * ctx.factor, None


class _Passed(torch.autograd.Function):
    """An elementwise output whose gradient by the input is output over input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, output: Tensor) -> Tensor:
        ctx.save_for_backward(output / (x + _TINY))
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0] * ctx.saved_tensors[0], None


def _scaled(x: Tensor, factor: float) -> Tensor:
    scaled: Tensor = _Scaled.apply(x, factor)  # type: ignore[no-untyped-call]
    return scaled


class _NormForm(NamedTuple):
    """A norm as a formula whose scale gets no gradient."""

    weight: Weight
    centered: bool

    def compute(self, module: Any, x: Tensor) -> Tensor:
        """Return the norm of x, in at least fp32, without its bias."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        if self.centered:
            wide = wide - wide.mean(-1, keepdim=True)
        scale = torch.rsqrt(wide.detach().pow(2).mean(-1, keepdim=True) + _epsilon(module))
        weight = self.weight(module)
        normalized: Tensor = wide * scale * (weight.to(wide.dtype) if isinstance(weight, Tensor) else weight)
        return normalized

    def agrees(self, module: Any, x: Tensor) -> bool:
        """Return whether it computes what the module does."""
        bias = getattr(module, "bias", None)
        return _is_close(self.compute(module, x) + (0.0 if bias is None else bias), module(x))


@dataclass(eq=False)
class _InstalledRules:
    """The rules of one model, and the number of contexts that use them."""

    found: GradientRules
    norms: list[tuple[torch.nn.Module, _NormForm]]
    activations: list[torch.nn.Module]
    gated: list[torch.nn.Module]
    """Modules whose input is a gated product."""
    users: int = 0

    def install(self) -> None:
        """Register the hooks."""
        self._handles: list[Any] = [
            *(module.register_forward_hook(_norm_hook(form)) for module, form in self.norms),
            *(module.register_forward_hook(_activation_hook) for module in self.activations),
            *(module.register_forward_pre_hook(_gate_hook) for module in self.gated),
        ]

    def remove(self) -> None:
        """Remove them."""
        for handle in self._handles:
            handle.remove()


_RULES: WeakKeyDictionary[torch.nn.Module, _InstalledRules] = WeakKeyDictionary()
_LOCK = threading.Lock()


def _norm_hook(form: _NormForm) -> Callable[..., Tensor | None]:
    def hook(module: Any, args: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        if not _ACTIVE.get() or not torch.is_grad_enabled():
            return None
        linear = form.compute(module, args[0]).to(output.dtype)
        return output.detach() + (linear - linear.detach())

    return hook


def _activation_hook(module: Any, args: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
    if not _ACTIVE.get() or not torch.is_grad_enabled():
        return None
    passed: Tensor = _Passed.apply(args[0], output.detach())  # type: ignore[no-untyped-call]
    return passed


def _gate_hook(module: Any, args: tuple[Tensor, ...]) -> tuple[Any, ...] | None:
    if not _ACTIVE.get() or not torch.is_grad_enabled():
        return None
    return (_scaled(args[0], 0.5), *args[1:])


@torch.no_grad()
def _find_rules(model: torch.nn.Module) -> _InstalledRules:
    """Try one module of each class; image encoders come before the embeddings, and no relevance reaches them."""
    weights = next(model.parameters())
    modules = [module for name, module in model.named_modules() if find_part(name) == "language"]
    taken: dict[str, str] = {}
    kinds: dict[type, Any] = {}
    installed_rules = _InstalledRules(GradientRules(taken, ()), [], [], [])
    token = _ACTIVE.set(True)  # so that kernels stand back while activations are watched
    try:
        for module in modules:
            kind = type(module)
            if kind not in kinds:
                kinds[kind] = _try_norm(module, weights) or _try_activation(module, weights)
            if isinstance(kinds[kind], _NormForm):
                installed_rules.norms.append((module, kinds[kind]))
                taken[kind.__name__] = "norm"
            elif kinds[kind]:
                installed_rules.activations.append(module)
                taken[kind.__name__] = "activation"
        rest = _find_gates(modules, installed_rules, taken, weights)
    finally:
        _ACTIVE.reset(token)
    others = {type(module): module for module in modules if type(module).__name__ not in taken}
    missing = [kind.__name__ for kind, module in others.items() if _needs_rule(module, weights)]
    installed_rules.found = GradientRules(dict(taken), tuple(sorted({*missing, *rest})))
    return installed_rules


def _try_norm(module: Any, like: Tensor) -> _NormForm | None:
    """Return the formula by which a module normalizes; None where it is not a known norm."""
    if not type(module).__name__.endswith("Norm") or _epsilon(module) is None:
        return None
    weight = getattr(module, "weight", None)
    width = weight.shape[-1] if isinstance(weight, Tensor) else 8
    x = _random((1, 3, width), like if weight is None else weight)
    for form in (_NormForm(weight, centered) for weight in _WEIGHTS for centered in (False, True)):
        try:
            if form.agrees(module, x):
                return form
        except _FAULTS:
            continue
    return None


def _try_activation(module: Any, like: Tensor) -> bool:
    """Return whether a module without parameters is a nonlinear elementwise function with f(0) = 0."""
    if next(module.parameters(), None) is not None or next(module.children(), None) is not None:
        return False
    x = _random((1, 3, 8), like)
    try:
        output = module(x)
        if not isinstance(output, Tensor) or output.shape != x.shape or _is_close(2 * output, module(2 * x)):
            return False
        flipped = _is_close(module(x.flip(-1)), output.flip(-1))
        return flipped and float(module(torch.zeros_like(x)).abs().max()) < 1e-6
    except _FAULTS:
        return False


def _find_gates(
    modules: Sequence[torch.nn.Module], found: _InstalledRules, taken: dict[str, str], like: Tensor
) -> Sequence[str]:
    """Find the modules whose input is a gated product; returns the classes with an activation that are not understood.

    A parent of an activation is called twice, the second time with the activation's output doubled. In a plain MLP the
    next child reads the activation itself; an input that doubles with it but is a different tensor is a gated product.
    """
    activations = {id(module) for module in found.activations}
    kinds: dict[type, str | None] = {}
    for parent in modules:
        children = dict(parent.named_children())
        held = [name for name, child in children.items() if id(child) in activations]
        if not held:
            continue
        kind = type(parent)
        if kind not in kinds:
            kinds[kind] = _try_gate(parent, held[0], like)
        name = kinds[kind]
        if name:
            found.gated.append(children[name])
            taken[kind.__name__] = "gate"
    return [kind.__name__ for kind, name in kinds.items() if name is None]


def _needs_rule(module: Any, like: Tensor) -> bool:
    """Return whether a module without a rule has parameters of its own, or is nonlinear although its children are
    linear.
    """
    children = list(module.children())
    if type(module).__name__.endswith(_LINEAR):
        return False
    if next(module.parameters(recurse=False), None) is not None:
        return True
    widths = [width for child in children if (width := _width(child))]
    if not widths or not all(type(child).__name__.endswith((*_LINEAR, "Dropout")) for child in children):
        return False
    x = _random((1, 3, widths[0]), like)
    try:
        return not _is_close(module(2 * x) - module(x), module(x) - module(torch.zeros_like(x)))
    except _FAULTS:
        return False  # such as an attention, which reads more than one tensor


def _try_gate(parent: Any, activation: str, like: Tensor) -> str | None:
    """Return the child that reads the gated product; empty where nothing is gated, None where it is unknown."""
    widths = [width for child in parent.children() if (width := _width(child))]
    if not widths:
        return None
    x = _random((1, 3, widths[0]), like)
    try:
        once, twice = (_watch(parent, activation, x, factor) for factor in (1.0, 2.0))
    except _FAULTS:
        return None
    for name, read in once.reads.items():
        if read.shape == once.output.shape and _is_close(read, once.output):
            return ""
        if read.shape == once.output.shape and _is_close(twice.reads[name], 2 * read):
            return name
    return None


class _Watched(NamedTuple):
    """The activation's output, and the inputs of the children called after it."""

    output: Tensor
    reads: dict[str, Tensor]


def _watch(parent: Any, activation: str, x: Tensor, factor: float) -> _Watched:
    """Call a module with its activation's output times a factor."""
    outputs: list[Tensor] = []
    reads: dict[str, Tensor] = {}

    def scale(_: Any, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        outputs.append(output)
        return output * factor

    def note(name: str) -> Callable[..., None]:
        def hook(_: Any, args: tuple[Tensor, ...]) -> None:
            if outputs:
                reads[name] = args[0]

        return hook

    children = dict(parent.named_children())
    handles = [children[activation].register_forward_hook(scale)]
    handles += [child.register_forward_pre_hook(note(name)) for name, child in children.items() if name != activation]
    try:
        parent(x)
    finally:
        for handle in handles:
            handle.remove()
    return _Watched(outputs[0], reads)


def _width(module: Any) -> int:
    """Return the input width of a linear layer; 0 for other modules."""
    base = getattr(module, "base_layer", module)
    if features := getattr(base, "in_features", 0):
        return int(features)
    return int(base.weight.shape[0]) if type(base).__name__ == "Conv1D" else 0


def _epsilon(module: Any) -> Any:
    for name in ("variance_epsilon", "eps", "epsilon"):
        if isinstance(epsilon := getattr(module, name, None), float):
            return epsilon
    return None


def _random(shape: tuple[int, ...], like: Tensor) -> Tensor:
    dtype = like.dtype if like.dtype.is_floating_point else torch.float32
    tensor = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return tensor.to(device=like.device, dtype=dtype)


def _is_close(actual: Tensor, expected: Tensor) -> bool:
    limit = _AGREES.get(expected.dtype, 2e-2)
    distance = (actual.double() - expected.double()).norm() / expected.double().norm().clamp_min(1e-12)
    return bool(distance <= limit)
