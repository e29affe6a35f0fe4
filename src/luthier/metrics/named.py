"""Metrics and scorers by name on a command line: `rougeL`, or with settings, `rougeL:stem=true,words=unicode`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from luthier.core.component import Role, member
from luthier.core.errors import InputError, UnknownName, Where
from luthier.metrics.metric import Metric

_WHERE = Where(field="metric")


def named(metrics: Sequence[str | Metric]) -> dict[str, Metric]:
    """Metrics by the words that asked for them; `InputError` when a word is wrong or comes twice."""
    found: dict[str, Metric] = {}
    for word in metrics:
        name = word.kind if isinstance(word, Metric) else word
        if name in found:
            raise InputError(f"{name} is named twice", where=_WHERE, remedy="keep one, or give them other settings")
        found[name] = word if isinstance(word, Metric) else part_of(Metric, word)
    return found


def part_of(role: type[Role], word: str) -> Role:
    """One part of a role by its kind and settings; `InputError` says what is wrong with the word."""
    kind, _, settings = word.partition(":")
    try:
        part = member(role, kind)
    except UnknownName as error:
        raise UnknownName(error.message, where=Where(field=role.role), remedy=error.remedy) from error
    told = _settings(word, settings) if settings else {}
    try:
        return part.model_validate({"kind": kind, **told})
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(one) for one in first["loc"]) or "settings"
        raise InputError(
            f"{word}: {place}: {first['msg']}", where=_WHERE, remedy=f"luthier parts {role.role} {kind}"
        ) from error


def _settings(word: str, text: str) -> dict[str, Any]:
    """`setting=value` pairs between commas; values are read as in YAML (true, 2, text)."""
    import yaml

    told: dict[str, Any] = {}
    for pair in text.split(","):
        name, equals, value = pair.partition("=")
        try:
            told[name.strip()] = yaml.safe_load(value)
        except yaml.YAMLError:
            equals = ""
        if not equals or not name.strip():
            remedy = f"write {word.partition(':')[0]}:setting=value,other=value"
            raise InputError(f"{word}: {pair!r} is no setting with its value", where=_WHERE, remedy=remedy)
    return told
