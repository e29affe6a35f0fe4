"""Numbers as people read them: intervals, counts, times, sizes, probabilities."""

from __future__ import annotations

import math
from collections.abc import Sequence

from luthier.eval.report.facts.fact import Score

MISSING = "–"
HUNDRED = frozenset({"bleu", "chrf", "ter", "self_bleu"})
"""Metrics that are written on a scale of 0 to 100; the others run from 0 to 1."""
OPEN = frozenset({"perplexity", "bits_per_byte", "fluency", "reward"})
"""Metrics on a scale of their own, without an upper end."""
SURE = 0.05
"""Above this p a difference is called unclear, whatever its interval says."""
NAMES = {
    "accuracy": "Accuracy",
    "macro_f1": "Macro F1",
    "micro_f1": "Micro F1",
    "weighted_f1": "Weighted F1",
    "macro_precision": "Macro precision",
    "macro_recall": "Macro recall",
    "balanced_accuracy": "Balanced accuracy",
    "mcc": "Matthews correlation",
    "ece": "Calibration error",
    "brier": "Brier score",
    "exact_match": "Exact match",
    "tool_calls": "Tool calls",
    "token_f1": "Token F1",
    "bleu": "BLEU",
    "chrf": "chrF",
    "ter": "Edit rate (TER)",
    "rouge1": "ROUGE-1",
    "rouge2": "ROUGE-2",
    "rougeL": "ROUGE-L",
    "rougeLsum": "ROUGE-Lsum",
    "meteor": "METEOR",
    "wer": "Word error rate",
    "cer": "Character error rate",
    "perplexity": "Perplexity",
    "bits_per_byte": "Bits per byte",
}


def metric_name(metric: str) -> str:
    """A metric's name as people write it."""
    return NAMES.get(metric, metric.replace("_", " "))


def places(metric: str) -> int:
    """Decimals that are worth reading: three on a scale to 1, one on a scale to 100, two otherwise."""
    if metric in HUNDRED:
        return 1
    return 2 if metric in OPEN else 3


def number(value: float | None, decimals: int = 3) -> str:
    """A number with a true minus sign; a dash when there is none."""
    if value is None or not math.isfinite(value):
        return MISSING
    text = f"{value:,.{decimals}f}"
    if text.strip("-0.,") == "":
        text = text.lstrip("-")
    return text.replace("-", "−")


def decisive(decimals: int, *values: float) -> int:
    """So many decimals, or as many more as keep what is not nought from being written as nought (six at most)."""
    least = min((abs(value) for value in values if value), default=1.0)
    return next((more for more in range(decimals, 6) if round(least, more)), max(decimals, 6))


def signed(value: float | None, decimals: int = 3) -> str:
    """A difference with its sign."""
    text = number(value, decimals)
    return text if text == MISSING or text.startswith("−") else f"+{text}"


def interval(score: Score, metric: str = "") -> str:
    """`0.906 (0.886–0.923)`: a value with the ends of its interval, when it has one."""
    decimals = places(metric)
    text = number(score.value, decimals)
    if text == MISSING or score.low is None or score.high is None:
        return text
    between = "–" if score.low >= 0 else " to "
    return f"{text} ({number(score.low, decimals)}{between}{number(score.high, decimals)})"


def difference(value: float, low: float | None, high: float | None, metric: str = "") -> str:
    """`+0.081 (+0.052 to +0.110)`: a difference with the ends of its interval."""
    decimals = places(metric)
    if low is None or high is None:
        return signed(value, decimals)
    if low * high > 0:
        decimals = decisive(decimals, value, low, high)
    text = signed(value, decimals)
    return f"{text} ({signed(low, decimals)} to {signed(high, decimals)})"


def probability(p: float | None) -> str:
    """`p < 0.001` or `p = 0.03`: as many figures as tell on which side of what is called sure it stands."""
    if p is None:
        return ""
    if p < 0.001:
        return "p < 0.001"
    texts = [f"{p:.{decimals}f}" for decimals in ((3, 4, 5) if p < 0.1 else (2,))]
    return "p = " + next((text for text in texts if (float(text) < SURE) == (p < SURE)), texts[-1])


def count(value: float | None) -> str:
    """A whole number with commas at the thousands."""
    return MISSING if value is None else f"{round(value):,}"


def large(value: float | None) -> str:
    """A big number in words: `134.5 million`."""
    if value is None:
        return MISSING
    for limit, word in ((1e9, "billion"), (1e6, "million")):
        if abs(value) >= limit:
            return f"{value / limit:.1f} {word}"
    return count(value)


def share(part: float, whole: float) -> str:
    """`9.3 %` of something; a dash of nothing."""
    if not whole:
        return MISSING
    percent = 100 * part / whole
    return f"{percent:.0f} %" if percent >= 10 or percent == 0 else f"{percent:.2g} %"


def duration(seconds: float | None) -> str:
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


def size(value: float | None) -> str:
    """Bytes in binary units: `1.2 GiB`."""
    if value is None:
        return MISSING
    for limit, unit in ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if value >= limit:
            return f"{value / limit:.1f} {unit}"
    return f"{round(value)} B"


def listing(words: Sequence[str]) -> str:
    """`a, b and c`."""
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} and {words[-1]}"


def headed(title: str) -> str:
    """A title as it stands alone: `Tuned model` for `the tuned model`."""
    bare = title.removeprefix("the ")
    return bare[:1].upper() + bare[1:]


def clipped(text: str, limit: int) -> str:
    """Text cut to a limit of characters, with a mark where it was cut."""
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"
