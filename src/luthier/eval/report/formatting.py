"""The sentences and the number formats of a report.

The main sentence says whether the tuned model beats its base and a plain baseline, by how much, and how certainly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from luthier.core.messages import gettext_noop
from luthier.eval.report.facts.fact import ScoreFact
from luthier.eval.report.facts.models import BLIND, LOWER_IS_BETTER, ComparisonFact, EvaluationFacts, ModelFacts

MISSING = "–"
HUNDRED = frozenset({"bleu", "chrf", "ter", "self_bleu"})
"""Metrics that are written on a scale of 0 to 100; the others run from 0 to 1."""
OPEN = frozenset({"perplexity", "bits_per_byte", "fluency", "reward", "cider"})
"""Metrics on a scale of their own."""
SURE = 0.05
"""Above this p a difference is called unclear, whatever its interval says."""
NAMES = {
    "accuracy": gettext_noop("Accuracy"),
    "macro_f1": gettext_noop("Macro F1"),
    "micro_f1": gettext_noop("Micro F1"),
    "weighted_f1": gettext_noop("Weighted F1"),
    "macro_precision": gettext_noop("Macro precision"),
    "macro_recall": gettext_noop("Macro recall"),
    "balanced_accuracy": gettext_noop("Balanced accuracy"),
    "mcc": gettext_noop("Matthews correlation"),
    "ece": gettext_noop("Calibration error"),
    "brier": gettext_noop("Brier score"),
    "exact_match": gettext_noop("Exact match"),
    "tool_calls": gettext_noop("Tool calls"),
    "token_f1": gettext_noop("Token F1"),
    "bleu": gettext_noop("BLEU"),
    "chrf": gettext_noop("chrF"),
    "ter": gettext_noop("Edit rate (TER)"),
    "rouge1": gettext_noop("ROUGE-1"),
    "rouge2": gettext_noop("ROUGE-2"),
    "rougeL": gettext_noop("ROUGE-L"),
    "rougeLsum": gettext_noop("ROUGE-Lsum"),
    "meteor": gettext_noop("METEOR"),
    "wer": gettext_noop("Word error rate"),
    "cer": gettext_noop("Character error rate"),
    "perplexity": gettext_noop("Perplexity"),
    "bits_per_byte": gettext_noop("Bits per byte"),
    "vqa_accuracy": gettext_noop("VQA accuracy"),
    "anls": gettext_noop("ANLS"),
    "iou": gettext_noop("Overlap of boxes (IoU)"),
    "cider": gettext_noop("CIDEr-D"),
}


def get_metric_title(metric: str) -> str:
    """A metric's name as people write it."""
    return NAMES.get(metric, metric.replace("_", " "))


def count_decimals(metric: str) -> int:
    """Decimals that are worth reading: three on a scale to 1, one on a scale to 100, two otherwise."""
    if metric in HUNDRED:
        return 1
    return 2 if metric in OPEN else 3


def format_number(value: float | None, decimals: int = 3) -> str:
    """A number with a true minus sign; a dash when there is none."""
    if value is None or not math.isfinite(value):
        return MISSING
    text = f"{value:,.{decimals}f}"
    if text.strip("-0.,") == "":
        text = text.lstrip("-")
    return text.replace("-", "−")


def widen_decimals(decimals: int, *values: float) -> int:
    """Return a number of decimals, or as many more as it takes for no nonzero value to be rounded to zero (six at
    most)."""
    least = min((abs(value) for value in values if value), default=1.0)
    return next((more for more in range(decimals, 6) if round(least, more)), max(decimals, 6))


def format_signed(value: float | None, decimals: int = 3) -> str:
    """A difference with its sign."""
    text = format_number(value, decimals)
    return text if text == MISSING or text.startswith("−") else f"+{text}"


def format_score_interval(score: ScoreFact, metric: str = "") -> str:
    """`0.906 (0.886–0.923)`: a value with the ends of its interval, when it has one."""
    decimals = count_decimals(metric)
    text = format_number(score.value, decimals)
    if text == MISSING or score.low is None or score.high is None:
        return text
    between = "–" if score.low >= 0 else " to "
    return f"{text} ({format_number(score.low, decimals)}{between}{format_number(score.high, decimals)})"


def format_difference(value: float, low: float | None, high: float | None, metric: str = "") -> str:
    """`+0.081 (+0.052 to +0.110)`: a difference with the ends of its interval."""
    decimals = count_decimals(metric)
    if low is None or high is None:
        return format_signed(value, decimals)
    if low * high > 0:
        decimals = widen_decimals(decimals, value, low, high)
    text = format_signed(value, decimals)
    return f"{text} ({format_signed(low, decimals)} to {format_signed(high, decimals)})"


