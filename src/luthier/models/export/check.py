"""The check of an export: does it give the same answer to a fixed prompt as the tuned model?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from luthier.models.describe import read_chat_template
from luthier.models.quiet import silence_peft_warnings
from luthier.models.sequence_head import ends_in_sequence_head, unwrap_peft_model

if TYPE_CHECKING:
    import torch

PROMPT = "Tell me in one sentence what you can do."
TOKENS = 16
NEAR_TIE = 0.1
"""Difference in nats between the two likeliest next tokens below which rounding of merged weights may swap them."""


class GreedyAnswer(NamedTuple):
    """A greedy completion, and the log-probabilities of all tokens at each position; or one class, and the scores of
    all.
    """

    tokens: list[int]
    logps: torch.Tensor
    """(tokens, vocab), float32."""
    names: bool = False
    """Whether it is a class."""

    def compute_difference(self, other: GreedyAnswer) -> float | None:
        """Return by how many nats this completion prefers its own token at the first difference; None when they are
        equal.
        """
        for index, (mine, theirs) in enumerate(zip(self.tokens, other.tokens, strict=True)):
            if mine != theirs:
                row = self.logps[index]
                return float(row[mine] - row[theirs])
        return None


class ModelAgreement(NamedTuple):
    """Agreement of a written model with the one that it was written from, on the fixed prompt."""

    same: int
    """Number of equal greedy tokens before the first difference."""
    tokens: int
    difference: float
    """Mean difference in nats of the log-probabilities of the model's own completion."""
    gap: float
    """Nats by which the model preferred its own token at the first difference; 0 without one."""
    names: bool = False
    """Whether the models are classifiers."""

    def as_json(self) -> dict[str, Any]:
        """Return the record that is written with an export."""
        return {"same_tokens": self.same, "tokens": self.tokens, "nats": self.difference}

    def __str__(self) -> str:
        """Describe the agreement in a sentence."""
        if self.names:
            return (
                f"it names {'the same' if self.same else 'another'} class, its scores differ by {self.difference:.2g}"
            )
        return (
            f"{self.same} of {self.tokens} greedy tokens are the model's, and log-probabilities of its answer differ "
            f"by {self.difference:.2g} nats a token"
        )


def compare_greedy_answers(expected: GreedyAnswer, model: Any, ids: list[int]) -> ModelAgreement:
    """Compare the greedy answer of an exported model with the expected one, token by token and in log-probabilities."""
    import torch

    if expected.names:
        came = generate_greedy_answer(model, ids)
        apart = float((came.logps - expected.logps).abs().mean())
        return ModelAgreement(
            int(came.tokens == expected.tokens), 1, apart, expected.compute_difference(came) or 0.0, names=True
        )
    number = len(expected.tokens)
    whole = torch.tensor([ids + expected.tokens])
    with torch.no_grad(), silence_peft_warnings():  # a soft prompt's virtual tokens may stand before the others
        logits = model(input_ids=whole, attention_mask=torch.ones_like(whole)).logits[0, -number - 1 : -1].float()
    logps = torch.log_softmax(logits, dim=-1)
    came = GreedyAnswer(logps.argmax(-1).tolist(), logps)  # what it says itself, as far as it says the same
    same = next((at for at in range(number) if expected.tokens[at] != came.tokens[at]), number)
    targets = torch.tensor(expected.tokens)[:, None]
    apart = float((logps.gather(1, targets) - expected.logps.gather(1, targets)).abs().mean())
    return ModelAgreement(same, number, apart, expected.compute_difference(came) or 0.0)


def encode_check_prompt(folder: Path) -> list[int]:
    """Return the fixed prompt as token ids of the model in `folder`, in its chat template when it has one."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    if read_chat_template(folder) is None:
        return list(tokenizer.encode(PROMPT))
    turns = [{"role": "user", "content": PROMPT}]
    text = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    return list(tokenizer.encode(text, add_special_tokens=False))


def generate_greedy_answer(model: Any, ids: list[int]) -> GreedyAnswer:
    """Return the greedy completion of a prompt, with one full forward pass for each token and no cache."""
    import torch

    input_ids = torch.tensor([ids])
    if ends_in_sequence_head(unwrap_peft_model(model)):
        with torch.no_grad():
            scores = model(input_ids=input_ids, attention_mask=torch.ones_like(input_ids)).logits.float()
        return GreedyAnswer(scores.argmax(-1).tolist(), scores, names=True)
    rows = []
    with torch.no_grad(), silence_peft_warnings():
        for _ in range(TOKENS):
            logits = model(input_ids=input_ids, attention_mask=torch.ones_like(input_ids)).logits[0, -1].float()
            rows.append(torch.log_softmax(logits, dim=-1))
            input_ids = torch.cat([input_ids, logits.argmax().view(1, 1)], dim=1)
    return GreedyAnswer(input_ids[0, len(ids) :].tolist(), torch.stack(rows))
