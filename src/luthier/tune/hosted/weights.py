"""Adapters that a provider trained: download them to the folder where a local training would write its adapter."""

from __future__ import annotations

import tarfile
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.core.errors import ModelError, SourceLocation
from luthier.core.hashing import file_digest
from luthier.core.step import ArtifactSpec, PlanContext, StepCostEstimate
from luthier.models.describe import read_json_object
from luthier.models.load import ADAPTER, get_model_name, require_planned_weights
from luthier.tune.hosted.client import ProviderClient
from luthier.tune.hosted.technique import HostedJob, PreferenceHostedTechnique
from luthier.tune.technique import write_settings

if TYPE_CHECKING:
    from luthier.core.artifact import Artifact

SETTINGS, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PARTS = frozenset({SETTINGS, WEIGHTS})
_ZSTD, _GZIP = b"\x28\xb5\x2f\xfd", b"\x1f\x8b"
_LARGEST = 64 << 30
"""Maximum bytes of an adapter's file."""
_WHERE = SourceLocation(field="technique.weights")


class DownloadableHostedTechnique(PreferenceHostedTechnique):
    """The base of techniques whose provider lets the adapter be downloaded."""

    weights: bool = False
    """Whether the adapter is downloaded: the result is an adapter over the step's `model`, which must be the very model
    that the provider tunes. It is evaluated, served and exported like one that was tuned here."""

    @property
    def needs_model(self) -> bool:
        """Whether the base model of the adapter is needed: where the adapter is downloaded."""
        return self.weights

    def estimate_cost(self, plan_context: PlanContext, rows: int | None) -> StepCostEstimate:
        """Estimate the cost of the provider's job; an adapter is downloaded only where the base model's weights are
        available.
        """
        if self.weights:
            require_planned_weights(plan_context)
        return super().estimate_cost(plan_context, rows)

    def outline(self, plan_context: PlanContext) -> ArtifactSpec:
        """Predict an adapter over the base model, or an endpoint."""
        if not self.weights:
            return super().outline(plan_context)
        from luthier.tune.forecast import predict_tuned_model

        return replace(predict_tuned_model(plan_context), merging="plain")

    @abstractmethod
    def fetch_weights(self, client: ProviderClient, job: HostedJob, folder: Path) -> None:
        """Write the adapter's settings and weights, under PEFT's names, into a folder."""

    def write_model(
        self, client: ProviderClient, job: HostedJob, folder: Path, base: Artifact | None
    ) -> dict[str, Any]:
        """Write the adapter, checked against its base model; or the endpoint."""
        if not self.weights:
            return super().write_model(client, job, folder, base)
        assert base is not None, "an adapter is fetched for a model"
        adapter = folder / ADAPTER
        adapter.mkdir()
        self.fetch_weights(client, job, adapter)
        if missing := sorted(_PARTS - {path.name for path in adapter.iterdir()}):
            what = f"{client.url} has no {' and no '.join(missing)} for job {job.id}"
            raise ModelError(what, where=_WHERE, hint="leave `weights` out, and ask the model where it is")
        check_adapter(adapter, base)
        settings = read_json_object(adapter / SETTINGS)
        settings |= {"base_model_name_or_path": get_model_name(base), "inference_mode": True}
        write_settings(adapter / SETTINGS, settings)
        return {"adapter": file_digest(adapter / WEIGHTS)}


def check_adapter(adapter: Path, base: Artifact) -> None:
    """Raise `ModelError` where a LoRA adapter does not fit its base model: another kind, other layers or shapes."""
    import torch
    from safetensors import SafetensorError, safe_open
    from transformers import AutoConfig, AutoModelForCausalLM

    from luthier.models.load import find_base_folder

    name, hint = get_model_name(base), "name the very model that the provider tunes as the recipe's `model`"
    try:
        kind = read_json_object(adapter / SETTINGS).get("peft_type")
        with safe_open(adapter / WEIGHTS, framework="pt") as file:
            shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, ValueError, OSError) as error:
        what = f"what was downloaded is no adapter: {error}"
        raise ModelError(what, where=_WHERE, hint="run it again; the job is found again") from error
    if kind != "LORA":
        raise ModelError(f"the adapter is of the kind {kind}, and not LORA", where=_WHERE, hint="leave `weights` out")
    config = AutoConfig.from_pretrained(find_base_folder(base), local_files_only=True, trust_remote_code=False)
    with torch.device("meta"):
        layers = dict(AutoModelForCausalLM.from_config(config).named_modules())
    for key, shape in shapes.items():
        path, part, _ = key.removeprefix("base_model.model.").rpartition(".lora_")
        weight = getattr(layers.get(path), "weight", None)
        if not part or weight is None:
            raise ModelError(f"the adapter changes {key}, which {name} does not have", where=_WHERE, hint=hint)
        own = weight.shape[1] if ".lora_A." in key else weight.shape[0]
        if own != (shape[1] if ".lora_A." in key else shape[0]):
            what = f"the adapter does not fit {name}: {key} is {shape[0]} × {shape[1]}, over {tuple(weight.shape)}"
            raise ModelError(what, where=_WHERE, hint=hint)


def extract_adapter(archive: Path, folder: Path) -> None:
    """Write an adapter's two files from a tar archive (plain, gzip or zstd) under their own names.

    All other members are skipped. `ModelError` for anything that is not such an archive.
    """
    import pyarrow

    try:
        with _open_archive(archive) as packed, tarfile.open(fileobj=packed, mode="r|") as tar:
            for member in tar:
                name = member.name.rpartition("/")[2]
                source = tar.extractfile(member) if member.isfile() and name in _PARTS else None
                if source is None or member.size > _LARGEST:
                    continue
                with (folder / name).open("wb") as file:
                    while chunk := source.read(1 << 20):
                        file.write(chunk)
    except (tarfile.TarError, EOFError, OSError, pyarrow.ArrowException) as error:
        hint = "run it again; the job is found again"
        raise ModelError(f"what was downloaded is no archive: {error}", where=_WHERE, hint=hint) from error


@contextmanager
def _open_archive(archive: Path) -> Iterator[Any]:
    import pyarrow

    with archive.open("rb") as file:
        start = file.read(4)
    kind = "zstd" if start == _ZSTD else "gzip" if start[:2] == _GZIP else None
    with pyarrow.input_stream(str(archive), compression=kind) as stream:
        yield stream
