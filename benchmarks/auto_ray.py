"""Ray Tune's ASHA on the table of `auto.py`: which trainings it makes, in order.

    /path/to/venv/with/ray/bin/python benchmarks/auto_ray.py < asked.json

Ray has an environment of its own, and `auto.py --ray PYTHON` calls this. Asked for are values by set, setting and rung,
and a number of seeds; printed is for each set and seed a list of pairs of setting and rung. The scheduler is Ray's own
object, given results as the tuner gives them with one worker; settings come in a random order. No cluster is started.
"""

from __future__ import annotations

import json
import random
import sys
from types import SimpleNamespace

from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler  # type: ignore[import-not-found]

STEPS = (1, 3, 9)


def main() -> None:
    """Answer one request."""
    asked = json.load(sys.stdin)
    found = {name: [replay(values, seed) for seed in range(asked["seeds"])] for name, values in asked["values"].items()}
    json.dump(found, sys.stdout)


def replay(values: list[list[float]], seed: int) -> list[tuple[int, int]]:
    """The trainings of one search until all settings were tried."""
    scheduler = AsyncHyperBandScheduler(
        time_attr="step", metric="value", mode="max", max_t=STEPS[-1], grace_period=1, reduction_factor=3
    )
    done: list[tuple[int, int]] = []
    for place in random.Random(seed).sample(range(len(values)), len(values)):
        trial = SimpleNamespace(trial_id=str(place))
        scheduler.on_trial_add(None, trial)
        for rung, step in enumerate(STEPS):
            done.append((place, rung))
            result = {"step": step, "value": values[place][rung]}
            if scheduler.on_trial_result(None, trial, result) != TrialScheduler.CONTINUE:
                break
    return done


if __name__ == "__main__":
    main()
