"""Projects of Label Studio, Argilla and doccano: their questions, items, answers and annotators as one of ours.

A project is some files: its configuration (Label Studio's XML, Argilla's settings, doccano's labels and project) and
what was exported of it. What of a project is not taken over is told.
"""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from luthier.annotation.project import AnnotationProject, NewItem, ProjectSettings, add_items, create_project
from luthier.annotation.question import QuestionItem
from luthier.annotation.results import ImportedAnswer, import_answers
from luthier.core.db import Ledger
from luthier.core.errors import DataError, SourceLocation
from luthier.core.events import format_counted_noun

Tool = Literal["Label Studio", "Argilla", "doccano"]
_MOST_CONFIG = 4 << 20
_DECLARATION = re.compile(r"<!\s*(DOCTYPE|ENTITY)", re.IGNORECASE)
_KEYS = "123456789abcdeghijklmnoprtvwxyz"


@dataclass
class ForeignProject:
    """A project of another tool, as it was read."""

    tool: Tool
    questions: dict[str, dict[str, Any]]
    guidelines: str = ""
    optional: list[str] = field(default_factory=list)
    overlap: int = 1
    items: list[NewItem] = field(default_factory=list)
    answers: list[ImportedAnswer] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """Parts that were not imported, and why."""


class _Files(NamedTuple):
    """The files of a project, as JSON or text, by what they are."""

    xml: list[str]
    objects: list[dict[str, Any]]
    lists: list[tuple[str, list[dict[str, Any]]]]
    """Rows of each file, with the file's name without its ending."""


def import_project(
    ledger: Ledger, name: str, paths: Sequence[Path], *, project: str = "", by: str
) -> tuple[AnnotationProject, ForeignProject, int]:
    """Take a project of another tool in; returns it with what was read, and how many answers were kept."""
    read = read_foreign_project(paths)
    most = max((sum(1 for _ in group) for group in _by_item(read.answers).values()), default=1)
    settings = ProjectSettings.model_validate(
        {
            "questions": read.questions,
            "optional": tuple(read.optional),
            "guidelines": read.guidelines,
            "overlap": min(100, max(read.overlap, most)),
        }
    )
    made = create_project(ledger, name, settings, project=project, by=by)
    add_items(ledger, made.id, read.items)
    kept, refused = import_answers(ledger, made.id, read.answers)
    read.notes += [f"{count} answers: {why}" for why, count in refused.items()]
    return made, read, kept


