"""The model card of an export: description, lineage, training, results and licences.

Every fact is read from the artifact and its ancestors.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import yaml

from luthier.artifacts.dataset import DatasetSummary
from luthier.artifacts.training import TUNED_CARD, TrainingRecord, describe_privacy, kind_of_part
from luthier.core.artifact import Artifact
from luthier.core.errors import UnknownName
from luthier.core.system.packages import cached_wheel, wheel_license
from luthier.models.describe import read_chat_template, read_json_object
from luthier.models.export.check import PROMPT
from luthier.models.load import (
    ADAPTER,
    find_base_folder,
    find_origin_artifact,
    get_model_name,
    get_output_classes,
    get_weights_artifact,
)
from luthier.models.sequence_head import read_padding_id

if TYPE_CHECKING:
    from luthier.artifacts.explanation import ExplanationSummary
    from luthier.models.export.check import ModelAgreement

LIBRARIES = {"hf": "transformers", "merged": "transformers", "adapter": "peft", "gguf": "gguf"}
BASE = "base"
"""Folder of the base model in an adapter's export."""
_IMPORTS = "from transformers import AutoModelForCausalLM, AutoTokenizer\n"
_FOLDER = '\nfolder = "."  # where this file lies\n'
_TOKENIZER = "tokenizer = AutoTokenizer.from_pretrained(folder)"
_OPENING = {
    "hf": f"{_IMPORTS}{_FOLDER}model = AutoModelForCausalLM.from_pretrained(folder)\n{_TOKENIZER}",
    "adapter": (
        f"from peft import PeftModel\n{_IMPORTS}{_FOLDER}"
        f"base = AutoModelForCausalLM.from_pretrained(BASE)\nmodel = PeftModel.from_pretrained(base, folder)\n"
        f"{_TOKENIZER}"
    ),
}
_OPENING["merged"] = _OPENING["hf"]
_ASKING = """\
ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
answer = model.generate(**ids, max_new_tokens=64)
print(tokenizer.decode(answer[0, ids["input_ids"].shape[1] :], skip_special_tokens=True))"""


class ExportDetails(NamedTuple):
    """Format of an export, and its agreement with the model."""

    format: Literal["hf", "adapter", "merged", "gguf"]
    quant: str
    agreed: ModelAgreement
    before: Mapping[str, Any] | None = None
    """The start of every conversation, as in `prompt.json`."""
    over_whole: ModelAgreement | None = None
    """Agreement of an adapter trained over a quantized base when it is used over the full one."""
    with_base: bool = False
    """Whether an adapter's folder includes its base model."""


class ModelScores(NamedTuple):
    """The metric values of a model for its card, with those of other models on the same rows."""

    values: Mapping[str, Any]
    """A number, or `{"value", "low", "high"}`, by metric."""
    compared_models: Mapping[str, Mapping[str, Any]] = MappingProxyType({})
    """Metrics of other models by name."""
    where: str = ""
    """The rows, as part of a sentence."""
    conclusion: str = ""
    """The conclusion, in sentences."""
    explanation: ExplanationSummary | None = None
    """The best explanation method, and its evaluation."""


class HubModel(NamedTuple):
    """A model on the Hugging Face hub."""

    id: str
    commit: str


class BaseModelOrigin(NamedTuple):
    """The base model behind an artifact."""

    name: str
    licence: str | None
    origin: str
    chat_template: str | None = None
    """The chat template that replaced its own; None where it has its own."""

    @property
    def published(self) -> HubModel | None:
        """Its hub id and commit; None for a model from elsewhere."""
        match self.origin.split():
            case ["hub", name, "at", commit]:
                return HubModel(name, commit)
            case _:
                return None

    @property
    def address(self) -> str:
        """Its hub id when it came from there, else its name."""
        return self.published.id if self.published is not None else self.name


