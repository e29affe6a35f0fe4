"""What explanations cost and how good they are, beside Captum, LXT and Inseq on the same answers.

    python benchmarks/explain.py MODEL_FOLDER [--only FIGURE …] [--lxt PATH] [--inseq PATH] [--dtype bfloat16]

The model is a Hugging Face folder (SmolLM2-135M-Instruct); the prompt has about 400 tokens in 40 sentences, the answer
about 32. CPU seconds on one thread, interleaved, the median of several rounds. `--lxt` and `--inseq` are what
PYTHONPATH must hold for these, which run in processes of their own. Figures whose peer is not installed are left out,
and said so. Each figure is one line of JSON; the machine's load stands in it.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "tests")]

from luthier.chat.messages import Message  # noqa: E402 - benchmarks stand beside the tests
from luthier.core.artifact import Artifact  # noqa: E402
from luthier.explain.explainer import ExplainedPrompt, Explainer  # noqa: E402
from luthier.explain.gradients import PromptGradients  # noqa: E402
from luthier.explain.scorer import LocalPromptScorer  # noqa: E402
from luthier.explain.subject import ExplanationRequest, SubjectBuilder  # noqa: E402

ROUNDS = 2
SENTENCES = 40
ANSWER = "The customer paid for all of these orders and none of them has come yet, so we look for each of them at once."
POINTS = 16
DTYPE: Any = "float32"
"""What both sides of a figure compute in."""
LONG = 408
"""Sentences of a prompt of 4,000 tokens."""
PLANTED = 200
"""Texts with a planted word."""
Figure = Callable[[argparse.Namespace], Iterator[dict[str, Any]]]


def attnlrp(asked: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """AttnLRP beside a plain forward and backward pass by transformers, and beside LXT."""
    subject = build(asked.model)
    scorer = local(subject)
    works = [lambda: Explainer.parse("attnlrp").attribute(renewed(subject)), lambda: plain_gradient(scorer)]
    with Peer(asked, "lxt", subject) as lxt:
        ours, plain, *theirs = rival_times([*works, *([lxt] if lxt else [])])
    yield figure("attnlrp_ratio", ours / plain, 1.5, lower=True, ours=ours, theirs=plain, peer="forward and backward")
    if theirs:
        yield figure("attnlrp_lxt_ratio", theirs[0] / ours, 3, ours=ours, theirs=theirs[0], peer="lxt 2.1")


def inseq(asked: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Gradient times input of each token of the answer by itself, beside Inseq."""
    subject = build(asked.model)
    answer = local(subject).targets[0].ids

    def each_token() -> None:
        for number in range(len(answer)):
            Explainer.parse("gradient_x_input").attribute(of_token(subject, number))

    with Peer(asked, "inseq", subject) as theirs:
        if theirs is None:
            return
        ours, other = rival_times([each_token, theirs], rounds=1)
    yield figure("inseq_ratio", other / ours, 3, ours=ours, theirs=other, peer="inseq 0.7.1", tokens=len(answer))