def _by_item(answers: Sequence[ImportedAnswer]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for answer in answers:
        found.setdefault(answer.key, set()).add(answer.annotator)
    return found


def read_foreign_project(paths: Sequence[Path]) -> ForeignProject:
    """Read the files of a project, or all in a folder; `DataError` where they are of no tool that is known."""
    files = _read_files([entry for path in paths for entry in (sorted(path.iterdir()) if path.is_dir() else [path])])
    rows = [row for _, some in files.lists for row in some]
    for row in rows[:1] or [{}]:
        if files.xml or isinstance(row.get("data"), dict):
            return _read_label_studio(files)
    settings = next((entry for entry in files.objects if "questions" in entry and "fields" in entry), None)
    if settings is not None:
        return _read_argilla(settings, files)
    if any(_is_doccano(row) for row in rows):
        return _read_doccano(files)
    where = SourceLocation(file=str(paths[0]) if paths else "")
    hint = "Label Studio: config.xml and the JSON export; Argilla: settings.json and records.json; doccano: the JSONL "
    raise DataError("these files are of no labeling tool that is known", where=where, hint=f"{hint}and the labels")


def _read_files(paths: Sequence[Path]) -> _Files:
    files = _Files([], [], [])
    for path in paths:
        where = SourceLocation(file=str(path))
        if path.suffix not in (".xml", ".json", ".jsonl") or not path.is_file():
            continue
        try:
            text = path.read_text(encoding="utf-8-sig")
            if path.suffix == ".xml":
                files.xml.append(text)
                continue
            lines = path.suffix == ".jsonl"
            value = [json.loads(line) for line in text.splitlines() if line.strip()] if lines else json.loads(text)
        except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
            raise DataError(f"cannot be read: {error}", where=where) from error
        if isinstance(value, dict):
            files.objects.append(value)
            for name in ("label_config", "labelConfig"):
                if isinstance(value.get(name), str):
                    files.xml.append(value[name])
        elif isinstance(value, list):
            files.lists.append((path.stem, [row for row in value if isinstance(row, dict)]))
    return files


# ---- Label Studio


def parse_label_config(text: str) -> ET.Element:
    """Parse Label Studio's configuration; `DataError` for one with entities or a document type."""
    if len(text) > _MOST_CONFIG or _DECLARATION.search(text):
        raise DataError("the configuration declares a document type or entities, or is too long")
    try:
        return ET.fromstring(text)  # noqa: S314  # nothing is declared in it, so nothing can expand
    except ET.ParseError as error:
        raise DataError(f"the configuration is no XML: {error}") from error


def _read_label_studio(files: _Files) -> ForeignProject:
    if not files.xml:
        raise DataError(
            "the labeling configuration is missing", hint="give config.xml, or the project with label_config"
        )
    root = parse_label_config(files.xml[0])
    read = ForeignProject("Label Studio", {})
    tasks = [row for _, rows in files.lists for row in rows if isinstance(row.get("data"), dict)]
    controls = {name: element for element in root.iter() if (name := element.get("name")) and element.get("toName")}
    relations = [entry.get("value", "") for entry in root.iter("Relation") if entry.get("value")]
    multiple = _several(tasks)
    for name, element in controls.items():
        question = _label_studio_question(element, name, relations, several=name in multiple)
        if question is None:
            read.notes.append(f"{element.tag} {name!r} is not taken over")
            continue
        read.questions[name] = question
        if element.get("required") != "true":
            read.optional.append(name)
    if len(read.questions) == 1:
        read.optional = []
    if not read.questions:
        raise DataError("the configuration asks nothing that is known", hint="; ".join(read.notes))
    for project in files.objects:
        read.guidelines = str(project.get("expert_instruction") or read.guidelines)
        read.overlap = int(project.get("maximum_annotations") or read.overlap)
    shown = _shown_by(root)
    for number, task in enumerate(tasks, start=1):
        _add_task(read, task, str(task.get("id") or number), shown)
    return read


def _several(tasks: Sequence[Mapping[str, Any]]) -> set[str]:
    """The taxonomies of which somebody chose several."""
    results = (entry for task in tasks for annotation in _annotations(task) for entry in annotation.get("result") or ())
    return {
        str(result.get("from_name"))
        for result in results
        if isinstance(result.get("value"), dict) and len(result["value"].get("taxonomy") or ()) > 1
    }


def _annotations(task: Mapping[str, Any]) -> list[dict[str, Any]]:
    given = task.get("annotations", task.get("completions")) or []
    return [entry for entry in given if isinstance(entry, dict)]


def _label_studio_question(  # noqa: PLR0911  # one for each control
    element: ET.Element, name: str, relations: Sequence[str], *, several: bool
) -> dict[str, Any] | None:
    title = element.get("title") or name
    options = [
        {"name": entry.get("value", "").strip(), "about": entry.get("hint") or "", "key": entry.get("hotkey") or ""}
        for entry in element
        if entry.tag in ("Choice", "Label")
    ]
    options = _labels(options)
    match element.tag:
        case "Choices" if options and not any(len(entry) for entry in element):
            kind = "choices" if element.get("choice", "single") == "multiple" else "choice"
            return {"kind": kind, "question": title, "labels": options}
        case "Taxonomy" | "Choices":
            paths = [{"name": " / ".join(path)} for path in _paths(element)]
            kind = "choices" if several else "tree"
            return {"kind": kind, "question": title, "labels": paths} if paths else None
        case "Labels" | "HyperTextLabels" | "ParagraphLabels" if options:
            return {"kind": "spans", "question": title, "labels": options, "relations": list(relations)}
        case "Rating":
            return {"kind": "rating", "question": title, "scale": max(2, min(11, int(element.get("maxRating") or 5)))}
        case "TextArea":
            return {"kind": "text", "question": title}
        case "Pairwise":
            return {"kind": "pair", "question": title}
        case _:
            return None


def _labels(options: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """Labels each once, with the keys that can be theirs."""
    found: dict[str, dict[str, str]] = {}
    keys: set[str] = set()
    for option in options:
        name, key = option.get("name", "").strip(), option.get("key", "").lower()
        if name and name not in found:
            fits = len(key) == 1 and key in _KEYS and key not in keys
            keys |= {key} if fits else set()
            found[name] = {"name": name, "about": option.get("about") or "", "key": key if fits else ""}
    return list(found.values())


def _paths(element: ET.Element, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for entry in element:
        if entry.tag == "Choice" and entry.get("value"):
            path = (*above, str(entry.get("value")).strip())
            yield path
            yield from _paths(entry, path)


def _shown_by(root: ET.Element) -> list[str]:
    """The names of the data that the configuration shows, in its order."""
    values = (
        element.get("value") or ""
        for element in root.iter()
        if element.tag in ("Text", "HyperText", "Paragraphs", "Dialog")
    )
    return [value.lstrip("$") for value in values if value.startswith("$")]


def _add_task(read: ForeignProject, task: Mapping[str, Any], key: str, shown: Sequence[str]) -> None:
    data = task["data"]
    values = [data[name] for name in shown if name in data] or [next(iter(data.values()), "")]
    pairs = any(question["kind"] == "pair" for question in read.questions.values())
    if pairs and len(values) >= 2:
        item = QuestionItem(_to_turns(values[:-2]) or ({"role": "user", "content": ""},), tuple(map(str, values[-2:])))
    else:
        item = QuestionItem(_to_turns(values))
    gold = None
    for annotation in _annotations(task):
        if annotation.get("was_cancelled"):
            continue
        given = _label_studio_values(read, annotation.get("result") or [], item.text)
        if given:
            annotator = _annotator(annotation.get("completed_by", annotation.get("annotator")))
            read.answers.append(
                ImportedAnswer(
                    key, annotator, given, _number(annotation.get("lead_time")), annotation.get("created_at")
                )
            )
            gold = given if annotation.get("ground_truth") else gold
    predicted = next((entry for entry in task.get("predictions") or [] if isinstance(entry, dict)), None)
    proposal = _label_studio_values(read, predicted.get("result") or [], item.text) if predicted else None
    rest = {name: value for name, value in data.items() if name not in shown}
    read.items.append(NewItem(key, item, rest, proposal or None, gold))


def _to_turns(values: Sequence[Any]) -> tuple[Mapping[str, Any], ...]:
    """Texts as one message, and dialogues as their turns."""
    turns: list[dict[str, Any]] = []
    for value in values:
        if isinstance(value, list):
            written = [entry for entry in value if isinstance(entry, dict)]
            turns += [
                {"role": "user", "content": f"{entry.get('author', '')}: {entry.get('text', '')}".lstrip(": ")}
                for entry in written
            ]
        elif turns and not isinstance(turns[-1]["content"], list):
            turns[-1]["content"] += f"\n\n{value}"
        else:
            turns.append({"role": "user", "content": str(value)})
    return tuple(turns)


def _label_studio_values(read: ForeignProject, results: Sequence[Any], text: str) -> dict[str, Any]:
    """The answers to the questions by name."""
    found: dict[str, Any] = {}
    index_of: dict[str, int] = {}
    for result in (result for result in results if isinstance(result, dict)):
        name, value = str(result.get("from_name")), result.get("value")
        kind = read.questions.get(name, {}).get("kind")
        if kind is None or not isinstance(value, dict):
            continue
        if kind == "spans":
            spans = found.setdefault(name, {"spans": [], "relations": []})["spans"]
            for label in value.get("labels") or value.get("hypertextlabels") or ():
                index_of.setdefault(str(result.get("id")), len(spans))
                spans.append({**_place(text, value.get("start"), value.get("end"), value.get("text")), "label": label})
        else:
            found[name] = _whole_answer(kind, value)
    for result in (result for result in results if isinstance(result, dict) and result.get("type") == "relation"):
        ends = index_of.get(str(result.get("from_id"))), index_of.get(str(result.get("to_id")))
        spans_name = next((name for name, question in read.questions.items() if question["kind"] == "spans"), None)
        if None in ends or spans_name not in found:
            continue
        found[spans_name]["relations"] += [
            {"from": ends[0], "to": ends[1], "label": label} for label in result.get("labels") or ()
        ]
    return {name: value for name, value in found.items() if value not in (None, "", [])}


def _whole_answer(kind: str, value: Mapping[str, Any]) -> Any:
    names = [" / ".join(map(str, path)) for path in value.get("taxonomy") or ()] or value.get("choices") or []
    match kind:
        case "choices":
            return names
        case "choice" | "tree":
            return names[0] if names else None
        case "rating":
            return value.get("rating")
        case "pair":
            return {"left": "A", "right": "B"}.get(str(value.get("selected")))
        case _:
            text = value.get("text")
            return "\n".join(map(str, text)) if isinstance(text, list) else text


def _place(text: str, start: Any, end: Any, shown: Any = None) -> dict[str, Any]:
    """A place in characters; tools that run in browsers count in UTF-16 units."""
    if not isinstance(start, int) or not isinstance(end, int):
        return {"text": shown}
    if isinstance(shown, str) and text[start:end] != shown:
        units = text.encode("utf-16-le")
        start, end = (len(units[: 2 * at].decode("utf-16-le", "ignore")) for at in (start, end))
    return {"start": start, "end": end}


def _annotator(who: Any) -> str:
    if isinstance(who, dict):
        who = who.get("email") or who.get("username") or who.get("id")
    return "unknown" if who in (None, "") else str(who)[:128]


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0 else None


# ---- Argilla


def _read_argilla(settings: Mapping[str, Any], files: _Files) -> ForeignProject:
    read = ForeignProject("Argilla", {}, guidelines=str(settings.get("guidelines") or ""))
    for entry in settings["questions"]:
        about = entry.get("settings") or entry
        question = _argilla_question(str(about.get("type")), str(entry.get("title") or entry["name"]), about)
        if question is None:
            read.notes.append(f"the question {entry['name']!r} ({about.get('type')}) is not taken over")
            continue
        read.questions[str(entry["name"])] = question
        if not entry.get("required", True):
            read.optional.append(str(entry["name"]))
    read.overlap = int((settings.get("distribution") or {}).get("min_submitted") or 1)
    if not read.questions:
        raise DataError("the settings ask nothing that is known", hint="; ".join(read.notes))
    fields = [str(setting["name"]) for setting in settings["fields"]]
    records = [row for _, rows in files.lists for row in rows if isinstance(row.get("fields"), dict)]
    for number, row in enumerate(records, start=1):
        key = str(row.get("id") or row.get("external_id") or number)
        texts = [row["fields"][name] for name in fields if row["fields"].get(name) not in (None, "")]
        suggested = {
            name: element.get("value")
            for name, element in (row.get("suggestions") or {}).items()
            if isinstance(element, dict)
        }
        proposal = _argilla_values(read, suggested)
        item = QuestionItem(_to_turns([_argilla_text(text) for text in texts]) or ({"role": "user", "content": ""},))
        read.items.append(NewItem(key, item, dict(row.get("metadata") or {}), proposal or None))
        read.answers += _argilla_answers(read, key, row.get("responses") or {})
    return read


def _argilla_text(value: Any) -> Any:
    """A text, or a chat as a dialogue has it."""
    if isinstance(value, list):
        return [
            {"author": entry.get("role", ""), "text": entry.get("content", "")}
            for entry in value
            if isinstance(entry, dict)
        ]
    return value


def _argilla_question(kind: str, title: str, about: Mapping[str, Any]) -> dict[str, Any] | None:
    options = about.get("options") or about.get("labels") or about.get("values") or []
    plain = [option if isinstance(option, dict) else {"value": option} for option in options]
    labels = _labels(
        [
            {"name": str(entry.get("value")), "about": str(entry.get("description") or _title(entry) or "")}
            for entry in plain
        ]
    )
    match kind:
        case "label_selection" | "label" if labels:
            return {"kind": "choice", "question": title, "labels": labels}
        case "multi_label_selection" | "multi_label" if labels:
            return {"kind": "choices", "question": title, "labels": labels}
        case "span" if labels:
            return {
                "kind": "spans",
                "question": title,
                "labels": labels,
                "overlap": bool(about.get("allow_overlapping")),
            }
        case "rating" if plain:
            return {"kind": "rating", "question": title, "scale": max(2, *(int(entry["value"]) for entry in plain))}
        case "text":
            return {"kind": "text", "question": title}
        case _:
            return None


def _title(option: Mapping[str, Any]) -> str:
    text = str(option.get("text") or "")
    return "" if text == str(option.get("value")) else text


def _argilla_answers(read: ForeignProject, key: str, responses: Mapping[str, Any]) -> Iterator[ImportedAnswer]:
    by_person: dict[str, dict[str, Any]] = {}
    for name, given in responses.items():
        for entry in given or ():
            if entry.get("status", "submitted") == "submitted":
                by_person.setdefault(_annotator(entry.get("user_id")), {})[name] = entry.get("value")
    for person, values in by_person.items():
        if kept := _argilla_values(read, values):
            yield ImportedAnswer(key, person, kept)


def _argilla_values(read: ForeignProject, values: Mapping[str, Any]) -> dict[str, Any]:
    found = {}
    for name, value in values.items():
        if name in read.questions and value not in (None, ""):
            found[name] = {"spans": value} if read.questions[name]["kind"] == "spans" else value
    return found


# ---- doccano


def _is_doccano(row: Mapping[str, Any]) -> bool:
    text = row.get("text", row.get("data"))
    return isinstance(text, str) and any(
        isinstance(row.get(name), list) for name in ("label", "labels", "entities", "cats")
    )


def _read_doccano(files: _Files) -> ForeignProject:
    project = next((entry for entry in files.objects if "projectType" in entry or "project_type" in entry), {})
    configured = [row for _, rows in files.lists for row in rows if "text" in row and not _is_doccano(row)]
    rows = [(name, row) for name, some in files.lists for row in some if _is_doccano(row)]
    given = [doccano_label for _, row in rows for doccano_label in _doccano_labels(row)]
    spans = any(isinstance(entry, list | dict) for entry in given)
    kind = str(project.get("projectType") or project.get("project_type") or "").lower().replace("_", "")
    names = _labels(
        [
            {"name": str(row["text"]), "key": str(row.get("suffixKey") or row.get("suffix_key") or "")}
            for row in configured
        ]
        or [{"name": str(_doccano_name(entry))} for entry in given]
    )
    if "seq2seq" in kind:
        question: dict[str, Any] = {"kind": "text"}
    elif spans or "sequence" in kind:
        related = {
            str(entry.get("type")) for _, row in rows for entry in row.get("relations") or () if isinstance(entry, dict)
        }
        question = {"kind": "spans", "labels": names, "relations": sorted(related)}
    else:
        several = any(len(_doccano_labels(row)) > 1 for _, row in rows)
        is_single = project.get("singleClassClassification", project.get("single_class_classification"))
        question = {"kind": "choices" if several or is_single is False else "choice", "labels": names}
    if not names and question["kind"] != "text":
        raise DataError("there are no labels", hint="give doccano's label configuration, or an export with labels")
    read = ForeignProject("doccano", {"answer": question}, guidelines=str(project.get("guideline") or ""))
    known_keys: set[str] = set()
    for number, (person, row) in enumerate(rows, start=1):
        key = str(row.get("id") or number)
        text = str(row.get("text", row.get("data")))
        if key not in known_keys:
            known_keys.add(key)
            rest = {name: value for name, value in row.items() if name in ("meta", "metadata")}
            read.items.append(NewItem(key, QuestionItem(({"role": "user", "content": text},)), rest))
        if (value := _doccano_value(question["kind"], row)) is not None:
            read.answers.append(ImportedAnswer(key, person, {"answer": value}))
    return read


def _doccano_labels(row: Mapping[str, Any]) -> list[Any]:
    return next((row[name] for name in ("entities", "label", "labels", "cats") if isinstance(row.get(name), list)), [])


def _doccano_name(one: Any) -> Any:
    return one[2] if isinstance(one, list) and len(one) > 2 else one.get("label") if isinstance(one, dict) else one


def _doccano_value(kind: str, row: Mapping[str, Any]) -> Any:
    given = _doccano_labels(row)
    if not given:
        return None
    if kind != "spans":
        return [str(entry) for entry in given] if kind == "choices" else str(given[0])
    spans: list[dict[str, Any]] = []
    index_of: dict[Any, int] = {}
    for entry in given:
        if isinstance(entry, dict):
            index_of[entry.get("id")] = len(spans)
            spans.append(
                {"start": entry.get("start_offset"), "end": entry.get("end_offset"), "label": entry.get("label")}
            )
        elif isinstance(entry, list) and len(entry) > 2:
            spans.append({"start": entry[0], "end": entry[1], "label": entry[2]})
    related = [
        {"from": index_of[entry["from_id"]], "to": index_of[entry["to_id"]], "label": entry.get("type")}
        for entry in row.get("relations") or ()
        if isinstance(entry, dict) and entry.get("from_id") in index_of and entry.get("to_id") in index_of
    ]
    return {"spans": spans, "relations": related}


def describe_import(read: ForeignProject, kept: int) -> str:
    """Describe an import in one line."""
    items, questions = (
        format_counted_noun(len(read.items), "item"),
        format_counted_noun(len(read.questions), "question"),
    )
    people = format_counted_noun(len({answer.annotator for answer in read.answers}), "person", "people")
    return f"{read.tool}: {questions}, {items}, {format_counted_noun(kept, 'answer')} of {people}"
