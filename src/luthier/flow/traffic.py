"""What a person asks about traffic at the command line: which requests, one of them, logs in and out, an opinion."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from luthier.core.errors import InputError, Where
from luthier.core.files import writing
from luthier.flow.here import folder_here
from luthier.flow.nearby import find_recipe
from luthier.traffic.place import VARIABLE, is_traffic, traffic_folder
from luthier.traffic.record import Feedback

if TYPE_CHECKING:
    from luthier.traffic.read import Told

_AGO = re.compile(r"(\d+)\s*(m|h|d|w)")
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def traffic_of(place: Path | None = None) -> Path:
    """The traffic of a recipe (or of the one here), or a folder of traffic that is named itself."""
    if place is not None and is_traffic(place):
        return place
    if place is not None:
        recipe = find_recipe(place)
        if not recipe.exists():
            raise InputError("there is no such recipe or folder", where=Where(file=str(place)), remedy="check --in")
        return traffic_folder(recipe if recipe.is_dir() else recipe.parent)
    return traffic_folder(folder_here())


def kept_folder(place: Path | None = None) -> Path:
    """The same; `InputError` when no traffic is kept there."""
    folder = traffic_of(place)
    if not is_traffic(folder):
        remedy = f"`luthier serve` keeps it, `luthier traces import` takes logs in; {VARIABLE} names another folder"
        raise InputError("no traffic is kept here", where=Where(file=str(folder)), remedy=remedy)
    return folder


def moment(text: str | None, name: str) -> datetime | None:
    """`2026-11-01`, `2026-11-01T12:00+01:00`, or so long ago: `30m`, `6h`, `7d`, `2w`."""
    if text is None:
        return None
    if ago := _AGO.fullmatch(text.strip()):
        return datetime.now(UTC) - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        remedy = "for example 2026-11-01, 2026-11-01T12:00, 30m, 6h, 7d"
        raise InputError(f"expected a moment, got {text!r}", where=Where(field=name), remedy=remedy) from error
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def asked(place: Path | None, where: str | None, since: str | None, until: str | None, count: int) -> list[Told]:
    """The latest requests that a condition means, the latest last."""
    from luthier.traffic.filter import TraceFilter
    from luthier.traffic.read import latest

    condition = TraceFilter(where) if where else None
    return latest(kept_folder(place), count, moment(since, "--since"), moment(until, "--until"), condition)


def one(place: Path | None, id: str) -> Told:
    """One request by its id."""
    from luthier.traffic.read import find

    return find(kept_folder(place), id)


def as_json(told: Told) -> dict[str, Any]:
    """A request with what was said of it, as other programs read it."""
    said = [one.model_dump(mode="json", exclude={"trace"}) for one in told.feedback]
    return {**told.trace.model_dump(mode="json"), "feedback": said}


def opinion(place: Path | None, feedback: Feedback, *, new_class: bool = False) -> Feedback:
    """Keep what a person says of a request that is kept; returns what was kept.

    A label that is no class of the model that answered is refused, unless it is said to be a new one.
    """
    from luthier.flow.true_class import check_label
    from luthier.traffic.read import find
    from luthier.traffic.write import write

    folder = kept_folder(place)
    trace = find(folder, feedback.trace).trace
    kept = feedback if new_class else check_label(feedback, trace, option="give --new-class")
    write(folder, [kept])
    return kept


def lines(told: Told) -> Iterator[str]:
    """A request as it is read on a terminal."""
    trace = told.trace
    release = trace.release[:12] or "release unknown"
    yield f"{trace.id} · {trace.at:%Y-%m-%d %H:%M:%S} · {trace.model} ({trace.arm}, {release})"
    numbers = [f"{trace.latency_s:.3f} s", f"{trace.prompt_tokens} + {trace.completion_tokens} tokens", trace.finish]
    yield " · ".join([*numbers, str(trace.status), *([f"user {trace.user}"] if trace.user else [])])
    for turn in (*trace.messages, *([trace.answer] if trace.answer else [])):
        yield f"\n{turn.role}: {turn.content}"
        yield from (f"  calls {call.name}({call.arguments})" for call in turn.tool_calls)
    if trace.error:
        yield f"\nerror: {trace.error}"
    for label, share in sorted((trace.scores or {}).items(), key=lambda one: -one[1])[:5]:
        yield f"  {share:.3f} {label}"
    for said in told.feedback:
        yield f"\nfeedback of {said.by or 'somebody'}: {summary([said])}"


def summary(feedback: Sequence[Feedback]) -> str:
    """What was said, in few words."""
    found = []
    for said in feedback:
        found += [f"rating {said.rating:g}"] if said.rating is not None else []
        found += [f"{name} {value!r}" for name in ("label", "correction", "comment") if (value := getattr(said, name))]
    return ", ".join(found)


def take_log(place: Path | None, file: Path, model: str) -> int:
    """Take in a log of another tool; returns how many records were new."""
    from luthier.traffic.adopt import digest, records
    from luthier.traffic.write import take_in

    if not file.is_file():
        raise InputError("there is no such file", where=Where(file=str(file)), remedy="name a file of JSON lines")
    return take_in(traffic_of(place), digest(file), records(file, model))


def give_out(
    place: Path | None, to: str, form: Literal["jsonl", "otlp"] | None, which: tuple[str | None, str | None, str | None]
) -> int:
    """Write requests (those that a condition and two moments mean) to a file or a collector; returns how many."""
    from luthier.traffic.filter import TraceFilter
    from luthier.traffic.otlp import send_otlp, write_otlp
    from luthier.traffic.read import told

    where, since, until = which
    condition = TraceFilter(where) if where else None
    found = told(kept_folder(place), moment(since, "--since"), moment(until, "--until"), condition)
    if to.startswith(("http://", "https://")):
        if form == "jsonl":
            raise InputError("a collector takes OTLP", where=Where(field="--format"), remedy="leave --format out")
        return send_otlp(to, (one.trace for one in found))
    path = Path(to)
    with writing(path, "name another file"):
        return write_otlp(path, (one.trace for one in found)) if form == "otlp" else _write_lines(path, found)


def _write_lines(path: Path, found: Iterator[Told]) -> int:
    count = 0
    with path.open("w", encoding="utf-8") as file:
        for one in found:
            file.write(json.dumps(as_json(one), ensure_ascii=False) + "\n")
            count += 1
    return count
