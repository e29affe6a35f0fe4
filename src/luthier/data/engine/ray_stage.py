"""A stage by workers of a Ray cluster: each makes the stage anew, and refuses to where it would be another one."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache

from luthier.core.component import digest_plugin_code, iter_components
from luthier.core.errors import InputError, SourceLocation
from luthier.core.hashing import digest_of
from luthier.core.revision import code_revision
from luthier.data.engine.ray_workers import RayWorkers
from luthier.data.engine.reader import external_fingerprints
from luthier.data.engine.stage import Stage, StageInput, StageOutput, dump_stage, load_stage
from luthier.data.operator import Operator


def run_ray_stage(stage: Stage, fed: Iterator[StageInput], workers: RayWorkers) -> Iterator[StageOutput]:
    """Take batches through a stage, in order; `InputError` where a machine of the cluster has other code or files."""
    setup, identity = dump_stage(replace(stage, kept=None)), _identify(stage)  # what models answered stays at home
    return workers.map(_run, ((setup, identity, stage_input) for stage_input in fed))


def _operators(stage: Stage) -> list[Operator]:
    return [*(named_operator.operator for named_operator in (*stage.rows, *stage.sets)), *stage.guards]


def _identify(stage: Stage) -> str:
    """A digest of what decides the rows that leave a stage beside its settings: its code, and the files it reads."""
    parts = [part for operator in _operators(stage) for part in iter_components(operator)]
    own = code_revision(__name__, *sorted({type(part).__module__ for part in parts}))
    plugins = [digest_plugin_code(operator) for operator in _operators(stage)]
    return digest_of([own, plugins, [external_fingerprints(part, stage.recipe_dir) for part in _operators(stage)]])


@lru_cache(maxsize=1)
def _load(setup: str, identity: str) -> Stage:
    stage = load_stage(setup)
    for operator in _operators(stage):
        for part in iter_components(operator):
            part.download(lambda _: None)
    if _identify(stage) != identity:
        message = f"the machine {platform.node()} has other code, or sees other files of the recipe, than the job"
        hint = "install the same Luthier and plugins on all nodes, and keep the recipe's folder where they share it"
        raise InputError(message, where=SourceLocation(field="ops"), hint=hint)
    return stage


def _run(setup: str, identity: str, fed: StageInput) -> StageOutput:
    return _load(setup, identity).run(fed)
