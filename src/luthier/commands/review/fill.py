"""Fill review queues from traces, once or for as long as the studio runs."""

from __future__ import annotations

import hashlib
import os
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from luthier.annotation.project import NewItem, add_items
from luthier.annotation.question import QuestionItem
from luthier.chat.messages import messages_to_openai
from luthier.commands.projects.workspace import find_project_file
from luthier.commands.review.queues import ReviewQueue, ReviewRule, ReviewSettings, list_review_queues
from luthier.core.db import Ledger
from luthier.core.errors import LuthierError
from luthier.core.files import translate_write_errors
from luthier.core.system.process import python_command
from luthier.recipe.workspace import Workspace
from luthier.traces.filter import TraceFilter
from luthier.traces.record import FeedbackRole
from luthier.traces.release_comparison import SHADOW_OF
from luthier.traces.retention import RetentionPolicy, has_traffic, traffic_folder

if TYPE_CHECKING:
    import polars as pl

    from luthier.traces.store import TraceWithFeedback

_ANSWERED = (
    "variant != 'shadow' and operation in ('chat', 'completion', 'label') and status < 400 and text is not missing"
)
"""Requests that have an answer which somebody saw."""
_USERS: tuple[FeedbackRole, ...] = ("user",)
Say = Callable[[str], None]


class DrawnRequest(NamedTuple):
    """A request that is drawn, and why."""

    id: str
    probability: float
    rules: tuple[str, ...]
    """The names of all rules that mean it."""


class FillResult(NamedTuple):
    """What came of a fill."""

    meant: int
    """Requests of which the queue speaks, as long as the traffic is kept."""
    drawn: int
    added: int
    changed: int
    """Items in the queue whose chance rose."""


def fill_review_queue(ledger: Ledger, workspace: Workspace, queue: ReviewQueue, say: Say = print) -> FillResult:
    """Draw requests of the project's traffic into a queue; what is there already is not added again."""
    from luthier.core.db.tables.annotation import ReviewQueueRow
    from luthier.traces.compact import compact_traffic_folder

    folder = find_queue_traffic(workspace, queue)
    now = datetime.now(UTC)
    meant, drawn_requests = 0, list[DrawnRequest]()
    if has_traffic(folder):
        compact_traffic_folder(folder, RetentionPolicy.of(folder))
        alerted = _alerted(workspace, queue, now, say) if any(r.alerts for r in queue.settings.rules) else frozenset()
        meant, drawn_requests = draw_requests(folder, queue.settings, queue.id, until=now, alerted=alerted)
    changed = _raise_probabilities(ledger, queue.id, drawn_requests)
    known = _known_keys(ledger, queue.id)
    new = [drawn_request for drawn_request in drawn_requests if drawn_request.id not in known]
    added = add_items(ledger, queue.id, _items(folder, queue.id, new))
    with ledger.writing() as session:
        session.get_one(ReviewQueueRow, queue.id).filled_at = now
    return FillResult(meant, len(drawn_requests), added, changed)


def find_queue_traffic(workspace: Workspace, queue: ReviewQueue) -> Path:
    """Where the traffic of a queue's project is kept."""
    return traffic_folder(find_project_file(workspace, queue.project).parent)


def draw_requests(
    folder: Path,
    settings: ReviewSettings,
    name: str,
    *,
    until: datetime | None = None,
    alerted: frozenset[str] = frozenset(),
) -> tuple[int, list[DrawnRequest]]:
    """How many requests are meant, and those that are drawn; `name` decides their lots. All of them are in the traffic
    of now."""
    from luthier.traces.store import feedback_to_frame, read_latest_feedback, scan_table

    opinions = feedback_to_frame(read_latest_feedback(folder, settings.since, until, roles=_USERS))
    scope = TraceFilter(f"{_ANSWERED} and ({settings.where})" if settings.where else _ANSWERED).expression(opinions)
    rows = scan_table(folder, "traces", settings.since, until).filter(scope)
    every: list[str] = rows.select("id").unique().collect()["id"].to_list()
    matched: dict[str, list[ReviewRule]] = {}
    for rule in settings.rules:
        for id in _meant_by(rule, rows, opinions, every, folder, settings, until, alerted):
            matched.setdefault(id, []).append(rule)
    drawn_requests = [
        DrawnRequest(id, probability, tuple(rule.name for rule in rules))
        for id, rules in sorted(matched.items())
        if _lot(f"draw {name} {id}") < (probability := max(rule.share for rule in rules))
    ]
    return len(every), drawn_requests


