"""The weights of several tuned models over one base, merged tensor by tensor: memory holds one weight of each."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.core.artifact import Artifact
from luthier.core.digest import digest_of
from luthier.core.errors import ModelError, Where
from luthier.core.quiet import no_bars
from luthier.models.describe import INDEX, read_headers, read_object, weight_files
from luthier.models.load import is_adapter, open_folder, open_merged, pick_dtype, weights_of
from luthier.models.merger import Merger
from luthier.models.source import write_json

if TYPE_CHECKING:
    from torch import Tensor

Progress = Callable[[int, int], object]
Combine = Callable[[str, "Tensor"], "Tensor"]
"""Takes a weight's name and its changes (models, …)."""


def stands_on(model: Artifact, base: Artifact) -> bool:
    """Whether a model was tuned from the base, at once or over others."""
    while model.digest != base.digest and "model" in model.manifest.inputs:
        model = model.parent("model")
    return model.digest == base.digest


def merge_weights(
    base: Artifact,
    models: Sequence[Artifact],
    combine: Combine,
    *,
    dequantise: bool,
    folder: Path,
    scratch: Path,
    progress: Progress,
) -> bool:
    """Write the merged weights into `folder` in float32, in files named as the base's; whether any differs from its.

    A change is the difference to the base of a weight, in float32; an adapter's is what merging it adds. `ModelError`
    with the model's place (`models.0`) for one that cannot be merged.
    """
    import torch
    from safetensors.torch import save_file

    places = _places([base, *models], scratch, dequantise)
    names = [_files(place) for place in places]
    done, differs = 0, False
    for path in _shards(places[0]):
        merged = {}
        for key in sorted(key for key, place in names[0].items() if place == path):
            own = _tensor(path, key)
            changes = torch.stack([_tensor(found[key], key) - own for found in names[1:]])
            change = combine(key, changes) if changes.any() else torch.zeros(())
            merged[key], differs = own + change, differs or bool(change.any())
            progress(done := done + 1, len(names[0]))
        save_file(merged, folder / path.name, metadata={"format": "pt"})
    if weight_files(places[0])[0].name == INDEX:
        size = sum(4 * tensor.numbers for tensor in read_headers(places[0]).values())
        write_json(folder / INDEX, {**read_object(places[0] / INDEX), "metadata": {"total_size": size}})
    return differs


def combiner(method: Merger, weights: Sequence[float], seed: int) -> Combine:
    """How the changes of a weight become one; each weight has dice of its own."""
    import torch

    share = torch.tensor(list(weights), dtype=torch.float32)
    return lambda key, changes: method.combine(changes, share, int(digest_of([seed, key])[:15], 16))


def _places(artifacts: Sequence[Artifact], scratch: Path, dequantise: bool) -> list[Path]:
    """A folder of whole weights for each: its own, or the adapter merged in; all written anew when names differ."""
    found = [_whole(weights_of(artifacts[0]), scratch, dequantise)]
    for at, one in enumerate(artifacts[1:]):
        try:
            found.append(_whole(weights_of(one), scratch, dequantise))
        except ModelError as error:
            raise ModelError(error.message, where=Where(field=f"models.{at}"), remedy=error.remedy) from error
    if len({frozenset(_files(place)) for place in found}) > 1:
        found = [_renamed(place, one, scratch) for place, one in zip(found, artifacts, strict=True)]
    first = read_headers(found[0])
    for at, place in enumerate(found[1:]):
        other = read_headers(place)
        wrong = sorted(
            key
            for key in {*first, *other}
            if key not in first or key not in other or first[key].shape != other[key].shape
        )
        if wrong:
            what = f"{', '.join(wrong[:3])} ({len(wrong)} in all)"
            raise ModelError(
                f"the model has other weights than its base, so there is no change to merge: {what}",
                where=Where(field=f"models.{at}"),
                remedy="merge models whose technique adds no weights of its own and leaves the vocabulary as it is",
            )
    return found


def _whole(artifact: Artifact, scratch: Path, dequantise: bool) -> Path:
    if not is_adapter(artifact):
        return artifact.folder
    place = scratch / artifact.digest
    return _saved(place, lambda: open_merged(artifact, pick_dtype("float32"), dequantise=dequantise))


def _renamed(place: Path, artifact: Artifact, scratch: Path) -> Path:
    """The same weights under the names that transformers gives them today."""
    if place.parent == scratch:
        return place
    return _saved(scratch / artifact.digest, lambda: open_folder(place, pick_dtype("float32")))


def _saved(place: Path, opened: Callable[[], Any]) -> Path:
    if not place.exists():
        part = place.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        with no_bars():
            opened().save_pretrained(part)
        part.replace(place)
    return place


def _files(place: Path) -> dict[str, Path]:
    """The file of each weight."""
    from safetensors import safe_open

    found = {}
    for path in _shards(place):
        with safe_open(path, framework="pt") as file:
            found.update(dict.fromkeys(file.keys(), path))
    return found


def _shards(place: Path) -> list[Path]:
    return [path for path in weight_files(place) if path.suffix == ".safetensors"]


def _tensor(path: Path, key: str) -> Any:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return file.get_tensor(key).float()
