"""Selects the attention backend: measured once for each device, dtype and kind of pack, and stored.

Results are in `attention.json` of this user's cache and are never measured again: a run and its resumption use the same
backend, and so end in the same bytes. Where results cannot be stored, nothing is measured.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import torch
from filelock import FileLock
from torch import Tensor

from luthier.core.errors import SystemResourceError
from luthier.core.files import cache_folder, write_atomically
from luthier.models.attention.backends import AttentionParams, dense_pack_attention, sdpa_pack_attention
from luthier.models.attention.cpu import AttentionPlan, block_attention, tile_attention
from luthier.models.kernels.attention_ops import get_attention_kernels, supports_attention
from luthier.models.packing.pack import Pack, TokenRow, build_pack

Attend = Callable[[Tensor, Tensor, Tensor, AttentionPlan, AttentionParams], Tensor]
LEAST_TOKENS = 256
"""Smaller packs use the first available backend: a measurement would not pay."""
CLEARLY = 1.25
"""Minimum speed-up of a backend over an earlier one in the list, so that noise never decides."""
TRIES = 3


def run_attention_backend(
    query: Tensor, key: Tensor, value: Tensor, plan: AttentionPlan, params: AttentionParams
) -> Tensor:
    """Compute attention over a pack with the backend that is fastest here: queries (1, heads, T, d), keys and values
    (1, key heads, T, d) to outputs (1, T, heads, d)."""
    names = list_attention_backends(query, params)
    name = (
        names[0]
        if plan.pack.tokens < LEAST_TOKENS or len(names) == 1
        else choose_fastest_backend(names, query, key, plan)
    )
    return PATHS[name](query, key, value, plan, params)


def list_attention_backends(query: Tensor, params: AttentionParams) -> tuple[str, ...]:
    """Return the available backends, the one expected to be fastest first; the dense one where no other is
    available.
    """
    bare = params.softcap is None and params.sinks is None
    able = {
        "blocks": query.device.type == "cpu" and bare and not params.dropout,
        "flex": query.device.type == "cuda" and not params.dropout and _flexible(query),
        "fused": bare,
    }
    return tuple(name for name, can in able.items() if can) or ("plain",)


def choose_fastest_backend(names: tuple[str, ...], query: Tensor, key: Tensor, plan: AttentionPlan) -> str:
    """Return the stored winner among `names`, measured now when there is none; by one process at a time."""
    file = cache_folder() / "attention.json"
    case = _build_cache_key(names, query, key, plan)
    if (file, case) not in _KNOWN:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{file}.lock"):
                winners = _read_winners(file)
                if winners.get(case) not in names:
                    winners[case] = _winner(names, query, key, shared=_shares(plan.pack))
                    write_atomically(file, (json.dumps(winners, indent=1, sort_keys=True) + "\n").encode())
        except (OSError, SystemResourceError):
            return names[0]
        _KNOWN[file, case] = winners[case]
    return _KNOWN[file, case]


_KNOWN: dict[tuple[Path, str], str] = {}


def _build_cache_key(names: tuple[str, ...], query: Tensor, key: Tensor, plan: AttentionPlan) -> str:
    cuda = query.device.type == "cuda"
    device = torch.cuda.get_device_name(query.device) if cuda else torch.backends.cpu.get_cpu_capability()
    kind = "shared" if _shares(plan.pack) else "apart"
    shape = f"{query.shape[1]}/{key.shape[1]}x{query.shape[3]}"
    return (
        f"torch {torch.__version__}, {platform.machine()} {device}, {query.dtype}, {shape}, {kind}: {'|'.join(names)}"
    )


def _shares(made: Pack) -> bool:
    return bool((made.parent >= 0).any())


def read_attention_choices() -> dict[str, str]:
    """Return the winners stored on this machine, by case."""
    return _read_winners(cache_folder() / "attention.json")


def _read_winners(file: Path) -> dict[str, str]:
    if not file.is_file():
        return {}
    try:
        winners = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        return {}  # not whole: measured again, and written whole
    return dict(winners) if isinstance(winners, dict) else {}


@torch.inference_mode(False)
@torch.enable_grad()
def _winner(names: tuple[str, ...], query: Tensor, key: Tensor, *, shared: bool) -> str:
    """Return the fastest backend, forward and backward, on a sample pack of this kind."""
    pack = _build_sample_pack(shared, 8 if query.device.type == "cuda" else 1).on(query.device)
    best = names[0]
    least = _measure_seconds(best, query, key, pack)
    for name in names[1:]:
        seconds = _measure_seconds(name, query, key, pack)
        if seconds * CLEARLY < least:
            best, least = name, seconds
    return best


def _build_sample_pack(shared: bool, scale: int) -> Pack:
    """Build eight short answers after one long prefix, or four rows without a shared prefix; 512 tokens
    times `scale`.
    """
    prefix = [1] * 256 * scale if shared else []
    tails = [[2 + at] * (32 if shared else 128) for at in range((8 if shared else 4) * scale)]
    return build_pack([TokenRow([*prefix, *tail, 0], [0.0] * (len(prefix) + len(tail)) + [1.0]) for tail in tails])


def _measure_seconds(name: str, query: Tensor, key: Tensor, made: Pack) -> float:
    """Return the best of a few runs, after a warm-up run (which compiles)."""
    draw = torch.Generator(query.device).manual_seed(0)
    plan, params = AttentionPlan(made), AttentionParams(query.shape[3] ** -0.5)
    heads = (query.shape[1], key.shape[1], key.shape[1])
    shapes = [(1, count, made.tokens, query.shape[3]) for count in heads]
    draws = [torch.randn(shape, generator=draw, dtype=query.dtype, device=query.device) for shape in shapes]
    queries, keys, values = states = [entry.requires_grad_() for entry in draws]
    outputs = []
    for _ in range(1 + TRIES):
        start = time.perf_counter()
        out = PATHS[name](queries, keys, values, plan, params)
        torch.autograd.grad(out, states, torch.ones_like(out))
        if query.device.type == "cuda":
            torch.cuda.synchronize(query.device)
        outputs.append(time.perf_counter() - start)
    return min(outputs[1:])


def _flexible(query: Tensor) -> bool:
    """Return whether FlexAttention compiles here: triton is installed, half or single precision, heads wide enough."""
    return find_spec("triton") is not None and query.dtype != torch.float64 and query.shape[3] >= 16


def _blocks(query: Tensor, key: Tensor, value: Tensor, plan: AttentionPlan, params: AttentionParams) -> Tensor:
    if supports_attention(query, value) and (kernels := get_attention_kernels()):
        return tile_attention(query, key, value, plan, params.scaling, params.window, kernels)
    return block_attention(query, key, value, plan, params.scaling, params.window).contiguous()


def _run_flex_attention(
    query: Tensor, key: Tensor, value: Tensor, plan: AttentionPlan, params: AttentionParams
) -> Tensor:
    from luthier.models.attention.backends import flex_pack_attention

    return flex_pack_attention(query, key, value, plan, params)


PATHS: dict[str, Attend] = {
    "blocks": _blocks,
    "flex": _run_flex_attention,
    "fused": sdpa_pack_attention,
    "plain": dense_pack_attention,
}
