"""How often a training should see a small set of rows, and in which steps: so that it takes enough to learn them.

Measured with SmolLM2-135M, LoRA and defaults otherwise. Classes that are far apart, 188 rows of five (banking77) and of
six (snips), 300 of twelve (banking77): accuracy on 100 other rows beside TF-IDF with logistic regression (0.98, 0.98,
0.94):

    steps of 32 rows     6    10    24    29    47    57
    banking77, 5      0.89        0.98        0.98
    snips, 6          0.86        0.97        0.98
    banking77, 12           0.72        0.86        0.95

In 94 steps of 8 rows four passes reached 0.98 and 0.97 on the first two: no more than in 24 of 32.

Classes that are near each other need the steps; the same passes, accuracy on 200 to 300 other rows
(benchmarks/outcome.py; the last column is TF-IDF's):

    rows, classes         passes   steps of 32      steps of 8       TF-IDF
    200, 5 about cards      4      0.755 in  25     0.895 in 100      0.900
    the same, other seed    4      0.750 in  25     0.875 in 100      0.895
    320, 5 about top-ups    3      0.785 in  30     0.930 in 120      0.850
    400, 12 on transfers    3      0.746 in  38     0.804 in 150      0.817
    the same                4                       0.829 in 200      0.817
    800 tweets, 3 (fresh)   1      0.663 in  25     0.683 in 100      0.533

Steps of 16 came to 0.845 on the top-ups, six passes in steps of 8 to 0.925. So rows of classes are cut into small steps
wherever few steps of 32 would come about. Nothing was measured of near classes between 38 and 64 of those, nor of more
than twelve classes. Of text there is one measure, 400 replies in two passes: 25 steps of 32 rows and 100 of 8 came to a
ROUGE-L of 0.340 and 0.344, and to a perplexity of 2.82 and 2.57 at a third more CPU; their steps stay large.

On thirteen sets of labels with 140 to 300 rows what is proposed here lay from 2.4 points behind TF-IDF to 33.6 ahead,
nowhere behind by more than chance (benchmarks/results/outcome.txt).
"""

from __future__ import annotations

import math
from typing import NamedTuple

from luthier.core.counted import counted
from luthier.data.profile import Profile

ROWS_PER_STEP = 32
"""What a training averages over unless it is told otherwise."""
SMALL_STEP = 8
ENOUGH_STEPS = 24
"""Steps of 32 rows to which more passes go on: 768 rows are seen."""
STEPS_PER_CLASS = 4
"""Where classes are many, so many steps for each: 48 for twelve."""
ENOUGH_FOR_CLASSES = 64
"""Where passes over rows of classes come to fewer steps of 32, they are cut into small ones: 38 were too few for near
classes, 57 enough for others."""
MOST_PASSES = 8
"""More passes over rows of classes were not measured."""
MOST_PASSES_OF_TEXT = 4
"""Up to four passes teach nearly as much as fresh rows (Muennighoff et al., 2023, on pre-training); then texts are
learnt by heart."""


class Course(NamedTuple):
    """Settings of a training, and why they are not the defaults; empty settings: the defaults are right."""

    settings: dict[str, int]
    why: str


def course(rows: int, classes: int) -> Course:
    """What a training on so many rows asks for; `classes` is 0 where answers are free text."""
    wanted = max(ENOUGH_STEPS, STEPS_PER_CLASS * classes)
    one_pass = math.ceil(rows / ROWS_PER_STEP)
    passes = min(math.ceil(wanted / one_pass), MOST_PASSES if classes else MOST_PASSES_OF_TEXT)
    is_small = math.ceil(rows * passes / ROWS_PER_STEP) < (ENOUGH_FOR_CLASSES if classes else ENOUGH_STEPS)
    settings = {"epochs": passes} if passes > 1 else {}
    if is_small:
        settings["rows_per_step"] = SMALL_STEP
    if not settings:
        return Course({}, "")
    size = settings.get("rows_per_step", ROWS_PER_STEP)
    steps = math.ceil(rows * passes / size)
    seen, times = counted(rows, "row"), counted(one_pass, "step")
    so_many = f"{steps} of {counted(size, 'row')}"
    why = f"one pass over about {seen} would be {times} of {ROWS_PER_STEP}, too few to learn from; this is {so_many}"
    return Course(settings, why)


def course_for(rows: int, profile: Profile, *, held_out: float, is_label: bool) -> Course:
    """What a training on so many rows of this profile asks for, a share of them held out."""
    classes = len(set(profile.answers) - set(profile.spellings)) if is_label else 0
    return course(max(1, round(rows * (1 - held_out))), classes)
