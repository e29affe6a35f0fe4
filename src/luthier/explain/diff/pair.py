"""A tuned model with its base; the base is loaded once where the tuned one is an adapter over it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from luthier.core.artifact import Artifact
from luthier.core.errors import ModelError, SourceLocation
from luthier.models.load import (
    find_base_folder,
    get_model_name,
    get_output_classes,
    get_quantization_scheme,
    get_weights_artifact,
    is_adapter,
    require_local_weights,
    stands_on_model,
)

if TYPE_CHECKING:
    from luthier.models.lm.local import LocalLM

Dtype = Literal["float32", "bfloat16", "auto"]


@dataclass(frozen=True)
class ModelPair:
    """A tuned model and its base, and how the base's weights are had."""

    after: LocalLM
    before: LocalLM
    shared: Literal["adapter", "same", "none"]
    """`adapter`: the base is the same model with its adapter switched off. `same`: only the prompts differ. `none`: two
    models are in memory."""
    comparable: bool
    """Whether next-token distributions, or those over classes, have the same support."""
    notes: tuple[str, ...] = ()

    @property
    def model(self) -> Any:
        """The tuned model."""
        return self.after.loaded.model

    @property
    def base(self) -> Any:
        """The base; under `use_base` where it is the same module as the tuned model."""
        return self.before.loaded.model

    @contextmanager
    def use_base(self) -> Iterator[None]:
        """Use the base within a context: adapters are disabled."""
        if self.shared != "adapter":
            yield
            return
        from luthier.models.generation.cpu_decoder import disable_adapters

        with disable_adapters(self.model):
            yield


def find_compared_base(model: Artifact, compare_with: Artifact | None) -> Artifact:
    """The model that a tuned one is compared with: another that is given, else that from which it was tuned.

    Raises:
        ModelError: the weights of either are not here, or the model was not tuned from another.
    """
    require_local_weights(model)
    if compare_with is not None:
        require_local_weights(compare_with)
        return compare_with
    if not stands_on_model(model):
        hint = "name the model of a step that tunes, or one to compare with in `compare_with` (`--against MODEL`)"
        where = SourceLocation(field="model")
        raise ModelError(f"{get_model_name(model)} was not tuned: there is no base to compare", where=where, hint=hint)
    base = model.parent("model")
    require_local_weights(base)
    return base


def open_model_pair(model: Artifact, compare_with: Artifact | None = None, dtype: Dtype = "float32") -> ModelPair:
    """Open a tuned model and its base, or another model.

    Raises:
        ModelError: weights that are not here, no base, or another tokenizer.
    """
    from luthier.models.lm.local import LocalLM, ModelCache
    from luthier.models.load import LoadedModel, load_model

    base = find_compared_base(model, compare_with)
    _check_tokenizers(model, base)
    own, its = get_weights_artifact(model), get_weights_artifact(base)
    notes = []
    shared: Literal["adapter", "same", "none"] = "none"
    if own.digest == its.digest:
        shared = "same"
    elif is_adapter(own) and get_weights_artifact(own.parent("model")).digest == its.digest:
        shared = "adapter"
    if compare_with is not None and compare_with.digest not in _tuned_from(model) and shared == "none":
        notes.append(
            f"{get_model_name(base)} is not the model that {get_model_name(model)} was tuned from: differences are not "
            "what tuning changed alone"
        )
    if shared == "adapter" and get_quantization_scheme(own) is not None:
        notes.append("The base is read as the adapter was trained over it: quantized")
    classes = get_output_classes(model), get_output_classes(base)
    comparable = classes[0] == classes[1] and len(classes[0]) != 1
    if not comparable:
        what = "a reward" if len(classes[0]) == 1 else "other outputs than the base"
        notes.append(f"The model's head gives {what}: divergence of tokens and changed answers were not measured")

    def held(artifact: Artifact, loaded: LoadedModel) -> LocalLM:
        return LocalLM(artifact, dtype, models=_HeldModel(loaded))

    class _HeldModel(ModelCache):
        """Always gives the one model that is open."""

        def __init__(self, loaded: LoadedModel) -> None:
            super().__init__()
            self._held = loaded

        def load(self, artifact: Artifact, dtype: Any) -> LoadedModel:
            return self._held

    after = load_model(model, dtype)
    before = after if shared != "none" else load_model(base, dtype)
    return ModelPair(held(model, after), held(base, before), shared, comparable, tuple(notes))


def _tuned_from(model: Artifact) -> set[str]:
    found = {model.digest}
    while stands_on_model(model):
        model = model.parent("model")
        found.add(model.digest)
    return found


def _check_tokenizers(model: Artifact, base: Artifact) -> None:
    """`ModelError` for models whose tokens are not the same."""
    folders = [find_base_folder(artifact) for artifact in (model, base)]
    if folders[0] == folders[1]:
        return
    from luthier.chat.tokenizer import ChatTokenizer

    one, other = (ChatTokenizer.load(folder).vocabulary_digest for folder in folders)
    if one != other:
        what = f"{get_model_name(model)} and {get_model_name(base)} have different tokenizers"
        hint = "compare a model with the one that it was tuned from, or with another tuned from that"
        raise ModelError(what, where=SourceLocation(field="compare_with"), hint=hint)
