"""Paraphrase by a model: the recipe's own, a tuned one, or one behind an endpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator

from luthier.chat.messages import Message
from luthier.core.param_space import ParamDistribution
from luthier.data.augment.completions import draw_completions, strip_answer_wrapping
from luthier.data.augmenter import (
    AugmentContext,
    AugmentedDraft,
    Augmenter,
    AugmentRequest,
    last_user_text,
    with_last_user_text,
)

ASK = """Rewrite the message below {style}. Keep its meaning, its language, every name, number and tag in brackets. \
Answer with the new message alone.

{text}"""


class Paraphrase(Augmenter):
    """Let the step's model say the last thing asked in other words.

    Each copy of a row is asked for in another style, and drawn with a seed of its own. What the model says around the
    message (`Here it is:`, quotes) is taken off; what loses a number or a tag, changes language, or stays nearly the
    same is refused by the step's checks.
    """

    kind: Literal["paraphrase"] = "paraphrase"
    asks: ClassVar[bool] = True

    styles: tuple[str, ...] = Field(
        default=("in other words", "more briefly", "more politely", "as somebody in a hurry would write it"),
        min_length=1,
    )
    """What `{style}` stands for, in turn."""
    ask: str = ASK
    """What the model is told, with `{style}` and `{text}`."""
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.7
    """How freely words are drawn; 0 always takes the likeliest."""
    max_tokens: Annotated[int, Field(ge=1)] = 200
    """Longest answer; one that is cut off there is refused."""

    @field_validator("ask")
    @classmethod
    def _holds_the_text(cls, ask: str) -> str:
        if "{text}" not in ask:
            raise ValueError("expected {text} where the message shall stand")
        return ask

    def write(self, requests: Sequence[AugmentRequest], around: AugmentContext) -> list[AugmentedDraft | None]:
        """The model's words for each row."""
        styles = [self.styles[augment_request.copy % len(self.styles)] for augment_request in requests]
        prompts = [
            (
                Message(
                    role="user",
                    content=self.ask.replace("{style}", style).replace(
                        "{text}", last_user_text(augment_request.row)[1]
                    ),
                ),
            )
            for augment_request, style in zip(requests, styles, strict=True)
        ]
        lm, seeds = around.model(self), [augment_request.seed for augment_request in requests]
        completions = draw_completions(lm, prompts, seeds, max_tokens=self.max_tokens, temperature=self.temperature)
        return [
            AugmentedDraft(
                with_last_user_text(request.row, strip_answer_wrapping(completion.text)),
                (f"said {style}",),
                finished=completion.finished,
            )
            for request, style, completion in zip(requests, styles, completions, strict=True)
        ]

    def search_space(self) -> Mapping[str, ParamDistribution]:
        """Rows of each row, and how freely words are drawn."""
        return {**super().search_space(), "temperature": ParamDistribution(0.2, 1.2)}
