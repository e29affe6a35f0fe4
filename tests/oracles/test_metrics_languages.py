"""Metrics of texts against sacrebleu, rouge-score, nltk and jiwer, on real sentences in ten languages and edge rows."""

from __future__ import annotations

import random
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.core.component import component_of_kind
from luthier.core.wordnet import synonyms
from luthier.metrics.kinds.rouge import Rouge1
from luthier.metrics.metric import Metric
from luthier.metrics.text.stems import stem
from tests.oracles.languages import ARTICLES, EDGES, UNSPACED, said

LANGUAGES = sorted(ARTICLES)
ROUGES = ("rouge1", "rouge2", "rougeL", "rougeLsum")
RARE = ("skies", "dying", "news", "Élan", "naïve", "42nd", "ß", "É", "İstanbul")
INSTALLED = Path("/usr/share/wordnet")


def measured(kind: str, predictions: list[str], references: list[str], **more: object) -> Any:
    return component_of_kind(Metric, kind)(kind=kind, **more).measure(predictions, references)


@pytest.mark.parametrize("language", LANGUAGES)
def test_sacrebleu(language: str) -> None:
    import sacrebleu

    predictions, references = said(language)
    tokenize = {"zh": "zh", "ja": "char", "th": "char"}.get(language, "13a")
    wanted = {
        "bleu": sacrebleu.corpus_bleu(predictions, [references], tokenize=tokenize).score,
        "chrf": sacrebleu.corpus_chrf(predictions, [references]).score,
        "ter": sacrebleu.corpus_ter(predictions, [references], asian_support=False).score,
    }
    for kind, score in wanted.items():
        more = {"tokenize": tokenize} if kind == "bleu" else {}
        assert measured(kind, predictions, references, **more).value == pytest.approx(score, abs=1e-9), kind
    plus = sacrebleu.corpus_chrf(predictions, [references], word_order=2).score
    assert measured("chrf", predictions, references, word_order=2).value == pytest.approx(plus, abs=1e-9)


@pytest.mark.parametrize("language", LANGUAGES)
def test_jiwer(language: str) -> None:
    import jiwer

    predictions, references = said(language)
    assert measured("wer", predictions, references).value == pytest.approx(jiwer.wer(references, predictions), abs=1e-9)
    assert measured("cer", predictions, references).value == pytest.approx(jiwer.cer(references, predictions), abs=1e-9)


class Signs:
    """rouge-score's seam for other words: every run of letters, and single signs where there are no spaces."""

    def tokenize(self, text: str) -> list[str]:
        import regex

        return regex.findall(
            r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}ー]|(?:(?![\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}ー])[\p{L}\p{N}]\p{M}*)+",
            text.lower(),
        )


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("kind", ROUGES)
def test_rouge_score(language: str, kind: str) -> None:
    from rouge_score.rouge_scorer import RougeScorer

    predictions, references = said(language)
    if kind == "rougeLsum":
        predictions = [re.sub(r"[,;、 ] ?", "\n", text, count=2) for text in predictions]
    settings_of = {"latin": {}, "latin stemmed": {"stem": True}, "unicode": {"words": "unicode"}}
    scorers = {
        "latin": RougeScorer([kind]),
        "latin stemmed": RougeScorer([kind], use_stemmer=True),
        "unicode": RougeScorer([kind], tokenizer=Signs()),
    }
    for name, scorer in scorers.items():
        wanted = [scorer.score(real, one)[kind].fmeasure for one, real in zip(predictions, references, strict=True)]
        found = measured(kind, predictions, references, **settings_of[name])
        assert found.rows == pytest.approx(wanted, abs=1e-9), name
        assert found.value == pytest.approx(np.mean(wanted), abs=1e-9), name


@pytest.mark.parametrize("language", UNSPACED)
def test_latin_words_see_nothing_in_other_scripts(language: str) -> None:
    predictions, references = said(language)
    assert measured("rouge1", predictions, references).value == 0
    assert measured("rouge1", references, references, words="unicode").value == 1


def test_accents_and_vowel_signs_belong_to_their_word() -> None:
    assert Rouge1(words="unicode").split("नमस्ते दुनिया, e\u0301te\u0301 42") == ["नमस्ते", "दुनिया", "e\u0301te\u0301", "42"]


class _Lemma(NamedTuple):
    word: str

    def name(self) -> str:
        return self.word


class _Synset(NamedTuple):
    words: frozenset[str]

    def lemmas(self) -> Iterator[_Lemma]:
        return (_Lemma(word) for word in self.words)


