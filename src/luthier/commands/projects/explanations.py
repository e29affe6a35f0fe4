"""Explanations that people ask for in the studio: each is `luthier explain` in a process of its own, one at a time.

A folder keeps what was question, the name of the process and what it printed, so that a closed browser or a restarted
studio changes nothing: whoever looks next finds the process, or what came of it.
"""

from __future__ import annotations

import json
import re
import secrets
import shutil
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import yaml
from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from luthier.artifacts.explanation import ExplanationRecord, UnitKind
from luthier.artifacts.influence import InfluenceSummary
from luthier.commands.projects.command_process import CommandProcess
from luthier.commands.projects.models import ProjectModel, find_project_model
from luthier.commands.projects.workspace import find_project_file, load_plan
from luthier.core.errors import InputError, LuthierError, SourceLocation, UnknownName
from luthier.core.files import translate_write_errors, write_atomically
from luthier.recipe.workspace import Workspace

ExplanationState = Literal["queued", "running", "done", "failed"]
MOST_CHARS = 20_000
"""Characters of a text that is explained."""
_MOST_WAITING, _MOST_KEPT = 20, 200
_ID = re.compile(r"[0-9a-f]{12}")
_REQUEST, _ANSWER, _INFLUENCE = "request.json", "answer", "influence"
_CHOICES = 20
_SHOWN = 100


class ExplanationQuestion(BaseModel):
    """What somebody wants explained."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    project: str
    digest: str
    """The model."""
    text: Annotated[str, Field(max_length=MOST_CHARS)] = ""
    row: Annotated[str, Field(max_length=64)] = ""
    """A row of the model's data, by the beginning of its id."""
    trace: Annotated[str, Field(max_length=200)] = ""
    """A request that the project's traffic keeps."""
    answer: Annotated[str, Field(max_length=MOST_CHARS)] = ""
    """The answer or class that is explained; empty: the model's own."""
    instead: Annotated[str, Field(max_length=MOST_CHARS)] = ""
    """Why the answer and not this one; empty: no contrast."""
    method: Annotated[str, Field(pattern=r"^[a-z_0-9]{0,40}$")] = ""
    """The kind of the explainer; empty: the usual one for the model."""
    units: Literal["auto"] | UnitKind = "auto"
    asked_by: str
    asked_at: datetime

    @model_validator(mode="after")
    def _asks_one_thing(self) -> ExplanationQuestion:
        if sum(bool(entry.strip()) for entry in (self.text, self.row, self.trace)) != 1:
            raise ValueError("write a text, or name a row or a request")
        return self

    def words(self, workspace: Workspace) -> list[str]:
        """The command that explains it, without `--json`."""
        file = find_project_file(workspace, self.project)
        model = find_project_model(workspace, file, self.digest)
        options = {
            "--text": self.text, "--row": self.row, "--trace": self.trace, "--answer": self.answer,
            "--instead": self.instead, "--method": self.method, "--units": "" if self.units == "auto" else self.units,
        }  # fmt: skip
        return ["explain", model.word, *(f"{name}={value}" for name, value in options.items() if value)]


class Explanation(NamedTuple):
    """An explanation that was asked for, as it stands."""

    id: str
    question: ExplanationQuestion
    state: ExplanationState
    message: str = ""
    """What its process said last; why it failed."""
    hint: str = ""
    before: int = 0
    """How many others come before it, while it waits."""
    records: tuple[ExplanationRecord, ...] = ()

    @property
    def is_over(self) -> bool:
        """Whether nothing more comes of it."""
        return self.state in ("done", "failed")


class InfluenceStatus(NamedTuple):
    """The training rows that taught an answer, as far as they were asked for."""

    state: Literal["none", "offered", "queued", "running", "done", "failed"]
    """`none`: the recipe has no step `influence` of this model, or the question is none that it can be question."""
    step: str = ""
    words: Sequence[str] = ()
    """The command that finds them."""
    summary: InfluenceSummary | None = None
    message: str = ""


class ExplanationRow(NamedTuple):
    """A row that can be chosen to be explained."""

    id: str
    text: str


