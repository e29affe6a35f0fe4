"""Opens model artifacts: a base or fully tuned folder as it is, an adapter over its base model.

The result is transformers' own model, or PEFT's over it. Weights are read from safetensors on this machine only, and no
code that came with a model is run.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from luthier.artifacts.training import TrainingRecord, kind_of_part
from luthier.core.artifact import Artifact
from luthier.core.errors import ModelError, SourceLocation
from luthier.core.hashing import digest_of
from luthier.core.step import ArtifactSpec, PlanContext
from luthier.core.system.process import hide_transformers_output
from luthier.models.describe import describe_model_folder, is_speech_model, read_json_object
from luthier.models.open_classifier import SETTINGS_FILE
from luthier.models.quiet import silence_peft_warnings
from luthier.models.source import QuantizationScheme

if TYPE_CHECKING:
    import torch

Dtype = Literal["float32", "bfloat16", "float16", "auto"]
ADAPTER = "adapter"
"""Folder of an adapter in its artifact."""
ENDPOINT = "endpoint.json"
"""File with the settings of a model behind an endpoint, in the artifact of such a base."""
MODEL_CARD = "model.json"
_CPU_WITH_BF16 = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
"""Processor flags (x86 and ARM) of bfloat16 multiplication in hardware."""


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A loaded model in evaluation mode, with its tokenizer folder, name and digest."""

    model: Any
    """transformers' model, or PEFT's when the artifact is an adapter."""
    folder: Path
    """Folder of the tokenizer and chat template: the base model's."""
    name: str
    digest: str


def load_model(artifact: Artifact, dtype: Dtype = "auto") -> LoadedModel:
    """Load a model artifact, on this machine's GPU when there is one.

    `auto` is bfloat16 where the hardware supports it (a GPU, or a CPU with AVX512-BF16 or AMX), else float32. An
    adapter trained over another adapter is loaded over that one merged. No parameter requires gradients, and LoRA uses
    the same forward as in training.
    """
    kind = pick_dtype(dtype)
    model = move_to_gpu(_open(artifact, kind)).requires_grad_(requires_grad=False)
    if is_adapter(get_weights_artifact(artifact)):
        from luthier.models.kernels.lora import install_fused_lora

        install_fused_lora(model)
    return LoadedModel(
        model=model.eval(), folder=find_base_folder(artifact), name=get_model_name(artifact), digest=artifact.digest
    )


def load_base(artifact: Artifact, dtype: Dtype = "auto") -> LoadedModel:
    """Load the base model under an adapter or prompt, or the model itself when it has full weights; no parameter
    requires gradients.
    """
    under = get_adapter_base(artifact)
    model = move_to_gpu(open_merged(under, pick_dtype(dtype))).requires_grad_(requires_grad=False)
    return LoadedModel(
        model=model.eval(), folder=find_base_folder(under), name=get_model_name(under), digest=under.digest
    )


def get_adapter_base(artifact: Artifact) -> Artifact:
    """Return the artifact that an adapter was trained on, or the model itself when its weights are whole."""
    own = get_weights_artifact(artifact)
    return get_weights_artifact(own.parent("model")) if is_adapter(own) else own


def compute_weights_digest(artifact: Artifact) -> str:
    """Return a digest of a base model's weights and architecture, the same whatever name or folder it came from."""
    if is_adapter(artifact):
        return artifact.digest
    root = [entry for entry in artifact.manifest.files if "/" not in entry.path]
    entries = [
        file_entry
        for file_entry in root
        if file_entry.path == "config.json" or file_entry.path.endswith(".safetensors")
    ]
    return digest_of([[file_entry.path, file_entry.digest] for file_entry in entries])


def move_to_gpu(model: Any) -> Any:
    """Move a model to this machine's GPU when torch sees one (`CUDA_VISIBLE_DEVICES=` hides it)."""
    import torch

    return model.to("cuda") if torch.cuda.is_available() else model


