"""Labeling projects from rows: of a step that prepares data, proposes labels or samples, or of a file."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from pydantic import ValidationError

from luthier.annotation.media import ItemMediaReader, MediaLocation, list_message_media, locate_store
from luthier.annotation.project import (
    AnnotationProject,
    NewItem,
    ProjectSettings,
    add_items,
    create_project,
    get_project,
)
from luthier.annotation.question import InvalidAnswer, QuestionItem
from luthier.annotation.results import AnsweredItem, read_answered_items
from luthier.chat.messages import MEDIA_MARK, format_media_parts, messages_to_openai
from luthier.commands.labeling.file_media import FileMediaIntake
from luthier.commands.projects.workspace import workspace_store
from luthier.core.artifact import Artifact
from luthier.core.db import Ledger
from luthier.core.errors import InputError, LuthierError, SourceLocation
from luthier.core.files import translate_write_errors
from luthier.core.system.process import python_command
from luthier.recipe.errors import NAME_PATTERN
from luthier.recipe.workspace import Workspace

if TYPE_CHECKING:
    from luthier.chat.messages import Message
    from luthier.data.row import Row
    from luthier.recipe.planner import RecipePlan

_LONGEST_S = 120.0
_KEPT = ("id", "text", "label", "messages", "answer", "answers")


def make_settings(ask: str, labels: Sequence[str], **more: Any) -> ProjectSettings:
    """Settings of a project with one question of a kind; `InputError` for what the kind does not accept."""
    question: dict[str, Any] = {"kind": ask, **({"labels": list(labels)} if labels else {})}
    try:
        return ProjectSettings.model_validate({"questions": {"answer": question}, **more})
    except ValidationError as error:
        first = error.errors()[0]
        if first["loc"][-1:] == ("labels",) and not labels:
            what = f"a question of kind {ask} needs labels"
            raise InputError(
                what, where=SourceLocation(field="--label"), hint="--label billing --label delivery"
            ) from error
        what = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise InputError(what, hint=f"`luthier components question {ask}` shows its settings") from error


def export_items(ledger: Ledger, project_id: str, path: Path) -> int:
    """Write all items with their answers as JSON lines; returns how many.

    Pictures and sounds stand in the messages as OpenAI's API has them, with their content in base64; those whose bytes
    are gone stay U+FFFC in the text, with their digest in `media`.
    """
    media = get_project(ledger, project_id).settings.media
    reader = ItemMediaReader(ledger)
    count = 0
    try:
        with translate_write_errors(path), path.open("wb") as file:
            for answered_item in read_answered_items(ledger, project_id):
                line = _export_item(answered_item)
                line["messages"] = [_export_message(message, media, reader) for message in line["messages"]]
                file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
                count += 1
    finally:
        reader.close()
    return count


def _export_message(
    message: Mapping[str, Any], location: MediaLocation | None, reader: ItemMediaReader
) -> dict[str, Any]:
    listed = list_message_media(message)
    content = str(message.get("content") or "")
    if not listed or location is None or content.count(MEDIA_MARK) != len(listed):
        return dict(message)
    by_digest = {medium.digest: medium for medium in listed}
    try:
        parts = format_media_parts(
            content,
            [(medium.kind, medium.format, medium.digest) for medium in listed],
            lambda digest: reader.read(location, by_digest[digest]),
        )
    except (LuthierError, OSError):
        return dict(message)
    return {**{name: value for name, value in message.items() if name != "media"}, "content": parts}


def _export_item(answered_item: AnsweredItem) -> dict[str, Any]:
    item = answered_item.item
    return {
        "id": item.key,
        "messages": list(item.shown.messages),
        **({"answers": list(item.shown.answers)} if item.shown.answers else {}),
        "state": item.state,
        "gold": item.gold,
        "decision": answered_item.decision.values if answered_item.decision else None,
        "annotations": [
            {
                "annotator": answer.annotator,
                "kind": answer.kind,
                "values": answer.values,
                "comment": answer.comment,
                "seconds": answer.seconds,
                "guideline_version": answer.guideline_version,
                "time": answer.given_at.isoformat(),
                "late": answer.late,
            }
            for answer in answered_item.answers
        ],
    }


class LabelingRows(NamedTuple):
    """Rows to label."""

    settings: ProjectSettings
    """What is asked, and where the rows' pictures and sounds are kept."""
    items: Iterator[NewItem]


