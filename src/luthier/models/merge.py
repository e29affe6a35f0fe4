"""Model merging: the role `merger`, and the shared implementation.

A merger combines the weight changes of several models from the same base. Tensors are merged one by one, so memory
holds one tensor of each model.
"""

from __future__ import annotations

import shutil
from abc import abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from luthier.core.artifact import Artifact
from luthier.core.component import Component
from luthier.core.errors import ModelError, SourceLocation
from luthier.core.hashing import digest_of
from luthier.core.system.process import hide_transformers_output
from luthier.models.describe import INDEX, list_weight_files, read_json_object, read_safetensors_headers
from luthier.models.load import get_weights_artifact, is_adapter, open_folder, open_merged, pick_dtype
from luthier.models.source import write_json

if TYPE_CHECKING:
    from torch import Tensor

Sign = Literal["total", "frequency"]


class Merger(Component):
    """How the changes of several tuned models become one."""

    role: ClassVar[str] = "merger"
    home: ClassVar[str] = "luthier.models.mergers"

    @abstractmethod
    def combine(self, changes: Tensor, weights: Tensor, seed: int) -> Tensor:
        """Combine one weight's changes (models, …) in fp32, by the models' weights (models,), into one change (…);
        deterministic by the seed.
        """

    @abstractmethod
    def share(self, number: int) -> float:
        """Return the weight of each of `number` models when none are given."""


def scale_changes(changes: Tensor, weights: Tensor) -> Tensor:
    """Return each model's change times the model's weight."""
    return changes * weights.view(-1, *[1] * (changes.dim() - 1))


def average_majority_sign(changes: Tensor, weights: Tensor, sign: Sign) -> Tensor:
    """Return the mean of the weighted changes with the majority's sign, element by element.

    The second half of TIES (Yadav et al., 2023), as PEFT 0.21 computes it: signs are those of the changes before
    weighting. `total`: the sign of their sum; `frequency`: the most frequent sign.
    """
    import torch

    signs = changes.sign()
    balance = changes.sum(dim=0) if sign == "total" else signs.sum(dim=0)
    kept = signs == torch.where(balance >= 0, 1, -1)
    return (scale_changes(changes, weights) * kept).sum(dim=0) / kept.sum(dim=0).clamp(min=1)


Progress = Callable[[int, int], object]
Combine = Callable[[str, "Tensor"], "Tensor"]
"""Combines a weight's changes (models, …), given its name."""


def is_tuned_from(model: Artifact, base: Artifact) -> bool:
    """Return whether a model was tuned from the base, directly or through others."""
    while model.digest != base.digest and "model" in model.manifest.inputs:
        model = model.parent("model")
    return model.digest == base.digest


def merge_weights(
    base: Artifact,
    models: Sequence[Artifact],
    combine: Combine,
    *,
    dequantize: bool,
    folder: Path,
    scratch: Path,
    progress: Progress,
) -> bool:
    """Write the merged weights to `folder` in float32, in files named like the base's; return whether any differs from
    the base.

    A change is a weight's difference to the base, in float32; an adapter's is what merging it adds. `ModelError` with
    the model's position (`models.0`) for one that cannot be merged.
    """
    import torch
    from safetensors.torch import save_file

    folders = _write_whole_models([base, *models], scratch, dequantize)
    names = [_files(source) for source in folders]
    done, differs = 0, False
    for path in _shards(folders[0]):
        merged = {}
        for key in sorted(key for key, shard in names[0].items() if shard == path):
            own = _tensor(path, key)
            changes = torch.stack([_tensor(metadata[key], key) - own for metadata in names[1:]])
            change = combine(key, changes) if changes.any() else torch.zeros(())
            merged[key], differs = own + change, differs or bool(change.any())
            progress(done := done + 1, len(names[0]))
        save_file(merged, folder / path.name, metadata={"format": "pt"})
    if list_weight_files(folders[0])[0].name == INDEX:
        size = sum(4 * tensor.numbers for tensor in read_safetensors_headers(folders[0]).values())
        write_json(folder / INDEX, {**read_json_object(folders[0] / INDEX), "metadata": {"total_size": size}})
    return differs


def build_change_combiner(method: Merger, weights: Sequence[float], seed: int) -> Combine:
    """Return the function that combines the changes of a weight; each weight has a random stream of its own."""
    import torch

    share = torch.tensor(list(weights), dtype=torch.float32)
    return lambda key, changes: method.combine(changes, share, int(digest_of([seed, key])[:15], 16))


def _write_whole_models(artifacts: Sequence[Artifact], scratch: Path, dequantize: bool) -> list[Path]:
    """Return a folder of full weights for each model: its own, or with the adapter merged; all are rewritten when names
    differ.
    """
    paths = [_write_whole_model(get_weights_artifact(artifacts[0]), scratch, dequantize)]
    for at, artifact in enumerate(artifacts[1:]):
        try:
            paths.append(_write_whole_model(get_weights_artifact(artifact), scratch, dequantize))
        except ModelError as error:
            raise ModelError(error.message, where=SourceLocation(field=f"models.{at}"), hint=error.hint) from error
    if len({frozenset(_files(folder)) for folder in paths}) > 1:
        paths = [_rename_weights(folder, artifact, scratch) for folder, artifact in zip(paths, artifacts, strict=True)]
    first = read_safetensors_headers(paths[0])
    for at, folder in enumerate(paths[1:]):
        other = read_safetensors_headers(folder)
        wrong = sorted(
            key
            for key in {*first, *other}
            if key not in first or key not in other or first[key].shape != other[key].shape
        )
        if wrong:
            what = f"{', '.join(wrong[:3])} ({len(wrong)} in all)"
            raise ModelError(
                f"the model has other weights than its base, so there is no change to merge: {what}",
                where=SourceLocation(field=f"models.{at}"),
                hint="merge models whose technique adds no weights of its own and leaves the vocabulary as it is",
            )
    return paths


def _write_whole_model(artifact: Artifact, scratch: Path, dequantize: bool) -> Path:
    if not is_adapter(artifact):
        return artifact.folder
    folder = scratch / artifact.digest
    return _save_once(folder, lambda: open_merged(artifact, pick_dtype("float32"), dequantize=dequantize))


def _rename_weights(folder: Path, artifact: Artifact, scratch: Path) -> Path:
    """Rename the weights as the installed transformers names them."""
    if folder.parent == scratch:
        return folder
    return _save_once(scratch / artifact.digest, lambda: open_folder(folder, pick_dtype("float32")))


def _save_once(folder: Path, opened: Callable[[], Any]) -> Path:
    if not folder.exists():
        part = folder.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        with hide_transformers_output():
            opened().save_pretrained(part)
        part.replace(folder)
    return folder


def _files(folder: Path) -> dict[str, Path]:
    """Return the file of each weight."""
    from safetensors import safe_open

    files = {}
    for path in _shards(folder):
        with safe_open(path, framework="pt") as file:
            files.update(dict.fromkeys(file.keys(), path))
    return files


def _shards(folder: Path) -> list[Path]:
    return [path for path in list_weight_files(folder) if path.suffix == ".safetensors"]


def _tensor(path: Path, key: str) -> Any:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return file.get_tensor(key).float()