def open_model(artifact: Artifact, dtype: Dtype = "auto") -> Any:
    """Return the plain transformers model, or PEFT model, of an artifact."""
    return load_model(artifact, dtype).model


def is_adapter(artifact: Artifact) -> bool:
    """Return whether the artifact is an adapter over another model."""
    return any(entry.path.startswith(f"{ADAPTER}/") for entry in artifact.manifest.files)


def is_endpoint(artifact: Artifact) -> bool:
    """Return whether the model is behind an endpoint."""
    return any(entry.path == ENDPOINT for entry in find_origin_artifact(artifact).manifest.files)


def is_plain_classifier(artifact: Artifact) -> bool:
    """Return whether the model is a plain text classifier without a network (`technique: plain`)."""
    return any(entry.path == SETTINGS_FILE for entry in artifact.manifest.files)


def stands_on_model(artifact: Artifact) -> bool:
    """Return whether the model was made from another; a plain classifier that a search chose was not."""
    return "model" in artifact.manifest.inputs and not is_plain_classifier(artifact)


def is_tuned(artifact: Artifact) -> bool:
    """Return whether the model was trained here, rather than imported."""
    return not {"model", "data", "of"}.isdisjoint(artifact.manifest.inputs)


def is_remote_input(plan_context: PlanContext, field: str = "model") -> bool:
    """Return whether a step's input model, existing or planned, is behind an endpoint."""
    if (artifact := plan_context.inputs.get(field)) is not None:
        return is_endpoint(artifact)
    expected = plan_context.outlines.get(field)
    return expected is not None and expected.remote


def has_network(plan_context: PlanContext, field: str = "model") -> bool:
    """Return whether a step's model, existing or planned, is a neural network; one behind an endpoint is."""
    if (artifact := plan_context.inputs.get(field)) is not None:
        return not is_plain_classifier(artifact)
    return plan_context.outlines.get(field, ArtifactSpec()).network


def require_planned_weights(plan_context: PlanContext, field: str = "model") -> None:
    """Raise `ModelError` when a step's input model, made or not, has no neural network weights here."""
    if is_remote_input(plan_context, field):
        raise no_weights_error(f"the {field}")
    if not has_network(plan_context, field):
        raise no_network_error(f"the {field}")


def require_local_weights(artifact: Artifact) -> None:
    """Raise `ModelError` when a model has no neural network weights here (an endpoint or a plain classifier)."""
    if is_plain_classifier(artifact):
        raise no_network_error(get_model_name(artifact))
    if is_endpoint(artifact):
        raise no_weights_error(get_model_name(artifact))


def no_network_error(name: str) -> ModelError:
    """Build the error for a plain classifier where a neural network is needed."""
    hint = "take a base model (`luthier models list`), or a step that tunes one"
    return ModelError(
        f"{name} is a plain classifier: it has no network", where=SourceLocation(field="model"), hint=hint
    )


def no_weights_error(name: str) -> ModelError:
    """Build the error for an endpoint where local weights are needed."""
    hint = "take a model whose weights are here (`luthier models list`), or `technique: prompt_search`"
    return ModelError(
        f"{name} is an endpoint: its weights are not here", where=SourceLocation(field="model"), hint=hint
    )


def get_weights_artifact(artifact: Artifact) -> Artifact:
    """Return the artifact whose weights or adapter a model uses: itself, or the model under its prompt."""
    require_local_weights(artifact)
    while not is_adapter(artifact) and not any(
        entry.path.endswith(".safetensors") and "/" not in entry.path for entry in artifact.manifest.files
    ):
        artifact = artifact.parent("model")
    return artifact


def find_base_folder(artifact: Artifact) -> Path:
    """Return the Hugging Face folder of an artifact, or of the base model under its adapters and prompts."""
    return find_base_artifact(artifact).folder


def find_base_artifact(artifact: Artifact) -> Artifact:
    """Return the artifact with full weights at the bottom of a chain of adapters and prompts."""
    own = get_weights_artifact(artifact)
    return find_base_artifact(own.parent("model")) if is_adapter(own) else own


