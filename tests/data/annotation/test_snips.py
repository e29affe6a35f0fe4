"""Rules over real requests (Snips, CC0) whose intents are known: what is decided, and what estimates are worth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from luthier.chat.messages import Message
from luthier.data.adjudicator import Adjudicator
from luthier.data.annotation.label_function_stats import label_function_stats, votes_to_annotations
from luthier.data.label_function import LabelFunction, name_label_functions
from luthier.data.row import Row
from tests.data.conftest import real_data  # noqa: F401  # a fixture

WORDS = {
    "AddToPlaylist": ["playlist", "playlists", "add"],
    "BookRestaurant": ["book", "reservation", "restaurant", "table", "reservations"],
    "GetWeather": ["weather", "forecast", "rain", "snow", "temperature", "cold", "hot", "sunny", "cloudy", "warm"],
    "PlayMusic": ["play", "listen", "hear", "spotify", "youtube", "itunes", "music"],
    "RateBook": ["rate", "stars", "points", "star", "rating"],
    "SearchScreeningEvent": ["movie", "movies", "theatre", "cinema", "cinemas", "theatres", "films", "showing"],
    "SearchCreativeWork": [
        "show me",
        "find",
        "look for",
        "looking for",
        "search",
        "saga",
        "trailer",
        "tv show",
        "game",
    ],
}
PATTERNS = {
    "RateBook": r"\b(out of|/) ?\d",
    "AddToPlaylist": r"(?i)\b(add|put|include)\b.*\b(to|in|into|onto)\b.*\b(playlist|my)\b",
    "BookRestaurant": r"(?i)\b(for|party of) (\d+|two|three|four|five|six|seven|eight|nine|ten)\b",
    "SearchScreeningEvent": r"(?i)\b(movies?|films?|schedule)\b.*\b(at|around|nearest|closest|in)\b",
}


def _snips(folder: Path) -> tuple[list[Row], list[str]]:
    rows: list[Row] = []
    truth: list[str] = []
    for path in sorted(folder.glob("*.json")):
        [(intent, told)] = json.loads(path.read_text(encoding="utf-8")).items()
        for one in told:
            text = "".join(part["text"] for part in one["data"])
            turns = (Message(role="user", content=text), Message(role="assistant", content="x"))
            rows.append(Row(len(rows), f"{len(rows):016x}", "json", path.name, 1, "chat", turns))
            truth.append(intent)
    return rows, truth


@pytest.mark.data
def test_rules_label_real_requests(real_data: Path) -> None:  # noqa: F811
    rows, truth = _snips(real_data / "snips")
    told: list[Any] = [{"kind": "keywords", "label": label, "words": words} for label, words in WORDS.items()]
    told += [{"kind": "regex", "label": label, "pattern": pattern} for label, pattern in PATTERNS.items()]
    told += [{"kind": "lexicon", "words": WORDS}]
    functions = [LabelFunction.parse(one) for one in told]
    names, votes = name_label_functions(functions), [function.vote(rows) for function in functions]

    def decided(kind: str) -> tuple[int, int, Any]:
        found = Adjudicator.parse(kind).decide(votes_to_annotations(names, votes))
        labels = [one.label for one in found.decisions]
        right = sum(label == true for label, true in zip(labels, truth, strict=True))
        return right, sum(label is not None for label in labels), found

    counted, model = decided("majority"), decided("label_model")
    assert model[0] > counted[0] + 20, "rows that a count of votes leaves as ties are decided, most of them rightly"
    assert model[0] / model[1] > 0.94
    assert model[1] / len(rows) > 0.85
    for one in label_function_stats(names, votes, model[2], truth):
        assert one.estimated is not None
        assert one.measured is not None
        assert abs(one.estimated - one.measured) < 0.08, f"nobody told it the truth: {one}"