def format_p_value(p: float | None) -> str:
    """`p < 0.001` or `p = 0.03`: as many figures as tell on which side of what is called sure it stands."""
    if p is None:
        return ""
    if p < 0.001:
        return "p < 0.001"
    texts = [f"{p:.{decimals}f}" for decimals in ((3, 4, 5) if p < 0.1 else (2,))]
    return "p = " + next((text for text in texts if (float(text) < SURE) == (p < SURE)), texts[-1])


def format_thousands(value: float | None) -> str:
    """A whole number with commas at the thousands."""
    return MISSING if value is None else f"{round(value):,}"


def format_large_number(value: float | None) -> str:
    """A big number in words: `134.5 million`."""
    if value is None:
        return MISSING
    for limit, word in ((1e9, "billion"), (1e6, "million")):
        if abs(value) >= limit:
            return f"{value / limit:.1f} {word}"
    return format_thousands(value)


def format_percentage(part: float, whole: float) -> str:
    """`9.3 %` of something; a dash of nothing."""
    if not whole:
        return MISSING
    percent = 100 * part / whole
    return f"{percent:.0f} %" if percent >= 10 or percent == 0 else f"{percent:.2g} %"


def format_duration_words(seconds: float | None) -> str:
    """`3 min 20 s`: the two largest units."""
    if seconds is None:
        return MISSING
    if seconds < 10:
        return f"{seconds:.2g} s"
    whole = round(seconds)
    for size, unit, small_size, small in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // small_size
            return f"{whole // size} {unit} {rest} {small}" if rest else f"{whole // size} {unit}"
    return f"{whole} s"


def format_byte_size(value: float | None) -> str:
    """Bytes in binary units: `1.2 GiB`."""
    if value is None:
        return MISSING
    for limit, unit in ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if value >= limit:
            return f"{value / limit:.1f} {unit}"
    return f"{round(value)} B"


def join_words(words: Sequence[str]) -> str:
    """`a, b and c`."""
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} and {words[-1]}"


ALONE = {
    "the tuned model": gettext_noop("Tuned model"),
    "the base model": gettext_noop("Base model"),
    "the compared model": gettext_noop("Compared model"),
    "the plain classifier": gettext_noop("Plain classifier"),
    "always the most frequent label": gettext_noop("Always the most frequent label"),
}
"""Titles as they stand alone, in a table or over a figure."""


def capitalize_title(title: str) -> str:
    """A title as it stands alone: `Tuned model` for `the tuned model`."""
    if title in ALONE:
        return ALONE[title]
    bare = title.removeprefix("the ")
    return bare[:1].upper() + bare[1:]


def truncate_text(text: str, limit: int) -> str:
    """Text cut to a limit of characters, with a mark where it was cut."""
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"


ComparisonResult = Literal["better", "worse", "unclear"]


def verdict_sentence(facts: EvaluationFacts) -> str:
    """One or two sentences that answer the question of the report; a plain baseline that wins stands first."""
    tuned = next(iter(facts.of_role("tuned")), None)
    if tuned is None:
        return _untuned(facts)
    base = next(iter((*facts.of_role("base"), *facts.of_role("other"))), None)
    plain, blind = find_best_baseline(facts), _against_blind(facts, tuned)
    if plain is not None and not _ahead(tuned, plain, facts.main_metric):
        return _plain_first(facts, tuned, base, plain) + blind
    return _tuned_first(facts, tuned, base, plain) + blind


def find_best_baseline(facts: EvaluationFacts) -> ModelFacts | None:
    """The plain baseline that does best on the main metric."""
    sign = -1 if facts.main_metric in LOWER_IS_BETTER else 1
    model_factses = [
        model
        for model in facts.of_role("plain")
        if _value(model, facts.main_metric) is not None and model.name != BLIND
    ]
    return max(model_factses, key=lambda model: sign * (_value(model, facts.main_metric) or 0.0), default=None)


def classify_comparison(comparison: ComparisonFact) -> ComparisonResult:
    """Classify a comparison as better, worse or undecided, by its interval and test."""
    p = comparison.p if comparison.p_holm is None else comparison.p_holm
    if p is not None and p >= SURE:
        return "unclear"
    low, high = _ends(comparison)
    if low is None or high is None or low <= 0 <= high:
        return "unclear"
    return "better" if low > 0 else "worse"


def format_points(value: float, metric: str) -> str:
    """A size of difference in words: `4.1 points of accuracy`."""
    name = get_metric_title(metric)
    name = name if name[1:2].isupper() or name.startswith(("ROUGE", "chrF")) else name[0].lower() + name[1:]
    if metric in OPEN:
        count = format_number(abs(value), widen_decimals(2, value))
        return {
            "perplexity": gettext_noop(f"{count} of perplexity"),
            "bits_per_byte": gettext_noop(f"{count} of bits per byte"),
            "fluency": gettext_noop(f"{count} of fluency"),
            "reward": gettext_noop(f"{count} of reward"),
            "cider": gettext_noop(f"{count} of CIDEr-D"),
        }[metric]
    scaled = abs(value) * _scale(metric)
    shown = format_number(scaled, widen_decimals(1, scaled))
    count = shown
    if shown == "1.0":
        return gettext_noop(f"{count} point of {name}")
    return gettext_noop(f"{count} points of {name}")


