"""Filters and scores as the harness defines them."""

from __future__ import annotations

import math
import re
import string
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from luthier.core.errors import RecipeError, SourceLocation, did_you_mean
from luthier.models.lm.base import Response

Filter = Callable[[str], str]


def build_filter_chains(filter_list: Sequence[Mapping[str, Any]] | None, file: Path) -> dict[str, list[Filter]]:
    """The chains of filters by name; one that changes nothing where none is named."""
    if not filter_list:
        return {"none": []}
    return {str(one["name"]): [made for each in one["filter"] if (made := _filter(each, file))] for one in filter_list}


def _filter(filter_config: Mapping[str, Any], file: Path) -> Filter | None:
    settings = {key: value for key, value in filter_config.items() if key != "function"}
    name = str(filter_config.get("function"))
    if name not in _FILTERS:
        where = SourceLocation(file=str(file), field="filter_list")
        raise RecipeError(f"the filter {name!r} is not known here", where=where, hint=did_you_mean(name, _FILTERS))
    try:
        return _FILTERS[name](**settings)
    except (TypeError, re.error) as error:
        where = SourceLocation(file=str(file), field="filter_list")
        raise RecipeError(f"the filter {name!r} cannot be set up: {error}", where=where) from error


def _regex(regex_pattern: str = r"#### (\-?[0-9\.\,]+)", group_select: int = 0, fallback: str = "[invalid]") -> Filter:
    pattern = re.compile(regex_pattern)

    def found(text: str) -> str:
        matches = pattern.findall(text)
        if not matches:
            return fallback
        match = matches[group_select]
        if isinstance(match, tuple):
            match = next((one for one in match if one), fallback)
        return str(match).strip()

    return found


def _mapped(mapping_dict: Mapping[str, str] | None = None, default_value: str | None = None) -> Filter:
    return lambda text: str((mapping_dict or {}).get(text, default_value))


_FILTERS: dict[str, Callable[..., Filter | None]] = {
    "regex": _regex,
    "remove_whitespace": lambda: str.strip,
    "take_first": lambda: None,
    "lowercase": lambda: str.lower,
    "uppercase": lambda: str.upper,
    "map": _mapped,
}


def exact_match(prediction: str, reference: str, settings: Mapping[str, Any]) -> bool:
    """Whether two texts are the same once what is to be ignored is taken out."""
    for name in settings.get("regexes_to_ignore") or ():
        prediction, reference = re.sub(name, "", prediction), re.sub(name, "", reference)
    if settings.get("ignore_case"):
        prediction, reference = prediction.lower(), reference.lower()
    gone = string.punctuation if settings.get("ignore_punctuation") else ""
    gone += string.digits if settings.get("ignore_numbers") else ""
    table = str.maketrans("", "", gone)
    return prediction.translate(table) == reference.translate(table)


def choice_scores(responses: Sequence[Response], choices: Sequence[str], gold: Any) -> dict[str, float]:
    """Every score of one multiple-choice row. `told` may hold the choices once more, with nothing before them."""
    count = len(choices)
    sums = [float(one.logprob or 0.0) for one in responses[:count]]
    right = _places(gold, choices)
    believed = softmax_loglikelihoods(sums)
    scores = {
        "taken": float(argmax_index(sums)),
        "acc": float(argmax_index(sums) in right),
        "acc_norm": float(argmax_index([_over(x, len(one)) for x, one in zip(sums, choices, strict=True)]) in right),
        "acc_bytes": float(
            argmax_index([_over(x, len(one.encode())) for x, one in zip(sums, choices, strict=True)]) in right
        ),
        "exact_match": float(any(responses[at].is_greedy for at in right)),
        "brier_score": sum((share - (at in right)) ** 2 for at, share in enumerate(believed)),
    }
    if len(responses) == 2 * count:
        alone = [float(one.logprob or 0.0) for one in responses[count:]]
        scores["acc_mutual_info"] = float(argmax_index([x - y for x, y in zip(sums, alone, strict=True)]) in right)
    return scores


def argmax_index(values: Sequence[float]) -> int:
    """The first place of the greatest value."""
    return max(range(len(values)), key=lambda at: (values[at], -at))


def find_gold_indices(gold: Any, choices: Sequence[str]) -> list[int]:
    """Places of the right choices; none where the row names one that is not there."""
    return sorted(_places(gold, choices))


def _places(gold: Any, choices: Sequence[str]) -> set[int]:
    every = gold if isinstance(gold, list) else [gold]
    indices = [choices.index(one) if isinstance(one, str) and one in choices else one for one in every]
    return {one for one in indices if isinstance(one, int) and 0 <= one < len(choices)}


def _over(value: float, length: int) -> float:
    return value / length if length else -math.inf


def softmax_loglikelihoods(sums: Sequence[float]) -> list[float]:
    """Log-likelihoods as shares that add up to one."""
    most = max(sums)
    parts = [math.exp(one - most) for one in sums]
    return [one / sum(parts) for one in parts]
