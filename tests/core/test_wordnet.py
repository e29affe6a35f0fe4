"""The table of synonyms is WordNet 3.0's, and forms are brought to their base as NLTK brings them."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from luthier.core.wordnet import PARTS, base_forms, irregular_forms, synonyms, synsets

INSTALLED = Path("/usr/share/wordnet")
"""Where Debian's package `wordnet-base` puts the files that the table was made from."""


def test_words_have_their_synonyms_in_all_forms() -> None:
    assert {"aid", "assist", "assistance", "help"} <= synonyms("helps")
    assert synonyms("HELPED") == synonyms("helped")
    assert "buy" in synonyms("purchased")
    assert synonyms("qwertz") == frozenset()


@pytest.mark.parametrize(
    ("form", "part", "bases"),
    [
        ("parcels", "n", ["parcel"]),
        ("children", "n", ["child"]),
        ("women", "n", ["woman"]),
        ("went", "v", ["go"]),
        ("stopped", "v", ["stop"]),
        ("studies", "v", ["study"]),
        ("making", "v", ["make"]),
        ("better", "a", ["better", "good", "well"]),
        ("quickly", "r", ["quickly"]),
        ("axes", "n", ["ax", "axis"]),
        ("", "n", []),
    ],
)
def test_forms_are_brought_to_their_base(form: str, part: str, bases: list[str]) -> None:
    assert base_forms(form, part) == bases


def test_senses_come_commonest_first() -> None:
    first = synsets("help", "v")[0]
    uses = {lemma.word: (lemma.number, lemma.uses) for lemma in first.lemmas}
    assert uses == {"help": (1, 183), "assist": (1, 21), "aid": (1, 36)}
    assert [synset.part for synset in synsets("help")] == sorted(
        (synset.part for synset in synsets("help")), key=PARTS.index
    )
    assert "stopping" in irregular_forms("stop", "v")
    assert irregular_forms("parcel", "n") == ()


def _nltk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    import nltk
    from nltk.corpus.reader.wordnet import WordNetCorpusReader

    # what it maps are ids of another corpus, which only other languages need
    own = type("Reader", (WordNetCorpusReader,), {"map_wn": lambda self, *versions: {}})
    for path in filter(Path.is_file, INSTALLED.iterdir()):
        shutil.copy(path, folder)
    (folder / "lexnames").write_text("".join(f"{number:02d}\tlex{number}\t1\n" for number in range(45)))
    monkeypatch.setattr(nltk.data, "path", [str(folder)])
    return own(str(folder), None)


@pytest.mark.filterwarnings("ignore")
def test_it_says_what_nltk_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not (INSTALLED / "data.noun").is_file():
        pytest.skip("WordNet's own files are not installed (Debian's package wordnet-base)")
    reference = _nltk(tmp_path, monkeypatch)
    words = sorted({name for name in reference.all_lemma_names() if "_" not in name})
    sample = random.Random(1).sample(words, 1000)
    for form in (word + ending for word in sample for ending in ("", "s", "es", "ed", "ing", "er")):
        wanted = {lemma.name() for synset in reference.synsets(form) for lemma in synset.lemmas()}
        assert synonyms(form) == {name for name in wanted if "_" not in name}, form
