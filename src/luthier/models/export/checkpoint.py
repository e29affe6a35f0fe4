"""Give a model artifact out as files that other programs open, after checking that they answer as the model does.

    hf, merged   a Hugging Face folder; an adapter is merged in float32 and rounded once to the base's dtype
    adapter      PEFT's folder with the tokenizer; the base model is named by its id on the hub, or lies in base/
    gguf         one file for llama.cpp: float16, or quantized to 8 or 4 bits
    sklearn      a plain classifier: safetensors, JSON, and a script that makes the scikit-learn pipeline of them

An export appears whole or not at all, and never replaces anything but an earlier export.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from luthier.core.artifact import Artifact
from luthier.core.errors import InputError, ModelError, SourceLocation
from luthier.core.files import translate_write_errors
from luthier.core.system.process import hide_transformers_output
from luthier.models.describe import describe_model_folder, read_chat_template, read_json_object
from luthier.models.export.check import (
    NEAR_TIE,
    ModelAgreement,
    compare_greedy_answers,
    encode_check_prompt,
    generate_greedy_answer,
)
from luthier.models.export.model_card import (
    BASE,
    ExportDetails,
    ModelScores,
    find_published_base,
    get_gguf_name,
    read_base_origin,
    render_model_card,
)
from luthier.models.gguf.reader import open_gguf, read_gguf_tokenizer
from luthier.models.gguf.writer import Quant, write_gguf
from luthier.models.load import (
    ADAPTER,
    find_base_folder,
    get_model_name,
    get_output_classes,
    get_quantization_scheme,
    get_weights_artifact,
    is_adapter,
    is_plain_classifier,
    load_model,
    open_adapter,
    open_adapter_base,
    open_folder,
    open_merged,
    pick_dtype,
)
from luthier.models.sequence_head import add_sequence_head
from luthier.models.source import Say, list_model_files, list_tokenizer_files, write_config_dtype, write_json

Format = Literal["hf", "adapter", "merged", "gguf", "sklearn"]
MARKER = "luthier.json"
"""The file that marks an export."""
MOST_NATS = {"q8_0": 0.25, "q4_0": 1.5}
"""Mean difference of log-probabilities, in nats a token, above which a quantized file counts as broken rather than
rounded. SmolLM2-135M, the smallest common model and so the most affected, is 0.026 off in q8_0 and 0.60 in q4_0; with
heads in the wrong order q8_0 is 2.7 off. A random model has nearly uniform predictions, so its difference is always
small."""
_TOKENIZER_PROBES = ("It costs 1,250.75 today.\n\n1. café  2\tnaïve — 你好", "  def f(x):\n    return x['key']\n")


def export_model_folder(  # noqa: PLR0913  # what an export may be asked for
    artifact: Artifact,
    to: Path,
    format: Format,  # the word that the command line uses too
    *,
    quant: Quant = "f16",
    dequantize: bool = False,
    with_base: bool | None = None,
    measures: ModelScores | None = None,
    before: Mapping[str, Any] | None = None,
    say: Say = lambda text: None,
) -> Path:
    """Write a model artifact to the folder `to`, check it, and return the folder.

    `quant` is the precision of a GGUF file's matrices; `dequantize` merges an adapter trained over a quantized base
    into the dequantized weights. `with_base` writes an adapter's base model to `base/`; by default where it has no id
    on the Hugging Face hub. `measures` go into the model card; `before`, the start of every conversation, into the card
    and `prompt.json`. A prompt-only model is exported as the weights behind it. Raises `ModelError` when the format
    cannot represent this model, or when the written model does not answer as the model does.
    """
    if quant != "f16" and format != "gguf":
        hint = "leave it out, or export as `gguf`"
        raise InputError(f"{quant} is a precision of GGUF files", where=SourceLocation(field="--quant"), hint=hint)
    if is_plain_classifier(artifact):
        return _export_classifier(artifact, to, format, measures, say)
    if format == "sklearn":
        what, where = "is a network, which scikit-learn does not open", SourceLocation(file=str(artifact.folder))
        raise ModelError(what, where=where, hint="export it as `hf`; `technique: plain` makes a classifier for it")
    if format == "gguf" and (outputs := get_output_classes(artifact)):
        what = f"has a sequence head for {len(outputs)} classes, for which GGUF files of language models have no place"
        raise ModelError(what, where=SourceLocation(file=str(artifact.folder)), hint="export it as `hf`")
    to = to.expanduser().absolute()
    own = get_weights_artifact(artifact)
    if dequantize and (format == "adapter" or get_quantization_scheme(own) is None):
        what = "nothing is merged into a quantized base here"
        raise InputError(what, where=SourceLocation(field="--dequantize"), hint="leave it out")
    with _replace_folder(to) as aside:
        if format == "adapter":
            _write_adapter(own, aside, to, with_base=with_base)
        else:
            _write(own, aside, format, quant, dequantize=dequantize)
        agreed, over_whole = _verify(own, aside, format, quant)
        say(f"checked: {agreed}")
        if over_whole is not None:
            say(f"learnt over a quantized base; over the whole one {over_whole}")
        _finish(artifact, aside, ExportDetails(format, quant, agreed, before, over_whole), measures)
    return to


def _export_classifier(artifact: Artifact, to: Path, format: Format, measures: ModelScores | None, say: Say) -> Path:
    """Export a plain classifier, which has one format."""
    from luthier.models.text_classifier import write_classifier

    if format != "sklearn":
        what, where = f"is a plain classifier, which no {format} file holds", SourceLocation(file=str(artifact.folder))
        raise ModelError(what, where=where, hint="export it with `--format sklearn`")
    to = to.expanduser().absolute()
    with _replace_folder(to) as aside:
        checked = write_classifier(artifact, aside, measures)
        say(f"checked: {checked}")
        _mark(artifact, aside, {"format": format, "checked": checked})
    return to


@contextmanager
def _replace_folder(to: Path) -> Iterator[Path]:
    """Yield a temporary folder, which then replaces an earlier export."""
    _check_target(to)
    aside = to.with_name(f".{to.name}.{os.getpid()}.export")
    with translate_write_errors(to):
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir()
    try:
        yield aside
        _swap(aside, to)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _check_target(to: Path) -> None:
    if not to.exists() or (to / MARKER).is_file():
        return
    where = SourceLocation(file=str(to))
    if not to.is_dir():
        raise InputError("is a file; an export is a folder", where=where)
    if any(to.iterdir()):
        hint = "give a new folder, or empty this one yourself"
        raise InputError("is not empty, and not an earlier export, so it is left alone", where=where, hint=hint)


def _write(artifact: Artifact, folder: Path, format: Format, quant: Quant, *, dequantize: bool) -> None:
    if format == "gguf":
        whole = folder / ".whole"
        whole.mkdir()
        _write_whole(artifact, whole, dequantize=dequantize)
        write_gguf(
            whole,
            _gguf_path(artifact, folder, quant),
            get_model_name(artifact),
            read_base_origin(artifact).licence,
            quant,
        )
        shutil.rmtree(whole)
    else:
        _write_whole(artifact, folder, dequantize=dequantize)


def _write_whole(artifact: Artifact, folder: Path, *, dequantize: bool) -> None:
    """Write one Hugging Face folder with everything: the artifact's own, or base and adapter merged."""
    base = find_base_folder(artifact)
    for path in list_model_files(base):
        weights = path.name.endswith((".safetensors", ".safetensors.index.json"))
        if path.name != "README.md" and not (weights and is_adapter(artifact)):
            target = folder / path.relative_to(base)
            with translate_write_errors(target):
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)
    if not is_adapter(artifact):
        write_config_dtype(folder)
        return
    same = ("generation_config.json",) if get_output_classes(artifact) else ("config.json", "generation_config.json")
    kept = {name: (folder / name).read_bytes() for name in same}
    model = open_merged(artifact, pick_dtype("float32"), dequantize=dequantize).to(pick_dtype(_saved_dtype(base)))
    with hide_transformers_output(), translate_write_errors(folder):
        model.save_pretrained(folder)
    for name, data in kept.items():
        (folder / name).write_bytes(data)
    write_config_dtype(folder)