def find_origin_artifact(artifact: Artifact) -> Artifact:
    """Return the original model of the lineage, through adapters and full fine-tunes."""
    return find_origin_artifact(artifact.parent("model")) if stands_on_model(artifact) else artifact


def get_training_data(artifact: Artifact) -> Artifact | None:
    """Return the data set that a model was trained on.

    For an epoch of a training it is that training's; for the result of a search that of its first training; for a
    federated model that of the first site, where that is here.
    """
    if (field := next((name for name in ("data", "sites.0") if name in artifact.manifest.inputs), None)) is not None:
        return artifact.parent(field)
    source = next((field for field in ("tuned", "of") if field in artifact.manifest.inputs), None)
    return get_training_data(artifact.parent(source)) if source is not None else None


def get_model_name(artifact: Artifact) -> str:
    """Return the base model's name; for a tuned one followed by its technique, once for each training."""
    if not stands_on_model(artifact):
        return str(artifact.read_json(MODEL_CARD)["name"])
    kind = kind_of_part(TrainingRecord.read(artifact).technique)
    return f"{get_model_name(artifact.parent('model'))}+{kind or 'tuned'}"


def pick_dtype(dtype: Dtype = "auto") -> torch.dtype:
    """Return the dtype to compute in: `auto` depends on the hardware."""
    import torch

    named = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if dtype != "auto":
        return named[dtype]
    gpu = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if gpu or cpu_has_bf16() else torch.float32


def cpu_has_bf16() -> bool:
    """Return whether this processor reports bfloat16 multiplication in hardware (read without torch)."""
    return not _CPU_WITH_BF16.isdisjoint(_cpu_says())


def cpu_has_avx512_bf16() -> bool:
    """Return whether it has AVX-512's bfloat16 dot products, the minimum of the compiled attention."""
    return "avx512_bf16" in _cpu_says()


def cpu_has_amx() -> bool:
    """Return whether it multiplies bfloat16 tiles (AMX)."""
    return "amx_bf16" in _cpu_says()


def _cpu_says() -> list[str]:
    flags = Path("/proc/cpuinfo")
    return flags.read_text(encoding="utf-8", errors="replace").split() if flags.is_file() else []


def open_folder(folder: Path, dtype: torch.dtype, scheme: QuantizationScheme | None = None) -> Any:
    """Load the model in a Hugging Face folder; `ModelError` when any weight is missing or does not fit.

    It is a causal language model, a multimodal model, or one with a sequence head when the folder has that. With a
    scheme the linear layers are quantized one by one from the weights on disk, so that the codes do not depend on the
    dtype, and at most one full weight is in memory.
    """
    kind = pick_auto_class(read_json_object(folder / "config.json"))
    where = SourceLocation(file=str(folder))
    more: dict[str, Any] = {"dtype": dtype}
    if scheme:
        from luthier.models.quantization import BlockQuantizationConfig

        more = {"dtype": describe_model_folder(folder).dtype, "quantization_config": BlockQuantizationConfig(*scheme)}
    try:
        with hide_transformers_output():
            model, info = kind.from_pretrained(
                folder,
                **more,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
            )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        what, hint = _why_not(str(error).strip().split("\n", 1)[0])
        raise ModelError(what, where=where, hint=hint) from error
    wrong = [*sorted(info["missing_keys"]), *(str(key) for key in info["mismatched_keys"])]
    if wrong:
        what = f"{', '.join(wrong[:3])} ({len(wrong)} in all)"
        raise ModelError(f"the weights do not fit the architecture: {what}", where=where, hint=_ANOTHER)
    return cast_parameters(model, dtype).eval()


