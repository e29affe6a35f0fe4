"""What is preferred where models are about as good: `smallest within 1 point`, `quickest within 2 points`."""

from __future__ import annotations

import re
from typing import NamedTuple

from luthier.core.errors import RecipeError, SourceLocation, did_you_mean

MEASURES = {"smallest": "parameters", "quickest": "latency", "cheapest": "price"}
"""Which aim each word compares; of all of them less is preferred."""
_FORM = re.compile(r"([A-Za-z]+) within (\d{1,6}(?:\.\d{1,6})?) (points?)")
_HINT = "write for example `smallest within 1 point`, `quickest within 2 points` or `cheapest within 0.5 points`"


class Preference(NamedTuple):
    """A measure of which less is preferred, as long as the metric is not worse by more than so many points."""

    text: str
    measure: str
    points: float

    def margin(self, whole: float) -> float:
        """The points on the scale of a metric of which 100 % is `whole`: hundredths of it."""
        return self.points / 100 * whole


def parse_preference(text: str, field: str = "prefer") -> Preference:
    """Read a preference; `RecipeError` says what is wrong with it."""
    where = SourceLocation(field=field)
    match = _FORM.fullmatch(" ".join(text.split()))
    if match is None:
        raise RecipeError(f"expected a preference, got {text!r}", where=where, hint=_HINT)
    word = match[1].lower()
    if word not in MEASURES:
        what = f"expected {', '.join(MEASURES)}, got {match[1]!r}"
        raise RecipeError(what, where=where, hint=did_you_mean(word, MEASURES))
    return Preference(f"{word} within {match[2]} {match[3]}", MEASURES[word], float(match[2]))
