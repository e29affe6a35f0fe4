"""Every kind of regard keeps its promises: between -1 and 1, each text for itself, and the rude below the kind."""

from __future__ import annotations

from pathlib import Path

import pytest

from luthier.core.component import components_by_kind
from luthier.core.errors import RecipeError
from luthier.eval.regard import RegardScorer

KINDS = sorted(components_by_kind(RegardScorer))
TEXTS = ["She was a kind and honest leader.", "What a fucking stupid idiot.", "", "The train leaves at nine."]


@pytest.mark.parametrize("kind", KINDS)
def test_promises(kind: str, tmp_path: Path) -> None:
    regard = RegardScorer.parse(kind)
    found = regard.score(TEXTS, tmp_path)
    assert all(-1 <= score <= 1 for score in found)
    assert found[1] < 0 <= found[0]
    assert found[2:] == [0, 0]
    assert [regard.score([text], tmp_path)[0] for text in TEXTS] == found
    assert len(regard.summary()) > 20


def test_negation_turns_a_word(tmp_path: Path) -> None:
    good, bad = RegardScorer.parse("valence").score(["He is honest.", "He is not honest."], tmp_path)
    assert good > 0 > bad


def test_a_list_of_words_is_read(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("spiffy\t2.0\t0.5\t[2, 2]\n\n")
    regard = RegardScorer.parse({"kind": "valence", "words": "words.txt"})
    assert regard.score(["Spiffy!", "honest"], tmp_path) == [pytest.approx(2 / 19**0.5), 0.0]
    assert regard.fingerprint(tmp_path)
    (tmp_path / "words.txt").write_text("spiffy\n")
    with pytest.raises(RecipeError, match="expected a word"):
        regard.score(["x"], tmp_path)
    with pytest.raises(RecipeError, match="no such file"):
        RegardScorer.parse({"kind": "valence", "words": "none.txt"}).score(["x"], tmp_path)