class ExplanationBook:
    """The explanations of a workspace. Of several studios over one workspace, one starts processes."""

    def __init__(self, workspace: Workspace, folder: Path) -> None:
        self._workspace, self._folder = workspace, folder
        self._lock = FileLock(folder / ".lock", thread_local=False)

    def ask(self, question: ExplanationQuestion) -> str:
        """Put a question into the queue; returns its id. `UnknownName` where the project made no such model."""
        question.words(self._workspace)
        everything = self._list_ids()
        if sum(not self._read(entry).is_over for entry in everything) >= _MOST_WAITING:
            raise InputError(f"{_MOST_WAITING} explanations wait already", hint="wait until some are done")
        name = secrets.token_hex(6)
        with translate_write_errors(self._folder):
            (self._folder / name).mkdir(0o700, parents=True)
            write_atomically(self._folder / name / _REQUEST, question.model_dump_json().encode())
        for old in everything[_MOST_KEPT - 1 :]:
            if self._read(old).is_over:
                shutil.rmtree(self._folder / old, ignore_errors=True)
        return name

    def list_of(self, project: str) -> list[Explanation]:
        """Those of a project, the latest first."""
        found = (self._read(name) for name in self._list_ids())
        return [entry for entry in found if entry.question.project == project][:_SHOWN]

    def get(self, project: str, name: str) -> Explanation:
        """One of a project by its id; `UnknownName` where there is none."""
        if not _ID.fullmatch(name) or not (self._folder / name / _REQUEST).is_file():
            raise UnknownName("there is no such explanation", hint="ask for it again")
        found = self._read(name)
        if found.question.project != project:
            raise UnknownName("there is no such explanation", hint="ask for it again")
        if found.state == "queued":
            return found._replace(before=self._count_before(name))
        return found

    def stop(self, project: str, name: str) -> None:
        """Take one out of the queue, or end its process; what was asked is forgotten."""
        self.get(project, name)
        for part in (_ANSWER, _INFLUENCE):
            CommandProcess(self._folder / name / part).stop()
        shutil.rmtree(self._folder / name, ignore_errors=True)

    def advance(self) -> None:
        """Begin what comes next, unless something is under way; called again and again."""
        if not self._folder.is_dir() or not self._is_alone():
            return
        waiting: list[tuple[float, Path, list[str]]] = []
        for name in self._list_ids():
            for part in (_ANSWER, _INFLUENCE):
                folder = self._folder / name / part
                process = CommandProcess(folder)
                if process.is_running:
                    return
                if (words := _read_words(folder)) and not process.words:
                    waiting.append((folder.stat().st_mtime, folder, words))
            if not _is_begun(self._folder / name / _ANSWER):
                asked_at = (self._folder / name / _REQUEST).stat().st_mtime
                waiting.append((asked_at, self._folder / name / _ANSWER, []))
        for _, folder, words in sorted(waiting)[:1]:
            self._begin(folder, words)

    def close(self) -> None:
        """Let another studio start processes; those under way go on."""
        self._lock.release()

    def find_influence(self, found: Explanation) -> InfluenceStatus:
        """The training rows that taught the answer of an explanation: whether they can be asked for, and which."""
        step = self._find_influence_step(found)
        overrides = _influence_overrides(step, found) if step else []
        if not step or not overrides:
            return InfluenceStatus("none")
        file = find_project_file(self._workspace, found.question.project)
        words = ["run", str(self._workspace.shorten(file)), "--only", step, *overrides]
        folder = self._folder / found.id / _INFLUENCE
        with suppress(LuthierError):
            plan = load_plan(self._workspace, file, overrides, costs=False)
            if plan[step].cached:
                return InfluenceStatus("done", step, words, InfluenceSummary.read(plan.artifact(step)))
        process = CommandProcess(folder)
        if not _read_words(folder):
            return InfluenceStatus("offered", step, words)
        if not process.words:
            return InfluenceStatus("queued", step, words)
        return InfluenceStatus("running" if process.is_running else "failed", step, words, message=process.message)

    def ask_influence(self, project: str, name: str) -> None:
        """Ask which training rows taught an answer that is explained."""
        influence = self.find_influence(self.get(project, name))
        if influence.state == "none":
            hint = "add a step `influence` to the recipe, and `keep_states: 4` to the step that tunes"
            raise InputError("the recipe keeps nothing by which training rows could be found", hint=hint)
        if influence.state not in ("offered", "failed"):
            return
        folder = self._folder / name / _INFLUENCE
        CommandProcess(folder).stop()
        with translate_write_errors(folder):
            folder.mkdir(0o700, parents=True, exist_ok=True)
            write_atomically(folder / "words.json", json.dumps(list(influence.words)).encode())

    def _find_influence_step(self, found: Explanation) -> str:
        """The step `influence` of the recipe as it is now that asks about the model; empty where there is none."""
        if found.state != "done":
            return ""
        with suppress(LuthierError):
            plan = load_plan(self._workspace, find_project_file(self._workspace, found.question.project), costs=False)
            for planned in plan:
                if planned.step.kind == "influence":
                    tuned = plan[plan.recipe.references(planned.step)["model"]]
                    if tuned.cached and tuned.digest == found.question.digest:
                        return planned.name
        return ""

    def _begin(self, folder: Path, words: list[str]) -> None:
        """Start a process; what keeps it from starting is kept as what came of it."""
        try:
            if not words:
                question = _read_request(folder.parent)
                words = [*question.words(self._workspace), "--json"]
            CommandProcess(folder).start(self._workspace, words)
        except LuthierError as error:
            with translate_write_errors(folder):
                folder.mkdir(0o700, parents=True, exist_ok=True)
                write_atomically(folder / "output", json.dumps(error.as_json()).encode())

    def _is_alone(self) -> bool:
        try:
            if not self._lock.is_locked:
                self._lock.acquire(timeout=0)
        except Timeout:
            return False
        return True

    def _list_ids(self) -> list[str]:
        """The ids of all that were question, the latest first."""
        times: list[tuple[float, str]] = []
        for path in self._folder.glob(f"*/{_REQUEST}"):
            with suppress(FileNotFoundError):  # it was forgotten at this moment
                times.append((path.stat().st_mtime, path.parent.name))
        return [name for _, name in sorted(times, reverse=True)]

    def _count_before(self, name: str) -> int:
        ids = self._list_ids()
        return sum(not self._read(other).is_over for other in ids[ids.index(name) + 1 :])

    def _read(self, name: str) -> Explanation:
        question = _read_request(self._folder / name)
        folder = self._folder / name / _ANSWER
        process = CommandProcess(folder)
        if not _is_begun(folder):
            return Explanation(name, question, "queued")
        if process.is_running:
            return Explanation(name, question, "running", process.message if _has_said(folder) else "")
        printed = _read_output(folder)
        if "explanations" in printed:
            records = tuple(ExplanationRecord.model_validate(entry) for entry in printed["explanations"])
            return Explanation(name, question, "done", records=records)
        error = printed.get("error") or {}
        message = str(error.get("message") or process.message)
        return Explanation(name, question, "failed", message, str(error.get("hint") or ""))


