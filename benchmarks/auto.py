"""How good is the search of settings under a budget? Searchers replay a table of real trainings.

    python benchmarks/auto.py [--fill] [--neural] [--sets NAME …] [--rows N] [--ranks N …] [--seeds 100]
                               [--table FILE] [--ray PYTHON] [--syne PYTHON]

`--fill` adds trainings that the table does not have yet: 40 settings on each of 14 real sets at every rung (1/9, 1/3
and all of the training rows). These are quick trainings: two families of classifiers, TF-IDF with logistic regression
(`technique: plain`) and logistic regression on latent semantic analysis (`lsa`). They are not trainings of language
models; `--neural` makes and replays those in a table of its own, LoRA on SmolLM2 by the project's own recipe, which
takes hours, or some ten minutes of a quiet machine a set with `--rows 90`. A table keeps right and wrong of each
validation and test row as bits, and no texts.

Searchers then replay the table, each with a hundred seeds. The space is the table's grid, the same for all. A training
costs its share, and one that goes on pays the difference, for all searchers that have rungs. Regret is the best
validation accuracy of the table at the last rung minus that of the setting a searcher would choose, in percent of the
best; `test` is the same on the test rows, where the choice pays for its luck. Printed are mean regret by cost, the cost
at which a searcher's mean regret falls to that of ours at eight runs, and the share of time outside trials.

- `luthier`: this project's engine, by ask and tell. It has no advice here; trial 0 is a default in the middle.
- `random`: random search on whole runs, without duplicates.
- `optuna`: Optuna's defaults (TPE) on whole runs; a duplicate is not paid twice.
- `hyperband`: Optuna's TPE with its `HyperbandPruner`.
- `asha`: asynchronous successive halving as published (Li et al. 2020), one worker, reduction factor 3.
- `ray`: Ray Tune's ASHA, where `--ray` names the Python of an environment that has it (`auto_ray.py`).
- `syne`: Syne Tune's ASHA, where `--syne` names the Python of an environment that has it (`auto_syne.py`).

Needs `../shared/data`; four sets come from packages of the package index.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optuna
import polars as pl
from numpy.typing import NDArray

from luthier.auto.search.engine import SearchEngine, TrialResult
from luthier.core.errors import DataError
from luthier.core.files import cache_folder
from luthier.core.param_space import ParamDistribution
from luthier.models.embedders.lsa import LsaEmbedder
from luthier.models.text_classifier import TextClassifier, TextClassifierSettings
from outcome import DATA, TABLES, Pair, _support

RESULTS = Path(__file__).parent / "results"
SHARES = (1 / 9, 1 / 3, 1.0)
SEED = 7
MOST_TRAIN, MOST_HELD_OUT = 810, 300
BUDGETS = (4, 8)
MOST_SPENT = 40
"""Whole trainings that peers may spend: all of the table's."""
MOST_ASKED = 80
"""Trials that Optuna is asked for at most, since it asks for the same settings again."""
SLACK = 1e-9
Grids = Mapping[str, Mapping[str, Sequence[Any]]]
QUICK: Grids = {
    "plain": {"c": (0.1, 1.0, 10.0, 100.0), "words": (1, 2, 3), "min_df": (1, 2)},
    "lsa": {"dimensions": (16, 32, 64, 256), "c": (1.0, 10.0, 100.0, 1000.0)},
}
NEURAL: Grids = {"lora": {"r": (4, 16, 64), "learning_rate": (3e-4, 1e-3, 3e-3, 1e-2)}}
DEFAULTS: Mapping[str, Any] = {
    "plain": {"technique.c": 10.0, "technique.words": 2, "technique.min_df": 1},
    "lora": {"technique.r": 16, "technique.learning_rate": 1e-3},
}


def list_sets() -> Mapping[str, Callable[[], Iterable[Pair]]]:
    """The sets by name: those of `outcome.py` with labels, and one with 27 intents."""
    labelled = {name: table.rows for name, table in TABLES.items() if table.classes}
    return {**labelled, "support, 27": lambda: _support("intent")}


def list_settings(grids: Grids) -> list[dict[str, Any]]:
    """All settings of the grids, technique by technique."""
    return [
        {"technique": name, **{f"technique.{key}": value for key, value in zip(grid, point, strict=True)}}
        for name, grid in grids.items()
        for point in itertools.product(*grid.values())
    ]