def _write_adapter(artifact: Artifact, folder: Path, to: Path, *, with_base: bool | None) -> None:
    """Write an adapter to `folder`, which will be moved to `to`, with the tokenizer, and with the base where that is
    requested.

    PEFT opens the base that the adapter's settings name and resolves a relative path from the working directory: a base
    that is not on the hub is named by its absolute path.
    """
    where = SourceLocation(file=str(artifact.folder))
    if not is_adapter(artifact):
        raise ModelError("is a whole model, not an adapter", where=where, hint="export it as `hf`")
    under = get_weights_artifact(artifact.parent("model"))
    published = find_published_base(artifact)
    if with_base is False and published is None and is_adapter(under):
        what = "was tuned over another adapter, so no folder holds its base"
        raise ModelError(what, where=where, hint="leave `--no-base` out, or export it as `merged`")
    for path in sorted((artifact.folder / ADAPTER).iterdir()):
        if path.name != "README.md":
            shutil.copyfile(path, folder / path.name)
    for path in list_tokenizer_files(find_base_folder(artifact)):
        target = folder / path.relative_to(find_base_folder(artifact))
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, target)
    if with_base or (with_base is None and published is None):
        (folder / BASE).mkdir()
        _write_whole(under, folder / BASE, dequantize=False)
        named = {"base_model_name_or_path": str(to / BASE)}
    elif published is not None:
        named = {"base_model_name_or_path": published.id, "revision": published.commit}
    else:
        named = {"base_model_name_or_path": str(under.folder.absolute())}
    config = read_json_object(folder / "adapter_config.json")
    write_json(folder / "adapter_config.json", {**config, **named})