def read_base_origin(artifact: Artifact) -> BaseModelOrigin:
    """Read the base model's card from the lineage."""
    record = find_origin_artifact(artifact).read_json("model.json")
    return BaseModelOrigin(record["name"], record.get("licence"), record.get("origin", ""), record.get("chat_template"))


def find_published_base(artifact: Artifact) -> HubModel | None:
    """Find the unmodified Hugging Face Hub model that an adapter was trained on; None when there is none."""
    under = get_weights_artifact(artifact.parent("model"))
    return None if "model" in under.manifest.inputs else read_base_origin(artifact).published


def list_lineage(artifact: Artifact) -> list[Artifact]:
    """List the artifact and all models and data sets that it was made from and that are still in the store, sources
    first."""
    found: dict[str, Artifact] = {}

    def visit(one: Artifact) -> None:
        for field in sorted(one.manifest.inputs):
            try:
                parent = one.parent(field)
            except UnknownName:
                continue  # collected since: the card still names its digest
            visit(parent)
        found.setdefault(one.digest, one)

    visit(artifact)
    return list(found.values())


def render_model_card(artifact: Artifact, form: ExportDetails, measures: ModelScores | None) -> str:
    """Return the README of an export: front matter for the hub, then Markdown."""
    base = read_base_origin(artifact)
    tuned = "model" in artifact.manifest.inputs
    steps = list_lineage(artifact)
    parts = [
        f"---\n{yaml.safe_dump(_build_metadata(artifact, form, base), sort_keys=True, allow_unicode=True)}---\n",
        f"# {get_model_name(artifact)}\n",
        f"{'Tuned' if tuned else 'Exported'} with Luthier from {base.name} ({base.origin}).\n",
        _render_usage(artifact, form),
        _auto(artifact, form) if form.format == "adapter" else "",
        _render_prompt_usage(form.before) if form.before else "",
        _render_format(form),
        *render_history_sections(artifact, measures),
        _licences(base, steps),
    ]
    return "\n".join(part for part in parts if part)


def render_history_sections(artifact: Artifact, measures: ModelScores | None) -> list[str]:
    """Return the sections of every model's card: measures if there are any, provenance, settings."""
    steps = list_lineage(artifact)
    return [
        _measures(measures) if measures and measures.values else "",
        _render_explanations(measures.explanation) if measures and measures.explanation else "",
        _provenance(artifact, steps),
        _settings(steps),
    ]


def _render_explanations(summary: ExplanationSummary) -> str:
    """Render the explanation methods over held-out rows, with their intervals."""
    rows = ["| method | comprehensiveness | sufficiency | over random orders |", "|---|---|---|---|"]
    for method in summary.methods:
        cells = (method.comprehensiveness, method.sufficiency, method.gain_over_random)
        values = " | ".join(f"{one.value:.3f} ({one.low:.3f} to {one.high:.3f})" for one in cells)
        rows.append(f"| {method.method} | {values} |")
    how = (
        f"Measured over {summary.unit} of {summary.rows} held-out rows: how far the probability of the answer falls "
        "without the highest-ranked ones (higher is better), and with them alone (lower is better)."
    )
    return "\n".join(["## Explanations\n", f"{summary.sentence} {how}\n", *rows]) + "\n"


def _render_usage(artifact: Artifact, form: ExportDetails) -> str:
    """Render a program that opens the export in its folder and queries it.

    It imports the adapter types that PEFT does not know, and sets the padding token that a sequence head needs.
    """
    if form.format == "gguf":
        return f"```\n{_render_llama_command(artifact, form)}\n```\n"
    opening, outputs = _OPENING[form.format].replace("BASE", _base_words(artifact, form)), get_output_classes(artifact)
    if form.format == "adapter" and _peft_type(artifact) == "BOTTLENECK":
        opening = f"import luthier.models.adapters  # teaches PEFT this type\n{opening}"
    if outputs:
        opening = opening.replace("AutoModelForCausalLM", "AutoModelForSequenceClassification")
        if form.format == "adapter":
            opening += f"\nmodel.config.pad_token_id = {read_padding_id(find_base_folder(artifact))}"
        opening += f"\nclasses = {json.dumps(list(outputs), ensure_ascii=False)}"
    elif read_chat_template(find_base_folder(artifact)) is not None:
        opening += f"\n\n{_messages(form)}\n{_ASKING}"
    if "json.loads" in opening:
        opening = f"import json\nfrom pathlib import Path\n\n{opening}"
    return f"```python\n{opening}\n```\n"


