"""What the gateway itself costs, and what routing among 77 labels costs beside a row for each label."""

from __future__ import annotations

import http.client
import json
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parent / "tests")]
from eval_tasks import _artifact, _cpu, _one_thread  # noqa: E402 - benchmarks stand beside one another

Figure = Callable[[bool], Iterator[dict[str, Any]]]
VERBS = ("change", "find", "stop", "explain", "confirm", "lose", "order")
THINGS = (
    "card",
    "transfer",
    "refund",
    "address",
    "exchange rate",
    "top-up",
    "pin",
    "account",
    "fee",
    "limit",
    "receipt",
)
LABELS = [f"{verb} {thing}" for verb in VERBS for thing in THINGS]
SYSTEM = f"Sort the customer's message into one of these classes and answer with its name: {', '.join(LABELS)}."
ASKED = (
    "I cannot see the money that I sent on Friday.", "Where do I change my pin?", "My card did not come yet.",
    "Why was I charged twice at the machine?", "Can I get my money back?", "I moved to another town.",
    "How much may I take out in a day?", "What does it cost to send euros?", "Please close my account.",
    "The shop says that nothing arrived.", "I need a paper that shows what I paid.", "My top-up is missing.",
    "Who took money from my account?", "Is the rate today's?", "I found my card again.", "Send me a new one.",
)  # fmt: skip
ROWS = 7
"""Of the 77 rows of the peer so many are computed; they are alike in length, and the rest is reckoned."""


def label_routing(quick: bool) -> Iterator[dict[str, Any]]:
    """CPU time to score 77 labels for one message, and for sixteen that come together; the peer runs each message with
    each label through transformers as a row of its own."""
    import torch

    from luthier.models.generate import score_options
    from luthier.models.load import load
    from luthier.text.ids import Text
    from luthier.text.messages import Message

    _one_thread()
    torch.set_grad_enabled(False)
    loaded = load(_artifact(), dtype="bfloat16")
    text = Text.load(loaded.folder)
    told = [
        text.options([Message(role="system", content=SYSTEM), Message(role="user", content=words)], LABELS)
        for words in ASKED
    ]

    def shared(count: int) -> float:
        prompts, options = [one for one, _ in told[:count]], [own for _, own in told[:count]]
        return _cpu(lambda: score_options(loaded.model, prompts, options))[0] / count

    def apart() -> float:
        prompt, options = told[0]
        rows = options[:: len(options) // ROWS][:ROWS]
        spent = _cpu(lambda: [loaded.model(torch.tensor([[*prompt, *own]])) for own in rows])[0]
        return spent * len(options) / len(rows)

    shared(1)
    for count in (1, len(ASKED)):
        pairs = []
        for turn in range(1 if quick else 3):
            pairs.append((shared(count), apart()))
            print(
                f"  round {turn + 1}: {count} together {pairs[-1][0]:.2f} CPU-s each, apart {pairs[-1][1]:.1f}",
                flush=True,
            )
        ratios = [theirs / ours for ours, theirs in pairs]
        value = statistics.median(ratios)
        yield {"figure": f"label_routing_ratio_{count}", "value": round(value, 1), "goal": 70, "reached": value >= 70,
               "unit": "x less CPU", "labels": len(LABELS), "prompt_tokens": len(told[0][0]),
               "ours": round(statistics.median(ours for ours, _ in pairs), 3),
               "theirs": round(statistics.median(theirs for _, theirs in pairs), 1),
               "peer": "transformers, a row for each label", "device": "one thread",
               "pairs": f"from {min(ratios):.1f} to {max(ratios):.1f}"}  # fmt: skip


def gateway_overhead(quick: bool) -> Iterator[dict[str, Any]]:
    """What a request costs when the model costs nothing: CPU of gateway and client together, and the time it takes."""
    from luthier.serve.engine import Answering
    from luthier.serve.query import Piece, Query, Usage
    from serving import serving

    class Nothing(Answering):
        """Says 32 words at once."""

        async def answer(self, query: Query) -> AsyncGenerator[Piece, None]:
            for _ in range(31):
                yield Piece(text="word ")
            yield Piece(text="end", finish="stop", usage=Usage(prompt_tokens=8, completion_tokens=32))

    count = 300 if quick else 2000
    with tempfile.TemporaryDirectory() as place, serving({"m": Nothing("d" * 32)}, Path(place) / "ledger.db") as served:
        for stream in (False, True):
            body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": stream})
            line = http.client.HTTPConnection(served.listening.host, served.listening.port)
            waits: list[float] = []

            def ask(line: Any = line, body: str = body, waits: list[float] = waits) -> None:
                for _ in range(count):
                    began = time.perf_counter()
                    line.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
                    line.getresponse().read()
                    waits.append(time.perf_counter() - began)

            spent = _cpu(ask)[0]
            waits.sort()
            name = "streamed" if stream else "whole"
            yield {"figure": f"gateway_cpu_{name}", "value": round(spent / count * 1e3, 3), "unit": "CPU-ms a request",
                   "median_ms": round(waits[count // 2] * 1e3, 3), "p99_ms": round(waits[count * 99 // 100] * 1e3, 3),
                   "requests": count, "device": "one process, client included"}  # fmt: skip


FIGURES: tuple[Figure, ...] = (label_routing, gateway_overhead)
