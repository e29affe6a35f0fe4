"""What writing costs while a model is served: one request, many at once, shared prompts, adapters, beside transformers.

    python benchmarks/serve.py [--quick] [--only FIGURE …]

SmolLM2-135M on one thread; tokens per CPU-second, ours and `generate` in one process, one after the other. A figure is
a function that takes `quick` and yields its JSON lines; a file `serve_*.py` beside this one adds its own by a tuple
`FIGURES`. Each figure runs in a process of its own.
"""

from __future__ import annotations

import argparse
import importlib
import json
import random
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parent / "tests")]
from eval_tasks import _artifact, _cpu, _one_thread  # noqa: E402 - benchmarks stand beside one another

Figure = Callable[[bool], Iterator[dict[str, Any]]]
STORY = (
    "The river rose in the night, and by morning the lower fields were under water. Nobody in the village "
    "had seen it so high since the year of the great flood, when the bridge was carried away and the mill "
    "stood empty until spring. People came out of their houses with ropes and ladders and looked at the "
    "grey water, and the old ferryman, who had said for weeks that this would happen, sat on his boat in "
    "front of the church and smoked. "
)


def one_request(quick: bool) -> Iterator[dict[str, Any]]:
    """One request at a time: 96 tokens after a prompt of about forty, in bf16 as here by default, and in fp32."""
    for dtype in ("bfloat16", "float32"):
        loaded, ids = _opened(dtype)
        prompt = ids[:40]
        yield _beside(f"one_request_ratio_{dtype}", loaded, [(prompt, 96)], quick, 2.0)


def sixteen_mixed(quick: bool) -> Iterator[dict[str, Any]]:
    """Sixteen requests at once, prompts of 16 to 160 tokens, answers of 16 to 96; `generate` pads and waits for all."""
    for dtype in ("bfloat16", "float32"):
        loaded, ids = _opened(dtype)
        chance = random.Random(0)
        asks = []
        for _ in range(16):
            begin, length = chance.randrange(len(ids) - 160), chance.randrange(16, 161)
            asks.append((ids[begin : begin + length], chance.randrange(16, 97)))
        yield _beside(f"sixteen_mixed_ratio_{dtype}", loaded, asks, quick, 1.5)


def shared_prompt(quick: bool) -> Iterator[dict[str, Any]]:
    """CPU time to the first token of a prompt of 480 tokens, with nine tenths of it read for somebody else before."""
    from luthier.models.generation.engine import ContinuousBatchingDecoder, GenerationRequest

    loaded, ids = _opened("bfloat16")
    long = (ids * 6)[:480]
    ratios = []
    for turn in range(2 if quick else 5):
        times = []
        for warm in (False, True):
            decoder = ContinuousBatchingDecoder(loaded)
            if warm:
                _written(decoder, [GenerationRequest(ids=[*long[:432], turn], max_new_tokens=1, stop=())])
            ask = GenerationRequest(
                ids=[*long[:432], *(100 + turn + at for at in range(48))], max_new_tokens=1, stop=()
            )
            times.append(_cpu(lambda decoder=decoder, ask=ask: _written(decoder, [ask]))[0])
        ratios.append(times[1] / times[0])
        print(
            f"  round {turn + 1}: {times[0] * 1e3:.0f} ms, with the shared part read {times[1] * 1e3:.0f}", flush=True
        )
    value = statistics.median(ratios)
    yield {"figure": "shared_prompt_ratio", "value": round(value, 3), "goal": 0.2, "unit": "of the time",
           "reached": value <= 0.2, "peer": "without the prefix cache"}  # fmt: skip


def eight_adapters(quick: bool) -> Iterator[dict[str, Any]]:
    """Sixteen requests, two for each of eight LoRA adapters (r 16, all linear layers), against sixteen for one."""
    import torch
    from peft import LoraConfig, get_peft_model

    from luthier.models.generation.engine import ContinuousBatchingDecoder, GenerationRequest
    from luthier.models.load import LoadedModel

    loaded, ids = _opened("bfloat16")
    lora = LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(loaded.model, lora, adapter_name="a0")
    for number in range(1, 8):
        model.add_adapter(f"a{number}", lora)
    with torch.no_grad():
        for name, one in model.named_parameters():
            if "lora_B" in name:
                one.normal_(std=0.02)
    own = LoadedModel(model=model.eval(), folder=loaded.folder, name="eight", digest="")
    ratios = []
    for turn in range(2 if quick else 5):
        times = []
        for many in (1, 8):
            decoder = ContinuousBatchingDecoder(own)
            asks = [
                GenerationRequest(ids=ids[3 * at : 3 * at + 40], max_new_tokens=32, stop=(), adapter=f"a{at % many}")
                for at in range(16)
            ]
            times.append(_cpu(lambda decoder=decoder, asks=asks: _written(decoder, asks))[0])
        ratios.append(times[1] / times[0])
        print(f"  round {turn + 1}: one adapter {times[0]:.2f} CPU-s, eight {times[1]:.2f}", flush=True)
    value = statistics.median(ratios)
    yield {"figure": "eight_adapters_ratio", "value": round(value, 2), "goal": 1.3, "unit": "x of one adapter",
           "reached": value <= 1.3}  # fmt: skip