def get_gguf_name(artifact: Artifact, quant: str) -> str:
    """The name of the file in a GGUF export."""
    return f"{get_model_name(artifact).replace('/', '-')}-{quant}.gguf"


def _render_llama_command(artifact: Artifact, form: ExportDetails) -> str:
    """The command of llama.cpp, with the system message that the model was measured with."""
    command = f"llama-cli -m {shlex.quote(get_gguf_name(artifact, form.quant))} -cnv"
    messages = form.before["messages"] if form.before else []
    if len(messages) == 1 and messages[0]["role"] == "system":
        command += f" -sys {shlex.quote(messages[0]['content'])}"
    return command


def _messages(form: ExportDetails) -> str:
    code = f'messages = [{{"role": "user", "content": {json.dumps(PROMPT)}}}]'
    if not form.before:
        return code
    return f'{code}\nmessages = json.loads(Path(folder, "prompt.json").read_text())["messages"] + messages'


def _base_words(artifact: Artifact, form: ExportDetails) -> str:
    """Return the expression by which a program names an adapter's base."""
    if form.format != "adapter":
        return ""
    labels = f", num_labels={len(outputs)}" if (outputs := get_output_classes(artifact)) else ""
    if form.with_base:
        return f'f"{{folder}}/{BASE}"{labels}'
    if (published := find_published_base(artifact)) is not None:
        return f'"{published.id}", revision="{published.commit}"{labels}'
    return f'json.loads(Path(folder, "adapter_config.json").read_text())["base_model_name_or_path"]{labels}'


def _auto(artifact: Artifact, form: ExportDetails) -> str:
    """Describe PEFT's auto classes, and what to do once the folder is moved."""
    outputs = get_output_classes(artifact)
    kind = "SequenceClassification" if outputs else "CausalLM"
    labels = f", num_labels={len(outputs)}" if outputs else ""
    sentence = f"`peft.AutoPeftModelFor{kind}.from_pretrained(folder{labels})` opens it, too"
    if not form.with_base and find_published_base(artifact) is not None:
        return f"{sentence}.\n"
    what = (
        f"`{BASE}/` holds the base model. `adapter_config.json` names it by its absolute path, since PEFT reads a "
        f"relative one from the working directory"
        if form.with_base
        else "`adapter_config.json` names the base model by its folder in the store of the machine that wrote this"
    )
    where = f"`{BASE}/`" if form.with_base else "the base model"
    return (
        f"{sentence}, from any working directory. {what}. After this folder is moved to another place, write "
        "the path of "
        f"{where} there into `base_model_name_or_path`.\n"
    )


def _peft_type(artifact: Artifact) -> str:
    return str(read_json_object(get_weights_artifact(artifact).folder / ADAPTER / "adapter_config.json")["peft_type"])


def _build_metadata(artifact: Artifact, form: ExportDetails, base: BaseModelOrigin) -> dict[str, Any]:
    """Return the hub's metadata; `base_model_relation` in the hub's terms."""
    front: dict[str, Any] = {
        "base_model": base.address,
        "library_name": LIBRARIES[form.format],
        "license": base.licence or "unknown",
        "pipeline_tag": "text-classification" if get_output_classes(artifact) else "text-generation",
        "tags": ["luthier"],
    }
    if "models.0" in artifact.manifest.inputs:
        front["base_model_relation"] = "merge"
    elif "model" in artifact.manifest.inputs and get_weights_artifact(artifact) is artifact:
        front["base_model_relation"] = "adapter" if form.format == "adapter" else "finetune"
    elif form.quant != "f16":
        front["base_model_relation"] = "quantized"
    return front


