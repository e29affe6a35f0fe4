"""A harness task's settings: what its YAML may say, checked; what would need code is refused with the reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from luthier.core.errors import RecipeError, SourceLocation, did_you_mean

OutputType = Literal["multiple_choice", "loglikelihood", "loglikelihood_rolling", "generate_until"]
DEFAULT_METRICS: dict[OutputType, tuple[str, ...]] = {
    "multiple_choice": ("acc", "acc_norm"),
    "loglikelihood": ("perplexity", "acc"),
    "loglikelihood_rolling": ("word_perplexity", "byte_perplexity", "bits_per_byte"),
    "generate_until": ("exact_match",),
}
KNOWN_METRICS: dict[OutputType, tuple[str, ...]] = {
    **DEFAULT_METRICS,
    "multiple_choice": (
        *("acc", "acc_norm", "acc_bytes", "acc_mutual_info", "exact_match", "brier_score"),
        *("f1", "mcc"),
    ),
    "generate_until": ("exact_match", "bleu", "chrf", "ter"),
}
_AGGREGATIONS = {
    "perplexity": "perplexity",
    "word_perplexity": "weighted_perplexity",
    "byte_perplexity": "weighted_perplexity",
    "bits_per_byte": "bits_per_byte",
    "brier_score": "brier_score",
    "f1": "f1",
    "mcc": "matthews_corrcoef",
    "bleu": "bleu",
    "chrf": "chrf",
    "ter": "ter",
}
_REFUSED = {
    "process_docs": "rewrites rows by code",
    "process_results": "grades by code",
    "custom_dataset": "makes its data by code",
    "class": "is a class of the harness",
    "use_prompt": "takes its prompt from another library",
    "doc_to_image": "shows images",
    "doc_to_audio": "plays sounds",
    "unsafe_code": "runs code that models write",
}
_TELLING = frozenset(
    {
        "task_alias",
        "tag",
        "group",
        "group_alias",
        "metadata",
        "should_decontaminate",
        "doc_to_decontamination_query",
    }
)
"""What says how a task is filed or looked up, and changes neither its questions nor its scores."""


class FunctionName(str):
    """The name of a function that a YAML file calls for."""

    __slots__ = ()


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class FewshotConfig(_Settings):
    """How the examples before a question are drawn and written."""

    sampler: Literal["default", "first_n"] = "default"
    split: str | None = None
    samples: list[dict[str, Any]] | None = None
    fewshot_indices: list[int] | None = None
    doc_to_text: str | int | None = None
    doc_to_choice: str | list[Any] | dict[str, Any] | None = None
    doc_to_target: str | int | list[Any] | None = None
    gen_prefix: str | None = None
    fewshot_delimiter: str | None = None
    target_delimiter: str | None = None


class Config(_Settings):
    """One task as its YAML says, with the harness' own defaults."""

    task: str
    output_type: OutputType = "generate_until"
    dataset_path: str | None = None
    dataset_name: str | None = None
    dataset_kwargs: dict[str, Any] | None = None
    training_split: str | None = None
    validation_split: str | None = None
    test_split: str | None = None
    fewshot_split: str | None = None
    doc_to_text: str | int = ""
    doc_to_target: str | int | list[Any] = ""
    doc_to_choice: str | list[Any] | dict[str, Any] | None = None
    description: str = ""
    target_delimiter: str = " "
    fewshot_delimiter: str = "\n\n"
    fewshot_config: FewshotConfig | None = None
    num_fewshot: int | None = Field(default=None, ge=0)
    metric_list: list[dict[str, Any]] | None = None
    generation_kwargs: dict[str, Any] | None = None
    repeats: Literal[1] = 1
    filter_list: list[dict[str, Any]] | None = None
    gen_prefix: str | None = None

    @property
    def shots(self) -> FewshotConfig:
        """The examples' settings, with the task's own where they say nothing."""
        own = self.fewshot_config or FewshotConfig()
        mine = {name: getattr(self, name) for name in _ALIKE if getattr(own, name) is None}
        return own.model_copy(update={**mine, "split": own.split or self.fewshot_split})

    @property
    def metrics(self) -> dict[str, dict[str, Any]]:
        """Settings of each score by its name, in order."""
        if self.metric_list is None:
            return {name: {} for name in DEFAULT_METRICS[self.output_type]}
        plain = ("metric", "aggregation", "higher_is_better", "hf_evaluate")
        return {one["metric"]: {k: v for k, v in one.items() if k not in plain} for one in self.metric_list}

    @property
    def until(self) -> tuple[str, ...]:
        """Texts at which generation ends."""
        stop_texts = (self.generation_kwargs or {}).get("until", self.fewshot_delimiter)
        return tuple([stop_texts] if isinstance(stop_texts, str) else stop_texts or [])


_ALIKE = ("doc_to_text", "doc_to_choice", "doc_to_target", "gen_prefix", "fewshot_delimiter", "target_delimiter")


def parse_task_config(settings: dict[str, Any], file: Path) -> Config:
    """Check a task's settings; `RecipeError` names what cannot be done here, and why."""
    for name, why in _REFUSED.items():
        if settings.get(name):
            raise _refused(name, f"{name} {why}", file)
    if code := _code({name: value for name, value in settings.items() if name not in _TELLING}):
        raise _refused(code[0], f"{code[0]} calls for code ({code[1]})", file)
    try:
        accepted = {name: value for name, value in settings.items() if name not in _TELLING and name not in _REFUSED}
        config = Config.model_validate(accepted)
    except ValidationError as error:
        first = error.errors()[0]
        location = ".".join(map(str, first["loc"]))
        hint = did_you_mean(location, Config.model_fields) if first["type"] == "extra_forbidden" else ""
        what = f"this setting of a harness task is unknown: {location}" if hint else first["msg"]
        raise RecipeError(what, where=SourceLocation(file=str(file), field=location), hint=hint) from error
    _check_metrics(config, file)
    return config


def _check_metrics(config: Config, file: Path) -> None:
    known = KNOWN_METRICS[config.output_type]
    for one in config.metric_list or []:
        name = str(one.get("metric"))
        where = SourceLocation(file=str(file), field="metric_list")
        if name not in known:
            what = f"{name} is not measured for tasks of the type {config.output_type}"
            raise RecipeError(what, where=where, hint=did_you_mean(name, known))
        usual = _AGGREGATIONS.get(name, "mean")
        if one.get("aggregation", usual) != usual:
            raise RecipeError(f"{name} is put together by {usual}, not by {one['aggregation']}", where=where)


def _code(value: Any, name: str = "") -> tuple[str, str] | None:
    """The first setting that calls for a function, and the function."""
    if isinstance(value, FunctionName):
        return name, str(value)
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return next((found for key, one in inside if (found := _code(one, name or str(key)))), None)


def _refused(field: str, what: str, file: Path) -> RecipeError:
    hint = "write it as a Jinja template or the name of a field; code that comes with a task is never run"
    return RecipeError(what, where=SourceLocation(file=str(file), field=field), hint=hint)
