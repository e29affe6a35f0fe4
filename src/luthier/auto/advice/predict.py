"""Predict how good each technique will be on some rows, rank the techniques, and say what would turn the ranking.

Quality is predicted on the logit scale. A plain classifier is predicted from its accuracy out of fold; LoRA from what
it gained over a plain classifier on sets like these, weighed by likeness, pooled with the variance between the sets,
and drawn to a wide prior where few sets are alike; every other technique from LoRA, by published comparisons and rules.
An interval is one of 95 % for the value that the held-out rows will show: it holds the variance between sets, that of
the estimate, and that of the held-out rows.

LoRA is the standard. Another technique comes before it only with evidence: it was measured on rows of this kind, its
interval is narrow enough to say something, and it is clearly better or takes half the time. Where limits leave LoRA
out, techniques with such evidence come first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal, NamedTuple, get_args

from luthier.auto.advice.evidence import RULES, EvidenceRecord
from luthier.auto.advice.profile import AdviceProfile
from luthier.core.events import format_counted_noun
from luthier.core.messages import gettext_noop
from luthier.core.render import format_elapsed_time

TechniqueKind = Literal[
    "lora",
    "qlora",
    "full",
    "layers",
    "adapter",
    "ia3",
    "prefix",
    "p_tuning",
    "prompt",
    "prompt_search",
    "plain",
]
"""The techniques of `tune` that are ranked."""
STANDALONE = ("plain", "prompt_search")
"""Techniques that train no weights of a network, so that they have neither an objective nor epochs."""
BASE = "base"
"""The base model without tuning."""
TECHNIQUES: tuple[str, ...] = (*get_args(TechniqueKind), BASE)
"""Ranked techniques: those of `tune`, and the base model."""
UNTUNED = (BASE, "plain")
"""Choices that tune no network."""
NEAR = 0.01
"""A choice that takes half the time or less comes first if its expected quality is at most so much lower."""
_SIMPLER = 0.5
STANDARD = "lora"
"""The technique that is taken where the evidence does not speak for another one."""
THIN = 0.6
"""Width of an interval from which it is too uncertain to choose by."""
_FEW = 1e-3
_Z = NormalDist().inv_cdf(0.975)
_OTHER_TASK = 0.15
"""Likeness of classes to free text."""
_SHOWN = 4
"""Records that are shown for a technique, the most alike first."""
_FACTORS = (2, 4, 8, 16)
"""Multiples of the rows for which the ranking is drawn up again."""


class AdviceTarget(NamedTuple):
    """The quality that is wanted."""

    metric: str
    value: float


class AdviceLimits(NamedTuple):
    """Hard limits of what a technique may take."""

    seconds: float | None = None
    """Maximum seconds of training and evaluation."""
    peak_bytes: float | None = None
    latency_s: float | None = None
    """Maximum seconds of one answer."""


class TechniqueCost(NamedTuple):
    """Cost of a technique on this machine; unknown values are None."""

    seconds: float | None = None
    peak_bytes: int | None = None
    latency_s: float | None = None
    fetches: bool = False
    """Whether the base model must be downloaded first."""
    refused: str = ""
    """Why the technique is unavailable here; empty where it is available."""


class ModelChoice(NamedTuple):
    """A technique over a base model."""

    technique: str
    model: str = ""
    """The base model; empty where none is read."""
    parameters: int = 0


@dataclass(frozen=True, kw_only=True)
class RankedTechnique:
    """One technique with its predictions."""

    technique: str
    model: str
    quality: float
    low: float
    high: float
    chance: float | None
    """Probability of reaching the target; None without one."""
    seconds: float | None
    peak_bytes: int | None
    latency_s: float | None
    fetches: bool
    reason: str
    left_out: str
    """Why it is excluded; empty where it is a choice."""
    thin: str
    """Why its evidence is too uncertain to choose by; empty otherwise."""
    evidence: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class TechniqueRanking:
    """Techniques for some rows, the first choice first, and those that are left out last."""

    metric: str
    techniques: tuple[RankedTechnique, ...]
    turns: tuple[str, ...]
    """Changes that would change the first choice."""

    @property
    def first(self) -> RankedTechnique | None:
        """The first choice; None where everything is left out."""
        return next((technique for technique in self.techniques if not technique.left_out), None)


class _Prediction(NamedTuple):
    """A logit with its standard deviation."""

    mean: float
    sd: float
    reason: str
    records: tuple[EvidenceRecord, ...] = ()
    notes: tuple[str, ...] = ()
    measured: bool = False
    """Whether the technique itself was measured on similar rows."""


class _Observation(NamedTuple):
    value: float
    variance: float
    weight: float


@dataclass(frozen=True)
class QualityPredictor:
    """Predicts the quality of techniques on some rows from evidence."""

    profile: AdviceProfile
    metric: str
    records: Sequence[EvidenceRecord]

    def predict(self, choice: ModelChoice) -> _Prediction:
        """The logit of the quality that a choice will have on the held-out rows."""
        match choice.technique:
            case "plain":
                prediction = self._predict_plain()
            case "lora":
                prediction = self._lora(choice.parameters)
            case "base":
                prediction = self._base(choice.parameters)
            case "prompt_search":
                prediction = self._prompt_search(choice.parameters)
            case _:
                prediction = self._beside_lora(choice)
        spread = math.sqrt(prediction.sd**2 + _noise(_expit(prediction.mean), self.profile.held_out))
        return prediction._replace(sd=spread)

    def _predict_plain(self) -> _Prediction:
        start = self._plain_start()
        if start is None:
            return _Prediction(
                0.0, 1.5, gettext_noop("few rows, or none with classes, were seen: nothing is known of it")
            )
        records = self._find_similar_records("plain", 0)
        mean, sd = _pool(self._compute_gains(records, 0), prior=(0.0, 0.3), between=0.2)
        separability = self.profile.separability
        rows = separability.rows if separability is not None else 0
        reached = self.profile.plain_quality(self.metric)
        reason = gettext_noop(f"words alone reach about {reached:.2f}, each of {rows} rows predicted from the others")
        notes = (gettext_noop(f"{self.metric} out of fold, by rows: {self._curve()}"),)
        return _Prediction(start.mean + mean, math.hypot(start.sd, sd), reason, records[:_SHOWN], notes, measured=True)

    def _lora(self, parameters: int) -> _Prediction:
        start, records = self._plain_start(), self._find_similar_records("lora", parameters)
        if start is None:
            levels = [record for record in records if record.metric == self.metric and record.task == self.profile.task]
            observations = [
                _build_observation(_logit(level.value), level, self._compute_similarity(level, parameters))
                for level in levels
            ]
            mean, sd = _pool(observations, prior=(_logit(0.4), 1.0), between=0.8)
            reason = gettext_noop(
                "nearly all that full fine-tuning learns, in little memory; the level is that of few sets"
                if levels
                else "nearly all that full fine-tuning learns, in little memory; the level is known from no set like "
                "this"
            )
            return _Prediction(mean, sd, reason, tuple(levels[:_SHOWN]), measured=bool(levels))
        paired = [record for record in records if record.plain is not None]
        mean, sd = _pool(self._compute_gains(paired, parameters), prior=(0.3, 0.6), between=0.6)
        gains = [
            evidence_record.value - evidence_record.plain
            for evidence_record in paired
            if evidence_record.plain is not None
        ]
        sets = len({evidence_record.set for evidence_record in paired})
        better = sum(gain > 0 for gain in gains)
        reason = gettext_noop(
            f"it reads order and meaning: better than words alone in {better} of {len(gains)} measurements on "
            f"{format_counted_noun(sets, 'set')}"
        )
        return _Prediction(
            start.mean + mean, math.hypot(start.sd, sd), reason, tuple(paired[:_SHOWN]), measured=bool(paired)
        )

    def _base(self, parameters: int) -> _Prediction:
        if (probe := self._probe("base")) is not None:
            reason = gettext_noop(f"asked {probe.rows} rows, it answered {probe.value:.2f} as it is")
            spread = math.sqrt(_noise(probe.value, probe.rows))
            return _Prediction(_logit(probe.value), spread, reason, (probe,), measured=True)
        if not self.profile.classes:
            lora = self._lora(parameters)
            reason = gettext_noop("no evidence: assumed to be behind a tuned model; `--probe` measures it")
            return _Prediction(lora.mean - 0.8, math.hypot(lora.sd, 0.8), reason)
        records = self._find_similar_records("base", parameters)
        chance = [_logit(record.value) - _logit(1 / record.classes) for record in records]
        observations = [
            _build_observation(gain, record, record.tuning) for gain, record in zip(chance, records, strict=True)
        ]
        mean, sd = _pool(observations, prior=(0.4, 0.8), between=0.5)
        larger = max(0.0, math.log(max(1, parameters) / max([1, *(record.parameters for record in records)])))
        reason = gettext_noop("untuned small models choose little better than by chance; `--probe` measures it")
        start = _logit(1 / max(2, self.profile.classes))
        return _Prediction(start + mean, math.hypot(sd, 0.4 * larger), reason, records[:_SHOWN])

    def _prompt_search(self, parameters: int) -> _Prediction:
        base = self._base(parameters)
        reason = gettext_noop("better instructions and examples for the base model as it is; no evidence here, assumed")
        return self._with_direct(
            ModelChoice("prompt_search", "", parameters),
            _Prediction(base.mean + 0.4, math.hypot(base.sd, 0.7), reason, base.records),
        )

    def _beside_lora(self, choice: ModelChoice) -> _Prediction:
        lora = self._lora(choice.parameters)
        rule = next((entry for entry in RULES if entry.technique == choice.technique), None)
        prior = (rule.advantage, rule.spread) if rule is not None else (-0.5, 1.0)
        compared = [
            record for record in self.records if record.technique == choice.technique and record.lora is not None
        ]
        observations = [
            _build_observation(
                _logit(evidence_record.value) - _logit(evidence_record.lora),
                evidence_record,
                evidence_record.tuning * self._task_likeness(evidence_record),
            )
            for evidence_record in compared
            if evidence_record.lora is not None
        ]
        mean, sd = _pool(observations, prior=prior, between=0.2)
        reason = rule.sentence if rule is not None else gettext_noop("no evidence")
        notes = (gettext_noop(f"rule: {rule.sentence} ({rule.source})"),) if rule is not None else ()
        is_measured = any(evidence_record.task == self.profile.task for evidence_record in compared)
        prediction = _Prediction(
            lora.mean + mean, math.hypot(lora.sd, sd), reason, tuple(compared[:_SHOWN]), notes, measured=is_measured
        )
        return self._with_direct(choice, prediction)

    def _with_direct(self, choice: ModelChoice, found: _Prediction) -> _Prediction:
        """Add direct evidence of the technique on data sets with a plain classifier."""
        start = self._plain_start()
        direct = [
            evidence_record
            for evidence_record in self._find_similar_records(choice.technique, choice.parameters)
            if evidence_record.plain is not None
        ]
        if start is None or not direct:
            return found
        prior = (found.mean - start.mean, found.sd)
        mean, sd = _pool(self._compute_gains(direct, choice.parameters), prior=prior, between=0.4)
        return found._replace(
            mean=start.mean + mean,
            sd=math.hypot(start.sd, sd),
            records=(*direct[:_SHOWN], *found.records)[:_SHOWN],
            measured=True,
        )

    def _plain_start(self) -> _Prediction | None:
        """The logit that the plain classifier reaches out of fold, carried over to all training rows."""
        value, separability = self.profile.plain_quality(self.metric), self.profile.separability
        if value is None or separability is None:
            return None
        beyond = max(0.0, math.log2(self.profile.rows / max(separability.accuracy)))
        return _Prediction(_logit(value), math.hypot(math.sqrt(_noise(value, separability.rows)), 0.15 * beyond), "")

    def _compute_gains(self, records: Sequence[EvidenceRecord], parameters: int) -> list[_Observation]:
        """By how much each record beat a plain classifier, in logits."""
        return [
            _build_observation(
                _logit(record.value) - _logit(record.plain), record, self._compute_similarity(record, parameters)
            )
            for record in records
            if record.plain is not None
        ]

    def _find_similar_records(self, technique: str, parameters: int) -> tuple[EvidenceRecord, ...]:
        """The records of a technique on rows of this task, the most alike first."""
        evidence_records = [
            record for record in self.records if record.technique == technique and record.kind != "probe"
        ]
        evidence_records = [
            evidence_record for evidence_record in evidence_records if evidence_record.task == self.profile.task
        ]
        return tuple(
            sorted(evidence_records, key=lambda evidence_record: -self._compute_similarity(evidence_record, parameters))
        )

    def _compute_similarity(self, record: EvidenceRecord, parameters: int) -> float:
        """Return from 0 to 1 how relevant a record is for these rows."""
        pairs = [
            (record.train_rows, self.profile.rows, 1.5),
            (record.prompt_words + 3, self.profile.prompt_words + 3, 1.5),
        ]
        if record.classes and self.profile.classes:
            pairs.append((record.classes, self.profile.classes, 1.5))
        if record.parameters and parameters:
            pairs.append((record.parameters, parameters, 2.0))
        distance = sum((math.log(entry / other) / scale) ** 2 for entry, other, scale in pairs)
        value = self.profile.plain_quality(self.metric)
        if record.plain is not None and value is not None:
            distance += ((_logit(record.plain) - _logit(value)) / 1.5) ** 2
        return math.exp(-distance / 2) * record.tuning * self._task_likeness(record)

    def _task_likeness(self, record: EvidenceRecord) -> float:
        return 1.0 if record.task == self.profile.task else _OTHER_TASK

    def _probe(self, technique: str) -> EvidenceRecord | None:
        return next(
            (record for record in self.records if record.kind == "probe" and record.technique == technique), None
        )

    def _curve(self) -> str:
        separability = self.profile.separability
        return (
            ", ".join(f"{rows}: {value:.2f}" for rows, value in sorted(separability.accuracy.items()))
            if separability
            else ""
        )


def rank_techniques(
    profile: AdviceProfile,
    costs: Mapping[ModelChoice, TechniqueCost],
    records: Sequence[EvidenceRecord],
    *,
    metric: str,
    limits: AdviceLimits = AdviceLimits(),  # noqa: B008 - a tuple
    target: AdviceTarget | None = None,
) -> TechniqueRanking:
    """Rank the techniques whose costs are given, and find what would change the first choice."""
    metric = target.metric if target is not None else metric

    def drawn_up(rows: int, limits: AdviceLimits) -> list[RankedTechnique]:
        changed = profile.with_rows(rows)
        predictor = QualityPredictor(changed, metric, records)
        factor = rows / profile.rows
        return _order_choices(
            [
                _rank_choice(model_choice, predictor, _scale_cost(cost, model_choice, factor), limits, target)
                for model_choice, cost in costs.items()
            ],
            target,
        )

    techniques = drawn_up(profile.rows, limits)
    return TechniqueRanking(
        metric=metric,
        techniques=tuple(techniques),
        turns=tuple(_turns(profile.rows, techniques, limits, drawn_up)),
    )


def _rank_choice(
    choice: ModelChoice,
    predictor: QualityPredictor,
    cost: TechniqueCost,
    limits: AdviceLimits,
    target: AdviceTarget | None,
) -> RankedTechnique:
    prediction = predictor.predict(choice)
    chance = NormalDist(prediction.mean, prediction.sd).cdf(_logit(target.value)) if target is not None else None
    low, high = (round(_expit(prediction.mean + sign * _Z * prediction.sd), 4) for sign in (-1, 1))
    return RankedTechnique(
        technique=choice.technique,
        model=choice.model,
        quality=round(_expit(prediction.mean), 4),
        low=low,
        high=high,
        chance=round(1 - chance, 3) if chance is not None else None,
        seconds=cost.seconds,
        peak_bytes=cost.peak_bytes,
        latency_s=cost.latency_s,
        fetches=cost.fetches,
        reason=prediction.reason,
        left_out=cost.refused or _find_broken_limit(cost, limits),
        thin=_explain_thin_evidence(prediction, low, high),
        evidence=(*prediction.notes, *(record.sentence for record in prediction.records)),
    )


def _explain_thin_evidence(found: _Prediction, low: float, high: float) -> str:
    """Return why a prediction is too uncertain to choose by; empty otherwise."""
    if not found.measured:
        return gettext_noop("it was not measured on rows of this kind")
    if high - low >= THIN:
        return gettext_noop(f"anything from {low:.2f} to {high:.2f} is possible")
    return ""


def _find_broken_limit(cost: TechniqueCost, limits: AdviceLimits) -> str:
    """Return the exceeded limit, and by how much."""
    if limits.seconds is not None and cost.seconds is not None and cost.seconds > limits.seconds:
        taken, budget = format_elapsed_time(cost.seconds), format_elapsed_time(limits.seconds)
        return gettext_noop(f"training and measuring take {taken}, the budget is {budget}")
    if limits.peak_bytes is not None and cost.peak_bytes is not None and cost.peak_bytes > limits.peak_bytes:
        taken, budget = f"{cost.peak_bytes / 1e9:.1f}", f"{limits.peak_bytes / 1e9:.1f}"
        return gettext_noop(f"it takes {taken} GB, the limit is {budget} GB")
    if limits.latency_s is not None and cost.latency_s is not None and cost.latency_s > limits.latency_s:
        taken, budget = f"{1000 * cost.latency_s:.0f}", f"{1000 * limits.latency_s:.0f}"
        return gettext_noop(f"an answer takes {taken} ms, the limit is {budget} ms")
    return ""


def _order_choices(found: Sequence[RankedTechnique], target: AdviceTarget | None) -> list[RankedTechnique]:
    """The best first; a choice that takes half the time or less comes before one that is hardly better, and the
    standard before one for which too little speaks."""

    def worth(one: RankedTechnique) -> float:
        return one.quality if one.chance is None or target is None else one.chance

    choices = sorted(
        (technique for technique in found if not technique.left_out),
        key=lambda technique: (-worth(technique), technique.seconds or 0),
    )
    near = NEAR if target is None else 5 * NEAR
    supported = [choice for choice in choices if not choice.thin]
    standard = next((choice for choice in choices if choice.technique == STANDARD), None)
    first = standard or next(iter(supported or choices), None)
    for technique in supported:
        if first is not None and worth(technique) > worth(first) + near:
            first = technique
    if first is not None:
        simpler = [
            technique
            for technique in supported
            if worth(first) - worth(technique) <= near and _is_simpler(technique, first)
        ]
        first = min(simpler, key=lambda technique: technique.seconds or 0, default=first)
        choices.remove(first)
        choices.insert(0, first)
    return [
        *choices,
        *sorted((technique for technique in found if technique.left_out), key=lambda technique: -worth(technique)),
    ]


def _is_simpler(one: RankedTechnique, other: RankedTechnique) -> bool:
    """Return whether a choice takes at most half the time of another."""
    return one.seconds is not None and other.seconds is not None and one.seconds <= _SIMPLER * other.seconds


def _scale_cost(cost: TechniqueCost, choice: ModelChoice, factor: float) -> TechniqueCost:
    """Return the cost for `factor` times the rows."""
    return cost if cost.seconds is None or choice.technique == BASE else cost._replace(seconds=cost.seconds * factor)


def _turns(
    rows: int,
    techniques: Sequence[RankedTechnique],
    limits: AdviceLimits,
    drawn_up: Callable[[int, AdviceLimits], list[RankedTechnique]],
) -> list[str]:
    """Return what would change the first choice: a lifted limit, or more rows."""
    first = techniques[0] if techniques and not techniques[0].left_out else None
    several = len({one.model for one in techniques if one.model}) > 1
    found = []
    for field in AdviceLimits._fields:
        if getattr(limits, field) is None:
            continue
        other = drawn_up(rows, limits._replace(**{field: None}))[0]
        if other.left_out or (first is not None and _is_same(other, first)):
            continue
        needed = getattr(other, field)
        bound, name = _LIMIT_WORDS[field](needed), _name(other, several=several)
        found.append(gettext_noop(f"{bound} makes {name} the first choice"))
    if first is not None and first.technique not in UNTUNED and limits.seconds is None and first.seconds is not None:
        tight = drawn_up(rows, limits._replace(seconds=0.9 * first.seconds))
        if tight and not tight[0].left_out:
            bound, name = format_elapsed_time(first.seconds), _name(tight[0], several=several)
            found.append(gettext_noop(f"a budget below {bound} makes {name} the first choice"))
    for factor in _FACTORS:
        other = drawn_up(rows * factor, limits)[0]
        if not other.left_out and first is not None and not _is_same(other, first):
            more, name = f"{rows * factor:,}", _name(other, several=several)
            found.append(gettext_noop(f"about {more} training rows make {name} the first choice"))
            break
    return found


_LIMIT_WORDS: Mapping[str, Callable[[float], str]] = {
    "seconds": lambda value: gettext_noop(f"a budget of {format_elapsed_time(value)}"),
    "peak_bytes": lambda value: gettext_noop(f"memory of {value / 1e9:.1f} GB"),
    "latency_s": lambda value: gettext_noop(f"a latency of {1000 * value:.0f} ms"),
}


def _is_same(one: RankedTechnique, other: RankedTechnique) -> bool:
    return (one.technique, one.model) == (other.technique, other.model)


def _name(one: RankedTechnique, *, several: bool) -> str:
    """Return a technique's name; with its base model where `several` are compared."""
    if one.technique == BASE:
        return gettext_noop(f"{one.model} as it is" if several else "the base model as it is")
    return gettext_noop(f"{one.technique} over {one.model}") if several and one.model else one.technique


