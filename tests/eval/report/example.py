"""An example report: support intents, a tuned model, its base and two plain baselines, and hostile text in the data."""

from __future__ import annotations

import math
import random

from luthier.artifacts.findings import Finding, FindingNumber, FindingTable
from luthier.eval.report.facts.data import (
    DataFacts,
    EditFact,
    FindingFacts,
    FindingRow,
    LabelCount,
    LeftOutRow,
    OperatorAccuracy,
    OperatorCounts,
    SourceFacts,
    ValidationFacts,
)
from luthier.eval.report.facts.fact import ScoreFact
from luthier.eval.report.facts.models import (
    Advice,
    CalibrationBin,
    ClassScore,
    ComparisonFact,
    ConfusionMatrix,
    EvaluationFacts,
    MeasureFact,
    ModelFacts,
    ReliabilityFacts,
    RowFact,
    SliceFact,
)
from luthier.eval.report.facts.report import ArtifactFact, CostFact, GateFacts, ProvenanceFacts, ReportFacts, RuleFacts
from luthier.eval.report.facts.tuning import LogPoint, RenderedRowFact, SequenceFact, TokenSpanFact, TuningFacts

HOSTILE = '<script>alert("owned")</script><img src=x onerror=alert(1)> </title> ${7*7} {{ 7*7 }} &amp; "quoted" \' ]]>'
LABELS = ("account", "cancel order", "card arrival", "complaint", "delivery", "invoice", "payment issue", "refund")
TEXTS = (
    "My card has not arrived yet, and it was ordered two weeks ago.",
    "I want my money back for the blue chair; it came with a broken leg.",
    "how do i close my acount pls",
    "The invoice of March shows the old address. Could you correct it?",
    "Why was I charged twice for one transfer?",
    "Can the parcel be left with the neighbours at number 12?",
)


def score(value: float, rows: int = 500, signature: str = "accuracy|v1|rows:500") -> ScoreFact:
    """A share with Wilson's interval."""
    z = 1.96
    middle = (value + z * z / (2 * rows)) / (1 + z * z / rows)
    half = z * math.sqrt(value * (1 - value) / rows + z * z / (4 * rows * rows)) / (1 + z * z / rows)
    return ScoreFact(value=value, low=middle - half, high=middle + half, signature=signature)


def models(tuned: float = 0.906, base: float = 0.492, plain: float = 0.864) -> tuple[ModelFacts, ...]:
    """Four models with five metrics."""
    values = {"tuned": tuned, "base": base, "tfidf": plain, "majority": 0.142}
    titles = {
        "tuned": "the tuned model",
        "base": "the base model",
        "tfidf": "TF-IDF with logistic regression",
        "majority": "always the most frequent label",
    }
    return tuple(
        ModelFacts(
            name=name,
            title=titles[name],
            role="plain" if name in ("tfidf", "majority") else name,  # type: ignore[arg-type]
            metrics={
                "accuracy": score(value),
                "macro_f1": score(value * 0.98, signature="macro_f1|v1"),
                "mcc": score(max(value - 0.05, 0.0), signature="mcc|v1"),
                "ece": ScoreFact(value=0.41 - 0.4 * value, low=0.39 - 0.4 * value, high=0.44 - 0.4 * value),
            },
            measures={
                "bias.gap": MeasureFact(
                    score=ScoreFact(value=0.21 - 0.15 * value, low=0.16 - 0.15 * value, high=0.27 - 0.15 * value),
                    rows=480,
                    detail={"en": value, "es": value - 0.06},
                )
            },
        )
        for name, value in values.items()
    )


def comparison(b: str, difference: float, half: float, p: float, metric: str = "accuracy") -> ComparisonFact:
    """Tuned minus another."""
    return ComparisonFact(
        a="tuned",
        b=b,
        metric=metric,
        difference=difference,
        low=difference - half,
        high=difference + half,
        p=p,
        p_holm=min(1.0, 2 * p),
        test="McNemar, exact" if metric == "accuracy" else "paired bootstrap",
        rows=500,
        fixed=round(max(difference, 0.0) * 500) + 18,
        broken=18,
        detectable=0.031,
    )


def rows(count: int, *, hostile: bool = True, now_right: bool | None = None) -> tuple[RowFact, ...]:
    """Rows with answers, the first of them hostile; `now_right` makes all of them fixed, or all broken."""
    draw = random.Random(7)
    found = []
    for at in range(count):
        right, was = draw.choice(LABELS), draw.choice(LABELS)
        text = HOSTILE if hostile and at == 0 else draw.choice(TEXTS)
        now = right if draw.random() < 0.9 else draw.choice(LABELS)
        other = LABELS[(LABELS.index(right) + 1) % len(LABELS)]
        if now_right is not None:
            now, was = (right, other) if now_right else (other, right)
        found.append(
            RowFact(
                id=f"{draw.getrandbits(64):016x}",
                text=text,
                reference=right,
                answers={"tuned": now, "base": was, "tfidf": right},
                correct={"tuned": now == right, "base": was == right, "tfidf": True},
            )
        )
    return tuple(found)