def ablation(asked: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Leave-one-out over sentences beside Captum's FeatureAblation."""
    from captum.attr import FeatureAblation

    subject = build(asked.model)
    scorer, ones = local(subject), torch.ones(1, subject.scorer.count)
    ours, theirs = rival_times(
        [
            lambda: Explainer.parse("leave_one_out").attribute(renewed(subject)),
            lambda: FeatureAblation(lambda rows: torch.stack([value(scorer, row) for row in rows])).attribute(ones),
        ],
        rounds=1,
    )
    yield figure("ablation_ratio", theirs / ours, 6, ours=ours, theirs=theirs, peer="captum 0.9.0")


def integrated(asked: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Integrated gradients with 16 points beside Captum's, one point at a time."""
    subject = build(asked.model)
    theirs = captum_integrated(subject, 1)
    ours = {"kind": "integrated_gradients", "steps": POINTS}
    times = rival_times([lambda: Explainer.parse(ours).attribute(renewed(subject)), theirs], rounds=1)
    yield figure("integrated_ratio", times[1] / times[0], 3, ours=times[0], theirs=times[1], peer="captum 0.9.0")


def memory(asked: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Peak memory beyond the open model, each in a process of its own: integrated gradients beside Captum's usual way,
    and AttnLRP of 4,000 tokens in all."""

    def ours() -> None:
        Explainer.parse({"kind": "integrated_gradients", "steps": POINTS}).attribute(build(asked.model))

    peaks = [forked_peak(lambda: build(asked.model)), forked_peak(ours)]

    def theirs() -> None:
        captum_integrated(build(asked.model), None)()

    peaks.append(forked_peak(theirs))
    base, own, other = peaks
    yield figure("integrated_memory_ratio", (own - base) / (other - base), 0.5, lower=True, ours=own / 1e9,
                 theirs=other / 1e9, open_model=base / 1e9, peer="captum 0.9.0")  # fmt: skip
    long = forked_peak(lambda: Explainer.parse("attnlrp").attribute(build(asked.model, LONG)))
    tokens = len(local(build(asked.model, LONG)).ids)
    yield figure("long_prompt_gb", long / 1e9, 4, lower=True, tokens=tokens, unit="GB")


def planted(asked: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """How often the planted word has the highest score, on a tiny model that was taught it."""
    from tests.explain.planted import EVIDENCE, ask, taught_base
    from tests.explain.planted import planted as draw_text

    with tempfile.TemporaryDirectory() as folder:
        _, model = taught_base(Path(folder))
        builder, draw = SubjectBuilder(model, units="words"), random.Random(17)
        hits = dict.fromkeys(("attnlrp", "leave_one_out", "shapley", "integrated_gradients", "gradient_x_input"), 0)
        for _ in range(PLANTED):
            text, answer, number = draw_text(draw)
            other = next(one for one in EVIDENCE.values() if one != answer)
            prompt = builder.build(ExplanationRequest(messages=ask(text), answer=answer, against=other)).prompt
            for kind in hits:
                scores = list(Explainer.parse(kind).attribute(prompt).scores)
                hits[kind] += scores.index(max(scores)) == number
    for kind, found in hits.items():
        low, high = wilson(found, PLANTED)
        yield figure(f"planted_hit_at_1_{kind}", found / PLANTED, 0.98, low=low, high=high, texts=PLANTED, unit="share")


def served(asked: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """p95 of the time between tokens of a served answer, with and without an explanation being read, in turns."""
    import threading

    import httpx

    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, "-m", "luthier", "serve", str(asked.model), "--port", "0", "--json", "--no-traces"]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        server = subprocess.Popen(words, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True)
        try:
            told = json.loads(server.stdout.readline())  # type: ignore[union-attr]
            client, model = httpx.Client(base_url=told["url"], timeout=600, trust_env=False), told["models"][0]
            text = " ".join(sentences(SENTENCES))
            body = {"model": model, "input": text, "answer": ANSWER, "units": "sentences", "orders": 0}
            gaps: dict[bool, list[float]] = {False: [], True: []}
            client.post("/explain", json=body).raise_for_status()
            explained = 0
            for turn in range(2 * asked.turns):
                busy, stop = bool(turn % 2), threading.Event()

                def keep_explaining(stop: threading.Event = stop) -> None:
                    nonlocal explained
                    while not stop.is_set():
                        explained += client.post("/explain", json=body).status_code == 200

                thread = threading.Thread(target=keep_explaining)
                if busy:
                    thread.start()
                    time.sleep(0.5)
                gaps[busy] += token_gaps(client, model)
                stop.set()
                if busy:
                    thread.join()
        finally:
            server.terminate()
            server.wait()
    plain, busy = (sorted(gaps[kind])[int(0.95 * len(gaps[kind]))] for kind in (False, True))
    more = {"tokens": len(gaps[True]), "explained": explained, "median_ratio": median(gaps[True]) / median(gaps[False])}
    yield figure(
        "served_p95_ratio", busy / plain, 1.5, lower=True, alone_ms=1e3 * plain, meanwhile_ms=1e3 * busy, **more
    )


def token_gaps(client: Any, model: str) -> list[float]:
    """Seconds between the tokens of one streamed answer."""
    talk = [{"role": "user", "content": "Tell me a long story about a river and an old ferryman."}]
    body = {"model": model, "messages": talk, "max_tokens": 64, "stream": True}
    times = list[float]()
    with client.stream("POST", "/chat/completions", json=body) as lines:
        for line in lines.iter_lines():
            if '"content"' in line:
                times.append(time.perf_counter())
    return [after - before for before, after in pairwise(times[1:])]


FIGURES: dict[str, Figure] = {
    entry.__name__: entry for entry in (attnlrp, inseq, ablation, integrated, memory, planted, served)
}


def figure(name: str, value: float, goal: float, *, lower: bool = False, **more: Any) -> dict[str, Any]:
    """One line."""
    shown = {key: round(number, 3) if isinstance(number, float) else number for key, number in more.items()}
    reached = value <= goal if lower else value >= goal
    found = {"figure": name, "value": round(value, 3), "goal": goal, "reached": reached, "unit": "x", **shown}
    machine = {"device": "one thread", "load": round(os.getloadavg()[0], 1), "cores": os.cpu_count()}
    return {**found, "dtype": DTYPE, **machine}


def wilson(hits: int, count: int) -> tuple[float, float]:
    """The 95 % interval of a share."""
    z, share = 1.96, hits / count
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    reach = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return middle - reach, middle + reach


def sentences(count: int) -> list[str]:
    """Sentences of a prompt."""
    return [f"Order {number} has not come yet." for number in range(count)]


def build(folder: Path, count: int = SENTENCES) -> ExplainedPrompt:
    """The prompt in sentences."""
    text = " ".join(sentences(count))
    question = ExplanationRequest(messages=(Message(role="user", content=text),), answer=ANSWER)
    return SubjectBuilder(open_model(folder), units="sentences", dtype=DTYPE).build(question).prompt


def open_model(folder: Path) -> Artifact:
    """The folder as a base artifact."""
    from luthier.core.store import Store
    from luthier.models.sources.folder import FolderModelSource
    from models.making import make_base

    store = Path(tempfile.gettempdir()) / f"explain-bench-{os.getpid()}"
    return make_base(Store(store), FolderModelSource(path=str(folder)), store.parent)


def local(prompt: ExplainedPrompt) -> LocalPromptScorer:
    """The scorer of a model on this machine."""
    assert isinstance(prompt.scorer, LocalPromptScorer)
    return prompt.scorer


def renewed(prompt: ExplainedPrompt) -> ExplainedPrompt:
    """The same prompt, of which nothing was read."""
    old = local(prompt)
    scorer = LocalPromptScorer(old.model, old.cut, old.ids, old.targets, old.kind)
    return ExplainedPrompt(scorer, PromptGradients(scorer))


def of_token(prompt: ExplainedPrompt, number: int) -> ExplainedPrompt:
    """One token of the answer after those before it."""
    old = local(prompt)
    (target,) = old.targets
    only = target._replace(ids=target.ids[: number + 1], weights=(*[0.0] * number, 1.0))
    scorer = LocalPromptScorer(old.model, old.cut, old.ids, [only], old.kind)
    return ExplainedPrompt(scorer, PromptGradients(scorer))


class Peer:
    """A peer's process, as a call that returns its CPU seconds; None where it is not installed."""

    def __init__(self, asked: argparse.Namespace, kind: str, prompt: ExplainedPrompt) -> None:
        self._path, self._kind, self._model, self._prompt = getattr(asked, kind), kind, asked.model, prompt

    def __enter__(self) -> Callable[[], float] | None:
        if not self._path:
            print(f"{self._kind} is not installed (--{self._kind} PATH): its figure is left out")
            self._process = None
            return None
        scorer = local(self._prompt)
        from luthier.chat.tokenizer import ChatTokenizer

        text = ChatTokenizer.load(self._model)
        task = {"prompt": list(scorer.ids), "answer": list(scorer.targets[0].ids), "text": text.decode(scorer.ids)}
        task["continuation"] = text.decode(scorer.targets[0].ids)
        with tempfile.NamedTemporaryFile("w", suffix=".json", delete=False) as file:
            json.dump(task, file)
        words = [sys.executable, str(HERE / "explain_peer.py"), self._kind, str(self._model), file.name]
        environment = {**os.environ, "PYTHONPATH": self._path, "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            words, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        return self._ask

    def _ask(self) -> float:
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return float(json.loads(self._process.stdout.readline())["cpu_s"])

    def __exit__(self, *error: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


def rival_times(works: list[Callable[[], object]], rounds: int = ROUNDS) -> list[float]:
    """CPU seconds of each work, the median of interleaved rounds after one that is not counted; a work that returns
    a number was timed elsewhere."""
    found: list[list[float]] = [[] for _ in works]
    for number in range(rounds + 1 if rounds > 1 else 1):
        for work, times in zip(works, found, strict=True):
            started = time.process_time()
            told = work()
            if number or rounds == 1:
                times.append(told if isinstance(told, float) else time.process_time() - started)
    return [median(times) for times in found]


def captum_integrated(prompt: ExplainedPrompt, at_once: int | None) -> Callable[[], object]:
    """Captum's integrated gradients."""
    from captum.attr import IntegratedGradients

    scorer = local(prompt)
    own = PromptGradients(scorer).embeddings[None]
    method = IntegratedGradients(lambda rows: torch.stack([read_at(scorer, row) for row in rows]))
    return lambda: method.attribute(own, n_steps=POINTS, internal_batch_size=at_once)


def forked_peak(work: Callable[[], object]) -> int:
    """Peak bytes of a process that does this and nothing else."""
    pipe = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            os.write(pipe[1], str(peak).encode())
            os._exit(0)
    os.waitpid(child, 0)
    os.close(pipe[1])
    with os.fdopen(pipe[0]) as told:
        return int(told.read())


def read_at(scorer: LocalPromptScorer, embeddings: torch.Tensor) -> torch.Tensor:
    """The answer's log-probability at (prompt, width) embeddings, by transformers."""
    return read(scorer, embeddings, list(scorer.ids))


def value(scorer: LocalPromptScorer, row: torch.Tensor) -> torch.Tensor:
    """The same without the sentences that are 0 in a row."""
    ids = scorer.keep(frozenset(number for number, bit in enumerate(row.tolist()) if bit))
    with torch.no_grad():
        return read(scorer, scorer.model.get_input_embeddings()(torch.tensor(ids)), ids)


def read(scorer: LocalPromptScorer, embeddings: torch.Tensor, ids: list[int]) -> torch.Tensor:
    """The answer's log-probability by the model's own forward pass."""
    (target,) = scorer.targets
    answer = scorer.model.get_input_embeddings()(torch.tensor(target.ids))
    logits = scorer.model(inputs_embeds=torch.cat([embeddings, answer])[None], use_cache=False).logits[0]
    logps = torch.log_softmax(logits[len(ids) - 1 : -1], -1)
    return logps.gather(1, torch.tensor(target.ids)[:, None]).sum()


def plain_gradient(scorer: LocalPromptScorer) -> torch.Tensor:
    """Forward and backward by transformers."""
    leaf = scorer.model.get_input_embeddings()(torch.tensor(scorer.ids)).detach().requires_grad_()
    (found,) = torch.autograd.grad(read_at(scorer, leaf), leaf)
    return found


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--only", nargs="+", choices=sorted(FIGURES), default=list(FIGURES))
    parser.add_argument("--lxt", default="", help="what PYTHONPATH must hold for LXT")
    parser.add_argument("--inseq", default="", help="what PYTHONPATH must hold for Inseq")
    parser.add_argument("--turns", type=int, default=4, help="answers that are streamed in each state")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default=DTYPE, help="what both sides compute in")
    asked = parser.parse_args()
    globals()["DTYPE"] = asked.dtype
    torch.set_num_threads(1)
    for name in asked.only:
        for line in FIGURES[name](asked):
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
