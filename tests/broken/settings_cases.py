"""Settings of a kind, name or size that their parts do not take, at every level of a recipe."""

from __future__ import annotations

from tests.broken.case import Case, edited
from tests.tiny_models import RECIPE

GATE = RECIPE[RECIPE.index("  gate:\n") :]
SOURCE = "{kind: csv, path: tickets.csv, prompt: message, answer: category}"
TUNE = "`luthier components step tune`"
NAMES = "a name of small letters"


def _source(more: str) -> str:
    return edited("answer: category}", f"answer: category, {more}}}")


def _rate(value: str) -> str:
    return edited("learning_rate: 1.0e-2", f"learning_rate: {value}")


def _split(value: str) -> str:
    return edited("{test: 30}", value)


def _step(name: str) -> str:
    return edited("  gate:\n", f"  {name}:\n")


CASES = (
    # names of settings
    Case("of a recipe", "recipe.yaml:2 (nome)", "no setting 'nome'", "'name'", recipe=edited("name: t", "nome: t")),
    Case(
        "of a step",
        "recipe.yaml:15 (steps.tune.batch_sise)",
        "no setting",
        "'batch_size'",
        recipe=edited("batch_size", "batch_sise"),
    ),
    Case(
        "of a source", "recipe.yaml:8 (steps.data.source.promt)", "no setting", "'prompt'", recipe=_source("promt: x")
    ),
    Case(
        "of a technique",
        "recipe.yaml:14 (steps.tune.technique.rank)",
        "no setting",
        "here it is called `r`",
        recipe=edited("r: 4", "rank: 4"),
    ),
    Case("of a split", "recipe.yaml:10 (steps.data.split.tests)", "no setting", "'test'", recipe=_split("{tests: 30}")),
    Case(
        "of an operator",
        "recipe.yaml:9 (steps.data.ops.1.acton)",
        "no setting",
        "'action'",
        recipe=edited("exact_dedup]", "{kind: pii, acton: redact}]"),
    ),
    Case(
        "of a model",
        "recipe.yaml:4 (model.pth)",
        "no setting",
        "'path'",
        recipe=edited("model: tiny-model", "model: {kind: folder, pth: tiny-model}"),
    ),
    Case(
        "remote code",
        "recipe.yaml:4 (model.trust_remote_code)",
        "no setting",
        "known: kind, path",
        recipe=edited("model: tiny-model", "model: {kind: folder, path: tiny-model, trust_remote_code: true}"),
    ),
    # kinds of parts
    Case(
        "unknown step",
        "recipe.yaml:12 (steps.tune.kind)",
        "step 'tone' is unknown",
        "'tune'",
        recipe=edited("kind: tune", "kind: tone"),
    ),
    Case(
        "unknown operator",
        "recipe.yaml:9 (steps.data.ops.1)",
        "operator 'dedup' is unknown",
        "'near_dedup'",
        recipe=edited("exact_dedup", "dedup"),
    ),
    Case(
        "unknown source",
        "recipe.yaml:8 (steps.data.source.kind)",
        "source 'gopher' is unknown",
        "known: annotations, arrow, csv",
        recipe=edited("kind: csv", "kind: gopher"),
    ),
    Case(
        "an ending for a source's kind",
        "recipe.yaml:8 (steps.data.source.kind)",
        "source 'xlsx' is unknown",
        "did you mean 'excel'?",
        recipe=edited("kind: csv", "kind: xlsx"),
    ),
    Case(
        "objective for technique",
        "recipe.yaml:14 (steps.tune.technique)",
        "technique 'sft' is unknown",
        "lora",
        recipe=edited("{kind: lora, r: 4}", "sft"),
    ),
    Case(
        "unknown metric",
        "recipe.yaml:22 (steps.report.metrics.1)",
        "metric 'macrof1' is unknown",
        "'macro_f1'",
        recipe=edited("macro_f1]", "macrof1]"),
    ),
    Case(
        "a variable where none is taken",
        "recipe.yaml:2 (name)",
        "takes no environment variable",
        "write the value itself",
        recipe=edited("name: tickets", "name: $NAME"),
    ),
    Case(
        "name of an alert",
        "recipe.yaml:23 (steps.watch.alerts.0.name)",
        "expected a name of letters, digits and _ (a letter first), got 'too slow'",
        "write a name",
        recipe=edited(
            "  gate:\n", "  watch: {kind: monitor, alerts: [{expr: latency.p95 > 2, name: too slow}]}\n  gate:\n"
        ),
    ),
    Case(
        "metric twice",
        "recipe.yaml:22 (steps.report.metrics)",
        "accuracy is named twice",
        "keep one",
        recipe=edited("macro_f1]", "accuracy]"),
    ),
    Case(
        "no kind",
        "recipe.yaml:11 (steps.tune)",
        "expected a step: its kind",
        "known: augment, base, compose",
        recipe=edited("    kind: tune\n", ""),
    ),
    Case(
        "no kind of source",
        "recipe.yaml:8 (steps.data.source)",
        "got a mapping of path",
        "known: annotations, arrow, csv",
        recipe=edited(SOURCE, "{path: tickets.csv}"),
    ),
    Case(
        "a path for a source",
        "recipe.yaml:8 (steps.data.source)",
        "source 'tickets.csv' is unknown",
        "write `{kind: csv, path: tickets.csv}`",
        recipe=edited(SOURCE, "tickets.csv"),
    ),
    Case(
        "a list for a step",
        "recipe.yaml:23 (steps.gate)",
        "got a list",
        "known: augment, base, compose",
        recipe=edited(GATE, "  gate: [gate]\n"),
    ),
    Case(
        "nothing for a step",
        "recipe.yaml:23 (steps.gate)",
        "got nothing",
        "known: augment, base, compose",
        recipe=edited(GATE, "  gate:\n"),
    ),
    Case(
        "a bare step that needs more",
        "recipe.yaml:23 (steps.gate.data)",
        "is required",
        "`data: STEP`",
        recipe=edited(GATE, "  gate: evaluate\n"),
    ),
    # types
    Case(
        "text for a count",
        "recipe.yaml:15 (steps.tune.batch_size)",
        "expected a whole number, got 'eight'",
        "leave it out (then 32)",
        recipe=edited("batch_size: 8", "batch_size: eight"),
    ),
    Case(
        "half a row",
        "recipe.yaml:15 (steps.tune.batch_size)",
        "got 8.5",
        TUNE,
        recipe=edited("batch_size: 8", "batch_size: 8.5"),
    ),
    Case(
        "yes for a number",
        "recipe.yaml:14 (steps.tune.technique.r)",
        "wants a number, got true",
        "technique lora",
        recipe=edited("r: 4", "r: yes"),
    ),
    Case(
        "yes for a share",
        "recipe.yaml:10 (steps.data.split.test)",
        "wants a number, got true",
        "explain",
        recipe=_split("{test: yes}"),
    ),
    Case(
        "maybe for yes or no",
        "recipe.yaml:14 (steps.tune.technique.use_rslora)",
        "expected true or false, got 'maybe'",
        "(then false)",
        recipe=edited("r: 4", "r: 4, use_rslora: maybe"),
    ),
    Case(
        "a number for text",
        "recipe.yaml:8 (steps.data.source.prompt)",
        "expected text, got 7",
        "source csv",
        recipe=edited("prompt: message", "prompt: 7"),
    ),
    Case(
        "nothing for text",
        "recipe.yaml:8 (steps.data.source.path)",
        "expected text, got nothing",
        "source csv",
        recipe=edited("path: tickets.csv", "path:"),
    ),
    Case(
        "text for a list",
        "recipe.yaml:9 (steps.data.ops)",
        "expected a list, got 'normalize'",
        "write a list",
        recipe=edited("[normalize, exact_dedup]", "normalize"),
    ),
    Case(
        "a number for a mapping",
        "recipe.yaml:10 (steps.data.split)",
        "expected a mapping, got 30",
        "step prepare",
        recipe=_split("30"),
    ),
    Case(
        "a list for the steps",
        "recipe.yaml:5 (steps)",
        "expected a mapping, got a list",
        "write a mapping",
        recipe=f"{RECIPE[: RECIPE.index('  data:')]}  - data\n",
    ),
    # sizes
    Case(
        "negative",
        "recipe.yaml:15 (steps.tune.batch_size)",
        "expected at least 1, got -1",
        TUNE,
        recipe=edited("batch_size: 8", "batch_size: -1"),
    ),
    Case(
        "rate 0",
        "recipe.yaml:16 (steps.tune.learning_rate)",
        "above 0 or 'auto', got 0",
        "(then auto)",
        recipe=_rate("0"),
    ),
    Case(
        "rate below 0",
        "recipe.yaml:16 (steps.tune.learning_rate)",
        "above 0 or 'auto', got -0.1",
        TUNE,
        recipe=_rate("-0.1"),
    ),
    Case(
        "rate in words",
        "recipe.yaml:16 (steps.tune.learning_rate)",
        "expected a number or 'auto', got 'fast'",
        TUNE,
        recipe=_rate("fast"),
    ),
    Case(
        "NaN",
        "recipe.yaml:16 (steps.tune.learning_rate)",
        "expected a finite number or 'auto', got nan",
        TUNE,
        recipe=_rate(".nan"),
    ),
    Case(
        "infinite",
        "recipe.yaml:14 (steps.tune.technique.lora_alpha)",
        "expected a finite number, got inf",
        "(then 32.0)",
        recipe=edited("r: 4", "r: 4, lora_alpha: .inf"),
    ),
    Case(
        "share NaN",
        "recipe.yaml:10 (steps.data.split.test)",
        "expected a finite number, got nan",
        "(then 0.1)",
        recipe=_split("{test: .nan}"),
    ),
    Case(
        "share 1.0",
        "recipe.yaml:10 (steps.data.split)",
        "test: a share is below 1",
        "or a count such as 200",
        recipe=_split("{test: 1.0}"),
    ),
    Case(
        "shares over one",
        "recipe.yaml:10 (steps.data.split)",
        "take 1.1 of the rows",
        "make them smaller",
        recipe=_split("{test: 0.7, validation: 0.4}"),
    ),
    Case(
        "count below 0",
        "recipe.yaml:10 (steps.data.split.test)",
        "expected at least 0, got -5",
        "(then 0.1)",
        recipe=_split("{test: -5}"),
    ),
    Case(
        "seed too large",
        "recipe.yaml:3 (seed)",
        "below 4294967296",
        "(then 0)",
        recipe=edited("seed: 3", "seed: 99999999999"),
    ),
    Case(
        "seed of nothing",
        "recipe.yaml:3 (seed)",
        "expected a whole number, got nothing",
        "(then 0)",
        recipe=edited("seed: 3", "seed:"),
    ),
    # choices
    Case(
        "unknown precision",
        "recipe.yaml:17 (steps.tune.dtype)",
        "'bfloat16', got 'fp16'",
        "(then auto)",
        recipe=edited("dtype: float32", "dtype: fp16"),
    ),
    Case(
        "near a choice",
        "recipe.yaml:17 (steps.tune.lr_scheduler)",
        "got 'cosin'",
        "did you mean 'cosine'?",
        recipe=edited("dtype: float32", "lr_scheduler: cosin"),
    ),
    Case(
        "another version",
        "recipe.yaml:1 (luthier)",
        "expected 1, got 2",
        "(then 1)",
        recipe=edited("luthier: 1", "luthier: 2"),
    ),
    # settings that go together
    Case(
        "prompt alone",
        "recipe.yaml:8 (steps.data.source)",
        "`answer` is not",
        "name the column",
        recipe=edited(", answer: category", ""),
    ),
    Case(
        "one column for prompt and answer",
        "recipe.yaml:8 (steps.data.source)",
        "`prompt` and `answer` name the same column 'message'",
        "name the column that the model shall say",
        recipe=edited("answer: category", "answer: message"),
    ),
    Case(
        "messages and prompt",
        "recipe.yaml:8 (steps.data.source)",
        "`messages` is set beside",
        "keep the one",
        recipe=_source("messages: turns"),
    ),
    Case(
        "cluster without near_dedup",
        "recipe.yaml:6 (steps.data)",
        "split.group is `cluster`",
        "add one of them to ops",
        recipe=_split("{test: 30, group: cluster}"),
    ),
    Case(
        "layers without a list",
        "recipe.yaml:14 (steps.tune.technique.target_modules)",
        "expected 'all-linear'",
        "lora",
        recipe=edited("r: 4", "r: 4, target_modules: q_proj"),
    ),
    # what does not go together
    Case(
        "falling rate under an average",
        "recipe.yaml:11 (steps.tune)",
        "schedule_free averages the weights itself",
        "write constant",
        recipe=edited("r: 4}", "r: 4}\n    optimizer: schedule_free\n    lr_scheduler: cosine"),
    ),
    Case(
        "decay without wsd",
        "recipe.yaml:11 (steps.tune)",
        "decay belongs to `lr_scheduler: wsd`",
        "or write wsd",
        recipe=edited("dtype: float32", "dtype: float32\n    decay: 0.1"),
    ),
    # what is missing
    Case(
        "no path",
        "recipe.yaml:8 (steps.data.source.path)",
        "is required",
        "add `path: …`; `luthier components source csv`",
        recipe=edited("path: tickets.csv, ", ""),
    ),
    Case("no steps", "recipe.yaml:1 (steps)", "is required", "add `steps: …`", recipe=RECIPE[: RECIPE.index("steps:")]),
    Case(
        "steps of nothing",
        "recipe.yaml:5 (steps)",
        "at least 1 of them, got nothing",
        "write at least 1",
        recipe=f"{RECIPE[: RECIPE.index('steps:')]}steps: {{}}\n",
    ),
    Case(
        "no model",
        "recipe.yaml:1 (model)",
        "names no model",
        "add `model: smollm2-135m-instruct`",
        recipe=edited("model: tiny-model\n", ""),
    ),
    # names
    Case("name that climbs", "recipe.yaml:2 (name)", NAMES, "rename it", recipe=edited("name: tickets", "name: ../x")),
    Case(
        "name with a capital",
        "recipe.yaml:2 (name)",
        "got 'My Tickets'",
        "rename it",
        recipe=edited("name: tickets", "name: My Tickets"),
    ),
    Case(
        "name of nothing",
        "recipe.yaml:2 (name)",
        "got nothing",
        "rename it",
        recipe=edited("name: tickets", "name: ''"),
    ),
    Case("step that climbs", "recipe.yaml:23 (steps.../gate)", NAMES, "rename it", recipe=_step("../gate")),
    Case("step too long", f"recipe.yaml:23 (steps.{'g' * 65})", NAMES, "rename it", recipe=_step("g" * 65)),
    Case("step without a name", "recipe.yaml:23 (steps)", "not a plain name", "by its name", recipe=_step("''")),
    Case(
        "step called model",
        "recipe.yaml:11 (steps.model)",
        "kept for the recipe's base model",
        "something else",
        recipe=edited("  tune:\n", "  model:\n"),
    ),
    Case(
        "metric of texts for classes",
        "recipe.yaml:22 (steps.report.metrics.1)",
        "rougeL is about texts, and the data set holds labels",
        "metrics that apply: accuracy, macro_f1, mcc, ece, brier",
        recipe=edited("[accuracy, macro_f1]", "[accuracy, rougeL]"),
    ),
    Case(
        "several mistakes",
        "recipe.yaml:15 (steps.tune.batch_size)",
        "(and 1 more: recipe.yaml:17 (steps.tune.dtype): expected 'auto'",
        TUNE,
        recipe=edited("dtype: float32", "dtype: fp16", edited("batch_size: 8", "batch_size: 0")),
    ),
)
