"""The step `compose`: joins a decoder, an image or audio encoder and a projector into one model."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from luthier.core.artifact import Artifact
from luthier.core.component import add_field_descriptions
from luthier.core.files import PathText, resolve_path
from luthier.core.hashing import digest_of, file_digest
from luthier.core.step import ArtifactSpec, EncoderRef, ModelRef, PlanContext, Step, StepContext, StepCostEstimate
from luthier.models.cost import describe_step_model, find_tokenizer_folder, get_planned_template
from luthier.models.describe import (
    ModelDescription,
    describe_composition,
    describe_model_folder,
    list_weight_files,
    read_config,
    read_licence,
)
from luthier.models.load import find_base_folder, get_model_name, require_local_weights, require_planned_weights
from luthier.models.media.compose_shapes import (
    ComposedSpec,
    describe_new_audio_encoder,
    describe_new_vision_encoder,
    predict_llava,
    predict_qwen2_audio,
    read_audio_encoder,
    read_vision_encoder,
)
from luthier.models.shapes import ModelPart
from luthier.models.source import write_config_dtype, write_json

BYTES_PER_SECOND = 60e6
"""Speed of reading, composing and writing on a slow laptop."""
BASE_BYTES = 450 << 20
"""Memory of Python with torch and transformers before any model."""


class NewEncoder(BaseModel):
    """Sizes of an untrained vision transformer."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=add_field_descriptions)

    image_size: int = Field(default=28, ge=4, le=2048)
    """Pixels of a side: every image is resized to this square."""
    patch_size: int = Field(default=7, ge=1, le=256)
    """Pixels of a side of a patch; each patch is one token of the model."""
    hidden_size: int = Field(default=192, ge=8)
    """Width of its states; a multiple of `heads`."""
    layers: int = Field(default=4, ge=1)
    """Transformer layers."""
    heads: int = Field(default=3, ge=1)
    """Attention heads of each layer."""

    @model_validator(mode="after")
    def _sizes_agree(self) -> Self:
        if self.patch_size > self.image_size:
            raise ValueError(f"a patch of {self.patch_size} pixels is larger than a picture of {self.image_size}")
        if self.hidden_size % self.heads:
            raise ValueError(f"hidden_size {self.hidden_size} is no multiple of {self.heads} heads")
        return self