def confusion(labels: tuple[str, ...] = LABELS) -> ConfusionMatrix:
    """Mostly right, with two labels that are taken for each other."""
    draw = random.Random(3)
    size = len(labels)
    counts = [[draw.choice((0, 0, 0, 0, 1)) for _ in range(size)] for _ in range(size)]
    for at in range(size):
        counts[at][at] = 40 + draw.randrange(25)
    counts[2][4], counts[4][2] = 9, 6
    return ConfusionMatrix(model="tuned", labels=labels, counts=tuple(map(tuple, counts)))


def evaluation(**changes: object) -> EvaluationFacts:
    """A label task with everything."""
    draw = random.Random(5)
    every = rows(500)
    bins = tuple(
        CalibrationBin(
            low=k / 10,
            high=(k + 1) / 10,
            confidence=k / 10 + 0.055,
            accuracy=score(max(k / 10 - 0.02, 0.02), 8 * k + 4),
            rows=8 * k + 4,
        )
        for k in range(3, 10)
    )
    base_bins = tuple(
        CalibrationBin(
            low=k / 10,
            high=(k + 1) / 10,
            confidence=k / 10 + 0.05,
            accuracy=score(0.2 + k * 0.035, 60 - 4 * k),
            rows=60 - 4 * k,
        )
        for k in range(1, 10)
    )
    f1 = {label: 0.7 + 0.29 * draw.random() for label in LABELS}
    facts = {
        "name": "report",
        "task": "label",
        "rows": 500,
        "main_metric": "accuracy",
        "models": models(),
        "comparisons": (
            comparison("base", 0.414, 0.045, 1e-9),
            comparison("tfidf", 0.042, 0.03, 0.008),
            comparison("majority", 0.764, 0.04, 1e-9),
            comparison("base", 0.406, 0.05, 1e-4, "macro_f1"),
            comparison("tfidf", 0.02, 0.031, 0.2, "macro_f1"),
            comparison("base", -0.165, 0.03, 1e-4, "ece"),
        ),
        "probed": (
            comparison("base", -0.062, 0.03, 0.004, "bias.gap").model_copy(update={"lower_is_better": True}),
            comparison("base", 0.01, 0.05, 0.7, "safety.refusal"),
            comparison("tfidf", 0.02, 0.06, 0.5, "bias.gap").model_copy(update={"lower_is_better": True}),
        ),
        "confusions": (confusion(), confusion().model_copy(update={"model": "base"})),
        "classes": tuple(
            ClassScore(
                label=label, model=model, rows=40 + 5 * at, f1=score(value if model == "tuned" else value * 0.5, 50)
            )
            for model in ("tuned", "base")
            for at, (label, value) in enumerate(f1.items())
        ),
        "reliability": (
            ReliabilityFacts(model="tuned", bins=bins, ece=ScoreFact(value=0.048, low=0.03, high=0.071)),
            ReliabilityFacts(model="base", bins=base_bins, ece=ScoreFact(value=0.213, low=0.18, high=0.25)),
        ),
        "slices": tuple(
            SliceFact(
                name=name,
                value=value,
                model=model,
                metric="accuracy",
                rows=count,
                score=score(right - gap, count),
                gain=ComparisonFact(
                    a="tuned", b="base", metric="accuracy", difference=0.38, low=0.31, high=0.45, p=1e-9, p_holm=6e-9
                )
                if model == "tuned"
                else None,
            )
            for model, gap in (("tuned", 0.0), ("base", 0.38))
            for name, value, count, right in (
                ("language", "en", 402, 0.925),
                ("language", "es", 71, 0.859),
                ("language", "und", 27, 0.741),
                ("length", "up to 8 words", 160, 0.894),
                ("length", "9 to 20 words", 240, 0.921),
                ("length", "more than 20 words", 100, 0.89),
            )
        ),
        "fixed": rows(30, now_right=True),
        "broken": rows(18, hostile=False, now_right=False),
        "samples": every[40:48],
        "everything": every,
        "notes": ("12 held-out rows are near-duplicates of training rows; they count here as they are.",),
    }
    return EvaluationFacts.model_validate({**facts, **changes})


