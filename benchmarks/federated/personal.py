"""Parts of a model that stay at the sites, on sites' own held-out requests."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.federated.figures import DATA, Extent, print_figure

SNIPS = DATA / "snips"
"""Spoken requests with one of seven intents, where they are (Coucke et al., 2018)."""


def measure(extent: Extent) -> None:
    """Parts that stay at the sites."""
    compare_personal(each=30 if extent.quick else 120, rounds=2 if extent.quick else 4, epochs=2)


def read_requests(each: int) -> list[tuple[str, str]]:
    """So many requests of each intent, in turn, with their intent."""
    found = []
    for path in sorted(SNIPS.glob("train_*.json")):
        intent = path.stem.removeprefix("train_")
        entries = json.loads(path.read_text(encoding="utf-8"))[intent]
        step = max(1, len(entries) // each)
        texts = ["".join(part["text"] for part in entry["data"]) for entry in entries[::step][:each]]
        found.append([(text.strip(), intent) for text in texts])
    return [one for some in zip(*found, strict=True) for one in some]


def build_skewed_sites(root: Path, parts: dict[str, list[tuple[str, str]]]) -> Any:
    """Sites whose own held-out rows are every third of theirs."""
    import tuning
    from federations import build_sites

    def build(some: list[tuple[str, str]]) -> Any:
        return [tuning.chat(text, intent, line) for line, (text, intent) in enumerate(some)]

    intents = sorted({intent for some in parts.values() for _, intent in some})
    held_out = {name: build(some[::3]) for name, some in parts.items()}
    table = tuning._data

    def write(folder: Path, splits: dict[str, Any]) -> None:
        table(folder, {**splits, "test": held_out[next(names)]})
        path = folder / "summary.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "labels": intents}))

    import federations

    names, federations._data = iter(parts), write
    sites = build_sites(
        root, {name: build([one for at, one in enumerate(some) if at % 3]) for name, some in parts.items()}
    )
    federations._data = table
    return sites


def compare_personal(each: int, rounds: int, epochs: int, only: tuple[str, ...] = ()) -> None:
    """Five sites whose requests differ: accuracy on the sites' own held-out requests by the shared model, and by the
    models that sites have for themselves; `alone` is a training of each site as long, where all sites have all
    classes."""
    import numpy

    from luthier.federated.partition import _draw_shares, _fill_small_sites

    if not SNIPS.is_dir():
        print("  skipped: the requests of SNIPS are not here", flush=True)
        return
    rows = read_requests(each)
    intents = sorted({intent for _, intent in rows})
    dealt = _draw_shares([intent for _, intent in rows], 5, 0.1, numpy.random.default_rng(3))
    _fill_small_sites(dealt, 30)
    skewed = {f"site{at}": [rows[index] for index in indices] for at, indices in enumerate(dealt)}
    renamed = {
        f"site{at}": [(text, intents[(intents.index(intent) + at) % len(intents)]) for text, intent in rows[at::5]]
        for at in range(5)
    }
    technique = {"kind": "lora", "r": 16}
    tune = {"technique": technique, "objective": {"kind": "classify", "head": "sequence"}, "learning_rate": 5e-3}
    adapter = {"kind": "adapter", "r": 8, "local": {"epochs": float(rounds * epochs) / 2}}
    kinds: dict[str, dict[str, Any]] = {
        "shared": {"sum": "factors"},
        "alone": {"sum": "factors"},
        "head": {"sum": "factors", "personal": "head"},
        "lora_b": {"sum": "mean", "personal": "lora_b"},
        "adapter": {"sum": "factors", "personal": adapter},
    }
    kinds = {kind: settings for kind, settings in kinds.items() if not only or kind in only}
    for case, parts in (("dirichlet_0.1", skewed), ("other_names_of_classes", renamed)):
        found = {}
        with tempfile.TemporaryDirectory() as root:
            sites = build_skewed_sites(Path(root), parts)
            for kind, settings in kinds.items():
                if kind == "alone" and parts is skewed:
                    continue  # some held-out requests have intents that a site alone never saw
                started = time.process_time()
                own, sent = {}, 0.0
                for names in [[name] for name in parts] if kind == "alone" else [list(parts)]:
                    more = {"local": {"epochs": epochs}, "tune": tune, "metrics": ["accuracy"], **settings}
                    step = sites.step(names, rounds=rounds, **more)
                    made = sites.federate(step, digest=f"{len(found)}{names[-1][-1]}" * 16)
                    record = made.read_json("federation.json")
                    own |= record["metrics"]["accuracy"]["sites"]
                    sent = sum(entry["up_bytes"] + entry["down_bytes"] for entry in record["rounds"]) / 1e3 / rounds
                rows_in_all = sum(one["rows"] for one in own.values())
                found[kind] = sum(one["value"] * one["rows"] for one in own.values()) / rows_in_all
                each_site = " ".join(f"{one['value']:.2f}" for one in own.values())
                print(
                    f"  {case}, {kind}: accuracy {found[kind]:.3f} on {rows_in_all} own rows ({each_site}), "
                    f"{0 if kind == 'alone' else sent:.0f} kB a round and site, "
                    f"{time.process_time() - started:.0f} CPU s",
                    flush=True,
                )
        for kind in list(kinds)[2:]:
            print_figure(f"personal_{kind}_{case}", round(found[kind] - found["shared"], 4), "> 0", "accuracy")