def parse_question(**fields: Any) -> ExplanationQuestion:
    """What a form asks; `InputError` with its field for what cannot be explained."""
    try:
        return ExplanationQuestion.model_validate({**fields, "asked_at": datetime.now(UTC)})
    except ValidationError as error:
        first = error.errors()[0]
        message = str(first["msg"]).removeprefix("Value error, ")
        where = SourceLocation(field=".".join(map(str, first["loc"])) or "text")
        raise InputError(message, where=where) from error


def list_explanation_rows(workspace: Workspace, model: ProjectModel, file: Path) -> list[ExplanationRow]:
    """Some held-out rows of a model's data, evenly over them, to choose from; none where no data set is known."""
    from luthier.artifacts.dataset import has_split, read_evenly_spaced_examples
    from luthier.chat.messages import MEDIA_MARK, user_text_of
    from luthier.models.load import get_training_data

    with suppress(LuthierError):
        store = workspace.with_folder(file.parent).open_store()
        data = get_training_data(store.open(model.digest))
        split = next((name for name in ("test", "validation", "train") if data and has_split(data, name)), "")
        if data is not None and split:
            return [
                ExplanationRow(example.id, " ".join(user_text_of(example).replace(MEDIA_MARK, "▣").split())[:120])
                for example in read_evenly_spaced_examples(data, split, _CHOICES)
            ]
    return []


def list_explainer_kinds() -> dict[str, str]:
    """The methods with what each does, in a sentence."""
    from luthier.core.component import components_by_kind
    from luthier.explain.explainer import Explainer

    found = components_by_kind(Explainer)
    return {kind: (found[kind].__doc__ or "").split("\n")[0] for kind in sorted(found)}


def _influence_overrides(step: str, found: Explanation) -> list[str]:
    """Overrides by which a step `influence` asks about the answer of an explanation; none where it cannot: a request,
    a reward, a contrast."""
    record = next(iter(found.records), None)
    if record is None or found.question.trace or record.target.kind not in ("answer", "class"):
        return []
    if found.question.row:
        return []  # its prompt may have a system turn, which a question in words has not
    query = {"text": found.question.text, "answer": record.target.text}
    written = yaml.safe_dump(query, default_flow_style=True, allow_unicode=True, width=10**9).strip()
    return [f"steps.{step}.query={written}", f"steps.{step}.retrainings=0", f"steps.{step}.engine=index"]


def _read_request(folder: Path) -> ExplanationQuestion:
    return ExplanationQuestion.model_validate_json((folder / _REQUEST).read_bytes())


def _is_begun(folder: Path) -> bool:
    """Whether a process was started; a studio that was killed before it had, started none."""
    return bool(CommandProcess(folder).words or _read_output(folder))


def _has_said(folder: Path) -> bool:
    return (folder / "log").is_file() and (folder / "log").stat().st_size > 0


def _read_words(folder: Path) -> list[str]:
    try:
        words = json.loads((folder / "words.json").read_bytes())
    except (OSError, ValueError):
        return []
    return [str(word) for word in words]


def _read_output(folder: Path) -> dict[str, Any]:
    try:
        printed = json.loads((folder / "output").read_bytes())
    except (OSError, ValueError):
        return {}
    return printed if isinstance(printed, dict) else {}