def _verify(
    artifact: Artifact, folder: Path, format: Format, quant: Quant
) -> tuple[ModelAgreement, ModelAgreement | None]:
    """Compare greedy completions in float32: equal, or different only where rounding may swap two near-equal tokens.

    A quantized file may differ anywhere; it is refused when its log-probabilities are too far off. The second result is
    the agreement of an adapter trained over a quantized base when it is used over the full one.
    """
    ids = encode_check_prompt(find_base_folder(artifact))
    expected = generate_greedy_answer(load_model(artifact, "float32").model, ids)
    agreed = compare_greedy_answers(expected, _load_exported(artifact, folder, format, quant), ids)
    rounded = quant == "f16" and (format != "adapter" or is_adapter(get_weights_artifact(artifact.parent("model"))))
    parts = agreed.gap > NEAR_TIE if rounded else agreed.same < agreed.tokens
    if agreed.difference > MOST_NATS[quant] if quant in MOST_NATS else parts:
        hint = "nothing was written; this is a fault worth reporting, unless the files changed meanwhile"
        raise ModelError(f"the {format} export answers otherwise than the model: {agreed}", hint=hint)
    if format == "gguf":
        _verify_tokenizer(artifact, _gguf_path(artifact, folder, quant))
    elif format != "adapter":
        _verify_travellers(artifact, folder)
    if format != "adapter" or get_quantization_scheme(artifact) is None:
        return agreed, None
    return agreed, compare_greedy_answers(expected, open_adapter(_whole_base(artifact, folder), folder), ids)


def _whole_base(artifact: Artifact, folder: Path) -> Any:
    """Return an adapter's base model, in float32 and not quantized: from `base/`, else from the model itself; with a
    sequence head when the adapter was trained with one.
    """
    float32, outputs = pick_dtype("float32"), get_output_classes(artifact)
    written = (folder / BASE).is_dir()
    whole = open_folder(folder / BASE, float32) if written else open_merged(artifact.parent("model"), float32)
    return add_sequence_head(whole, outputs) if outputs else whole