def format_interval_and_p(comparison: ComparisonFact) -> str:
    """`(95 % interval 3.1 to 5.2, p < 0.001)` in the direction of the comparison's own sign."""
    sign = -1 if comparison.difference < 0 else 1
    p_value = comparison.p if comparison.p_holm is None else comparison.p_holm
    p = "" if p_value is None else format_p_value(p_value)
    if comparison.low is None or comparison.high is None:
        return f" ({p})" if p else ""
    ends = sorted(sign * end * _scale(comparison.metric) for end in (comparison.low, comparison.high))
    decimals = 2 if comparison.metric in OPEN else 1
    if ends[0] > 0:  # an interval that leaves nought out must not seem to hold it
        decimals = widen_decimals(decimals, *ends)
    low, high = (format_number(end, decimals) for end in ends)
    text = gettext_noop(f"95 % interval {low} to {high}, {p}" if p else f"95 % interval {low} to {high}")
    return f" ({text})"


def rows_per_hundred(comparison: ComparisonFact) -> str:
    """What a difference in accuracy means for people: `about 34 more rows right in every 100`."""
    if comparison.metric not in ("accuracy", "exact_match"):
        return ""
    hundredth = abs(comparison.difference) * 100
    if hundredth >= 1:
        amount = round(hundredth)
        return gettext_noop(
            f"about {amount} {'more' if comparison.difference >= 0 else 'fewer'} rows right in every 100"
        )
    return gettext_noop(f"fewer than 1 {'more' if comparison.difference >= 0 else 'fewer'} rows right in every 100")


def _untuned(facts: EvaluationFacts) -> str:
    models = [model for model in facts.models if _value(model, facts.main_metric) is not None]
    if not models:
        return gettext_noop(f"Nothing could be measured on the {format_thousands(facts.rows)} held-out rows.")
    results = "; ".join(
        f"{model.title} {_score(model.metrics[facts.main_metric], facts.main_metric)}" for model in models
    )
    metric = get_metric_title(facts.main_metric)
    return gettext_noop(
        f"No tuned model was measured. {metric} on {format_thousands(facts.rows)} held-out rows: {results}."
    )


def _tuned_first(facts: EvaluationFacts, tuned: ModelFacts, base: ModelFacts | None, plain: ModelFacts | None) -> str:
    first = _against_base(facts, tuned, base)
    if plain is None:
        return f"{first}."
    comparison = facts.compared(tuned.name, plain.name, facts.main_metric)
    if comparison is None:
        score = _said(plain, facts.main_metric)
        then = gettext_noop(
            f"The plain {'classifier' if _is_classifier(facts) else 'baseline'}, {plain.title}, scores {score}."
        )
        return f"{first}. {then}"
    gap, certainty = _short(format_points(comparison.difference, facts.main_metric)), format_interval_and_p(comparison)
    if classify_comparison(comparison) == "better":
        gap += certainty
        then = gettext_noop(
            f"It beats the plain {'classifier' if _is_classifier(facts) else 'baseline'}, {plain.title}, by {gap}."
        )
        return f"{first}. {then}"
    if certainty:
        interval = certainty.strip(" ()")
        then = gettext_noop(
            f"It is {gap} ahead of the plain {'classifier' if _is_classifier(facts) else 'baseline'}, {plain.title} "
            f"({interval}), which is within chance."
        )
    else:
        then = gettext_noop(
            f"It is {gap} ahead of the plain {'classifier' if _is_classifier(facts) else 'baseline'}, {plain.title}, "
            "which is within chance."
        )
    return f"{first}. {then}"


def _plain_first(facts: EvaluationFacts, tuned: ModelFacts, base: ModelFacts | None, plain: ModelFacts) -> str:
    comparison = facts.compared(tuned.name, plain.name, facts.main_metric)
    then = _against_base(facts, tuned, base)
    if comparison is not None and classify_comparison(comparison) == "worse":
        gap = format_points(comparison.difference, facts.main_metric) + format_interval_and_p(comparison)
        first = gettext_noop(
            f"A plain {'classifier' if _is_classifier(facts) else 'baseline'} wins: {plain.title} beats {tuned.title} "
            f"by {gap}."
        )
        return f"{first} {then}."
    plain_figure, tuned_figure = _said(plain, facts.main_metric), _said(tuned, facts.main_metric)
    if plain_figure == tuned_figure:
        first = gettext_noop(
            f"A plain {'classifier' if _is_classifier(facts) else 'baseline'} does as well: {plain.title} and "
            f"{tuned.title} both score {plain_figure}."
        )
    else:
        first = gettext_noop(
            f"A plain {'classifier' if _is_classifier(facts) else 'baseline'} does as well: {plain.title} scores "
            f"{plain_figure}, {tuned.title} {tuned_figure}, and the difference is within chance."
        )
    return f"{first} {then}."