def create_labeling_project(
    ledger: Ledger, name: str, rows: LabelingRows, *, project: str = "", by: str
) -> tuple[AnnotationProject, int]:
    """Make a project and add its items; returns it with how many it has. `InputError` for no items at all."""
    first = next(rows.items, None)
    if first is None:
        raise InputError("there are no rows to label", where=SourceLocation(field="--from"))
    made = create_project(ledger, name, rows.settings, project=project, by=by)
    return made, add_items(ledger, made.id, _chain(first, rows.items))


def _chain(first: NewItem, rest: Iterator[NewItem]) -> Iterator[NewItem]:
    yield first
    yield from rest


def read_dataset_items(
    dataset: Artifact, settings: ProjectSettings, *, split: str = "", with_answers: bool = False
) -> Iterator[NewItem]:
    """The rows of a data set as items: what was asked, or with its answer, to rate or correct it.

    What a model proposed (step `prelabel`) becomes the proposal for the first question, and the less sure it was, the
    sooner the item comes; rows that were chosen (step `sample_for_labeling`) come in the order of their rank.
    The pictures and sounds of rows come along by their digests; `ProjectSettings.media` says where their bytes are.
    """
    from luthier.artifacts.dataset import list_splits
    from luthier.data.engine.cache import read_rows

    for name in list_splits(dataset):
        if split in ("", name):
            for batch in read_rows(dataset, name):
                for row in batch:
                    yield _row_to_item(row, settings, with_answers=with_answers)


def _row_to_item(row: Row, settings: ProjectSettings, *, with_answers: bool) -> NewItem:
    from luthier.data.annotation.annotations import PROPOSAL
    from luthier.data.steps.sample_for_labeling import SELECTED

    turns = messages_to_shown(row.messages)
    has_prompt = len(turns) > 1 and turns[-1].get("role") == "assistant"
    shown = QuestionItem(turns[:-1], (row.answer,)) if has_prompt and with_answers else QuestionItem(_asked(turns))
    proposal = row.meta.get(PROPOSAL)
    confidence = proposal.get("confidence") if isinstance(proposal, Mapping) else None
    rank = (row.meta.get(SELECTED) or {}).get("rank")
    priority = -float(rank) if rank is not None else 1.0 - (confidence if confidence is not None else 0.0)
    hidden = {"row": row.id, "source": row.source, "file": row.file, "line": row.line}
    named = proposal.get("label") if isinstance(proposal, Mapping) else None
    return NewItem(row.id, shown, hidden, _valid(named, settings, shown), priority=priority)


def messages_to_shown(messages: Sequence[Message]) -> tuple[dict[str, Any], ...]:
    """Messages as items show them: as OpenAI's API has them, with what their media are beside the text's marks."""
    turns = messages_to_openai(messages)
    for turn, message in zip(turns, messages, strict=True):
        if message.media:
            turn["media"] = [medium.model_dump(mode="json", exclude_none=True) for medium in message.media]
    return tuple(turns)


def open_step_rows(
    plan: RecipePlan, step: str, settings: ProjectSettings, ledger: Ledger, *, with_answers: bool = False
) -> LabelingRows:
    """The rows of a step that makes a data set, to label them or, with their answers, to rate and correct these."""
    from luthier.artifacts.media import count_row_media

    dataset = plan.artifact(step)
    if count_row_media(dataset) is not None:
        location = locate_store(plan.store.location, ledger, dataset.digest)
        settings = settings.model_copy(update={"media": location})
    return LabelingRows(settings, read_dataset_items(dataset, settings, with_answers=with_answers))


def _asked(turns: tuple[Mapping[str, Any], ...]) -> tuple[Mapping[str, Any], ...]:
    """Return the text before the answer; the text itself where there is no question."""
    if len(turns) > 1 and turns[-1].get("role") == "assistant":
        return turns[:-1]
    return tuple(
        {**turn, "role": "user"} if turn.get("role") == "assistant" and len(turns) == 1 else turn for turn in turns
    )


def _valid(value: Any, settings: ProjectSettings, shown: QuestionItem) -> dict[str, Any] | None:
    """A proposal for the first question; None where it has no such label any more."""
    name, question = next(iter(settings.questions.items()))
    try:
        return None if value is None else {name: question.check(value, shown)}
    except InvalidAnswer:
        return None


