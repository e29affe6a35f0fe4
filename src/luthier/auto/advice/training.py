"""Suggest the epochs and the batch size of a training on a small data set, and when a plain classifier is worth a try.

The suggested epochs and batch sizes follow measurements with SmolLM2-135M, LoRA and default settings. Distinct classes
(188 rows of 5 from banking77, 188 of 6 from snips, 300 of 12 from banking77), accuracy on 100 held-out rows; TF-IDF
with logistic regression reaches 0.98, 0.98 and 0.94:

    steps of 32 rows     6    10    24    29    47    57
    banking77, 5      0.89        0.98        0.98
    snips, 6          0.86        0.97        0.98
    banking77, 12           0.72        0.86        0.95

Four epochs in 94 steps of 8 rows reach 0.98 and 0.97 on the first two, the same as 24 steps of 32.

Similar classes need more steps for the same epochs. Accuracy on 200 to 300 held-out rows (benchmarks/outcome.py):

    rows, classes         epochs   steps of 32      steps of 8       TF-IDF
    200, 5 about cards      4      0.755 in  25     0.895 in 100      0.900
    the same, other seed    4      0.750 in  25     0.875 in 100      0.895
    320, 5 about top-ups    3      0.785 in  30     0.930 in 120      0.850
    400, 12 on transfers    3      0.746 in  38     0.804 in 150      0.817
    the same                4                       0.829 in 200      0.817
    800 tweets, 3 (fresh)   1      0.663 in  25     0.683 in 100      0.533

Steps of 16 reach 0.845 on the top-ups, and six epochs in steps of 8 reach 0.925. So rows with classes get small steps
wherever steps of 32 would be few. Similar classes between 38 and 64 steps of 32 were not measured, nor more than twelve
classes. For free text there is one measurement, 400 replies in two epochs: 25 steps of 32 and 100 steps of 8 reach
ROUGE-L 0.340 and 0.344 and perplexity 2.82 and 2.57, the latter for a third more CPU time. Free text keeps large steps.

On thirteen labeled sets of 140 to 300 rows, the suggestion scores from 2.4 points below TF-IDF to 33.6 above it, and
never significantly below (benchmarks/results/outcome.txt).

A plain classifier is worth a try where labeled rows are few or texts are long: the time of a network grows with every
token, and a classifier of words takes seconds.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from luthier.core.events import format_counted_noun

if TYPE_CHECKING:
    from luthier.data.suggest.propose import RecipeProposal

ROWS_PER_STEP = 32
"""Default batch size of a training."""
SMALL_STEP = 8
ENOUGH_STEPS = 24
"""Target number of steps of 32 rows, reached by more epochs: 768 rows are seen."""
STEPS_PER_CLASS = 4
"""Minimum steps for each class where there are many: 48 for twelve."""
ENOUGH_FOR_CLASSES = 64
"""Where passes over rows of classes come to fewer steps of 32, they are cut into small ones: 38 were too few for near
classes, 57 enough for others."""
MOST_PASSES = 8
"""More passes over rows of classes were not measured."""
MOST_PASSES_OF_TEXT = 4
"""Maximum epochs over free text: up to four teach nearly as much as fresh rows (Muennighoff et al., 2023, on
pre-training); more memorize."""


class TrainingSuggestion(NamedTuple):
    """Settings of a training, and why they are not the defaults; empty settings: the defaults are right."""

    settings: dict[str, int]
    why: str


def suggest_training(rows: int, classes: int) -> TrainingSuggestion:
    """Suggest epochs and batch size for a number of rows; `classes` is 0 for free text."""
    target_steps = max(ENOUGH_STEPS, STEPS_PER_CLASS * classes)
    one_pass = math.ceil(rows / ROWS_PER_STEP)
    passes = min(math.ceil(target_steps / one_pass), MOST_PASSES if classes else MOST_PASSES_OF_TEXT)
    is_small = math.ceil(rows * passes / ROWS_PER_STEP) < (ENOUGH_FOR_CLASSES if classes else ENOUGH_STEPS)
    settings = {"epochs": passes} if passes > 1 else {}
    if is_small:
        settings["batch_size"] = SMALL_STEP
    if not settings:
        return TrainingSuggestion({}, "")
    size = settings.get("batch_size", ROWS_PER_STEP)
    steps = math.ceil(rows * passes / size)
    rows_text, times = format_counted_noun(rows, "row"), format_counted_noun(one_pass, "step")
    so_many = f"{steps} of {format_counted_noun(size, 'row')}"
    why = (
        f"one pass over about {rows_text} would be {times} of {ROWS_PER_STEP}, too few to learn from; this is {so_many}"
    )
    return TrainingSuggestion(settings, why)


def suggest_training_for_proposal(proposal: RecipeProposal) -> TrainingSuggestion:
    """Suggest epochs and batch size for the rows of a proposal, without its held-out share."""
    profile = proposal.profile
    classes = len(set(profile.answers) - set(profile.spellings)) if proposal.task == "label" else 0
    return suggest_training(count_training_rows(proposal), classes)


def count_training_rows(proposal: RecipeProposal) -> int:
    """About how many rows a proposal trains on."""
    return max(1, round(proposal.left * (1 - float(proposal.split["test"]))))


FEW_ROWS = 400
LONG_WORDS = 200
"""Mean words of a long prompt: some 270 tokens."""


def explain_plain_classifier(proposal: RecipeProposal) -> str:
    """Return why a plain classifier should be tried before a network; empty where not."""
    if (proposal.objective, proposal.task) != ("sft", "label"):
        return ""
    rows, words, reasons = count_training_rows(proposal), proposal.profile.prompt_words, []
    if rows <= FEW_ROWS:
        reasons.append(f"{format_counted_noun(rows, 'row')} to train on are few")
    if words >= LONG_WORDS:
        reasons.append(f"texts are long ({format_counted_noun(round(words), 'word')} on average)")
    if not reasons:
        return ""
    return f"{' and '.join(reasons)}: a plain classifier takes seconds, and may do as well"
