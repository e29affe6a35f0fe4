"""The step `base`: makes a base model artifact from a source, shared by all recipes of this user."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from luthier.chat.speech import SPEECH_TYPES
from luthier.core.errors import ModelError, SourceLocation
from luthier.core.files import PathText
from luthier.core.hashing import digest_of
from luthier.core.messages import gettext_noop
from luthier.core.step import ArtifactSpec, PlanContext, Step, StepContext, StepCostEstimate
from luthier.models.catalog import find_catalog_entry
from luthier.models.chat_template import (
    find_missing_special_tokens,
    list_fitting_templates,
    load_chat_template,
    replace_template,
)
from luthier.models.describe import describe_model_folder
from luthier.models.source import ModelSource, write_json

BYTES_PER_SECOND = 60e6
"""Speed of reading, converting and writing on a slow laptop disk and one core."""


class BaseModelStep(Step):
    """Take a model from its source, as safetensors with its tokenizer, chat template and generation settings."""

    kind: Literal["base"] = "base"
    makes: ClassVar[str] = "model"
    shared: ClassVar[bool] = True

    source: ModelSource
    """Where the model is taken from."""
    chat_template: PathText | None = None
    """The chat template that takes the place of the model's own in training, evaluation, serving and export: the name
    of one that ships with Luthier (`hermes`: ChatML with tools), or a Jinja file; a relative path starts at the
    recipe's folder. The model's own when not given."""

    max_pixels: int | None = Field(default=None, ge=64)
    """Width times height that a picture has at most when a model that reads pictures sees it; a larger one is made
    smaller, wherever the model or one that is tuned from it reads it. When not given, the model's own processor decides
    alone. Fewer pixels are fewer tokens for the families that read pictures in their own size (Qwen-VL)."""
    max_seconds: float | None = Field(default=None, gt=0)
    """How much of a sound a model that hears or transcribes is given at most; a longer one is cut off after that,
    wherever the model or one that is tuned from it hears it, and its row is counted as cut. When not given, rows whose
    sound is longer than the model hears at once are not learnt, and are counted."""

    language: str | None = None
    """The language of the sounds, by its code (`de`), for a Whisper that knows many; it stands in the tokens that a
    transcript begins with. When not given, that of the model's own settings, or none."""

    transcription: Literal["transcribe", "translate"] | None = None
    """What such a Whisper writes: the words that are said (when not given), or their translation into English."""

    @model_validator(mode="after")
    def _has_a_template_of_its_own(self) -> Self:
        if self.chat_template is not None and not self.source.weights:
            raise ValueError("an endpoint renders its conversations itself; leave chat_template out")
        return self

    def make(self, work: StepContext) -> Mapping[str, Any]:
        """Write the Hugging Face folder and `model.json`."""
        started = time.perf_counter()
        provenance = self.source.fetch(work.folder, work.recipe_dir, work.events.note)
        if not self.source.weights:
            write_json(work.folder / "model.json", {**provenance._asdict(), "parameters": None})
            return {"seconds": time.perf_counter() - started}
        if self.chat_template is not None:
            self._check_tokens(work.folder)
            replace_template(work.folder, load_chat_template(self.chat_template, work.recipe_dir))
            work.events.note(f"the chat template {self.chat_template} takes the place of the model's own")
        description = describe_model_folder(work.folder)
        known = find_catalog_entry(self.source)
        card = {
            "name": known[0] if known else provenance.name,
            "licence": (known[1].licence if known else None) or provenance.licence or description.licence,
            "origin": provenance.origin,
            "architecture": description.architecture,
            "parameters": description.parameters,
            "tied": description.tied,
            "hidden_size": description.hidden_size,
            "layers": description.layers,
            "vocab": description.vocab,
            "context": description.context,
            **({"chat_template": self.chat_template} if self.chat_template is not None else {}),
            **self._settings("max_pixels", "max_seconds", "language", "task"),
        }
        for name, part in (("max_pixels", "vision"), ("max_seconds", "audio")):
            if self._settings(name) and part not in description.parts:
                lacks = "reads no pictures" if part == "vision" else "hears nothing"
                what = f"{card['name']} {lacks}, so {name} changes nothing"
                raise ModelError(what, where=SourceLocation(field=name), hint="leave it out")
        if (settings := self._settings("language", "task")) and description.model_type not in SPEECH_TYPES:
            field = "language" if "language" in settings else "transcription"
            what = f"{card['name']} does not transcribe, so {field} changes nothing"
            raise ModelError(what, where=SourceLocation(field=field), hint="leave it out")
        write_json(work.folder / "model.json", card)
        if description.model_type in SPEECH_TYPES:
            self._check_language(work.folder)
        if card["licence"] is None:
            work.events.warning("the model states no licence; check that you may use it")
        return {"seconds": time.perf_counter() - started, "bytes": description.disk_bytes}

    def estimate_cost(self, plan_context: PlanContext) -> StepCostEstimate:
        """Estimate from an earlier run, else from the bytes to read."""
        if not self.source.weights:
            return StepCostEstimate(seconds=0.0, how=gettext_noop("an endpoint: nothing is fetched"))
        if self.chat_template is not None and (here := self.source.here(plan_context.recipe_dir)) is not None:
            self._check_tokens(here)
        size = self.source.size(plan_context.recipe_dir)
        known = find_catalog_entry(self.source)
        peak = 10 * known[1].parameters if known else None
        if "seconds" in plan_context.history:
            return StepCostEstimate(
                seconds=float(plan_context.history["seconds"]),
                peak_bytes=peak,
                how=gettext_noop("as it took the last time"),
            )
        if size is None:
            return StepCostEstimate(
                peak_bytes=peak, how=gettext_noop("not fetched yet: the time depends on your network")
            )
        megabytes, speed = f"{size / 1e6:.0f}", f"{BYTES_PER_SECOND / 1e6:.0f}"
        how = gettext_noop(f"{megabytes} MB read, converted and written at {speed} MB/s")
        return StepCostEstimate(seconds=5 + 4 * size / BYTES_PER_SECOND, peak_bytes=peak, how=how)

    def outline(self, plan_context: PlanContext) -> ArtifactSpec:
        """Predict from the model's files where they are here, else from the catalog's parameters."""
        if not self.source.weights:
            return ArtifactSpec(remote=True, how="an endpoint")
        headed = self.source.headed(plan_context.recipe_dir)
        template = self.chat_template and load_chat_template(self.chat_template, plan_context.recipe_dir)
        if (here := self.source.here(plan_context.recipe_dir)) is not None:
            size = describe_model_folder(here).parameters
            return ArtifactSpec(
                parameters=size, tokenizer=here, chat_template=template, headed=headed, how="of its files"
            )
        known = find_catalog_entry(self.source)
        parameters = known[1].parameters if known else None
        tools = False if known and known[1].tool_template else None
        return ArtifactSpec(
            parameters=parameters, chat_template=template, tools=tools, headed=headed, how="as the catalogue says"
        )

    def hashed_settings(self) -> dict[str, Any]:
        """Leave unset newer settings out, so that models without them keep their artifact name."""
        settings = super().hashed_settings()
        for name in ("max_pixels", "max_seconds", "language", "transcription"):
            if getattr(self, name) is None:
                del settings[name]
        return settings

    def _settings(self, *names: str) -> dict[str, Any]:
        """Return the media settings that are set, for `model.json`."""
        chosen = {"max_pixels": self.max_pixels, "max_seconds": self.max_seconds, "language": self.language}
        chosen["task"] = self.transcription
        return {name: chosen[name] for name in names if chosen[name] is not None}

    def _check_language(self, folder: Path) -> None:
        """Refuse a language that the model does not support, or one for a monolingual model."""
        from luthier.chat.speech import SpeechProcessor

        if (self.language or self.transcription) and not SpeechProcessor.load(folder).languages:
            field = "language" if self.language else "transcription"
            what = f"the model knows one language, and {field} changes nothing"
            raise ModelError(what, where=SourceLocation(field=field), hint="leave it out")

    def fingerprint(self, recipe_dir: Path) -> str | None:
        """Return the contents of the chat template that is set."""
        return None if self.chat_template is None else digest_of(load_chat_template(self.chat_template, recipe_dir))

    def _check_tokens(self, folder: Path) -> None:
        """Refuse a shipped template whose special tokens the model's tokenizer lacks."""
        if not (missing := find_missing_special_tokens(self.chat_template or "", folder)):
            return
        fitting = list_fitting_templates(folder)
        others = f"take {' or '.join(fitting)}, or " if fitting else ""
        what = f"the chat template {self.chat_template} writes {', '.join(missing)}, which this model's tokenizer lacks"
        hint = f"{others}give a Jinja file that writes the model's own special tokens, or take another base model"
        raise ModelError(what, where=SourceLocation(field="chat_template"), hint=hint)

    def recipe_digest(self, inputs: Mapping[str, str], contents: Mapping[str, str], seed: int) -> str:
        """Return the artifact's digest without the seed, so that recipes with different seeds share the model."""
        return super().recipe_digest(inputs, contents, 0)