class Split(NamedTuple):
    """A set's rows: training rows in the order in which shares take them, validation and test rows."""

    train: Sequence[Pair]
    validation: Sequence[Pair]
    test: Sequence[Pair]


def split_set(rows: Iterable[Pair]) -> Split:
    """Draw the parts by a fixed seed."""
    drawn = sorted(set(rows))
    random.Random(SEED).shuffle(drawn)
    held = min(MOST_HELD_OUT, len(drawn) // 4)
    return Split(drawn[2 * held :][:MOST_TRAIN], drawn[:held], drawn[held : 2 * held])


def fill_table(path: Path) -> None:
    """Make the trainings that the table lacks, and write it after each set."""
    known = pl.read_parquet(path) if path.is_file() else None
    have = set() if known is None else set(zip(known["set"], known["settings"], known["rung"], strict=True))
    for name, rows in list_sets().items():
        wanted = [
            (settings, rung)
            for rung in range(len(SHARES))
            for settings in list_settings(QUICK)
            if (name, json.dumps(settings), rung) not in have
        ]
        if not wanted:
            continue
        split, lines = split_set(rows()), []
        points: dict[tuple[int, int], NDArray[np.float32]] = {}
        for settings, rung in wanted:
            lines.append({"set": name, **_train(split, settings, rung, points)})
        added = pl.DataFrame(lines)
        known = added if known is None else pl.concat([known, added])
        known.write_parquet(path, compression="zstd")
        print(f"{name}: {len(split.train)} training rows, {len(split.validation)} validation rows", file=sys.stderr)


def _train(
    split: Split, settings: Mapping[str, Any], rung: int, points: dict[tuple[int, int], NDArray[np.float32]]
) -> dict[str, Any]:
    """One line of the table."""
    train = split.train[: round(SHARES[rung] * len(split.train))]
    texts, labels = [row.text for row in train], [row.label for row in train]
    asked = [*split.validation, *split.test]
    answers = np.array([row.label for row in asked])
    began, failed = time.perf_counter(), ""
    try:
        if settings["technique"] == "plain":
            given = {key.partition(".")[2]: value for key, value in settings.items() if "." in key}
            model = TextClassifier.fit(texts, labels, TextClassifierSettings(**given))
            found = np.array(model.classes)[model.probabilities([row.text for row in asked]).argmax(axis=1)]
        else:
            found = _fit_lsa(texts, labels, [row.text for row in asked], settings, points, rung)
        right = found == answers
    except DataError as error:
        right, failed = np.zeros(len(asked), dtype=bool), str(error)
    cut = len(split.validation)
    return {
        "settings": json.dumps(settings),
        "rung": rung,
        **_pack_line(right[:cut], right[cut:], time.perf_counter() - began, failed),
    }


def _pack_line(validation: NDArray[Any], test: NDArray[Any], seconds: float, failed: str) -> dict[str, Any]:
    """Right and wrong of the rows as bits, with what the training took."""
    return {
        "validation": np.packbits(validation).tobytes(),
        "validation_rows": len(validation),
        "test": np.packbits(test).tobytes(),
        "test_rows": len(test),
        "seconds": round(seconds, 4),
        "failed": failed,
    }


def _fit_lsa(
    texts: Sequence[str],
    labels: Sequence[str],
    asked: Sequence[str],
    settings: Mapping[str, Any],
    points: dict[tuple[int, int], NDArray[np.float32]],
    rung: int,
) -> NDArray[Any]:
    """Answers of logistic regression on points; points are shared by settings that differ in C alone."""
    from sklearn.linear_model import LogisticRegression

    if len(set(labels)) < 2:
        raise DataError("all rows have one class")
    key = rung, settings["technique.dimensions"]
    if key not in points:
        space = LsaEmbedder(dimensions=key[1]).space(texts, recipe_dir=Path(), seed=SEED)
        points[key] = space.points([*texts, *asked])
    known = points[key]
    model = LogisticRegression(C=settings["technique.c"], max_iter=2000).fit(known[: len(texts)], labels)
    found: NDArray[Any] = model.predict(known[len(texts) :])
    return found


class SetTable:
    """Results of all settings of one set at every rung."""

    def __init__(self, name: str, lines: pl.DataFrame, grids: Grids) -> None:
        self.name, self.grids, self.settings = name, grids, list_settings(grids)
        places = {json.dumps(settings): place for place, settings in enumerate(self.settings)}
        self._places = {_identify(settings): place for place, settings in enumerate(self.settings)}
        self.values, self.tests = np.zeros((len(places), len(SHARES))), np.zeros((len(places), len(SHARES)))
        self.rows: dict[tuple[int, int], NDArray[np.float64]] = {}
        self.failed: dict[tuple[int, int], str] = {}
        self.seconds = np.zeros((len(places), len(SHARES)))
        for line in lines.filter(pl.col("set") == name).iter_rows(named=True):
            key = places[line["settings"]], line["rung"]
            self.rows[key] = _unpack(line["validation"], line["validation_rows"])
            self.values[key], self.tests[key] = self.rows[key].mean(), _unpack(line["test"], line["test_rows"]).mean()
            self.failed[key], self.seconds[key] = line["failed"], line["seconds"]

    def find(self, settings: Mapping[str, Any]) -> int:
        """The place of settings in the grid."""
        return self._places[_identify(settings)]

    def regret(self, place: int, *, test: bool = False) -> float:
        """Percent of the best value of the last rung by which a setting is behind."""
        found = (self.tests if test else self.values)[:, -1]
        return float(100 * (found.max() - found[place]) / found.max())


class GridSpace:
    """The table's grid as the engine's space."""

    def __init__(self, grids: Grids) -> None:
        self.branches = {
            name: {f"technique.{key}": ParamDistribution(values=tuple(values)) for key, values in grid.items()}
            for name, grid in grids.items()
        }
        first = next(iter(grids))
        default = {"technique": first, **DEFAULTS[first]}
        settings = list_settings(grids)
        self.default = default if default in settings else settings[len(settings) // 2]

    def refuses(self, settings: Mapping[str, Any]) -> str:
        """Nothing is refused."""
        return ""

    def identify(self, settings: Mapping[str, Any]) -> str:
        """All settings of the grid differ."""
        return _identify(settings)


class Standing:
    """What a searcher has seen: values by rung, and what was spent on them."""

    def __init__(self, table: SetTable) -> None:
        self.table, self.seen, self.spent = table, dict[int, int](), 0.0
        self.curve: list[tuple[float, int]] = []

    def train(self, place: int, rung: int) -> float:
        """The value of a setting at a rung; what was trained before is not paid again."""
        before = self.seen.get(place, -1)
        if rung > before:
            self.spent += SHARES[rung] - (SHARES[before] if before >= 0 else 0.0)
            self.seen[place] = rung
            self.curve.append((self.spent, self.choose()))
        return float(self.table.values[place, rung])

    def choose(self) -> int:
        """The setting with the best value at the highest rung, the earliest among equal ones."""
        return max(self.seen, key=lambda place: (self.seen[place], self.table.values[place, self.seen[place]]))


def search_by_engine(table: SetTable, seed: int, budget: float) -> tuple[Standing, float]:
    """This project's engine."""
    standing, began = Standing(table), time.process_time()
    space: Any = GridSpace(table.grids)
    engine = SearchEngine(space, budget=budget, seed=seed, work_of=lambda _, share: share)
    while requests := engine.ask():
        results = []
        for one in requests:
            place, rung = table.find(one.settings), SHARES.index(one.share)
            before = standing.spent
            value = standing.train(place, rung)
            results.append(
                TrialResult(
                    trial=one.trial,
                    rung=one.rung,
                    value=value,
                    rows=table.rows[place, rung],
                    work=standing.spent - before,
                    failed=table.failed[place, rung],
                )
            )
        engine.tell(results)
    outside = time.process_time() - began
    if engine.finalists:
        standing.curve.append((standing.spent, table.find(engine.trials[engine.finalists[0]])))
    return standing, outside


def search_at_random(table: SetTable, seed: int, budget: float) -> tuple[Standing, float]:
    """Whole runs in a random order."""
    standing, began = Standing(table), time.process_time()
    for place in random.Random(seed).sample(range(len(table.settings)), len(table.settings)):
        if standing.spent + 1 <= budget:
            standing.train(place, len(SHARES) - 1)
    return standing, time.process_time() - began


def _suggest(trial: Any, grids: Grids) -> dict[str, Any]:
    technique = trial.suggest_categorical("technique", list(grids))
    return {
        "technique": technique,
        **{
            f"technique.{key}": trial.suggest_categorical(f"{technique}.{key}", values)
            for key, values in grids[technique].items()
        },
    }


def search_by_optuna(table: SetTable, seed: int, budget: float) -> tuple[Standing, float]:
    """Optuna's defaults on whole runs."""
    standing, began = Standing(table), time.process_time()
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))
    for _ in range(MOST_ASKED):
        if standing.spent + 1 > budget + SLACK:
            break
        trial = study.ask()
        study.tell(trial, standing.train(table.find(_suggest(trial, table.grids)), len(SHARES) - 1))
    return standing, time.process_time() - began


