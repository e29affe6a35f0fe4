"""Personal data: recall and precision of each kind, on rows that the rules were not written from.

Three sets. *Made* rows: values by Faker and by python-stdnum, in sentences of seven languages that were written after
the rules; after a first run on other values the rules were mended once. Those about addresses are the third set of
sentences, and a fourth: of addresses in eighteen countries' forms 0.90, 0.82, 0.97 and 0.985 were found when a set
was first read, and after each the rules were mended. A fifth set was held out until its misses told what to weigh;
since then `postal_rows` is: whole addresses of fifty countries in tickets, forms, chats and signatures, written before
the rules were changed for them. *Look-alikes*: order numbers, versions, wrong check digits, times, ISBNs, git ids,
UUIDs. And pii_synth_small's 600 rows (presidio-research), in two halves by their templates: rules were mended on half
0, half 1 was never looked at; it has a single telephone number.
A find counts when it shares half of what either covers. `pii_presidio.py` measures Presidio beside ours.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from benchmarks.pii_rows import ELSEWHERE, UNKNOWN, addresses, look_alikes, made, synth
from benchmarks.postal_rows import none_postal, postal
from benchmarks.postal_values import LATIN, SCRIPTS, WEST

from luthier.core.errors import MissingExtra
from luthier.data.pii.benchmark import LabeledPiiText
from luthier.data.pii.benchmark import measure_precision_recall as rightness
from luthier.pii.detect import find_pii
from luthier.pii.recognizer import Recognizer
from luthier.pii.span import NAME_KINDS, PATTERN_KINDS, PiiKind, PiiSpan

GOAL = 0.98
NAMES_RECALL, NAMES_PRECISION = 0.85, 0.80
_SYNTH_KINDS = ("email", "phone", "card", "iban", "ssn", "ip")


def measure(quick: bool) -> Iterator[dict[str, Any]]:
    """Print a table for each set; yield recall and precision of each kind on all sets together."""
    rows = [*made(60 if quick else 300), *look_alikes(20 if quick else 100)]
    held_out = synth()
    patterns = [*rows, *held_out]
    print(f"{len(rows)} made rows, {len(held_out)} of pii_synth_small", flush=True)
    start = time.process_time()
    finds = [find_pii(row.text) for row in patterns]
    size = sum(len(row.text.encode()) for row in patterns)
    print(f"patterns: {size / 1e6 / (time.process_time() - start):.1f} MB a CPU-second", flush=True)
    yield from _table("made rows and look-alikes", rows, finds[: len(rows)], PATTERN_KINDS, "made")
    if held_out:
        yield from _table("pii_synth_small", held_out, finds[len(rows) :], _SYNTH_KINDS, "synth")
    yield from _addresses(60 if quick else 1170)
    yield from _postal(5 if quick else 30)
    for half in (0, 1):
        figures = list(_names(synth(half), f"pii_synth_small, half {half}"))
        yield from figures if half else ()


def _addresses(each: int) -> Iterator[dict[str, Any]]:
    """Addresses by who has seen what: countries and sentences that rules were mended on, or not."""
    sets = {
        "eighteen countries, sentences held out": ("held_out", addresses(each, 77, held_out=True)),
        "six more countries": ("elsewhere", addresses(each, 1009, locales=ELSEWHERE)),
        "six more countries, sentences held out": ("", addresses(each, 77, locales=ELSEWHERE, held_out=True)),
        "seven countries without rules, sentences held out": ("", addresses(each, 77, locales=UNKNOWN, held_out=True)),
    }
    for title, (name, made_rows) in sets.items():
        rows = list(made_rows)
        figures = list(_table(f"addresses: {title}", rows, [find_pii(row.text) for row in rows], ("address",), name))
        yield from figures if name else ()


def _postal(each: int) -> Iterator[dict[str, Any]]:
    """Whole addresses of fifty countries as people write them, beside sentences that only look so; by patterns, and
    with models that know addresses beside them and alone."""
    others = list(none_postal(each // 5))
    sets = [("postal" if group == WEST else "", group, list(postal(group, each))) for group in (WEST, LATIN, SCRIPTS)]
    yield from _postal_by("patterns", [find_pii(row.text) for row in others], sets, find_pii)
    for kind in ("rampart", "minilm"):
        recogniser = Recognizer.parse(kind)
        try:
            recogniser.recognise(["12 Elm Street, Springfield"])
        except MissingExtra as error:
            print(f"addresses by {kind}: {error.message}, not measured")
            continue
        kinds = (*PATTERN_KINDS, *recogniser.finds)

        def alone(text: str, recogniser: Recognizer = recogniser) -> list[PiiSpan]:
            return list(recogniser.recognise([text])[0])

        def both(
            text: str, alone: Callable[[str], list[PiiSpan]] = alone, kinds: Sequence[PiiKind] = kinds
        ) -> list[PiiSpan]:
            return find_pii(text, kinds, alone(text))

        for how, finder in ((f"patterns and {kind}", both), (f"{kind} alone", alone)):
            named = [(f"{name}_{kind}" if name and finder is both else "", *rest) for name, *rest in sets]
            yield from _postal_by(how, [finder(row.text) for row in others], named, finder)


def _postal_by(
    how: str,
    others: Sequence[Sequence[PiiSpan]],
    sets: Sequence[tuple[str, str, Sequence[LabeledPiiText]]],
    finder: Callable[[str], list[PiiSpan]],
) -> Iterator[dict[str, Any]]:
    wrong = sum(any(one.kind == "address" for one in finds) for finds in others)
    print(f"\n{len(others)} sentences without an address, {how}: one is found in {wrong}")
    for name, group, rows in sets:
        title = f"whole addresses as people write them, {how}: {group}"
        figures = list(_table(title, rows, [finder(row.text) for row in rows], ("address",), name))
        yield from figures if name else ()


def _names(rows: Sequence[LabeledPiiText], title: str) -> Iterator[dict[str, Any]]:
    """Persons and organisations, by each recogniser beside the patterns."""
    if not rows:
        print("names: pii_synth_small is not here, nothing is measured")
        return
    for kind in ("rampart", "minilm", "spacy"):
        recogniser = Recognizer.parse(kind)
        start = time.process_time()
        try:
            named = recogniser.recognise([row.text for row in rows])
        except MissingExtra as error:
            print(f"{kind}: {error.message}, not measured")
            continue
        seconds = time.process_time() - start
        finds = [
            find_pii(row.text, (*PATTERN_KINDS, *recogniser.finds), more) for row, more in zip(rows, named, strict=True)
        ]
        print(f"{kind}: {1000 * seconds / len(rows):.1f} CPU-ms a row")
        figures = list(_table(f"names by {kind}, {title}", rows, finds, ("person", "organisation"), kind))
        if kind != "spacy":
            yield from figures


def _table(
    title: str, rows: Sequence[LabeledPiiText], finds: Sequence[Sequence[PiiSpan]], kinds: Sequence[PiiKind], name: str
) -> Iterator[dict[str, Any]]:
    print(
        f"\n{title}\n{'kind':14}{'wanted':>8}{'found':>8}{'recall':>9}{'interval':>17}{'precision':>11}{'interval':>17}"
    )
    for kind, right in rightness(rows, finds).items():
        if kind not in kinds:
            continue
        shown = [f"{rate[0]:9.4f}  [{rate[1]:.3f}, {rate[2]:.3f}]" if rate else f"{'none':>9}{'':16}" for rate in
                 (right.recall, right.precision)]  # fmt: skip
        print(f"{kind:14}{right.expected:8}{right.found:8}{shown[0]}{shown[1]}", flush=True)
        for what, rate in (("recall", right.recall), ("precision", right.precision)):
            if rate is not None and right.expected:
                goal = {"recall": NAMES_RECALL, "precision": NAMES_PRECISION}[what] if kind in NAME_KINDS else GOAL
                yield {"figure": f"pii_{name}_{kind}_{what}", "value": round(rate[0], 4), "goal": goal, "unit": "share"}
