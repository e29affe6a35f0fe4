"""What a model forgot while it was tuned: plain questions that most models can answer, asked before and after."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from luthier.chat.messages import Message
from luthier.eval.task import DROP, AskModel, BenchmarkTask, EvalTask, TaskContext, TaskItem, TaskResult
from luthier.metrics.columns import WeightedColumn
from luthier.models.lm.base import LoglikelihoodRequest, Response


@dataclass(frozen=True, kw_only=True)
class _Questions(BenchmarkTask):
    """Four answers a question, the right one first; the likeliest counts as the model's, of equals the last, so that a
    model which tells no answer from another is right in nothing."""

    version: ClassVar[int] = 2

    def run(self, ask: AskModel) -> TaskResult:
        answers = iter(ask(self.questions))
        rows = [[next(answers) for _ in item.questions] for item in self.items]
        cut = sum(any(response.truncated for response in row) for row in rows)
        return replace(self.grade(rows), cut=cut)

    def grade(self, responses: Sequence[Sequence[Response]]) -> TaskResult:
        """Scores from the answers to each row's questions."""
        sums = [[response.logprob or 0.0 for response in own] for own in responses]
        chosen = [max(range(len(own)), key=lambda at: (own[at], at)) for own in sums]
        believed = [1 / sum(math.exp(entry - own[0]) for entry in own) for own in sums]
        columns = {
            "acc": WeightedColumn.of("share", [float(at == 0) for at in chosen]),
            "share": WeightedColumn.of("mean", believed),
        }
        predictions = [item.questions[at].continuation for item, at in zip(self.items, chosen, strict=True)]  # type: ignore[union-attr]  # all ask for likelihoods
        return TaskResult(columns=columns, predictions=predictions)


class Forgetting(EvalTask):
    """Some 170 plain questions about the world, nature, words, everyday things, sums, orders and copies.

    Each has four answers, put through the chat template; the likeliest counts. `forgetting.acc`
    is the share of right ones, `forgetting.share` how much of its belief a model gives to the right answer, and
    `forgetting.drop` what the tuned model lost of the first against its base, in pairs. The questions were written for
    this purpose and come with Luthier.
    """

    kind: Literal["forgetting"] = "forgetting"

    def measured(self) -> tuple[str, ...]:
        return "forgetting.acc", "forgetting.share", f"forgetting.{DROP}"

    def exams(self, brief: TaskContext) -> list[BenchmarkTask]:
        """The questions."""
        from luthier.eval.forgetting.items import load_forgetting_questions

        found = []
        for number, question in enumerate(load_forgetting_questions()):
            prompt = (Message(role="user", content=question.question),)
            questions = tuple(
                LoglikelihoodRequest(prompt=prompt, continuation=answer) for answer in (question.right, *question.wrong)
            )
            found.append(
                TaskItem(
                    id=f"{question.kind}-{number}",
                    questions=questions,
                    shown=question.question,
                    reference=question.right,
                )
            )
        return [_Questions(name="forgetting", items=tuple(found), about="chat|likeliest")]
