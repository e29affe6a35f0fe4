"""Back-translation: into another language and back, by translation models in folders or by the step's model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from luthier.chat.messages import Message
from luthier.core.errors import did_you_mean
from luthier.core.files import PathText, resolve_path
from luthier.core.hashing import digest_of, files_digest
from luthier.core.param_space import ParamDistribution
from luthier.data.augment.completions import draw_completions, strip_answer_wrapping
from luthier.data.augment.translator import NLLB, MachineTranslation, Translator
from luthier.data.augmenter import (
    AugmentContext,
    AugmentedDraft,
    Augmenter,
    AugmentRequest,
    AugmentTrainRows,
    last_user_text,
    with_last_user_text,
)

ASK = """Translate the message below into {language}. Keep names, numbers and tags in brackets. \
Answer with the translation alone.

{text}"""
_SPOKEN = {
    "ar": "Arabic", "cs": "Czech", "da": "Danish", "de": "German", "el": "Greek", "en": "English", "es": "Spanish",
    "fi": "Finnish", "fr": "French", "he": "Hebrew", "hi": "Hindi", "hu": "Hungarian", "id": "Indonesian",
    "it": "Italian", "ja": "Japanese", "ko": "Korean", "nl": "Dutch", "no": "Norwegian", "pl": "Polish",
    "pt": "Portuguese", "ro": "Romanian", "ru": "Russian", "sv": "Swedish", "th": "Thai", "tr": "Turkish",
    "uk": "Ukrainian", "vi": "Vietnamese", "zh": "Chinese",
}  # fmt: skip


class BackTranslation(Augmenter):
    """Translate the last thing asked into another language and back (Sennrich et al. 2016; Edunov et al. 2018).

    With `there` and `back` by translation models in folders: two Marian models, or one NLLB or M2M100 model for both.
    Without them by the step's model, which is asked to translate. Copies of a row go through the languages in turn.
    """

    kind: Literal["back_translation"] = "back_translation"
    asks: ClassVar[bool] = True

    via: tuple[str, ...] = Field(default=("de", "fr", "es"), min_length=1)
    """Languages in between, as ISO 639 codes, in turn."""
    language: str = "en"
    """The language of the rows."""
    there: PathText | None = None
    """Folder of the model that translates into the language in between."""
    back: PathText | None = None
    """Folder of the model that translates back; the same folder for a model of many languages."""
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.5
    """How freely words are drawn; 0 always takes the likeliest."""
    max_tokens: Annotated[int, Field(ge=1)] = 200
    """Longest translation."""

    @field_validator("via", "language")
    @classmethod
    def _known(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        for code in (value,) if isinstance(value, str) else value:
            if code not in NLLB:
                raise ValueError(f"language {code!r} is unknown here; {did_you_mean(code, NLLB)}")
        return value

    @model_validator(mode="after")
    def _both_or_none(self) -> BackTranslation:
        if (self.there is None) != (self.back is None):
            raise ValueError("`there` and `back` go together; a model of many languages is named in both")
        if self.language in self.via:
            raise ValueError(f"the way leads through {self.language!r}, which is the rows' own language")
        return self

    def needs_model(self) -> bool:
        """Unless folders are named."""
        return self.there is None

    def fingerprint(self, recipe_dir: Path) -> str | None:
        """The contents of the models' folders."""
        folders = [resolve_path(path, recipe_dir) for path in (self.there, self.back) if path is not None]
        return digest_of([_contents(folder) for folder in folders]) if folders else None

    def write(self, requests: Sequence[AugmentRequest], around: AugmentContext) -> list[AugmentedDraft | None]:
        """Each row's words after the way there and back."""
        ways = [self.via[request.copy % len(self.via)] for request in requests]
        texts = [last_user_text(request.row)[1] for request in requests]
        go = self._by_model if self.there is None else self._by_folders
        foreign = go(texts, [(self.language, way) for way in ways], requests, around)
        homely = go(
            [translation.text for translation in foreign], [(way, self.language) for way in ways], requests, around
        )
        return [
            AugmentedDraft(
                with_last_user_text(request.row, text),
                (f"translated to {_SPOKEN[way]} and back",),
                finished=finished and before.finished,
            )
            for request, way, before, (text, finished) in zip(requests, ways, foreign, homely, strict=True)
        ]

    def _by_model(
        self,
        texts: Sequence[str],
        ways: Sequence[tuple[str, str]],
        requests: Sequence[AugmentRequest],
        around: AugmentContext,
    ) -> list[MachineTranslation]:
        prompts = [
            (Message(role="user", content=ASK.replace("{language}", _SPOKEN[to]).replace("{text}", text)),)
            for text, (_, to) in zip(texts, ways, strict=True)
        ]
        seeds = [request.seed for request in requests]
        lm = around.model(self)
        completions = draw_completions(lm, prompts, seeds, max_tokens=self.max_tokens, temperature=self.temperature)
        return [
            MachineTranslation(strip_answer_wrapping(completion.text), completion.finished)
            for completion in completions
        ]

    def _by_folders(
        self,
        texts: Sequence[str],
        ways: Sequence[tuple[str, str]],
        requests: Sequence[AugmentRequest],
        around: AugmentContext,
    ) -> list[MachineTranslation]:
        def opened(train: AugmentTrainRows) -> tuple[Translator, Translator]:
            return Translator(resolve_path(self.there or "", around.recipe_dir)), Translator(
                resolve_path(self.back or "", around.recipe_dir)
            )

        there, back = around.once(self, opened)
        return [
            (there if source == self.language else back).translate(
                text, source, to, seed=request.seed >> 1, temperature=self.temperature, limit=self.max_tokens
            )
            for text, (source, to), request in zip(texts, ways, requests, strict=True)
        ]

    def search_space(self) -> Mapping[str, ParamDistribution]:
        """Rows of each row, and how freely words are drawn."""
        return {**super().search_space(), "temperature": ParamDistribution(0.0, 1.0)}


def _contents(folder: Path) -> str:
    return files_digest(sorted(path for path in folder.rglob("*") if path.is_file()), folder)