def read_file_items(
    path: Path, settings: ProjectSettings, store: Path, *, text: str = "", gold: str = "", proposal: str = ""
) -> Iterator[NewItem]:
    """The rows of a table, of JSON lines, or of a folder or zip of pictures or sounds as items.

    `text` is the column that is shown, else the one that is named so or, of rows without media, the longest. `gold` is
    a column with known answers, `proposal` one with a model's. The bytes of pictures and sounds are put into `store`.
    """
    from luthier.data.columns.layouts import TEXT_NAMES
    from luthier.data.columns.media import MEDIA_NAMES
    from luthier.data.row import BrokenRow

    column = text
    with FileMediaIntake(path, store) as intake:
        for number, record in enumerate(intake.read_records(), start=1):
            if isinstance(record, BrokenRow):
                raise record.error()
            values = record.values
            shows_media = intake.has_media(record)
            if not column and "messages" not in values:
                column = next((name for name in TEXT_NAMES if name in values), "")
                column = column or ("" if shows_media else _longest(values, path))
            if column and column not in values:
                where = SourceLocation(file=path.name, line=record.line, field=column)
                raise InputError(f"there is no column {column!r}", where=where, hint=f"columns: {', '.join(values)}")
            shown = _to_shown(values, column)
            if shows_media:
                shown = shown._replace(messages=messages_to_shown(intake.take(record, column)))
            known = _known(values.get(gold), settings, shown, path.name, record.line) if gold else None
            own = (*_KEPT, *MEDIA_NAMES, column, gold, proposal)
            hidden = {name: value for name, value in values.items() if name not in own}
            proposed = _valid(values.get(proposal), settings, shown) if proposal else None
            yield NewItem(str(values.get("id") or intake.name_file(record) or number), shown, hidden, proposed, known)


def _to_shown(values: Mapping[str, Any], column: str) -> QuestionItem:
    messages = values.get("messages")
    turns = tuple(map(_without_media, messages)) if not column and isinstance(messages, list) else None
    answers = values.get("answers") or ([values["answer"]] if "answer" in values and column != "answer" else [])
    shown = turns or ({"role": "user", "content": str(values.get(column, ""))},)
    return QuestionItem(shown, tuple(map(str, answers)) if isinstance(answers, list) else ())


def _without_media(message: Any) -> Any:
    """A message of a file without the media that it says it holds: those of a file are taken in, or it has none."""
    if not isinstance(message, Mapping):
        return message
    return {name: value for name, value in message.items() if name != "media"}


def _known(value: Any, settings: ProjectSettings, shown: QuestionItem, file: str, line: int) -> dict[str, Any] | None:
    if value in (None, ""):
        return None
    name, question = next(iter(settings.questions.items()))
    try:
        return {name: question.check(value, shown)}
    except InvalidAnswer as error:
        raise InputError(f"the known answer is none: {error}", where=SourceLocation(file=file, line=line)) from error


def _longest(values: Mapping[str, Any], path: Path) -> str:
    texts = {name: len(value) for name, value in values.items() if isinstance(value, str)}
    if not texts:
        raise InputError("no column holds text", where=SourceLocation(file=path.name), hint="name one")
    return max(texts, key=lambda name: texts[name])


def open_rows(
    workspace: Workspace, ledger: Ledger, source: str, settings: ProjectSettings, **columns: str
) -> LabelingRows:
    """The rows of a file, of a folder or zip of pictures or sounds, or of a step that makes a data set (`RECIPE:STEP`).

    `columns` are those of `read_file_items`.
    """
    path = workspace.resolve(source)
    is_media_folder = path.is_dir() and not (path / "recipe.yaml").exists()
    if is_media_folder or (path.is_file() and path.suffix not in (".yaml", ".yml")):
        store = workspace_store(workspace)
        kept = settings.model_copy(update={"media": locate_store(str(store), ledger)})
        return LabelingRows(kept, read_file_items(path, settings, store, **columns))
    return open_step_rows(*find_dataset_step(workspace, source), settings, ledger)


def find_dataset_step(workspace: Workspace, word: str) -> tuple[RecipePlan, str]:
    """The plan and the step of `RECIPE:STEP` that made a data set."""
    from luthier.recipe.locate import CommandTarget, find_plan

    recipe, _, step = word.rpartition(":") if ":" in word else (word, "", "")
    plan = find_plan(CommandTarget(workspace, recipe))
    names = [planned.name for planned in plan if planned.step.makes == "dataset" and planned.cached]
    if not names or (step and step not in names):
        what = f"{word} has no rows that are made" if not step else f"step {step!r} has no rows that are made"
        raise LuthierError(what, where=SourceLocation(field="--from"), hint=f"run it first: luthier run {recipe}")
    return plan, step or names[0]