def rounding(quick: bool) -> Iterator[dict[str, Any]]:
    """How far log-probabilities in bf16 lie from fp32's, ours and transformers', over the same text."""
    import torch

    from luthier.models.generation.engine import ContinuousBatchingDecoder, GenerationRequest

    loaded, ids = _opened("float32")
    wanted = torch.log_softmax(loaded.model(torch.tensor([ids])).logits[0, :-1], -1)
    narrow, _ = _opened("bfloat16")
    theirs = torch.log_softmax(narrow.model(torch.tensor([ids])).logits[0, :-1].float(), -1)
    own = []
    decoder = ContinuousBatchingDecoder(narrow)
    for end in range(1, len(ids), 4 if quick else 1):
        ask = GenerationRequest(ids=ids[:end], max_new_tokens=1, stop=(), top_logprobs=wanted.shape[1])
        (one,) = _written(decoder, [ask])
        row = torch.full((wanted.shape[1],), float("-inf"))
        row[[token for token, _ in one.top]] = torch.tensor([value for _, value in one.top])
        own.append((end - 1, row))
    places = [place for place, _ in own]
    ours = torch.stack([row for _, row in own])
    for name, found in (("ours", ours), ("transformers", theirs[places])):
        divergence = (wanted[places].exp() * (wanted[places] - found)).sum(-1).mean()
        same = (found.argmax(-1) == wanted[places].argmax(-1)).float().mean()
        yield {"figure": f"bf16_divergence_{name}", "value": round(float(divergence), 6), "unit": "nats from fp32",
               "likeliest_the_same": round(float(same), 4), "tokens": len(places)}  # fmt: skip


FIGURES: tuple[Figure, ...] = (one_request, sixteen_mixed, shared_prompt, eight_adapters, rounding)


def _opened(dtype: str) -> tuple[Any, list[int]]:
    """The model, and the ids of a text."""
    import torch
    from transformers import AutoTokenizer

    from luthier.models.load import load_model

    _one_thread()
    torch.set_grad_enabled(False)
    loaded = load_model(_artifact(), dtype=dtype)  # type: ignore[arg-type]
    return loaded, AutoTokenizer.from_pretrained(loaded.folder)(STORY * 3)["input_ids"]


def _written(decoder: Any, asks: list[Any]) -> list[Any]:
    """All that is written for asks that are admitted together."""
    going = {decoder.admit(ask) for ask in asks}
    assert None not in going
    found: list[Any] = []
    while going:
        step = decoder.step()
        found += step
        going -= {one.ticket for one in step if one.finish}
    return found


def _beside(name: str, loaded: Any, asks: list[tuple[list[int], int]], quick: bool, goal: float) -> dict[str, Any]:
    """Tokens per CPU-second of asks that come together, over those of `generate` with one padded batch."""
    from luthier.models.generation.engine import ContinuousBatchingDecoder, GenerationRequest

    print(f"\n{name}", flush=True)
    told = [GenerationRequest(ids=ids, max_new_tokens=limit, stop=()) for ids, limit in asks]
    tokens = sum(limit for _, limit in asks)
    _written(
        ContinuousBatchingDecoder(loaded), [GenerationRequest(ids=asks[0][0][:9], max_new_tokens=2, stop=())]
    )  # finds out how the model is read
    _padded(loaded, [(asks[0][0][:9], 2)])
    ours, theirs = [], []
    for turn in range(1 if quick else 3):
        decoder = ContinuousBatchingDecoder(loaded)
        ours.append(tokens / _cpu(lambda decoder=decoder: _written(decoder, told))[0])
        theirs.append(tokens / _cpu(lambda: _padded(loaded, asks))[0])
        print(f"  round {turn + 1}: ours {ours[-1]:.1f} tokens per CPU-s, generate {theirs[-1]:.1f}", flush=True)
    ratios = [one / other for one, other in zip(ours, theirs, strict=True)]
    value = statistics.median(ratios)
    return {"figure": name, "value": round(value, 2), "goal": goal, "reached": value >= goal, "unit": "x",
            "ours": round(statistics.median(ours), 1), "theirs": round(statistics.median(theirs), 1),
            "peer": f"transformers {version('transformers')}", "device": "one thread",
            "pairs": f"from {min(ratios):.2f} to {max(ratios):.2f}"}  # fmt: skip


def _padded(loaded: Any, asks: list[tuple[list[int], int]]) -> None:
    """The same by `generate`: padded at the left, and as long as the longest answer."""
    import torch

    longest, limit = max(len(ids) for ids, _ in asks), max(limit for _, limit in asks)
    ids = torch.tensor([[0] * (longest - len(one)) + one for one, _ in asks])
    mask = torch.tensor([[0] * (longest - len(one)) + [1] * len(one) for one, _ in asks])
    loaded.model.generate(
        ids, attention_mask=mask, max_new_tokens=limit, min_new_tokens=limit, do_sample=False, pad_token_id=0
    )


def every_figure() -> dict[str, Figure]:
    """The figures of this file and of its neighbours `serve_*.py`, by name."""
    neighbours = [importlib.import_module(path.stem) for path in sorted(HERE.glob("serve_*.py"))]
    return {figure.__name__: figure for part in (FIGURES, *(one.FIGURES for one in neighbours)) for figure in part}


def main() -> None:
    """Measure each figure in a process of its own and print one JSON line a figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--only", nargs="*", default=[], help="figures by name; all without it")
    parser.add_argument("--here", help="one figure in this process")
    told = parser.parse_args()
    figures = every_figure()
    if unknown := sorted({*told.only, *filter(None, [told.here])} - set(figures)):
        parser.error(f"there is no figure {unknown[0]!r}; known: {', '.join(figures)}")
    if told.here:
        for line in figures[told.here](told.quick):
            print(json.dumps(line), flush=True)
        return
    for name in told.only or figures:
        print(name, flush=True)
        command = [sys.executable, __file__, "--here", name, *(["--quick"] if told.quick else [])]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