def _load_exported(artifact: Artifact, folder: Path, format: Format, quant: Quant) -> Any:
    float32 = pick_dtype("float32")
    if format == "adapter":
        quantized = get_quantization_scheme(artifact) is not None
        return open_adapter(
            open_adapter_base(artifact, float32) if quantized else _whole_base(artifact, folder), folder
        )
    if format == "gguf":
        return open_gguf(_gguf_path(artifact, folder, quant))
    return open_folder(folder, float32)


def _verify_tokenizer(artifact: Artifact, path: Path) -> None:
    from transformers import AutoTokenizer

    before = AutoTokenizer.from_pretrained(find_base_folder(artifact), local_files_only=True, trust_remote_code=False)
    after = read_gguf_tokenizer(path)
    added = [
        entry["content"] for entry in read_json_object(find_base_folder(artifact) / "tokenizer.json")["added_tokens"]
    ]
    read = after.get_added_vocab()  # transformers reads special tokens that are not ASCII, and runs of spaces, as plain
    special = "".join(f"{token} a\n{token}" for token in added if token in read)
    for text in (*_TOKENIZER_PROBES, special):
        if before.encode(text) != after.encode(text):
            raise ModelError(
                "the GGUF file's tokenizer cuts text otherwise than the model's", hint="export it as `merged`"
            )
    if after.chat_template != read_chat_template(find_base_folder(artifact)):
        raise ModelError("the GGUF file lost the chat template", hint="export it as `merged`")


def _verify_travellers(artifact: Artifact, folder: Path) -> None:
    """Check that the export has the chat template, generation settings and tied embeddings of the model."""
    base = find_base_folder(artifact)
    same = {
        "chat template": read_chat_template(folder) == read_chat_template(base),
        "generation_config.json": read_json_object(folder / "generation_config.json")
        == read_json_object(base / "generation_config.json"),
        "tie between embeddings and head": describe_model_folder(folder).tied == describe_model_folder(base).tied,
    }
    if lost := [name for name, kept in same.items() if not kept]:
        raise ModelError(f"the export lost the {' and the '.join(lost)}", where=SourceLocation(file=str(folder)))


def _finish(artifact: Artifact, folder: Path, form: ExportDetails, measures: ModelScores | None) -> None:
    export_details = form._replace(with_base=(folder / BASE).is_dir())
    (folder / "README.md").write_text(render_model_card(artifact, export_details, measures), encoding="utf-8")
    if form.before:
        write_json(folder / "prompt.json", dict(form.before))
    record = {"format": form.format, "checked": form.agreed.as_json()}
    _mark(artifact, folder, record | ({"quant": form.quant} if form.format == "gguf" else {}))


def _mark(artifact: Artifact, folder: Path, record: Mapping[str, Any]) -> None:
    """Write the file that marks an export and lists its contents."""
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    write_json(folder / MARKER, {"artifact": artifact.digest, "files": files, **record})
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)


def _swap(aside: Path, to: Path) -> None:
    """Move the finished export into place; an earlier one is removed only then."""
    old = to.with_name(f".{to.name}.{os.getpid()}.old")
    with translate_write_errors(to):
        if to.exists():
            to.replace(old)
        aside.replace(to)
        shutil.rmtree(old, ignore_errors=True)


def _gguf_path(artifact: Artifact, folder: Path, quant: Quant) -> Path:
    return folder / get_gguf_name(artifact, quant)


def _saved_dtype(folder: Path) -> Literal["float32", "bfloat16", "float16"]:
    """Return the dtype of the base's weights; unusual ones become float32."""
    match describe_model_folder(folder).dtype:
        case "bfloat16":
            return "bfloat16"
        case "float16":
            return "float16"
        case _:
            return "float32"