def advice() -> tuple[Advice, ...]:
    """What may change an outcome, with a command that is far wider than a phone."""
    step = "{kind: tune, data: data, technique: plain, max_train_samples: 4000}"
    command = f"luthier run recipe.yaml 'steps.tune={step}' --only report"
    merged = "luthier run recipe.yaml 'steps.data.ops=[" + "Lieferverzögerungsbenachrichtigung" * 4 + "]'"
    return (
        Advice(what="Take the plain classifier as the model.", why="It is trained in seconds.", command=command),
        Advice(what="Merge two classes.", why="4 of 9 wrong answers take one for the other.", command=merged),
    )


def log(steps: int = 240) -> tuple[LogPoint, ...]:
    """A falling loss with noise."""
    draw = random.Random(1)
    return tuple(
        LogPoint(
            step=k,
            loss=0.35 + 2.4 * math.exp(-k / 45) + draw.gauss(0, 0.09) * (0.4 + math.exp(-k / 60)),
            held_out_loss=0.42 + 2.4 * math.exp(-k / 45) if k % 40 == 0 else None,
            lr=2e-4 * min(k / 12, 1) * 0.5 * (1 + math.cos(math.pi * k / steps)),
            grad_norm=0.4 + 3 * math.exp(-k / 30),
            held_out={"accuracy": 0.9 - 0.6 * math.exp(-k / 45)} if k % 40 == 0 else {},
        )
        for k in range(1, steps + 1)
    )