def search_by_hyperband(table: SetTable, seed: int, budget: float) -> tuple[Standing, float]:
    """Optuna's TPE with its HyperbandPruner; resources are ninths of a training."""
    standing, began = Standing(table), time.process_time()
    pruner = optuna.pruners.HyperbandPruner(min_resource=1, max_resource=9, reduction_factor=3)
    sampler = optuna.samplers.TPESampler(seed=seed)
    study = optuna.create_study(direction="maximize", sampler=sampler, pruner=pruner, study_name=f"replay {seed}")
    for _ in range(MOST_ASKED):
        trial = study.ask()
        place = table.find(_suggest(trial, table.grids))
        for rung, share in enumerate(SHARES):
            before = standing.seen.get(place, -1)
            further = share - (SHARES[before] if before >= 0 else 0.0)
            if standing.spent + further > budget + SLACK:
                return standing, time.process_time() - began
            value = standing.train(place, rung)
            trial.report(value, round(9 * share))
            if rung < len(SHARES) - 1 and trial.should_prune():
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                break
        else:
            study.tell(trial, value)
    return standing, time.process_time() - began


def search_by_asha(table: SetTable, seed: int, budget: float) -> tuple[Standing, float]:
    """Successive halving by promotion whenever a rung has three times the trials, else a new random setting."""
    standing, began = Standing(table), time.process_time()
    order = random.Random(seed).sample(range(len(table.settings)), len(table.settings))
    rungs: list[list[int]] = [[] for _ in SHARES]
    while True:
        job = None
        for rung in reversed(range(len(SHARES) - 1)):
            ranked = sorted(rungs[rung], key=lambda place: -table.values[place, rung])
            ready = [place for place in ranked[: len(ranked) // 3] if place not in rungs[rung + 1]]
            if ready:
                job = ready[0], rung + 1
                break
        if job is None and not order:
            return standing, time.process_time() - began
        place, rung = job or (order.pop(), 0)
        if standing.spent + SHARES[rung] - (SHARES[rung - 1] if rung else 0.0) > budget + SLACK:
            return standing, time.process_time() - began
        standing.train(place, rung)
        rungs[rung].append(place)


def search_elsewhere(command: Sequence[str], tables: Sequence[SetTable], seeds: int) -> list[tuple[SetTable, Standing]]:
    """A searcher in an environment of its own, which says what it trains in order."""
    values = {table.name: table.values.tolist() for table in tables}
    asked = {"seeds": seeds, "settings": tables[0].settings, "values": values}
    done = subprocess.run(command, input=json.dumps(asked), capture_output=True, text=True, check=True)
    answers, found = json.loads(done.stdout), []
    for table in tables:
        for trainings in answers[table.name]:
            standing = Standing(table)
            for place, rung in trainings:
                standing.train(place, rung)
            found.append((table, standing))
    return found


Searcher = Callable[[SetTable, int, float], tuple[Standing, float]]
PEERS: Mapping[str, Searcher] = {
    "random": search_at_random,
    "optuna": search_by_optuna,
    "hyperband": search_by_hyperband,
    "asha": search_by_asha,
}


def replay(tables: Sequence[SetTable], seeds: int, elsewhere: Mapping[str, Sequence[str]]) -> None:
    """Print what each searcher reaches, also those in environments of their own, by the commands that start them."""
    ours: dict[float, list[tuple[float, float, float, str]]] = {}
    for budget in BUDGETS:
        found = ours[budget] = []
        outside = inside = 0.0
        for table in tables:
            for seed in range(seeds):
                standing, seconds = search_by_engine(table, seed, budget)
                chosen = standing.curve[-1][1]
                found.append((standing.spent, table.regret(chosen), table.regret(chosen, test=True), table.name))
                outside += seconds
                inside += sum(table.seconds[place, : rung + 1].sum() for place, rung in standing.seen.items())
        _print_line("luthier", budget, found)
        told = {"searcher": "luthier", "budget": budget, "outside_s": round(outside / len(found), 3)}
        seconds_a_training = 50 * outside / len(found) / budget  # with which the rest is 2 % of the time
        share = outside / (outside + inside)
        told |= {"outside_share_here": round(share, 3), "two_percent_from_s": round(seconds_a_training, 1)}
        print(json.dumps(told), flush=True)
    for name, searcher in PEERS.items():
        runs = [(table, searcher(table, seed, MOST_SPENT)[0]) for table in tables for seed in range(seeds)]
        _print_peer(name, runs, ours)
    for name, command in elsewhere.items():
        _print_peer(name, search_elsewhere(command, tables, seeds), ours)


def _print_peer(
    name: str,
    runs: Sequence[tuple[SetTable, Standing]],
    ours: Mapping[float, Sequence[tuple[float, float, float, str]]],
) -> None:
    """What a peer reaches by each budget, and what it needs for the regret that ours reaches by it."""
    for budget in ours:
        at = [(table, _at(standing, budget)) for table, standing in runs]
        found = [(budget, table.regret(place), table.regret(place, test=True), table.name) for table, place in at]
        _print_line(name, budget, found)
    for budget, reached in ours.items():
        goal = statistics.fmean(one[1] for one in reached)
        spent = statistics.fmean(one[0] for one in reached)
        cost = _find_cost(runs, goal)
        told = {"searcher": name, "regret_of_luthier_at": budget, "regret": round(goal, 3)}
        ratio = None if cost is None else round(spent / cost, 2)
        print(json.dumps({**told, "cost": cost, "luthier_cost": round(spent, 2), "ratio": ratio}), flush=True)


def _print_line(name: str, budget: float, found: Sequence[tuple[float, float, float, str]]) -> None:
    by_set: dict[str, list[float]] = {}
    for _, regret, _, where in found:
        by_set.setdefault(where, []).append(regret)
    means = {where: statistics.fmean(values) for where, values in by_set.items()}
    worst = max(means, key=lambda where: means[where])
    line = {
        "searcher": name,
        "budget": budget,
        "spent": round(statistics.fmean(one[0] for one in found), 2),
        "regret": round(statistics.fmean(one[1] for one in found), 3),
        "test_regret": round(statistics.fmean(one[2] for one in found), 3),
        "worst_set": [worst, round(means[worst], 2)],
    }
    print(json.dumps(line), flush=True)


def _at(standing: Standing, budget: float) -> int:
    """What a searcher would choose after so much work; its first setting before it has seen one."""
    chosen = [place for spent, place in standing.curve if spent <= budget + SLACK]
    return chosen[-1] if chosen else standing.curve[0][1]


def _find_cost(runs: Sequence[tuple[SetTable, Standing]], goal: float) -> float | None:
    """The least work after which mean regret is at most `goal`."""
    for ninths in range(9, round(9 * MOST_SPENT) + 1):
        budget = ninths / 9
        if statistics.fmean(table.regret(_at(standing, budget)) for table, standing in runs) <= goal + SLACK:
            return round(budget, 2)
    return None


def _unpack(bits: bytes, count: int) -> NDArray[np.float64]:
    return np.unpackbits(np.frombuffer(bits, dtype=np.uint8), count=count).astype(np.float64)


def _identify(settings: Mapping[str, Any]) -> str:
    return json.dumps(settings, sort_keys=True)


def fill_neural_table(path: Path, grids: Grids, sets: Sequence[str], rows: int | None) -> None:
    """Train SmolLM2 in LoRA by the recipe that `luthier new` proposes, on shares of its rows, and write each result.

    The report's test rows are halved: the even ones choose, the odd ones test. `rows` are trained on where given, and a
    third more are held out.
    """
    import yaml

    from outcome import Bench, _answers, _metric, _run

    known = pl.read_parquet(path) if path.is_file() else None
    have = set() if known is None else set(zip(known["set"], known["settings"], known["rung"], strict=True))
    for chosen, (rung, share), settings in itertools.product(sets, enumerate(SHARES), list_settings(grids)):
        table, name = TABLES[chosen], chosen if rows is None else f"{chosen}, {rows} rows"
        if (name, json.dumps(settings), rung) in have:
            continue
        if rows is not None:
            table = table._replace(train=rows, test=rows + rows // 3)
        bench = Bench(name, table, cache_folder() / "auto" / re.sub(r"\W+", "-", name), SEED)
        arm = {
            "technique": {"kind": "lora", "r": settings["technique.r"]},
            "learning_rate": settings["technique.learning_rate"],
            "max_train_samples": round(share * table.train),
        }
        began = time.perf_counter()
        answers, metric = _answers(_run(bench, yaml.safe_dump(arm))["report"].artifact, "tuned"), _metric(bench)
        right = metric.contributions(metric.together(answers, answers)[0]) > 0.5
        line = {"set": name, "settings": json.dumps(settings), "rung": rung}
        line |= _pack_line(right[::2], right[1::2], time.perf_counter() - began, "")
        known = pl.DataFrame([line]) if known is None else pl.concat([known, pl.DataFrame([line])])
        known.write_parquet(path, compression="zstd")
        print(json.dumps({"set": name, **settings, "rung": rung, "accuracy": float(right.mean())}), file=sys.stderr)


def main() -> None:
    """Fill the table where asked, and replay it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fill", action="store_true", help="make the trainings that the table lacks")
    parser.add_argument("--neural", action="store_true", help="LoRA on SmolLM2 in a table of its own: takes hours")
    parser.add_argument(
        "--sets", nargs="+", choices=TABLES, help="sets that --neural trains on; all with labels if left out"
    )
    parser.add_argument("--rows", type=int, help="training rows of a set that --neural takes, instead of the set's own")
    parser.add_argument("--ranks", type=int, nargs="+", default=NEURAL["lora"]["r"], help="ranks that --neural tries")
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--table", type=Path, help="where the table is kept, instead of benchmarks/results")
    parser.add_argument("--ray", type=Path, help="Python of an environment with Ray Tune")
    parser.add_argument("--syne", type=Path, help="Python of an environment with Syne Tune")
    options = parser.parse_args()
    grids = {"lora": {**NEURAL["lora"], "r": tuple(options.ranks)}} if options.neural else QUICK
    path = options.table or RESULTS / ("auto_table_neural.parquet" if options.neural else "auto_table.parquet")
    if options.fill:
        if not DATA.is_dir():
            sys.exit(f"the real data is not beside the repository: {DATA}")
        if options.neural:
            fill_neural_table(
                path, grids, options.sets or [name for name, table in TABLES.items() if table.classes], options.rows
            )
        else:
            fill_table(path)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    settings = list_settings(grids)
    lines = pl.read_parquet(path).filter(pl.col("settings").is_in([json.dumps(one) for one in settings]))
    complete = len(settings) * len(SHARES)
    names = [name for name in lines["set"].unique(maintain_order=True) if (lines["set"] == name).sum() == complete]
    tables = [SetTable(name, lines, grids) for name in names]
    print(f"{len(tables)} sets x {len(settings)} settings x {len(SHARES)} rungs, {options.seeds} seeds")
    print(f"techniques: {', '.join(grids)}" + ("" if options.neural else " (quick ones; no language model is trained)"))
    for table in tables:
        best = int(table.values[:, -1].argmax())
        told = {"set": table.name, "rows": len(table.rows[0, 0]), "best": round(float(table.values[best, -1]), 3)}
        default = table.find(GridSpace(grids).default)
        print(json.dumps({**told, "setting": table.settings[best], "default_regret": round(table.regret(default), 2)}))
    elsewhere = {"ray": (options.ray, "auto_ray.py"), "syne": (options.syne, "auto_syne.py")}
    commands = {
        name: [str(python), str(Path(__file__).parent / script)]
        for name, (python, script) in elsewhere.items()
        if python is not None
    }
    replay(tables, options.seeds, commands)


if __name__ == "__main__":
    main()