def open_uploaded_rows(
    workspace: Workspace, ledger: Ledger, name: str, content: BinaryIO, settings: ProjectSettings, **columns: str
) -> LabelingRows:
    """The rows of a file, or of a zip of pictures or sounds, that a browser sent."""
    store = workspace_store(workspace)
    kept = settings.model_copy(update={"media": locate_store(str(store), ledger)})
    return LabelingRows(kept, _read_uploaded_items(name, content, settings, store, **columns))


def _read_uploaded_items(
    name: str, content: BinaryIO, settings: ProjectSettings, store: Path, **columns: str
) -> Iterator[NewItem]:
    with tempfile.TemporaryDirectory(prefix="luthier-label-") as folder:
        path = Path(folder) / f"rows{PurePath(name).suffix.lower()[:12]}"
        with translate_write_errors(path), path.open("wb") as file:
            shutil.copyfileobj(content, file)
        yield from read_file_items(path, settings, store, **columns)


_ALIKE = 0.8
_WORD = re.compile(r"\w+")


def find_near_twins(ledger: Ledger, project_id: str, items: Sequence[int]) -> list[int]:
    """Some items, and those whose words are nearly the same (Jaccard index of 0.8 or more) and that show the same."""
    found = [answered_item.item for answered_item in read_answered_items(ledger, project_id)]
    media = {item.id: [medium.digest for medium in item.shown.media] for item in found}
    texts = {item.id: frozenset(_WORD.findall(item.shown.text.lower())) for item in found}
    chosen = [(texts[item], media[item]) for item in items if texts.get(item) or media.get(item)]
    return [
        item
        for item, words in texts.items()
        if item in items
        or any(media[item] == shown and len(words & entry) >= _ALIKE * len(words | entry) for entry, shown in chosen)
    ]


def suggest_decisions(found: Sequence[AnsweredItem], settings: ProjectSettings) -> dict[int, dict[str, str]]:
    """What a majority would decide about each item, by question, in the form in which answers are compared."""
    from luthier.artifacts.annotation import Annotation
    from luthier.data.adjudicators.votes import MajorityAdjudicator

    suggested: dict[int, dict[str, str]] = {answered_item.item.id: {} for answered_item in found}
    for name, question in settings.questions.items():
        votes = [
            [
                Annotation(person, question.to_comparable(value, answered_item.item.shown))
                for person, value in sorted(answered_item.values(name).items())
            ]
            for answered_item in found
        ]
        for entry, decided in zip(found, MajorityAdjudicator().decide(votes).decisions, strict=True):
            suggested[entry.item.id][name] = decided.why if decided.label is None else str(decided.label)
    return suggested


def write_training_recipe(workspace: Workspace, project_id: str, name: str) -> str:
    """Write a recipe that trains on a project's current answers; returns its folder's name.

    Another process reads the rows, so that this one stays small.
    """
    if not re.fullmatch(NAME_PATTERN, name):
        raise InputError("use small letters, digits, - and _", where=SourceLocation(field="name"))
    run_in_other_process(workspace, "new", name, "--from", f"annotations:{project_id}")
    return name


def run_in_other_process(workspace: Workspace, *words: str) -> dict[str, Any]:
    """Run a Luthier command and return its JSON output; `InputError` with its message where it fails."""
    command = python_command("-m", "luthier", *words, "--json")
    folder, environment = workspace.folder.absolute(), {**os.environ, **workspace.environment}
    try:
        process = subprocess.run(  # noqa: S603  # our own program
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=_LONGEST_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise InputError(f"this took more than {_LONGEST_S:.0f} s", hint=shlex.join(command[2:])) from error
    try:
        made: dict[str, Any] = json.loads(process.stdout or process.stderr)
    except json.JSONDecodeError as error:
        raise InputError("the command said nothing", hint=shlex.join(["luthier", *words])) from error
    if process.returncode:
        failed = made.get("error", {})
        raise InputError(str(failed.get("message", "it failed")), hint=str(failed.get("hint") or ""))
    return made