def pick_auto_class(config: dict[str, Any]) -> Any:
    """Return transformers' auto class for a configuration."""
    from transformers import (
        AutoModelForCausalLM,
        AutoModelForImageTextToText,
        AutoModelForSeq2SeqLM,
        AutoModelForSequenceClassification,
        AutoModelForSpeechSeq2Seq,
    )

    from luthier.models.media.audio import AudioFamily
    from luthier.models.media.family import find_family

    if is_speech_model(config):
        return AutoModelForSpeechSeq2Seq
    named = str((config.get("architectures") or [""])[0])
    if named.endswith("ForSequenceClassification"):
        import luthier.models.media.sequence_heads  # noqa: F401  # makes those of models that read pictures known

        return AutoModelForSequenceClassification
    if "vision_config" in config:
        return AutoModelForImageTextToText
    if isinstance(find_family(str(config.get("model_type", ""))), AudioFamily):
        return AutoModelForSeq2SeqLM  # where transformers lists decoders that hear
    return AutoModelForCausalLM


def cast_parameters(model: Any, dtype: torch.dtype) -> Any:
    """Cast a model's parameters to a dtype; buffers such as rotary frequencies keep their own."""
    for parameter in model.parameters():
        if parameter.dtype != dtype and parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype)
    return model


def open_quantized(artifact: Artifact, dtype: torch.dtype, scheme: QuantizationScheme) -> Any:
    """Load the plain transformers model of an artifact with its linear layers quantized; adapters are added later."""
    own = get_weights_artifact(artifact)
    if not is_adapter(own):
        return open_folder(own.folder, dtype, scheme)
    import torch

    from luthier.models.quantization import quantize

    return cast_parameters(quantize(open_merged(own, torch.float32), scheme), dtype)


def get_quantization_scheme(artifact: Artifact) -> QuantizationScheme | None:
    """Return the quantization of the model under an adapter during its training; None when it was not quantized."""
    technique = TrainingRecord.read(artifact).technique if "model" in artifact.manifest.inputs else ""
    if isinstance(technique, str) or technique.get("kind") != "qlora":
        return None
    return QuantizationScheme(technique["bits"], technique["group"])


_ANOTHER = "fetch the model again, or take another release of it"


def _why_not(message: str) -> tuple[str, str]:
    """Return transformers' error, and what to do."""
    if "ignore_mismatched_sizes" in message:
        return "the weights have other shapes than config.json says", _ANOTHER
    if "does not recognize this architecture" in message:
        kind = message.partition("model type `")[2].partition("`")[0]
        return (
            f"transformers knows no model type {kind!r}",
            "`pip install --upgrade transformers`, or take another model",
        )
    return f"transformers cannot open this model: {message}", _ANOTHER


def open_adapter(model: Any, folder: Path) -> Any:
    """Open an adapter's folder over a loaded model, as PEFT's model; `ModelError` when they do not fit."""
    from peft import PeftModel

    with check_adapter_fits(folder):
        warnings.filterwarnings("error", message="Found missing adapter keys", category=UserWarning)
        config = build_adapter_config(model, folder)
        return PeftModel.from_pretrained(model, folder, config=config, is_trainable=False).eval()


@contextmanager
def check_adapter_fits(folder: Path) -> Iterator[None]:
    """Turn PEFT's errors about an adapter that does not fit into `ModelError`."""
    where = SourceLocation(file=str(folder))
    config = read_json_object(folder / "adapter_config.json")
    if not (folder / "adapter_model.safetensors").is_file():
        raise ModelError("holds no adapter_model.safetensors", where=where)
    try:
        with silence_peft_warnings():
            yield
    except (ValueError, RuntimeError, KeyError, UserWarning) as error:
        first = str(error).strip().split("\n", 1)[0]
        kind = config.get("peft_type", "adapter")
        raise ModelError(f"this {kind} adapter does not fit its base model: {first}", where=where) from error


def build_adapter_config(model: Any, folder: Path) -> Any:
    """Return an adapter's settings, with the layer types that PEFT needs for a quantized model."""
    from peft import PeftConfig

    from luthier.models.quantization import LAYERS_FOR_PEFT, is_quantized

    config = PeftConfig.from_pretrained(folder)
    config.inference_mode = True
    if is_quantized(model):
        config._register_custom_module(LAYERS_FOR_PEFT)
    return config