def data() -> DataFacts:
    """What became of 5,240 rows."""
    counts = {label: 640 - 70 * at for at, label in enumerate(LABELS)}
    return DataFacts(
        name="data",
        rows_in=5240,
        splits={"train": 4302, "test": 500},
        dropped={"near-duplicate of a kept row": 311, "text too short": 88, "label missing": 39},
        left_out=(
            LeftOutRow(
                reason="near-duplicate of a kept row",
                location="tickets.csv:31 (row 20)",
                text="Where is my card?",
                twin="tickets.csv:12 (row 9)",
            ),
            LeftOutRow(reason="text too short", location="tickets.csv:70", text=HOSTILE),
        ),
        edited={"normalize": 812, "pii": 97},
        counted=(
            OperatorCounts(
                operator="pii", locations=("meta.who", "user"), rows={"email": {"user": 90}, HOSTILE: {"meta.who": 7}}
            ),
        ),
        rightness=(
            OperatorAccuracy(operator="pii", kind="email", expected=40, found=39, recall=(0.975, 0.871, 0.996)),
        ),
        labels=tuple(LabelCount(label=label, rows={"train": n, "test": n // 9}) for label, n in counts.items()),
        edits=(
            EditFact(
                operator="pii", reason="email", location="tickets.csv:17", before="", after="Write me at [EMAIL]."
            ),
            EditFact(
                operator="normalize", reason="spaces", location="tickets.csv:40", before="my  card…", after="my card…"
            ),
            EditFact(operator="normalize", reason="html", location="tickets.csv:44", before=HOSTILE, after="alert"),
        ),
        sources=(
            SourceFacts(name="csv", files=("data/tickets.csv",), rows=5240, digest="9f2c" * 8, licence="CC-BY-4.0"),
        ),
    )


RECIPE = """\
luthier: 1
name: support-intents
seed: 7
model: smollm2-135m-instruct
steps:
  data:
    kind: prepare
    source: {kind: csv, path: data/tickets.csv, prompt: text, answer: category}
    ops: [normalize, {kind: pii, action: redact}, near_dedup, language]
    split: {test: 500}
  tune:    {kind: tune, data: data, technique: {kind: lora, r: 16}, objective: sft}
  report:  {kind: evaluate, data: data, model: tune}
  gate:    {kind: gate, evaluation: report, rules: ["macro_f1 > base"]}
"""


def validation() -> ValidationFacts:
    """What checks of the data found: something of each severity, with hostile text in a row."""
    share = FindingNumber(
        value=0.031, low=0.024, high=0.04, rows=2400, about="share of rows with a wrong label", share=True
    )
    table = FindingTable(
        title="Rows by class", columns=("class", "rows", "share"), rows=((LABELS[0], 310, 0.129), (HOSTILE, 4, None))
    )
    numbers = {"label_errors": share}
    findings = (
        Finding(
            name="label_errors",
            severity="serious",
            title="Likely label errors",
            sentence="74 rows of 2,400 (3.1 %) likely bear a wrong label.",
            rows=74,
            numbers=numbers,
            hint="Read the rows.",
            mend='ops: [{kind: exclude_ids, ids: ["0123456789abcdef"]}]',
        ),
        Finding(
            name="imbalance",
            severity="warning",
            title="Class imbalance",
            sentence="The largest class has 310 training rows, the smallest 4.",
            numbers={"imbalance": FindingNumber(value=77.5, about="rows of the largest for each of the smallest")},
            hint="Measure macro_f1.",
            tables=(table,),
        ),
        Finding(name="length_outliers", severity="info", title="Lengths", sentence="No row is far from the usual."),
    )
    row = FindingRow(
        id="0123456789abcdef", location="tickets.csv:17", text=HOSTILE, answer=LABELS[1], note="rather 'refund'"
    )
    shown = [FindingFacts(finding=one, shown=(row,) if one.rows else ()) for one in findings]
    return ValidationFacts(
        name="checked",
        sentence="The data are not fit to train on yet; 1 serious finding: likely label errors.",
        rows=2400,
        looked_at=2400,
        findings=tuple(shown),
        skipped={"answer_quality": "answers are classes"},
    )


def facts(**changes: object) -> ReportFacts:
    """The whole report."""
    whole = {
        "title": "support-intents",
        "created": "9 May 2025, 14:20 UTC",
        "evaluations": (evaluation(),),
        "validations": (validation(),),
        "gates": (
            GateFacts(
                name="gate",
                verdict="INCONCLUSIVE",
                rules=(
                    RuleFacts(
                        rule="macro_f1 > base",
                        verdict="PASS",
                        value=0.406,
                        low=0.356,
                        high=0.456,
                        against=0.0,
                        why="The whole interval lies above 0.",
                    ),
                    RuleFacts(
                        rule="macro_f1 > tfidf",
                        verdict="INCONCLUSIVE",
                        value=0.02,
                        low=-0.011,
                        high=0.051,
                        against=0.0,
                        more_rows=720,
                        why="The interval holds 0.",
                    ),
                    RuleFacts(
                        rule="ece <= 0.05",
                        verdict="FAIL",
                        value=0.08,
                        low=0.06,
                        high=0.1,
                        against=0.05,
                        why="The whole interval lies above 0.05.",
                    ),
                ),
            ),
        ),
        "data": (data(),),
        "tunings": (
            TuningFacts(
                name="tune",
                technique="lora",
                objective="sft",
                steps=240,
                rows=8604,
                tokens=301140,
                learnt_tokens=25812,
                trainable_parameters=4_884_480,
                parameters=134_515_008,
                cut_rows=3,
                log=log(),
                rendered=(
                    RenderedRowFact(
                        id="0a1b2c3d4e5f6071",
                        file="tickets.csv",
                        line=2,
                        cut_tokens=7,
                        sequences=(
                            SequenceFact(
                                tokens=21,
                                trained_tokens=3,
                                stretches=(
                                    TokenSpanFact(text="<|im_start|>user\nWhere is it?<|im_end|>\n", trained=False),
                                    TokenSpanFact(text="delivery<|im_end|>", trained=True),
                                    TokenSpanFact(text="\n", trained=False),
                                ),
                            ),
                        ),
                    ),
                    RenderedRowFact(id="1a1b2c3d4e5f6071", file="tickets.csv", line=3, left_out="longer than 9 tokens"),
                ),
                settings={"technique.r": "16", "technique.lora_alpha": "32", "batch": "36", "learning_rate": "0.0002"},
            ),
        ),
        "costs": (
            CostFact(
                step="data",
                predicted_seconds=4.0,
                seconds=5.2,
                predicted_peak_bytes=400 << 20,
                peak_bytes=380 << 20,
                how="rows × operators, from the last run",
            ),
            CostFact(
                step="tune",
                predicted_seconds=950,
                seconds=1012,
                predicted_peak_bytes=2 << 30,
                peak_bytes=2100 << 20,
                predicted_tokens=301_000,
                tokens=301_140,
                how="0.32 Mtoken/s measured on this machine",
            ),
            CostFact(
                step="report",
                predicted_seconds=60,
                seconds=38.5,
                peak_bytes=900 << 20,
                predicted_tokens=19_000,
                tokens=18_870,
            ),
        ),
        "provenance": ProvenanceFacts(
            recipe=RECIPE,
            seed=7,
            artifacts=(
                ArtifactFact(step="data", kind="prepare", makes="dataset", digest="3c9f" * 8, files=7, size=1_204_331),
                ArtifactFact(step="tune", kind="tune", makes="model", digest="a01b" * 8, files=6, size=19_671_040),
                ArtifactFact(
                    step="report", kind="evaluate", makes="evaluation", digest="77de" * 8, files=5, size=310_220
                ),
            ),
            versions={"luthier": "0.1.0", "torch": "2.13.0", "transformers": "5.24.0", "peft": "0.21.0"},
            machine={"processor": "2 cores, x86-64", "memory": "8 GiB"},
            licences={"model smollm2-135m-instruct": "Apache-2.0", "data/tickets.csv": "CC-BY-4.0"},
            commands=("luthier run recipe.yaml", "luthier report recipe.yaml"),
        ),
    }
    return ReportFacts.model_validate({**whole, **changes})
