"""What explanations cost, on one thread, beside Captum on the same prompt; reading by transformers is checked as well.

    python benchmarks/explain.py MODEL_FOLDER

The model is a Hugging Face folder (SmolLM2-135M-Instruct), the prompt has about 400 tokens in 40 sentences, the answer
32. Measured in CPU seconds, interleaved, the median of several rounds (one of the last two):

- `attnlrp_ratio`: AttnLRP over a plain forward and backward pass by transformers with respect to the embeddings;
- `ablation_ratio`: Captum's FeatureAblation over sentences over leave-one-out here;
- `integrated_ratio`: Captum's IntegratedGradients over those here, with 16 points.

Captum must be importable for the last two; they are left out otherwise.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch

from luthier.chat.messages import Message
from luthier.core.artifact import Artifact
from luthier.explain.explainer import ExplainedPrompt, Explainer
from luthier.explain.gradients import PromptGradients
from luthier.explain.scorer import LocalPromptScorer
from luthier.explain.subject import Question, SubjectBuilder

ROUNDS = 3
SENTENCES = [f"Order {number} has not come yet." for number in range(40)]
ANSWER = "The customer paid for all of these orders and none of them has come yet, so we look for each of them at once."
POINTS = 16


def main(folder: Path) -> None:
    """Print the ratios."""
    torch.set_num_threads(1)
    from luthier.core.store import Store
    from luthier.models.sources.folder import FolderModelSource
    from tests.models.making import make_base

    model = make_base(Store(folder.parent / "explain-store"), FolderModelSource(path=str(folder)), folder.parent)
    subject = build(model)
    scorer = subject.scorer
    assert isinstance(scorer, LocalPromptScorer)
    print(f"{len(scorer.ids)} tokens of prompt, {len(scorer.targets[0].ids)} of answer, {scorer.count} sentences")
    attnlrp, plain = rival_times(
        [
            lambda: Explainer.parse("attnlrp").attribute(renewed(subject)),
            lambda: plain_gradient(scorer),
        ]
    )
    print(f"attnlrp {attnlrp:.2f} s, forward and backward {plain:.2f} s: attnlrp_ratio {attnlrp / plain:.2f}")
    try:
        from captum.attr import FeatureAblation, IntegratedGradients
    except ImportError:
        print("captum is not installed: no further ratios")
        return
    ones = torch.ones(1, scorer.count)
    ours, theirs = rival_times(
        [
            lambda: Explainer.parse("leave_one_out").attribute(renewed(subject)),
            lambda: FeatureAblation(lambda rows: torch.stack([value(scorer, row) for row in rows])).attribute(ones),
        ],
        rounds=1,
    )
    print(f"leave_one_out {ours:.1f} s, captum {theirs:.1f} s: ablation_ratio {theirs / ours:.1f}")
    own = PromptGradients(scorer).embeddings[None]
    ours, theirs = rival_times(
        [
            lambda: Explainer.parse({"kind": "integrated_gradients", "steps": POINTS}).attribute(renewed(subject)),
            lambda: IntegratedGradients(lambda rows: torch.stack([at(scorer, row) for row in rows])).attribute(
                own, n_steps=POINTS, internal_batch_size=1
            ),
        ],
        rounds=1,
    )
    print(f"integrated_gradients {ours:.1f} s, captum {theirs:.1f} s: integrated_ratio {theirs / ours:.1f}")


def build(model: Artifact) -> ExplainedPrompt:
    """The prompt in sentences."""
    question = Question(messages=(Message(role="user", content=" ".join(SENTENCES)),), answer=ANSWER)
    return SubjectBuilder(model, units="sentences").build(question).prompt


def renewed(prompt: ExplainedPrompt) -> ExplainedPrompt:
    """The same prompt, of which nothing was read."""
    old: Any = prompt.scorer
    scorer = LocalPromptScorer(old.model, old.cut, old.ids, old.targets, old.kind)
    return ExplainedPrompt(scorer, PromptGradients(scorer))


def rival_times(works: list[Callable[[], object]], rounds: int = ROUNDS) -> list[float]:
    """CPU seconds of each work, the median of interleaved rounds after one that is not counted."""
    found: list[list[float]] = [[] for _ in works]
    for number in range(rounds + 1 if rounds > 1 else 1):
        for work, times in zip(works, found, strict=True):
            started = time.process_time()
            work()
            if number or rounds == 1:
                times.append(time.process_time() - started)
    return [median(times) for times in found]


def at(scorer: LocalPromptScorer, embeddings: torch.Tensor) -> torch.Tensor:
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
    (found,) = torch.autograd.grad(at(scorer, leaf), leaf)
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]))