def merge_adapter(model: Any, path: Path, *, dequantize: bool = False) -> Any:
    """Merge a PEFT model's adapter into its weights; `ModelError` for adapters that are not weights.

    An adapter trained over a quantized base is merged only with `dequantize`, into weights dequantized to the dtype of
    the model's computation.
    """
    if dequantize:
        from luthier.models import quantization

        quantization.dequantize(model, next(model.parameters()).dtype)
    if model.active_peft_config.is_prompt_learning:
        kind = model.active_peft_config.peft_type.value
        hint = "export it with `--format adapter`, or tune with a technique such as lora"
        raise ModelError(
            f"{kind} learns a prompt, which cannot be merged into weights",
            where=SourceLocation(file=str(path)),
            hint=hint,
        )
    if _adapts_tied_head(model):
        what = (
            "what was learnt at the output head cannot be merged: it is one with the embeddings, which would move too"
        )
        hint = "export it with `--format adapter`, or tune without the head among `target_modules`"
        raise ModelError(what, where=SourceLocation(file=str(path)), hint=hint)
    try:
        return model.merge_and_unload(progressbar=False, safe_merge=True)
    except ModelError as error:
        raise ModelError(error.message, where=SourceLocation(file=str(path)), hint=error.hint) from error
    except (AttributeError, NotImplementedError, ValueError) as error:
        kind = model.active_peft_config.peft_type.value
        hint = "export it with `--format adapter`"
        raise ModelError(
            f"{kind} cannot be merged: {error}", where=SourceLocation(file=str(path)), hint=hint
        ) from error


def _adapts_tied_head(model: Any) -> bool:
    """Return whether PEFT's model has an adapter at an output head tied to the embeddings."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    plain = model.get_base_model()
    head, table = plain.get_output_embeddings(), plain.get_input_embeddings()
    return isinstance(head, BaseTunerLayer) and head.weight is table.weight


def open_merged(artifact: Artifact, dtype: torch.dtype, *, dequantize: bool = False) -> Any:
    """Return a plain transformers model: every adapter of the chain is merged in float32, then all is rounded once.

    `dequantize` allows it where a base was quantized for training; the weights are then the dequantized ones.
    """
    artifact = get_weights_artifact(artifact)
    if not is_adapter(artifact):
        return open_folder(artifact.folder, dtype)
    import torch

    return cast_parameters(merge_adapter(_open(artifact, torch.float32), artifact.folder, dequantize=dequantize), dtype)


def open_adapter_base(artifact: Artifact, dtype: torch.dtype) -> Any:
    """Open the model that an adapter was trained on, with its sequence head when the adapter has one."""
    from luthier.models.sequence_head import add_sequence_head

    parent, scheme, outputs = artifact.parent("model"), get_quantization_scheme(artifact), get_output_classes(artifact)
    model = open_quantized(parent, dtype, scheme) if scheme else open_merged(parent, dtype)
    return add_sequence_head(model, outputs) if outputs else model


def get_output_classes(artifact: Artifact) -> tuple[str, ...]:
    """Return the classes of a model with a sequence head, trained here or imported, or of a plain classifier; empty for
    a language model.
    """
    from luthier.models.sequence_head import read_head_outputs

    if is_endpoint(artifact):
        return ()
    if is_plain_classifier(artifact):
        return TrainingRecord.read(artifact).classes
    own = get_weights_artifact(artifact)
    classes = TrainingRecord.read(own).classes if "model" in own.manifest.inputs else ()
    return classes or (() if is_adapter(own) else read_head_outputs(own.folder))


def _open(artifact: Artifact, dtype: torch.dtype) -> Any:
    artifact = get_weights_artifact(artifact)
    if not is_adapter(artifact):
        return open_folder(artifact.folder, dtype)
    return open_adapter(open_adapter_base(artifact, dtype), artifact.folder / ADAPTER)
