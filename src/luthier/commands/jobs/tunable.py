"""The base models that jobs may tune, by the names that clients call them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from luthier.core.errors import InputError, LuthierError, ModelError, SourceLocation
from luthier.models.catalog import ENCODERS
from luthier.models.load import is_endpoint
from luthier.recipe.models import open_base_model
from luthier.recipe.workspace import Workspace


class TunableModel(NamedTuple):
    """A base model that may be tuned."""

    name: str
    """Its public name."""
    word: str
    """Its name in a recipe."""


def resolve_tunable_models(
    workspace: Workspace, requested: Iterable[str], served: Iterable[str]
) -> Mapping[str, TunableModel]:
    """Return the named models (`NAME=MODEL`, or a model alone), else the served base models."""
    tunable_models = [_named(workspace, text) for text in requested]
    if not tunable_models:
        tunable_models = [TunableModel(word, _placed(workspace, word)) for word in served if _is_base(workspace, word)]
    return {tunable_model.name: tunable_model for tunable_model in tunable_models}


def _named(workspace: Workspace, text: str) -> TunableModel:
    name, equals, word = text.partition("=")
    tunable_model = TunableModel(name.strip(), _placed(workspace, (word if equals else text).strip()))
    if not tunable_model.name or not tunable_model.word or len(tunable_model.name) > 200:
        raise InputError(
            "expected NAME=MODEL, or a model", where=SourceLocation(field="--tune"), hint="gpt-4o-mini=qwen3-0.6b"
        )
    try:
        artifact = open_base_model(workspace, tunable_model.word)
    except LuthierError as error:
        raise type(error)(error.message, where=SourceLocation(field="--tune"), hint=error.hint) from error
    if is_endpoint(artifact):
        raise ModelError(
            f"{tunable_model.word} is an endpoint: its weights are not here", where=SourceLocation(field="--tune")
        )
    return tunable_model


def _placed(workspace: Workspace, word: str) -> str:
    """Return the absolute path of a folder or file: jobs' recipes are elsewhere."""
    path = workspace.resolve(word)
    return str(path.absolute()) if word and path.exists() else word


def _is_base(workspace: Workspace, word: str) -> bool:
    """Return whether a served name is a base model with local weights."""
    if word in ENCODERS or ":" in word or word.endswith((".yaml", ".yml")):
        return False
    try:
        return not is_endpoint(open_base_model(workspace, word))
    except LuthierError:
        return False  # a step's digest, a pipeline: served, but no base