def _meant_by(  # a rule, and all that it may be decided by
    rule: ReviewRule,
    rows: pl.LazyFrame,
    opinions: pl.DataFrame,
    every: list[str],
    folder: Path,
    settings: ReviewSettings,
    until: datetime | None,
    alerted: frozenset[str],
) -> list[str]:
    """The ids of the requests that a rule means."""
    found = every
    if rule.where:
        condition = TraceFilter(rule.where).expression(opinions)
        found = rows.filter(condition).select("id").unique().collect()["id"].to_list()
    if rule.shadow:
        other = _shadow_answers(folder, settings.since, until)
        texts = dict(rows.select("id", "text").collect().iter_rows())
        found = [id for id in found if id in other and other[id].strip() != str(texts[id]).strip()]
    return [id for id in found if id in alerted] if rule.alerts else found


def _shadow_answers(folder: Path, since: datetime, until: datetime | None) -> dict[str, str]:
    """What shadows answered, by the id of the request that they copy."""
    import polars as pl

    from luthier.traces.store import scan_table

    of = pl.col("meta").str.json_path_match(f"$['{SHADOW_OF}']")
    rows = scan_table(folder, "traces", since, until).filter(pl.col("variant") == "shadow")
    found = rows.select(of.alias("of"), pl.col("text").fill_null("")).drop_nulls("of").collect()
    return dict(found.iter_rows())


def _lot(text: str) -> float:
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8]) / 2**64


def _alerted(workspace: Workspace, queue: ReviewQueue, until: datetime, say: Say) -> frozenset[str]:
    """The requests that alerts of the project's monitor name as examples, had they looked at all traffic of now."""
    from luthier.commands.monitor import find_recipe_monitor, replay_alerts
    from luthier.recipe.schema import Recipe

    file = find_project_file(workspace, queue.project)
    try:
        opened = find_recipe_monitor(Recipe.load(file, (), workspace.with_folder(file.parent)))
        if opened is None:
            say("the recipe has no step of kind `monitor`: no alert names requests")
            return frozenset()
        replay = replay_alerts(opened, None, queue.settings.since, until, say)
    except LuthierError as error:
        say(f"alerts name no requests: {error}")
        return frozenset()
    return frozenset(id for message in replay.messages if message.tells == "firing" for id in message.examples)


def _known_keys(ledger: Ledger, queue_id: str) -> set[str]:
    from sqlalchemy import select

    from luthier.core.db.tables.annotation import AnnotationItemRow

    with ledger.reading() as session:
        query = select(AnnotationItemRow.key).where(AnnotationItemRow.project_id == queue_id)
        return set(session.scalars(query))


def _raise_probabilities(ledger: Ledger, queue_id: str, drawn: Iterable[DrawnRequest]) -> int:
    """Correct the chances of items that rules mean now which did not when they were drawn."""
    from sqlalchemy import select

    from luthier.core.db.tables.annotation import AnnotationItemRow

    now = {entry.id: entry for entry in drawn}
    item, changed = AnnotationItemRow, 0
    with ledger.writing() as session:
        for row in session.scalars(select(item).where(item.project_id == queue_id, item.probability < 1)):
            drawn_request = now.get(row.key)
            if (
                drawn_request is not None
                and row.probability is not None
                and drawn_request.probability > row.probability
            ):
                row.probability = drawn_request.probability
                row.hidden = {**row.hidden, "rules": list(drawn_request.rules)}
                changed += 1
    return changed


