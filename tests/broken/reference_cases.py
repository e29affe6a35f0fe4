"""Steps that name what is not there or of the wrong type, gates that cannot be ruled, models that nobody knows."""

from __future__ import annotations

from tests.broken.case import Case, edited

DATA_OF_TUNE = "data: data\n    technique"
RING = (
    "luthier: 1\nmodel: tiny-model\nsteps:\n"
    "  data: {kind: prepare, source: {kind: csv, path: tickets.csv, prompt: message, answer: category}}\n"
    "  one: {kind: tune, data: data, model: two}\n  two: {kind: tune, data: data, model: one}\n"
)


def _rule(text: str) -> str:
    return edited("accuracy >= 0.0", text)


def _model(value: str) -> str:
    return edited("model: tiny-model", f"model: {value}")


RULE = "recipe.yaml:26 (steps.gate.rules.0)"
CASES = (
    Case(
        "unknown step",
        "recipe.yaml:13 (steps.tune.data)",
        "no step 'dota'",
        "'data'",
        recipe=edited(DATA_OF_TUNE, "data: dota\n    technique"),
    ),
    Case(
        "step of another type",
        "recipe.yaml:25 (steps.gate.evaluation)",
        "an evaluation; 'tune' makes a model",
        "known: report",
        recipe=edited("evaluation: report", "evaluation: tune"),
    ),
    Case(
        "itself",
        "recipe.yaml:21 (steps.report.model)",
        "'report' makes an evaluation",
        "known: model, tune",
        recipe=edited("model: tune", "model: report"),
    ),
    Case("a ring", "recipe.yaml:5 (steps.one)", "wait for each other: one, two", "read something else", recipe=RING),
    Case(
        "itself alone",
        "recipe.yaml:5 (steps.one)",
        "wait for each other: one",
        "read something else",
        recipe=RING.replace("model: two", "model: one").replace("  two: {kind: tune, data: data, model: one}\n", ""),
    ),
    Case(
        "left out",
        "recipe.yaml:11 (steps.tune.data)",
        "is required",
        "`data: STEP`, a step that makes a dataset; known: data",
        recipe=edited(DATA_OF_TUNE, "technique"),
    ),
    Case(
        "nothing",
        "recipe.yaml:13 (steps.tune.data)",
        "the name of a step, got nothing",
        "known: data",
        recipe=edited(DATA_OF_TUNE, "data:\n    technique"),
    ),
    Case(
        "a list",
        "recipe.yaml:13 (steps.tune.data)",
        "the name of a step, got a list",
        "known: data",
        recipe=edited(DATA_OF_TUNE, "data: [data]\n    technique"),
    ),
    # gates
    Case("sign of a rule", RULE, "column 10: '=' has no meaning in a rule", "step gate", recipe=_rule("accuracy => 0")),
    Case("per cent of nothing", RULE, "column 13: expected a number", "step gate", recipe=_rule("accuracy >= %")),
    Case(
        "findings of nothing", RULE, "column 1: no data was checked", "`validate`", recipe=_rule("no serious findings")
    ),
    Case("half a rule", RULE, "column 12: expected a number, or a model", "step gate", recipe=_rule("accuracy >=")),
    Case("metric of a rule", RULE, "metric 'acuracy' is unknown", "'accuracy'", recipe=_rule("acuracy >= 0.5")),
    Case("opponent of a rule", RULE, "model 'bse' is unknown", "'base'", recipe=_rule("accuracy > bse")),
    Case(
        "rule about nothing measured", RULE, "does not measure bleu", "evaluation's metrics", recipe=_rule("bleu > 1")
    ),
    Case(
        "rule without a probe",
        RULE,
        "does not measure bias.gap",
        "evaluation's probes",
        recipe=_rule("bias.gap <= 0.1"),
    ),
    Case(
        "base that is left out",
        "recipe.yaml:27 (steps.gate.rules.0)",
        "leaves the base out",
        "compare_base to true",
        recipe=edited("model: tune\n", "model: tune\n    compare_base: false\n", _rule("accuracy > base")),
    ),
    Case(
        "rules of nothing",
        "recipe.yaml:26 (steps.gate.rules)",
        "at least 1 of them",
        "step gate",
        recipe=edited('["accuracy >= 0.0"]', "[]"),
    ),
    Case(
        "a rule for rules",
        "recipe.yaml:26 (steps.gate.rules)",
        "expected a list, got 'accuracy >= 0.0'",
        "write a list",
        recipe=edited('["accuracy >= 0.0"]', "accuracy >= 0.0"),
    ),
    # models
    Case(
        "near a model",
        "recipe.yaml:4 (model)",
        "model 'smollm-135m' is unknown",
        "'smollm2-135m-instruct'",
        recipe=_model("smollm-135m"),
        kind="ModelError",
    ),
    Case(
        "a data file for a model",
        "recipe.yaml:4 (model)",
        "model 'tickets.csv' is unknown",
        "known: gemma",
        recipe=_model("tickets.csv"),
        kind="ModelError",
    ),
    Case("a number for a model", "recipe.yaml:4 (model)", "got 7", "known: endpoint, folder, gguf", recipe=_model("7")),
    Case(
        "a list for a model",
        "recipe.yaml:4 (model)",
        "got a list",
        "known: endpoint, folder, gguf",
        recipe=_model("[tiny-model]"),
    ),
    Case(
        "unknown kind of model",
        "recipe.yaml:4 (model.kind)",
        "model 'ollama' is unknown",
        "known: endpoint, folder, gguf",
        recipe=_model("{kind: ollama, path: x}"),
    ),
    Case(
        "half a hub id",
        "recipe.yaml:4 (model.id)",
        "expected OWNER/NAME",
        "model hub",
        recipe=_model("{kind: hub, id: mine}"),
    ),
    Case(
        "a variable for a model",
        "recipe.yaml:4 (model)",
        "no folder",
        "OWNER/NAME",
        recipe=_model("$HOME/model"),
        kind="ModelError",
    ),
)