class NewAudioEncoder(BaseModel):
    """Sizes of an untrained audio encoder with Whisper's architecture."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=add_field_descriptions)

    mel_bands: int = Field(ge=8, le=256)
    """Mel bands of its spectrogram, 100 frames a second."""
    hidden_size: int = Field(default=192, ge=8)
    """Width of its states; a multiple of `heads`."""
    layers: int = Field(default=4, ge=1)
    """Transformer layers."""
    heads: int = Field(default=3, ge=1)
    """Attention heads of each layer."""

    @model_validator(mode="after")
    def _sizes_agree(self) -> Self:
        if self.hidden_size % (2 * self.heads):
            raise ValueError(f"hidden_size {self.hidden_size} is no even multiple of {self.heads} heads")
        return self


class Compose(Step):
    """Join a language model, an encoder of pictures or sounds and a new projector into one model.

    A model that sees is transformers' LLaVA; one that hears, by Whisper's encoder, is its Qwen2-Audio. The projector
    has learnt nothing: tune it, first alone and then with adapters.
    """

    kind: Literal["compose"] = "compose"
    makes: ClassVar[str] = "model"

    decoder: ModelRef = None
    """The step that made the language model; left out, the recipe's own."""
    encoder: PathText | NewAudioEncoder | NewEncoder = NewEncoder()
    """The folder of a CLIP or SigLIP model, or of a Whisper model, whose encoder is taken as it is; or sizes for a new
    one, which has learnt nothing and must be tuned as well. A new one with `mel_bands` hears."""
    audio_encoder: EncoderRef = None
    """The step that made a Whisper model, whose encoder is taken instead of `encoder`."""
    seconds: int = Field(default=30, ge=1, le=30)
    """How many seconds a model that hears is given at once. Shorter is quicker where all sounds are short: 25 tokens
    and 50 places of the encoder a second."""

    @model_validator(mode="after")
    def _has_one_encoder(self) -> Self:
        given = self.model_fields_set
        if self.audio_encoder is not None and "encoder" in given:
            raise ValueError("give either `encoder` or `audio_encoder`")
        if "seconds" in given and self.audio_encoder is None and isinstance(self.encoder, NewEncoder):
            raise ValueError("`seconds` is for a model that hears; leave it out")
        return self

    def make(self, work: StepContext) -> Mapping[str, Any]:
        """Write a Hugging Face folder with processor files, and `model.json`."""
        import torch
        from transformers import AutoTokenizer

        from luthier.models.load import open_merged

        started = time.perf_counter()
        artifact = work.inputs["decoder"]
        require_local_weights(artifact)
        base = find_base_folder(artifact)
        described = describe_model_folder(base)
        dtype = getattr(torch, described.dtype, torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(str(base), local_files_only=True, trust_remote_code=False)
        model, processor, is_new = self._compose(open_merged(artifact, dtype), tokenizer, work)
        model.save_pretrained(work.folder)
        processor.save_pretrained(work.folder)
        write_config_dtype(work.folder)
        made = describe_model_folder(work.folder)
        part: ModelPart = "audio" if "audio" in made.parts else "vision"
        card = {
            "name": f"{get_model_name(artifact)}+{part}",
            "licence": read_licence(base),
            "origin": f"composed of {get_model_name(artifact)} and {self._encoder_name(work.inputs)}",
            "architecture": made.architecture,
            "parameters": made.parameters,
            "tied": made.tied,
            "hidden_size": made.hidden_size,
            "layers": made.layers,
            "vocab": made.vocab,
            "context": made.context,
        }
        write_json(work.folder / "model.json", card)
        numbers = made.parts["projector"] + (made.parts[part] if is_new else 0)
        work.events.note(f"the projector{' and encoder' if is_new else ''} of {numbers:,} numbers must be tuned")
        seconds = time.perf_counter() - started
        return {"bytes_per_s": made.disk_bytes / seconds}

    def _compose(self, decoder: Any, tokenizer: Any, work: StepContext) -> tuple[Any, Any, bool]:
        """Return model and processor, and whether the encoder is untrained."""
        from luthier.models.media.compose import VisionEncoder, compose_llava
        from luthier.models.media.compose_audio import AudioEncoder, compose_qwen2_audio

        if isinstance(self.encoder, NewAudioEncoder) and self.audio_encoder is None:
            audio_encoder = AudioEncoder.new(seconds=self.seconds, **self.encoder.model_dump())
            return *compose_qwen2_audio(decoder, tokenizer, audio_encoder, work.seed), True
        if isinstance(self.encoder, NewEncoder) and self.audio_encoder is None:
            vision_encoder = VisionEncoder.new(**self.encoder.model_dump())
            return *compose_llava(decoder, tokenizer, vision_encoder, work.seed), True
        if self.audio_encoder is not None:
            folder = find_base_folder(work.inputs["audio_encoder"])
        else:
            folder = resolve_path(str(self.encoder), work.recipe_dir)
        if read_config(folder).get("model_type") == "whisper" or self.audio_encoder is not None:
            audio_encoder = AudioEncoder.open(folder, self.seconds)
            return *compose_qwen2_audio(decoder, tokenizer, audio_encoder, work.seed), False
        return *compose_llava(decoder, tokenizer, VisionEncoder.open(folder), work.seed), False

    def _encoder_name(self, inputs: Mapping[str, Artifact]) -> str:
        if self.audio_encoder is not None:
            return f"the encoder of {get_model_name(inputs['audio_encoder'])}"
        return f"the encoder in {Path(self.encoder).name}" if isinstance(self.encoder, str) else "a new encoder"

    def estimate_cost(self, plan_context: PlanContext) -> StepCostEstimate:
        """Estimate from the size of the decoder."""
        require_planned_weights(plan_context, "decoder")
        parameters = self.outline(plan_context).parameters
        if parameters is None:
            return StepCostEstimate(how="unknown until the decoder is here")
        measured = plan_context.history.get("measures", {}).get("bytes_per_s")
        seconds = 5 + 4 * parameters / (measured or BYTES_PER_SECOND)
        how = f"at the speed {'of the last one here' if measured else 'of a laptop'}"
        return StepCostEstimate(seconds=seconds, peak_bytes=BASE_BYTES + 10 * parameters, how=how)

    def outline(self, plan_context: PlanContext) -> ArtifactSpec:
        """Predict decoder, encoder and projector, where the files of both models are here; else the decoder's size."""
        decoder, folder = describe_step_model(plan_context, "decoder"), find_tokenizer_folder(plan_context, "decoder")
        composed = self._predict(decoder, plan_context) if decoder is not None and folder is not None else None
        if composed is None or folder is None:
            size = None if decoder is None else decoder.parameters
            return ArtifactSpec(parameters=size, how="of the decoder that it is made of")
        return ArtifactSpec(
            parameters=describe_composition(composed.config, composed.tensors, folder).parameters,
            tokenizer=folder,
            chat_template=get_planned_template(plan_context, "decoder"),
            config=composed.config,
            tensors=composed.tensors,
            how="of its decoder, encoder and projector",
        )

    def _predict(self, decoder: ModelDescription, plan_context: PlanContext) -> ComposedSpec | None:
        """Predict the composition; None where the encoder's files are not here."""
        if self.audio_encoder is not None:
            folder = find_tokenizer_folder(plan_context, "audio_encoder")
        elif isinstance(self.encoder, NewAudioEncoder):
            return predict_qwen2_audio(decoder, describe_new_audio_encoder(self.seconds, **self.encoder.model_dump()))
        elif isinstance(self.encoder, NewEncoder):
            return predict_llava(decoder, describe_new_vision_encoder(**self.encoder.model_dump()))
        else:
            folder = resolve_path(self.encoder, plan_context.recipe_dir)
        if folder is None or not list_weight_files(folder):
            return None
        if self.audio_encoder is not None or read_config(folder).get("model_type") == "whisper":
            return predict_qwen2_audio(decoder, *read_audio_encoder(folder, self.seconds))
        return predict_llava(decoder, *read_vision_encoder(folder))

    def hashed_settings(self) -> dict[str, Any]:
        """Leave newer settings out, so that compositions with images keep their artifact name."""
        settings = super().hashed_settings()
        for name in {"audio_encoder", "seconds"} - self.model_fields_set:
            del settings[name]
        return settings

    def fingerprint(self, recipe_dir: Path) -> str | None:
        """Return the digest of the encoder's folder."""
        if not isinstance(self.encoder, str):
            return None
        folder = resolve_path(self.encoder, recipe_dir)
        paths = [folder / "config.json", folder / "preprocessor_config.json", *list_weight_files(folder)]
        return digest_of([[path.name, file_digest(path)] for path in paths if path.is_file()])