_AT_ONCE = 500


def _items(folder: Path, queue_id: str, drawn: list[DrawnRequest]) -> Iterator[NewItem]:
    """Copies of requests as items, without personal data as the rules of now have it."""
    from luthier.commands.traces import trace_to_json
    from luthier.traces.redact import Redactor

    redactor = Redactor(RetentionPolicy.of(folder))
    for start in range(0, len(drawn), _AT_ONCE):
        some = {drawn_request.id: drawn_request for drawn_request in drawn[start : start + _AT_ONCE]}
        for entry in _read(folder, some):
            one = some[entry.trace.id]
            prompt = messages_to_openai(entry.trace.messages)
            copy: dict[str, Any] = {**trace_to_json(entry), "feedback": []}
            copy = redactor.record(copy)
            copy["feedback"] = [
                redactor.record(f.model_dump(mode="json", exclude_defaults=True)) for f in entry.feedback
            ]
            shown = [
                {**message, "content": turn["content"]} for message, turn in zip(prompt, copy["messages"], strict=True)
            ]
            for message, turn in zip(shown, entry.trace.messages, strict=True):
                if turn.media:
                    message["media"] = [medium.model_dump(mode="json", exclude_none=True) for medium in turn.media]
            yield NewItem(
                key=one.id,
                shown=QuestionItem(tuple(shown), (str((copy["answer"] or {}).get("content") or ""),)),
                hidden={"trace": copy, "rules": list(one.rules)},
                priority=_lot(f"order {queue_id} {one.id}"),
                probability=one.probability,
            )


def _read(folder: Path, ids: Mapping[str, DrawnRequest]) -> Iterator[TraceWithFeedback]:
    """Requests by their ids, with what users said of them."""
    import polars as pl

    from luthier.traces.store import TraceWithFeedback, read_latest_feedback, scan_table
    from luthier.traces.tables import rows_to_traces

    feedback = read_latest_feedback(folder, roles=_USERS)
    rows = scan_table(folder, "traces").filter(pl.col("id").is_in(list(ids)), pl.col("variant") != "shadow").collect()
    for trace in rows_to_traces(rows.unique("id", keep="first", maintain_order=True).iter_rows(named=True)):
        yield TraceWithFeedback(trace, feedback.get(trace.id, ()))


EVERY_S = 300.0


class ReviewFiller:
    """Starts `luthier review fill` every five minutes while a queue is open, one at a time."""

    def __init__(self, ledger: Ledger, workspace: Workspace, folder: Path) -> None:
        self._ledger, self._workspace, self._log = ledger, workspace, folder / "review.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._due = time.monotonic()

    @property
    def is_filling(self) -> bool:
        """Whether a fill is under way."""
        return self._process is not None and self._process.poll() is None

    def advance(self) -> None:
        """Begin a fill where it is time for one."""
        if not self.is_filling and time.monotonic() >= self._due:
            self._due = time.monotonic() + EVERY_S
            if list_review_queues(self._ledger, only_open=True):
                self.start()

    def start(self) -> None:
        """Begin a fill now, unless one is under way."""
        if self.is_filling:
            return
        with translate_write_errors(self._log):
            self._log.parent.mkdir(parents=True, exist_ok=True)
            with self._log.open("wb") as log:
                self._process = subprocess.Popen(  # noqa: S603  # this very program
                    python_command("-m", "luthier", "review", "fill"),
                    cwd=self._workspace.folder.absolute(),
                    stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                    env={**os.environ, **self._workspace.environment},
                )  # fmt: skip

    def close(self) -> None:
        """End a fill that is under way: what it did is kept, and the next goes on."""
        if self._process is not None and self.is_filling:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(10)
