"""List, show, import and export traces, and record feedback."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from luthier.core.errors import InputError, SourceLocation
from luthier.core.files import translate_write_errors
from luthier.recipe.workspace import Workspace
from luthier.traces.record import Feedback
from luthier.traces.retention import VARIABLE, has_traffic, traffic_folder

if TYPE_CHECKING:
    from luthier.traces.store import TraceWithFeedback

_AGO = re.compile(r"(\d+)\s*(m|h|d|w)")
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def resolve_traffic_folder(workspace: Workspace, location: Path | None = None) -> Path:
    """The traffic of a recipe (or of the one here), or a folder of traffic that is named itself."""
    if location is not None and has_traffic(workspace.resolve(location)):
        return workspace.resolve(location)
    if location is not None:
        recipe = workspace.find_recipe(location)
        if not recipe.exists():
            raise InputError(
                "there is no such recipe or folder", where=SourceLocation(file=str(location)), hint="check --in"
            )
        return traffic_folder(recipe if recipe.is_dir() else recipe.parent)
    return traffic_folder(workspace.find_meant().folder)


def require_traffic_folder(workspace: Workspace, location: Path | None = None) -> Path:
    """The same; `InputError` when no traffic is kept there."""
    folder = resolve_traffic_folder(workspace, location)
    if not has_traffic(folder):
        hint = f"`luthier serve` keeps it, `luthier traces import` takes logs in; {VARIABLE} names another folder"
        raise InputError("no traffic is kept here", where=SourceLocation(file=str(folder)), hint=hint)
    return folder


def parse_moment(text: str | None, name: str) -> datetime | None:
    """`2026-11-01`, `2026-11-01T12:00+01:00`, or so long ago: `30m`, `6h`, `7d`, `2w`."""
    if text is None:
        return None
    if ago := _AGO.fullmatch(text.strip()):
        return datetime.now(UTC) - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        hint = "for example 2026-11-01, 2026-11-01T12:00, 30m, 6h, 7d"
        raise InputError(f"expected a moment, got {text!r}", where=SourceLocation(field=name), hint=hint) from error
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def list_traces(
    workspace: Workspace, location: Path | None, where: str | None, since: str | None, until: str | None, count: int
) -> list[TraceWithFeedback]:
    """The latest requests that a condition means, the latest last."""
    from luthier.traces.filter import TraceFilter
    from luthier.traces.store import read_latest_traces

    condition = TraceFilter(where) if where else None
    return read_latest_traces(
        require_traffic_folder(workspace, location),
        count,
        parse_moment(since, "--since"),
        parse_moment(until, "--until"),
        condition,
    )


def get_trace_by_id(workspace: Workspace, location: Path | None, id: str) -> TraceWithFeedback:
    """One request by its id."""
    from luthier.traces.store import read_trace_by_id

    return read_trace_by_id(require_traffic_folder(workspace, location), id)


def trace_to_json(entry: TraceWithFeedback) -> dict[str, Any]:
    """A request with what was said of it, as other programs read it."""
    feedback = [item.model_dump(mode="json", exclude={"trace"}) for item in entry.feedback]
    return {**entry.trace.model_dump(mode="json"), "feedback": feedback}


def record_feedback(
    workspace: Workspace, location: Path | None, feedback: Feedback, *, new_class: bool = False
) -> Feedback:
    """Keep what a person says of a request that is kept; returns what was kept.

    A label that is no class of the model that answered is refused, unless it is said to be a new one.
    """
    from luthier.recipe.predict import check_label
    from luthier.traces.feedback import append_redacted_records
    from luthier.traces.store import read_trace_by_id

    folder = require_traffic_folder(workspace, location)
    trace = read_trace_by_id(folder, feedback.trace).trace
    kept = feedback if new_class else check_label(workspace, feedback, trace, option="give --new-class")
    append_redacted_records(folder, [kept])
    return kept


def format_trace_lines(entry: TraceWithFeedback) -> Iterator[str]:
    """A request as it is read on a terminal."""
    trace = entry.trace
    release = trace.release[:12] or "release unknown"
    yield f"{trace.id} · {trace.timestamp:%Y-%m-%d %H:%M:%S} · {trace.model} ({trace.variant}, {release})"
    numbers = [
        f"{trace.latency_s:.3f} s",
        f"{trace.prompt_tokens} + {trace.completion_tokens} tokens",
        trace.finish_reason,
    ]
    yield " · ".join([*numbers, str(trace.status), *([f"user {trace.user}"] if trace.user else [])])
    for turn in (*trace.messages, *([trace.answer] if trace.answer else [])):
        yield f"\n{turn.role}: {turn.content}"
        yield from (f"  shows {medium.describe()}" for medium in turn.media)
        yield from (f"  calls {call.name}({call.arguments})" for call in turn.tool_calls)
    if trace.error:
        yield f"\nerror: {trace.error}"
    for label, share in sorted((trace.scores or {}).items(), key=lambda score: -score[1])[:5]:
        yield f"  {share:.3f} {label}"
    for feedback in entry.feedback:
        yield f"\nfeedback of {feedback.by or 'somebody'}: {format_feedback_summary([feedback])}"


def format_feedback_summary(feedback: Sequence[Feedback]) -> str:
    """What was said, in few words."""
    found = []
    for record in feedback:
        found += [f"failure {name!r}" for name in record.types]
        found += [f"rating {record.rating:g}"] if record.rating is not None else []
        found += [
            f"{name} {value!r}" for name in ("label", "correction", "comment") if (value := getattr(record, name))
        ]
    return ", ".join(found)


def import_trace_log(workspace: Workspace, location: Path | None, file: Path, model: str) -> int:
    """Take in a log of another tool; returns how many records were new."""
    from luthier.traces.feedback import import_log_records
    from luthier.traces.logs import hash_log_file, read_log_records

    file = workspace.resolve(file)
    if not file.is_file():
        raise InputError(
            "there is no such file", where=SourceLocation(file=str(file)), hint="name a file of JSON lines"
        )
    if file.stat().st_size == 0:
        raise InputError("is empty", where=SourceLocation(file=str(file)), hint="name a log with at least one request")
    return import_log_records(
        resolve_traffic_folder(workspace, location), hash_log_file(file), read_log_records(file, model)
    )


def export_traces(
    workspace: Workspace,
    location: Path | None,
    to: str,
    form: Literal["jsonl", "otlp"] | None,
    which: tuple[str | None, str | None, str | None],
) -> int:
    """Write requests (those that a condition and two moments mean) to a file or a collector; returns how many."""
    from luthier.traces.filter import TraceFilter
    from luthier.traces.otel import send_otlp, write_otlp
    from luthier.traces.store import read_traces_with_feedback

    where, since, until = which
    condition = TraceFilter(where) if where else None
    with_feedbacks = read_traces_with_feedback(
        require_traffic_folder(workspace, location),
        parse_moment(since, "--since"),
        parse_moment(until, "--until"),
        condition,
    )
    if to.startswith(("http://", "https://")):
        if form == "jsonl":
            raise InputError(
                "a collector takes OTLP", where=SourceLocation(field="--format"), hint="leave --format out"
            )
        return send_otlp(to, (with_feedback.trace for with_feedback in with_feedbacks))
    path = workspace.resolve(to)
    with translate_write_errors(path, "name another file"):
        return (
            write_otlp(path, (with_feedback.trace for with_feedback in with_feedbacks))
            if form == "otlp"
            else _write_lines(path, with_feedbacks)
        )


def _write_lines(path: Path, found: Iterator[TraceWithFeedback]) -> int:
    count = 0
    with path.open("w", encoding="utf-8") as file:
        for with_feedback in found:
            file.write(json.dumps(trace_to_json(with_feedback), ensure_ascii=False) + "\n")
            count += 1
    return count
