"""Is the advice right? `luthier advise` on the sets of outcome.py, each left out of its own evidence.

    python benchmarks/advice.py

For each set that outcome.py measured, the training rows are drawn as there, profiled as `luthier advise` does, and the
techniques ranked from the shipped evidence without any record of that set. Measured are LoRA (as `luthier new` proposes
it) and the plain classifier, on 200 to 250 held-out rows (results/outcome.txt): a first choice is right if it is within
two points of the better of the two, and an interval holds if the measured value lies in it. Beside stand two answers
without advice, always LoRA and always the plain classifier. No model is trained here. Needs `../shared/data`; four sets
come from packages of the package index.
"""

from __future__ import annotations

import json
import random
import sys
import time
from statistics import median

from luthier.auto.advice.evidence import EvidenceRecord, read_shipped_evidence
from luthier.auto.advice.predict import ModelChoice, TechniqueCost, rank_techniques
from luthier.auto.advice.profile import AdviceProfile
from luthier.data.suggest.separability import measure_separability
from outcome import DATA, TABLES

SEED = 7
WITHIN = 0.02
COSTS = {
    ModelChoice("lora", "smollm2-135m-instruct", 134_515_008): TechniqueCost(seconds=100),
    ModelChoice("plain"): TechniqueCost(seconds=2),
}


def main() -> None:
    """Print a line for each set, then the figures."""
    if not DATA.is_dir():
        sys.exit(f"the real data is not beside the repository: {DATA}")
    measured = _measured()
    print(f"{'set':16}{'rows':>5}  {'LoRA: foretold':24}{'measured':>8}  {'plain: foretold':24}{'measured':>8}  first")
    right, always_lora, always_plain, held, seconds = [], [], [], [], []
    errors: dict[str, list[float]] = {"lora": [], "plain": []}
    for name, values in measured.items():
        started = time.process_time()
        profile = _profile(name, values["lora"])
        evidence = [one for one in read_shipped_evidence() if one.set != name]
        ranking = rank_techniques(profile, COSTS, evidence, metric="accuracy")
        seconds.append(time.process_time() - started)
        by_name = {one.technique: one for one in ranking.techniques}
        best = max(one.value for one in values.values())
        told = f"{name:16}{values['lora'].train_rows:5}"
        for technique, record in values.items():
            found = by_name[technique]
            inside = found.low <= record.value <= found.high
            held.append(inside)
            errors[technique].append(abs(found.quality - record.value))
            interval = f"{found.quality:.3f} [{found.low:.3f}, {found.high:.3f}]{'' if inside else ' !'}"
            told += f"  {interval:24}{record.value:8.3f}"
        first = ranking.techniques[0].technique
        right.append(best - values[first].value <= WITHIN)
        always_lora.append(best - values["lora"].value <= WITHIN)
        always_plain.append(best - values["plain"].value <= WITHIN)
        print(f"{told}  {first}{'' if right[-1] else ' !'}")
    print()
    for figure, rows, goal in (
        ("first_choice_within_two_points", right, "0.8 or more"),
        ("the_same_of_always_lora", always_lora, ""),
        ("the_same_of_always_plain", always_plain, ""),
        ("intervals_hold", held, "0.90 to 0.98"),
    ):
        value = round(sum(rows) / len(rows), 3)
        print(json.dumps({"figure": figure, "value": value, "of": len(rows), "goal": goal}))
    for technique, found in errors.items():
        print(
            json.dumps({"figure": f"median_error_of_{technique}", "value": round(median(found), 3), "of": len(found)})
        )
    print(json.dumps({"figure": "median_cpu_seconds", "value": round(median(seconds), 2), "of": len(seconds)}))


def _measured() -> dict[str, dict[str, EvidenceRecord]]:
    """What outcome.py measured with the seed of these rows, by set and technique."""
    found: dict[str, dict[str, EvidenceRecord]] = {}
    for one in read_shipped_evidence():
        if one.source.endswith("outcome.txt"):
            found.setdefault(one.set, {})[one.technique] = one
    return found


def _profile(name: str, record: EvidenceRecord) -> AdviceProfile:
    """The profile of a set's training rows."""
    rows = sorted(set(TABLES[name].rows()))
    random.Random(SEED).shuffle(rows)
    drawn = rows[: record.train_rows]
    return AdviceProfile(
        task="label",
        rows=len(drawn),
        held_out=record.rows,
        classes=record.classes,
        prompt_words=sum(len(row.text.split()) for row in drawn) / len(drawn),
        separability=measure_separability([row.text for row in drawn], [row.label for row in drawn]),
    )


if __name__ == "__main__":
    main()
