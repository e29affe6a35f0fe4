"""The step that gives a language model eyes: a decoder, an encoder of pictures and a projector become one model."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from luthier.core.component import add_field_descriptions
from luthier.core.files import PathText, resolve_path
from luthier.core.hashing import digest_of, file_digest
from luthier.core.step import ArtifactSpec, ModelRef, PlanContext, Step, StepContext, StepCostEstimate
from luthier.models.describe import describe_model_folder, list_weight_files, read_licence
from luthier.models.load import find_base_folder, get_model_name, require_local_weights, require_planned_weights
from luthier.models.source import write_config_dtype, write_json

BYTES_PER_SECOND = 60e6
"""Read, joined and written: what a slow laptop manages."""
BASE_BYTES = 450 << 20
"""What Python with torch and transformers holds before any model."""


class NewEncoder(BaseModel):
    """Sizes of a vision transformer that has learnt nothing yet."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=add_field_descriptions)

    image_size: int = Field(default=28, ge=4, le=2048)
    """Pixels of a side: every picture is brought to this square."""
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


class Compose(Step):
    """Join a language model, an encoder of pictures and a new projector into one model that reads pictures.

    The model is transformers' LLaVA. The projector has learnt nothing: tune it, first alone and then with adapters.
    """

    kind: Literal["compose"] = "compose"
    makes: ClassVar[str] = "model"

    decoder: ModelRef = None
    """The step that made the language model; left out, the recipe's own."""
    encoder: PathText | NewEncoder = NewEncoder()
    """The folder of a CLIP or SigLIP model, whose encoder is taken as it is; or sizes for a new one, which has learnt
    nothing and must be tuned as well."""

    def make(self, work: StepContext) -> Mapping[str, Any]:
        """Write a Hugging Face folder with processor files, and `model.json`."""
        import torch
        from transformers import AutoTokenizer

        from luthier.models.load import open_merged
        from luthier.models.media.compose import VisionEncoder, compose_llava

        started = time.perf_counter()
        artifact = work.inputs["decoder"]
        require_local_weights(artifact)
        base = find_base_folder(artifact)
        described = describe_model_folder(base)
        dtype = getattr(torch, described.dtype, torch.float32)
        encoder = (
            VisionEncoder.new(**self.encoder.model_dump())
            if isinstance(self.encoder, NewEncoder)
            else VisionEncoder.open(resolve_path(self.encoder, work.recipe_dir))
        )
        tokenizer = AutoTokenizer.from_pretrained(str(base), local_files_only=True, trust_remote_code=False)
        model, processor = compose_llava(open_merged(artifact, dtype), tokenizer, encoder, work.seed)
        model.save_pretrained(work.folder)
        processor.save_pretrained(work.folder)
        write_config_dtype(work.folder)
        made = describe_model_folder(work.folder)
        card = {
            "name": f"{get_model_name(artifact)}+vision",
            "licence": read_licence(base),
            "origin": f"composed of {get_model_name(artifact)} and {self._encoder_name()}",
            "architecture": made.architecture,
            "parameters": made.parameters,
            "tied": made.tied,
            "hidden_size": made.hidden_size,
            "layers": made.layers,
            "vocab": made.vocab,
            "context": made.context,
        }
        write_json(work.folder / "model.json", card)
        new = "projector" if encoder.weights is not None else "projector and encoder"
        work.events.note(f"the {new} of {made.parts['projector'] + made.parts['vision']:,} numbers must be tuned")
        seconds = time.perf_counter() - started
        return {"bytes_per_s": made.disk_bytes / seconds}

    def _encoder_name(self) -> str:
        return "a new encoder" if isinstance(self.encoder, NewEncoder) else f"the encoder in {Path(self.encoder).name}"

    def estimate_cost(self, plan_context: PlanContext) -> StepCostEstimate:
        """From the size of the decoder."""
        require_planned_weights(plan_context, "decoder")
        parameters = self.outline(plan_context).parameters
        if parameters is None:
            return StepCostEstimate(how="unknown until the decoder is here")
        measured = plan_context.history.get("measures", {}).get("bytes_per_s")
        seconds = 5 + 4 * parameters / (measured or BYTES_PER_SECOND)
        how = f"at the speed {'of the last one here' if measured else 'of a laptop'}"
        return StepCostEstimate(seconds=seconds, peak_bytes=BASE_BYTES + 10 * parameters, how=how)

    def outline(self, plan_context: PlanContext) -> ArtifactSpec:
        """Little larger than the decoder."""
        artifact = plan_context.inputs.get("decoder")
        if artifact is not None:
            size: int | None = describe_model_folder(find_base_folder(artifact)).parameters
        else:
            size = plan_context.outlines.get("decoder", ArtifactSpec()).parameters
        return ArtifactSpec(parameters=size, how="of the decoder that it is made of")

    def fingerprint(self, recipe_dir: Path) -> str | None:
        """The encoder in a folder, by its weights and settings."""
        if isinstance(self.encoder, NewEncoder):
            return None
        folder = resolve_path(self.encoder, recipe_dir)
        paths = [folder / "config.json", folder / "preprocessor_config.json", *list_weight_files(folder)]
        return digest_of([[path.name, file_digest(path)] for path in paths if path.is_file()])