def _render_prompt_usage(before: Mapping[str, Any]) -> str:
    """Describe the use of the prompt: without it, the model differs from the evaluated one."""
    where = {
        "replaced": "in place of any system message that it has",
        "kept": "after its own system message, when it has one",
        "usual": "where it has no system message of its own",
    }[before["system"]]
    return (
        f"## Prompt\n\nThis model was measured with a prompt in front of every conversation, and answers otherwise "
        f"without it. Put the `messages` of `prompt.json` before each conversation, {where}:\n\n"
        '```\nmessages = json.load(open("prompt.json"))["messages"] + conversation\n```\n'
    )


def _render_format(form: ExportDetails) -> str:
    """Describe the format, and the result of the export check."""
    precision = f" in {form.quant}" if form.format == "gguf" else ""
    sentence = f"Written as `{form.format}`{precision}, opened again and checked on one fixed prompt: {form.agreed}."
    if form.over_whole is not None:
        sentence += f" It was learnt over a quantized base; over the whole one {form.over_whole}."
    return f"{sentence}\n"


def _provenance(artifact: Artifact, steps: list[Artifact]) -> str:
    rows = [f"artifact: `{artifact.digest}`", f"seed: `{artifact.manifest.seed}`"]
    known = {step.digest for step in steps}
    for step in steps:
        rows.append(f"`{step.manifest.kind}` `{step.digest}`: {_render_lineage_entry(step)}")
        gone = {field: key for field, key in step.manifest.inputs.items() if key not in known}
        rows += [f"its {field}, no longer in the store: `{key}`" for field, key in sorted(gone.items())]
    return "## Provenance\n\n" + "\n".join(f"- {row}" for row in rows) + "\n"


def _render_lineage_entry(artifact: Artifact) -> str:
    """Describe one artifact of the lineage in a sentence."""
    files = {entry.path for entry in artifact.manifest.files}
    if artifact.manifest.makes == "dataset":
        return _data(artifact)
    if TUNED_CARD not in files:
        training_record = artifact.read_json("model.json")
        template = (
            f", with the chat template {_shorten_path(training_record['chat_template'])}"
            if "chat_template" in training_record
            else ""
        )
        return (
            f"base model {training_record['name']} ({training_record.get('origin') or 'origin not stated'}){template}"
        )
    record = TrainingRecord.read(artifact)
    return _render_merge(artifact, record) if record.merge else "; ".join(_tuning(artifact, record))


def _data(artifact: Artifact) -> str:
    summary = DatasetSummary.read(artifact)
    sources = ", ".join(f"{_shorten_path(source.file)} ({source.rows} rows)" for source in summary.sources)
    rows = ", ".join(f"{count} {split}" for split, count in summary.rows.items())
    return f"data from {sources}; kept {rows}; licence {data_licence(artifact) or 'not stated by its source'}"


def data_licence(artifact: Artifact) -> str | None:
    """Return the licence of a data set, where its source states one: its package."""
    source = artifact.manifest.settings.get("source", {})
    if source.get("kind") != "wheel":
        return None
    wheel = cached_wheel(source["package"], source["version"], source.get("sha256"))
    stated = wheel_license(wheel) if wheel else None
    return f"{stated} (of the package {source['package']} {source['version']})" if stated else None


