"""Syne Tune's ASHA on the table of `auto.py`: which trainings it makes, in order.

    /path/to/venv/with/syne-tune/bin/python benchmarks/auto_syne.py < asked.json

Syne Tune has an environment of its own, and `auto.py --syne PYTHON` calls this. Asked for are the settings of the grid,
values by set, setting and rung, and a number of seeds; printed is for each set and seed a list of pairs of setting and
rung. The scheduler is Syne Tune's own object, given results as its tuner gives them with one worker. The space has each
parameter of each technique, of which a trial uses those of its own.
"""

from __future__ import annotations

import datetime
import json
import sys
from typing import Any

import numpy as np
from syne_tune.backend.trial_status import Trial  # type: ignore[import-not-found]
from syne_tune.config_space import choice  # type: ignore[import-not-found]
from syne_tune.optimizer.baselines import ASHA  # type: ignore[import-not-found]
from syne_tune.optimizer.scheduler import SchedulerDecision  # type: ignore[import-not-found]

STEPS = (1, 3, 9)
MOST_TRIALS = 80
"""Trials of a search; most of the grid was tried by then."""


def main() -> None:
    """Answer one request."""
    asked = json.load(sys.stdin)
    found = {
        name: [replay(asked["settings"], values, seed) for seed in range(asked["seeds"])]
        for name, values in asked["values"].items()
    }
    json.dump(found, sys.stdout)


def replay(settings: list[dict[str, Any]], values: list[list[float]], seed: int) -> list[tuple[int, int]]:
    """The trainings of one search."""
    np.random.seed(seed)  # the scheduler draws from it
    axes: dict[str, list[Any]] = {}
    for one in settings:
        for name, value in one.items():
            path = name if name == "technique" else f"{one['technique']}/{name}"
            axes.setdefault(path, []).append(value)
    space = {path: choice(list(dict.fromkeys(found))) for path, found in axes.items()}
    places = {json.dumps(one, sort_keys=True): place for place, one in enumerate(settings)}
    scheduler = ASHA(space, metric="value", time_attr="step", max_t=STEPS[-1], do_minimize=False, random_seed=seed)
    done: list[tuple[int, int]] = []
    for number in range(MOST_TRIALS):
        config = scheduler.suggest().config
        kind = config["technique"]
        own = {path.partition("/")[2]: value for path, value in config.items() if path.startswith(f"{kind}/")}
        place = places[json.dumps({"technique": kind, **own}, sort_keys=True)]
        trial = Trial(number, config, datetime.datetime.now(tz=datetime.UTC))
        scheduler.on_trial_add(trial)
        for rung, step in enumerate(STEPS):
            done.append((place, rung))
            result = {"step": step, "value": values[place][rung]}
            if scheduler.on_trial_result(trial, result) != SchedulerDecision.CONTINUE:
                break
        else:
            scheduler.on_trial_complete(trial, result)
    return done


if __name__ == "__main__":
    main()
