"""Rewards of conversations, by a sequence head or by a language model's verdict."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from luthier.chat.judge_prompt import YesNoJudgePrompt
from luthier.core.artifact import Artifact
from luthier.core.errors import ModelError, SourceLocation
from luthier.models.lm.base import LanguageModel, LoglikelihoodRequest
from luthier.models.lm.local import LocalLM
from luthier.models.sequence_head import get_head_outputs, unwrap_peft_model

if TYPE_CHECKING:
    from luthier.chat.messages import Message
    from luthier.models.load import Dtype

    Conversations = Sequence[tuple[Message, ...]]


class RewardModel:
    """Scores each conversation that ends with an answer; its weights are loaded on construction."""

    def __init__(self, artifact: Artifact, precision: Dtype, read_media: Callable[[str], bytes] | None = None) -> None:
        """Load the model; `read_media` returns the bytes of images by digest, where conversations may have some."""
        self._lm, self._verdict = LocalLM(artifact, precision, read_media=read_media), get_judge_rubric(artifact)
        self._model = self._lm.loaded.model

    def __call__(
        self, conversations: Conversations, tools: Sequence[tuple[dict[str, Any], ...]] | None = None
    ) -> list[float]:
        """Return the scores of the sequence head, which reads tools as in its training, or of the verdict that it was
        trained to give; `ModelError` for a model with neither.
        """

        if self._verdict is not None:
            return self.odds(conversations, self._verdict)
        if len(get_head_outputs(unwrap_peft_model(self._model))) != 1:
            hint = "name a step that tunes with the objective `reward`, or ask it by a rubric: the reward `verdict`"
            raise ModelError(
                f"{self._lm.name} is no reward model", where=SourceLocation(field="reward_model"), hint=hint
            )
        return self._lm.reward(list(zip(conversations, tools or [()] * len(conversations), strict=True)))

    def odds(self, conversations: Conversations, verdict: YesNoJudgePrompt | Mapping[str, Any]) -> list[float]:
        """Return log p(yes) - log p(no), by a rubric."""
        return compute_verdict_log_odds(self._lm, conversations, verdict)


def compute_verdict_log_odds(
    lm: LanguageModel, conversations: Conversations, verdict: YesNoJudgePrompt | Mapping[str, Any]
) -> list[float]:
    """Return log p(yes) - log p(no) for the last turn of each conversation, by a rubric."""
    rubric = YesNoJudgePrompt.model_validate(verdict)
    responses = lm.loglikelihood(
        [
            LoglikelihoodRequest(prompt=request, continuation=word, truncate_prompt=False)
            for request in map(rubric.build_prompt, conversations)
            for word in (rubric.yes, rubric.no)
        ]
    )
    return [(yes.logprob or 0.0) - (no.logprob or 0.0) for yes, no in zip(responses[::2], responses[1::2], strict=True)]


def get_judge_rubric(artifact: Artifact) -> Any:
    """Return the rubric that a generative judge was trained on; None for any other model."""
    from luthier.artifacts.training import TrainingRecord
    from luthier.models.load import get_weights_artifact, is_endpoint

    own = artifact if is_endpoint(artifact) else get_weights_artifact(artifact)
    return TrainingRecord.read(own).verdict if "model" in own.manifest.inputs else None
