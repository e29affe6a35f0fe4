"""What the gateway itself costs, what routing among 77 labels costs beside a row for each label, and what writing costs
beside llama.cpp's server (`LLAMA_SERVER` names the program where it is not on the path)."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
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
    """CPU time to score 77 labels for one message after another, and for sixteen that come together, as the engine
    `label` does, text and all; the peer runs each message with each label through transformers as a row of its own."""
    import torch

    from luthier.chat.messages import Message
    from luthier.chat.tokenizer import ChatTokenizer
    from luthier.models.load import find_base_folder
    from luthier.serve.engines.label import _Asked, _NetworkJudge
    from luthier.serve.label_engine import open_shared_classifier

    _one_thread()
    torch.set_grad_enabled(False)
    reader = open_shared_classifier(_artifact(), "bfloat16")
    text = ChatTokenizer.load(find_base_folder(_artifact()))
    judge = _NetworkJudge(reader, text, {label: label for label in LABELS}, (), "sum")
    asked = [_Asked((Message(role="system", content=SYSTEM), Message(role="user", content=words))) for words in ASKED]
    told = text.options(asked[0].messages, LABELS)

    def shared(count: int, turn: int) -> float:
        if count > 1:
            return _cpu(lambda: judge.scores(asked[:count]))[0] / count
        several = asked[4 * turn : 4 * turn + 4]
        return _cpu(lambda: [judge.scores([one]) for one in several])[0] / len(several)

    def apart() -> float:
        prompt, options = told
        rows = options[:: len(options) // ROWS][:ROWS]
        with reader.turn() as model:
            spent = _cpu(lambda: [model(torch.tensor([[*prompt, *own]])) for own in rows])[0]
        return spent * len(options) / len(rows)

    for one in asked[-3:]:
        judge.scores([one])
    for count in (1, len(ASKED)):
        pairs = []
        for turn in range(1 if quick else 3):
            pairs.append((shared(count, turn), apart()))
            print(
                f"  round {turn + 1}: {count} together {pairs[-1][0]:.2f} CPU-s each, apart {pairs[-1][1]:.1f}",
                flush=True,
            )
        ratios = [theirs / ours for ours, theirs in pairs]
        value = statistics.median(ratios)
        yield {"figure": f"label_routing_ratio_{count}", "value": round(value, 1), "goal": 70, "reached": value >= 70,
               "unit": "x less CPU", "labels": len(LABELS), "prompt_tokens": len(told[0]),
               "ours": round(statistics.median(ours for ours, _ in pairs), 3),
               "theirs": round(statistics.median(theirs for _, theirs in pairs), 1),
               "peer": "transformers, a row for each label", "device": "one thread",
               "pairs": f"from {min(ratios):.1f} to {max(ratios):.1f}"}  # fmt: skip


def gateway_overhead(quick: bool) -> Iterator[dict[str, Any]]:
    """What a request costs when the model costs nothing: CPU of gateway and client together, and the time it takes."""
    from luthier.serve.engine import ModelRunner
    from luthier.serve.request import EngineRequest, OutputChunk, Usage
    from serving import serving

    class Nothing(ModelRunner):
        """Says 32 words at once."""

        async def answer(self, query: EngineRequest) -> AsyncGenerator[OutputChunk, None]:
            for _ in range(31):
                yield OutputChunk(text="word ")
            yield OutputChunk(text="end", finish="stop", usage=Usage(prompt_tokens=8, completion_tokens=32))

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


STORY = (
    "The river rose in the night, and by morning the lower fields were under water. Nobody in the village had seen it "
    "so high since the year of the great flood, when the bridge was carried away and the mill stood empty. "
    "People came out of their houses with ropes and ladders and looked at the grey water. "
)


def beside_llama_cpp(quick: bool) -> Iterator[dict[str, Any]]:
    """Tokens per CPU-second of the whole server process, ours (f16 weights as bf16) and llama.cpp's on f16 weights, one
    thread each: 1, 4 and 16 clients, different prompts in each round."""
    found = shutil.which(os.environ.get("LLAMA_SERVER", "llama-server"))
    if found is None:
        print("  llama-server is not installed: nothing is measured", flush=True)
        return
    with ExitStack() as stack:
        ours = stack.enter_context(_ours())
        theirs = stack.enter_context(_theirs(found))
        for server in (ours, theirs):
            _asked(server, 1, 0)
        for clients in (1, 4, 16):
            pairs = []
            for turn in range(1 if quick else 3):
                pairs.append((_asked(ours, clients, turn + 1), _asked(theirs, clients, turn + 1)))
                said = ", ".join(f"{one:.1f}" for one in pairs[-1])
                print(
                    f"  round {turn + 1}: {clients} clients, tokens per CPU-s ours and llama.cpp's: {said}", flush=True
                )
            ratios = [mine / other for mine, other in pairs]
            value = statistics.median(ratios)
            yield {"figure": f"beside_llama_cpp_{clients}", "value": round(value, 2), "unit": "x",
                   **({"goal": 1.0, "reached": value >= 1.0} if clients == 16 else {}),
                   "ours": round(statistics.median(mine for mine, _ in pairs), 1),
                   "theirs": round(statistics.median(other for _, other in pairs), 1),
                   "peer": f"llama-server {_version(found)}, f16", "device": "one thread each",
                   "pairs": f"from {min(ratios):.2f} to {max(ratios):.2f}"}  # fmt: skip


Server = tuple[str, int]
"""Address and process."""


@contextmanager
def _ours() -> Iterator[Server]:
    """`luthier serve`, as a person starts it, traces and all."""
    with tempfile.TemporaryDirectory() as place:
        words = [sys.executable, "-m", "luthier", "serve", "smollm2-135m-instruct", "--port", "0", "--json"]
        env = {**os.environ, "OMP_NUM_THREADS": "1", "LUTHIER_STORE": place, "LUTHIER_TRAFFIC": f"{place}/traffic"}
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=env, cwd=place) as process:
            assert process.stdout is not None
            yield json.loads(process.stdout.readline())["url"].removesuffix("/v1"), process.pid
            process.terminate()


@contextmanager
def _theirs(program: str) -> Iterator[Server]:
    from luthier.models.export.checkpoint import export_model_folder
    from luthier.serve.subprocess_server import SubprocessServer

    beside = SubprocessServer()
    try:
        (file,) = export_model_folder(_artifact(), beside.folder / "model", "gguf", quant="f16").glob("*.gguf")
        words = ["--host", "127.0.0.1", "--port", str(beside.port), "-np", "16", "-c", "16384", "-t", "1", "-tb", "1"]
        beside.start([program, "-m", str(file), *words], 300)
        assert beside._process is not None
        yield beside.root, beside._process.pid
    finally:
        beside.close()


def _asked(server: Server, clients: int, turn: int) -> float:
    """Tokens per CPU-second of the server's process and its children while so many clients ask."""
    import httpx

    url, pid = server

    def one(number: int) -> int:
        story = STORY.split()
        begin = (17 * turn + 5 * number) % len(story)
        words = (story * 3)[begin : begin + 20 + 5 * (number % 8)]
        asked = {"role": "user", "content": f"Go on with this story, number {turn}-{number}: {' '.join(words)}"}
        body = {"model": "smollm2-135m-instruct", "messages": [asked], "max_tokens": 48, "temperature": 0}
        said = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=600, trust_env=False).raise_for_status()
        return int(said.json()["usage"]["completion_tokens"])

    before = _spent(pid)
    with ThreadPoolExecutor(clients) as pool:
        tokens = sum(pool.map(one, range(max(clients, 4))))
    return tokens / (_spent(pid) - before)


def _spent(pid: int) -> float:
    """CPU-seconds of a process and what it started."""
    import psutil

    every = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    return sum(one.cpu_times().user + one.cpu_times().system for one in every)


def _version(program: str) -> str:
    told = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    return (told.stdout + told.stderr).splitlines()[0].removeprefix("version: ")


FIGURES: tuple[Figure, ...] = (label_routing, gateway_overhead, beside_llama_cpp)