def _against_base(facts: EvaluationFacts, tuned: ModelFacts, base: ModelFacts | None) -> str:
    rows, model = format_thousands(facts.rows), f"{tuned.title[0].upper()}{tuned.title[1:]}"
    metric, score = _lower(facts.main_metric), _said(tuned, facts.main_metric)
    if base is None:
        return gettext_noop(f"{model} scores {score} in {metric} on {rows} held-out rows")
    comparison, other = facts.compared(tuned.name, base.name, facts.main_metric), base.title
    if comparison is None:
        its = _said(base, facts.main_metric)
        return gettext_noop(
            f"{model} was not compared with {other} row by row ({score} against {its} on {rows} held-out rows)"
        )
    sure = format_interval_and_p(comparison)
    gap = format_points(comparison.difference, facts.main_metric) + sure
    if comparison.difference == 0:
        short = _short(gap) + sure
        return gettext_noop(
            f"{model} scores the same as {other}, {score} in {metric}: they differ by {short} on {rows} held-out rows"
            if comparison.low or comparison.high
            else f"{model} scores the same as {other}, {score} in {metric}, on {rows} held-out rows"
        )
    match classify_comparison(comparison):
        case "better":
            return gettext_noop(f"{model} is better than {other} by {gap} on {rows} held-out rows")
        case "worse":
            return gettext_noop(f"{model} is worse than {other} by {gap} on {rows} held-out rows")
        case _:
            model = tuned.title
            return gettext_noop(
                f"No clear difference between {model} and {other}: they differ by {gap} on {rows} held-out rows"
            )


def _against_blind(facts: EvaluationFacts, tuned: ModelFacts) -> str:
    """How much of the score needs the pictures or sounds, where rows have some."""
    blind = next((model for model in facts.models if model.name == BLIND), None)
    comparison = facts.compared(tuned.name, BLIND, facts.main_metric) if blind is not None else None
    if blind is None or comparison is None:
        return ""
    is_silent, score = blind.title.endswith("silence"), _said(blind, facts.main_metric)
    gap = f"{format_points(comparison.difference, facts.main_metric)}{format_interval_and_p(comparison)}"
    if classify_comparison(comparison) == "better":
        text = (
            gettext_noop(f"Of its score, {gap} need the sounds: given silence, the same model scores {score}.")
            if is_silent
            else gettext_noop(
                f"Of its score, {gap} need the pictures: shown grey pictures, the same model scores {score}."
            )
        )
    else:
        text = (
            gettext_noop(
                f"That it needs the sounds is not shown: given silence, the same model scores {score}, {gap} apart."
            )
            if is_silent
            else gettext_noop(
                "That it needs the pictures is not shown: shown grey pictures, the same model scores "
                f"{score}, {gap} apart."
            )
        )
    return f" {text}"


def _ahead(model: ModelFacts, other: ModelFacts, metric: str) -> bool:
    mine, its = _value(model, metric), _value(other, metric)
    if mine is None or its is None:
        return mine is not None
    return mine < its if metric in LOWER_IS_BETTER else mine > its


def _ends(comparison: ComparisonFact) -> tuple[float | None, float | None]:
    """The ends of the interval, turned so that above zero is better."""
    if not comparison.lower or comparison.low is None or comparison.high is None:
        return comparison.low, comparison.high
    return -comparison.high, -comparison.low


def _value(model: ModelFacts, metric: str) -> float | None:
    score = model.metrics.get(metric)
    return None if score is None else score.value


def _score(score: ScoreFact, metric: str) -> str:
    return format_number(score.value, count_decimals(metric))


def _said(model: ModelFacts, metric: str) -> str:
    return (
        _score(model.metrics[metric], metric)
        if metric in model.metrics
        else gettext_noop("nothing that could be measured")
    )


def _lower(metric: str) -> str:
    return format_points(0, metric).partition(" of ")[2]


def _short(gap: str) -> str:
    """`4.1 points`, where the metric was named before."""
    count, _, unit = gap.partition(" of ")[0].partition(" ")
    return {"point": gettext_noop(f"{count} point"), "points": gettext_noop(f"{count} points")}.get(unit, count)


def _is_classifier(facts: EvaluationFacts) -> bool:
    """Whether the plain baseline is called a plain classifier."""
    return facts.task == "label" and not any(model.is_plain for model in facts.models)


def _scale(metric: str) -> float:
    return 1.0 if metric in HUNDRED or metric in OPEN else 100.0