def _pool(observations: Sequence[_Observation], *, prior: tuple[float, float], between: float) -> tuple[float, float]:
    """Mean and predictive standard deviation of a quantity that was seen on other sets.

    A normal prior (mean, standard deviation), and observations that differ between sets by a standard deviation which
    is itself estimated from them, three observations' worth drawn to `between`.
    """
    mean, weight = prior[0], sum(observation.weight for observation in observations)
    spread = between**2
    for _ in range(2):
        precision = [observation.weight / (spread + observation.variance) for observation in observations]
        total = 1 / prior[1] ** 2 + sum(precision)
        weighted_sum = sum(p * observation.value for p, observation in zip(precision, observations, strict=True))
        mean = (prior[0] / prior[1] ** 2 + weighted_sum) / total
        squares = sum(
            observation.weight * max(0.0, (observation.value - mean) ** 2 - observation.variance)
            for observation in observations
        )
        spread = (3 * between**2 + squares) / (3 + weight)
    return mean, math.sqrt(1 / total + spread)


def _build_observation(value: float, record: EvidenceRecord, weight: float) -> _Observation:
    return _Observation(value, _noise(record.value, record.rows), max(weight, 1e-6))


def _noise(value: float, rows: int) -> float:
    """Return the variance of the logit of a share measured on `rows` rows."""
    share = min(max(value, 1 / (rows + 2)), 1 - 1 / (rows + 2))
    return 1 / (max(1, rows) * share * (1 - share))


def _logit(value: float) -> float:
    share = min(max(value, _FEW), 1 - _FEW)
    return math.log(share / (1 - share))


def _expit(value: float) -> float:
    return 1 / (1 + math.exp(-value))