def _tuning(artifact: Artifact, record: TrainingRecord) -> Iterator[str]:
    """Yield the facts of a training, from its own record."""
    for role, part in (("technique", record.technique), ("objective", record.objective)):
        if part:
            yield f"{role} {kind_of_part(part)}"
    response = record.as_json()
    names = {
        "rows": "rows", "rows_seen": "rows seen", "steps": "steps", "learnt_tokens": "learnt tokens in one pass",
        "trainable_parameters": "trained parameters",
    }  # fmt: skip
    yield from (f"{response[name]} {words}" for name, words in names.items() if name in response)
    if (tokens_seen := _tokens_seen(artifact)) is not None:
        yield f"{tokens_seen} tokens seen"
    if promise := describe_privacy(record):
        yield f"differentially private: {promise}"
    if record.learning_rate is not None:
        yield f"learning rate {record.learning_rate:g} ({record.learning_rate_why})"


def _tokens_seen(artifact: Artifact) -> int | None:
    """Return the tokens of all rows, times the number of passes."""
    import polars

    if not any(entry.path == "training_examples.parquet" for entry in artifact.manifest.files):
        return None
    table = polars.read_parquet(artifact.path("training_examples.parquet"), columns=["tokens", "seen"])
    return int((table["tokens"] * table["seen"]).sum())


def _render_merge(artifact: Artifact, record: TrainingRecord) -> str:
    inputs = artifact.manifest.inputs
    parts = ", ".join(f"`{inputs[f'models.{at}'][:12]}` × {weight:g}" for at, weight in enumerate(record.weights))
    return f"merged by {kind_of_part(record.merge or {})} from {parts}, over `{inputs['model'][:12]}`"


def _settings(steps: list[Artifact]) -> str:
    settings = {
        f"{step.manifest.kind} {step.digest[:12]}": strip_absolute_paths(step.manifest.settings) for step in steps
    }
    return f"## Settings\n\n```yaml\n{yaml.safe_dump(settings, sort_keys=True, allow_unicode=True)}```\n"


def strip_absolute_paths(value: Any) -> Any:
    """Return settings with absolute paths reduced to file names, for privacy."""
    if isinstance(value, dict):
        return {key: strip_absolute_paths(item) for key, item in value.items()}
    if isinstance(value, list):
        return [strip_absolute_paths(item) for item in value]
    return _shorten_path(value) if isinstance(value, str) else value


def _shorten_path(text: str) -> str:
    """Return the file name of a path outside the recipe's folder."""
    return Path(text).name if text.startswith(("/", "../", "~")) and "\n" not in text else text


def _measures(measures: ModelScores) -> str:
    """Render a table with one row for each metric, with its interval if it has one, and other models' results on the
    same rows.
    """
    others = list(measures.compared_models)
    rows = [" | ".join(["| metric", "value", "interval", *others]) + " |", "|" + "---|" * (3 + len(others))]
    for name, value in sorted(measures.values.items()):
        measure = _told_of(value)
        between = f"{measure['low']:.4g} to {measure['high']:.4g}" if measure.get("low") is not None else ""
        other_values = [
            _format_number(_told_of(measures.compared_models[other].get(name))["value"]) for other in others
        ]
        rows.append(" | ".join([f"| {name}", _format_number(measure["value"]), between, *other_values]) + " |")
    parts = ["## Measures\n", f"Measured on {measures.where}.\n" if measures.where else "", *rows]
    parts.append(f"\n{measures.conclusion}" if measures.conclusion else "")
    return "\n".join(part for part in parts if part) + "\n"


def _told_of(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {"value": value}


def _format_number(value: float | None) -> str:
    return "–" if value is None else format(value, ".4g")


def _licences(base: BaseModelOrigin, steps: list[Artifact]) -> str:
    """Render the licences of the base model and of each data set."""
    rows = [f"- base model {base.name}: {base.licence or 'not stated'}; it binds this model too"]
    return "## Licence\n\n" + "\n".join([*rows, *format_data_licences(steps)]) + "\n"


def format_data_licences(steps: list[Artifact]) -> list[str]:
    """Return the licences of a lineage's data sets, as list items."""
    return [
        f"- data set `{step.digest[:12]}`: {data_licence(step) or 'not stated by its source'}"
        for step in steps
        if step.manifest.makes == "dataset"
    ]