class Table:
    """Our table in the shape in which nltk's METEOR asks for WordNet."""

    def synsets(self, word: str) -> list[_Synset]:
        return [_Synset(synonyms(word))]


PARAPHRASES = (
    ("the feline rested on a small rug", "a cat was resting on the little carpet"),
    ("he purchased an automobile", "he bought a car"),
    ("the physician assists ill children", "the doctor helps sick kids"),
    ("It is a guide to action which ensures that the military always obeys the commands of the party",
     "It is a guide to action that ensures that the military will forever heed Party commands"),
)  # fmt: skip


def _rows() -> list[tuple[str, str]]:
    rows = [*PARAPHRASES, *((b, a) for a, b in PARAPHRASES), *EDGES]
    for language in LANGUAGES:
        rows += list(zip(*said(language, 1, 25), strict=True))
    return rows


@pytest.mark.parametrize("settings_given", [{}, {"alpha": 0.5, "beta": 1.0, "gamma": 0.3}])
def test_meteor_is_nltks(settings_given: dict[str, float]) -> None:
    from nltk.translate.meteor_score import meteor_score

    predictions, references = (list(column) for column in zip(*_rows(), strict=True))
    wanted = [
        meteor_score([real.split()], one.split(), wordnet=Table(), **settings_given)
        for one, real in zip(predictions, references, strict=True)
    ]
    found = measured("meteor", predictions, references, words="spaces", **settings_given)
    assert found.rows == pytest.approx(wanted, abs=1e-9)
    assert found.value == pytest.approx(np.mean(wanted), abs=1e-9)


def test_meteor_takes_the_best_reference() -> None:
    both = component_of_kind(Metric, "meteor")(kind="meteor").measure(["a cat sat"], [["nothing alike", "a cat sat"]])
    assert both.value == measured("meteor", ["a cat sat"], ["a cat sat"]).value


def test_meteor_with_and_without_synonyms() -> None:
    with_them = measured("meteor", ["he is ill"], ["the man is sick"]).value
    without = measured("meteor", ["he is ill"], ["the man is sick"], synonyms=False).value
    assert with_them > without > 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_meteor_is_nltks_with_wordnets_own_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not (INSTALLED / "data.noun").is_file():
        pytest.skip("WordNet's own files are not installed (Debian's package wordnet-base)")
    import nltk
    from nltk.corpus.reader.wordnet import WordNetCorpusReader
    from nltk.translate.meteor_score import meteor_score

    for path in filter(Path.is_file, INSTALLED.iterdir()):  # Debian's package `wordnet` adds a folder
        shutil.copy(path, tmp_path)
    (tmp_path / "lexnames").write_text("".join(f"{number:02d}\tlex{number}\t1\n" for number in range(45)))
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    own = type("Reader", (WordNetCorpusReader,), {"map_wn": lambda self, *versions: {}})(str(tmp_path), None)
    words = sorted({name for name in own.all_lemma_names() if "_" not in name})
    chance = random.Random(3)
    rows = _rows()
    for _ in range(60):
        real = chance.sample(words, 6)
        one = [chance.choice(sorted(synonyms(word)) or [word]) for word in real]
        rows.append((" ".join(one), " ".join(real)))
    predictions, references = (list(column) for column in zip(*rows, strict=True))
    wanted = [meteor_score([real.split()], one.split(), wordnet=own) for one, real in rows]
    assert measured("meteor", predictions, references, words="spaces").rows == pytest.approx(wanted, abs=1e-9)


@given(st.text("abcdefghijklmnoprstuvwyz", min_size=1, max_size=6), st.sampled_from(
    ["", "s", "ies", "sses", "eed", "ed", "ing", "ied", "y", "ational", "alli", "fulli", "logi", "ization", "ness",
     "ement", "ion", "tion", "sion", "ll", "e", "ative", "ical", "izing", "bling", "ating", "yy"]
))  # fmt: skip
@settings(max_examples=300, deadline=None)
def test_stems_are_nltks(root: str, suffix: str) -> None:
    from nltk.stem.porter import PorterStemmer

    assert stem(root + suffix) == PorterStemmer().stem(root + suffix)


def test_stems_of_real_words_are_nltks() -> None:
    from nltk.stem.porter import PorterStemmer

    from luthier.core.wordnet import _table

    stemmer = PorterStemmer()
    words = sorted({word for _, word in _table().senses})
    for word in [*random.Random(5).sample(words, 2000), *RARE]:
        assert stem(word) == stemmer.stem(word), word
