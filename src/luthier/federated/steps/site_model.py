"""The step that takes the model that one site of a federation has for itself."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import model_validator

from luthier.artifacts.training import TrainingRecord
from luthier.core.artifact import list_files
from luthier.core.component import BasicMarker
from luthier.core.errors import InputError, ModelError, SourceLocation, did_you_mean
from luthier.core.files import PathText, resolve_path
from luthier.core.hashing import files_digest
from luthier.core.step import ArtifactSpec, PlanContext, Reads, Step, StepContext, StepCostEstimate
from luthier.federated.measure import describe_folder
from luthier.federated.steps.federate import Federate
from luthier.models.load import compute_weights_digest, find_base_artifact
from luthier.tune.forecast import predict_tuned_model

SECONDS = 1.0
"""Files are copied."""


class SelectSiteModel(Step):
    """Take the model that one site has for itself after a federation with a `personal` part: the shared weights with
    the site's own.

    It is evaluated, served and exported like any other. For sites of the same recipe name the step in `tuned`; a site
    elsewhere names the folder that `luthier site model` prints.
    """

    kind: Literal["site_model"] = "site_model"
    makes: ClassVar[str] = "model"

    tuned: Annotated[str | None, Reads("model", optional=True), BasicMarker()] = None
    """The step `federate` whose sites are on this machine."""
    site: Annotated[str | None, BasicMarker()] = None
    """The site, as that step names it."""
    folder: PathText | None = None
    """The folder of a site's own model at a site elsewhere, in place of `tuned` and `site`."""
    model: Annotated[str | None, Reads("model", through="tuned")] = None
    """The step whose model was tuned; when not given, that of `tuned`, or the recipe's own model."""

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.tuned is None) == (self.folder is None):
            raise ValueError("name the step `tuned` that federates, or the `folder` of a site elsewhere, one of them")
        if (self.tuned is None) != (self.site is None):
            raise ValueError("`site` names a site of the step in `tuned`; give both, or neither")
        return self

    def inputs(self) -> dict[str, Reads]:
        """Without a step that federates, a model left out is the recipe's own."""
        return {**self.reads(), **({"model": Reads("model")} if self.tuned is None else {})}

    def fingerprint(self, recipe_dir: Path) -> str | None:
        """A digest of the folder's files, where one is named."""
        if self.folder is None:
            return None
        folder = self._find_folder(recipe_dir)
        return files_digest((path for path in folder.rglob("*") if path.is_file()), folder)

    def make(self, work: StepContext) -> Mapping[str, Any]:
        """Copy the model's files."""
        from luthier.federated.coordinator import RECORD

        base = work.inputs["model"]
        if self.folder is not None:
            folder = self._find_folder(work.recipe_dir)
            record = TrainingRecord.read(describe_folder(folder, "", "tune", "model", {}))
            trained = (record.model_extra or {}).get("federation", {}).get("base", "")
            if trained != compute_weights_digest(find_base_artifact(base)):
                raise self._other_base(str(self.folder))
        else:
            tuned = work.inputs["tuned"]
            if tuned.manifest.inputs.get("model") != base.digest:
                raise self._other_base(str(self.tuned))
            sites = tuned.read_json(RECORD).get("personal", {}).get("sites", {})
            self._check_site(sites)
            folder = tuned.path(sites[self.site])
        shutil.copytree(folder, work.folder, dirs_exist_ok=True)
        return {}

    def estimate_cost(self, plan_context: PlanContext) -> StepCostEstimate:
        """Refuse a step that keeps no models of sites, a site that it does not have, and another base."""
        upstream = plan_context.upstream.get("tuned")
        if upstream is not None:
            self._check_step(upstream)
        lineage, base = plan_context.stands_on.get("tuned", ()), plan_context.stands_on.get("model", ())[:1]
        if self.tuned is not None and base and base != lineage[1:2]:
            raise self._other_base(self.tuned)
        return StepCostEstimate(seconds=SECONDS, how="files are copied")

    def outline(self, plan_context: PlanContext) -> ArtifactSpec:
        """Predict the size of the base model, and the shared model's way of merging."""
        tuned = plan_context.outlines.get("tuned", ArtifactSpec())
        return replace(predict_tuned_model(plan_context), merging=tuned.merging, headed=tuned.headed)

    def _check_step(self, upstream: Step) -> None:
        """`ModelError` where the step in `tuned` leaves no model of this site."""
        where = SourceLocation(field="tuned")
        if not isinstance(upstream, Federate) or upstream.personal is None:
            hint = f"set `personal` in {self.tuned!r}, or take the step itself for the shared model"
            raise ModelError(f"{self.tuned!r} leaves no models of sites", where=where, hint=hint)
        if not upstream.sites:
            what = f"the sites of {self.tuned!r} are elsewhere, and so are their own models"
            raise ModelError(what, where=where, hint="each site takes its own: `luthier site model`")
        if upstream.partition is None:
            self._check_site(upstream.sites)

    def _check_site(self, sites: Iterable[str]) -> None:
        """`ModelError` for a site that has no model of its own."""
        if self.site not in (known := list(sites)):
            where = SourceLocation(field="site")
            what = f"{self.tuned!r} has no model of a site {self.site!r}"
            raise ModelError(what, where=where, hint=did_you_mean(str(self.site), known))

    def _find_folder(self, recipe_dir: Path) -> Path:
        folder = resolve_path(str(self.folder), recipe_dir)
        if not any(entry.path == "training.json" for entry in list_files(folder)):
            where = SourceLocation(file=str(folder), field="folder")
            raise InputError("holds no model of a site", where=where, hint="`luthier site model` prints where it is")
        return folder

    def _other_base(self, name: str) -> ModelError:
        return ModelError(
            f"{name!r} was tuned from another model than `model`, on which the sites' models do not stand",
            where=SourceLocation(field="model"),
            hint="name the step that makes that model",
        )
