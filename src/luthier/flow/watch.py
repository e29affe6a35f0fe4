"""The circle: an alert fires, what people said becomes data, the next recipe runs, and its gate decides the release."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.core.errors import LuthierError, RecipeError, Where
from luthier.core.files import write_aside
from luthier.core.ledger import Ledger, ledger_url
from luthier.flow.monitor import Look, Opened, looks, monitor_of, open_monitor
from luthier.flow.plan import recipe_store
from luthier.flow.recipe import Recipe
from luthier.flow.record import recorded_run
from luthier.monitor.message import Message

if TYPE_CHECKING:
    from luthier.core.events import Listener
    from luthier.flow.run import Result

Say = Callable[[str], None]
TRIES = 5
"""So many turns are made while an alert fires on."""
MORE = 1.5
"""Another turn follows a failed one when people have said so many times as much as it knew."""


@dataclass(frozen=True, kw_only=True)
class Circle:
    """What is watched, what is run when an alert fires, and under which name what passes is released."""

    recipe: Path
    """The recipe with the monitor, and with the model that is released now."""
    then: Path
    """The recipe that learns from the traffic: it reads a source `traces`, and ends in a gate."""
    alias: str
    alerts: Sequence[str] = ()
    """Which alerts set it going; all where none is named."""

    def wants(self, message: Message) -> bool:
        """Whether a message sets the next turn going."""
        return message.tells == "firing" and (not self.alerts or message.alert in self.alerts)


def check(circle: Circle, opened: Opened) -> None:
    """`RecipeError` where the circle could never close."""
    steps = Recipe.load(circle.then).all_steps()
    if not _living(circle.then):
        remedy = "add a step {kind: prepare, source: {kind: traces, …}}, as `luthier new NAME --from traces` writes it"
        raise RecipeError("this recipe learns from no traffic", where=Where(file=str(circle.then)), remedy=remedy)
    for makes, what in (("verdict", "has no gate"), ("model", "makes no model")):
        if not any(step.makes == makes for step in steps.values()):
            remedy = "nothing is released but by a gate: add {kind: gate, report: …, rules: […]}"
            raise RecipeError(f"this recipe {what}", where=Where(file=str(circle.then)), remedy=remedy)
    known = [rule.name for rule in opened.plan.rules]
    for name in circle.alerts:
        if name not in known:
            where = Where(field="--on")
            raise RecipeError(f"no alert is called {name!r}", where=where, remedy=f"known: {', '.join(known)}")


def run_circle(
    circle: Circle, folder: Path | None, *, say: Say, listener: Listener, once: bool = False
) -> Iterator[str]:
    """Watch, and make a turn whenever an alert asks for it; yields what came of it, line by line."""
    opened = open_monitor(str(circle.recipe))
    check(circle, opened)
    memory = opened.kept / "watch.json"
    say(f"watching {circle.recipe}: {circle.then} is run when {' or '.join(circle.alerts) or 'an alert'} fires")
    while True:
        told = _recall(memory)
        if told.get("turn"):
            yield from _turn(circle, told, memory, listener, folder or opened.traffic)
            told = _recall(memory)
        opened = _monitor(circle, told) or opened
        since = datetime.fromisoformat(told["released"]) if told.get("released") else None
        for look in looks(opened, folder, say=say, once=once, since=since):
            yield from (message.title for message in look.messages)
            if turn := _due(circle, look, told, folder or opened.traffic):
                _keep(memory, {**told, "turn": turn})
                break
            told = _settled(look, told, memory)
        else:
            return


def _due(circle: Circle, look: Look, told: dict[str, Any], traffic: Path) -> dict[str, Any] | None:
    """The next turn: an alert has begun to fire, or fires on and people have said much more since a turn failed."""
    fired = next((message.alert for message in look.messages if circle.wants(message)), None)
    if fired is not None:
        return {"alert": fired, "until": _now(), "tries": 1}
    failed = told.get("failed")
    if not failed or failed["alert"] not in look.firing or failed["tries"] >= TRIES:
        return None
    if _said(traffic) < failed["said"] * MORE + 1:
        return None
    return {"alert": failed["alert"], "until": _now(), "tries": failed["tries"] + 1}


def _settled(look: Look, told: dict[str, Any], memory: Path) -> dict[str, Any]:
    """A failed turn is forgotten once its alert is over."""
    if told.get("failed") and told["failed"]["alert"] not in look.firing:
        told = {**told, "failed": None}
        _keep(memory, told)
    return told


def _said(traffic: Path, until: str | None = None) -> int:
    """How often people have said something of an answer, before a moment."""
    import polars as pl

    from luthier.traffic.read import frame

    if not traffic.is_dir():
        return 0
    before = datetime.fromisoformat(until) if until is not None else None
    return int(frame(traffic, "feedback", until=before).select(pl.len()).collect().item())


def _turn(circle: Circle, told: dict[str, Any], memory: Path, listener: Listener, traffic: Path) -> Iterator[str]:
    """One turn; killed in the middle, it is made again with the same rows, and what was made is found."""
    turn = told["turn"]
    yield f"{turn['alert']} fired: {circle.then} learns from what was said until {turn['until']}"
    try:
        recipe = Recipe.load(circle.then, _until(circle, turn["until"]))
        outcome = recorded_run(recipe, listener)
        why = {0: "", 1: "the gate says FAIL"}.get(outcome.result.exit_code, "the gate says INCONCLUSIVE")
        told_of = list(outcome.lines())
    except LuthierError as error:
        why, told_of = error.message, []
    yield from told_of
    if why:
        failed = {"alert": turn["alert"], "said": _said(traffic, turn["until"]), "tries": turn.get("tries", 1)}
        _keep(memory, {**told, "turn": None, "failed": failed})
        yield f"not released: {why}; {_next_try(failed)}"
        return
    yield _release(circle, recipe, outcome.result)
    _keep(memory, {"turn": None, "released": _now(), "until": turn["until"]})


def _next_try(failed: dict[str, Any]) -> str:
    if failed["tries"] >= TRIES:
        return f"after {TRIES} tries the next waits until the alert was over"
    return f"while the alert fires, the next try comes when people have said {MORE:g} times as much"


def _monitor(circle: Circle, told: dict[str, Any]) -> Opened | None:
    """The monitor that goes with what was released: the next recipe's own, where it has one."""
    if not told.get("until"):
        return None
    return monitor_of(Recipe.load(circle.then, _until(circle, told["until"])))


def _until(circle: Circle, moment: str) -> list[str]:
    """Overrides by which traffic stands still."""
    return [f"{place}.until={moment}" for place in _living(circle.then)]


def _release(circle: Circle, recipe: Recipe, result: Result) -> str:
    """Let the model that passed answer to the name."""
    from luthier.traffic.releases import Model, release

    step = [planned.name for planned in result.plan if planned.step.makes == "model"][-1]
    digest = result[step].artifact.digest
    with Ledger(ledger_url(recipe_store(recipe.base).root)) as ledger:
        release(ledger, circle.alias, Model(word=f"{recipe.file}:{step}", model=digest, digest=digest))
    return f"released: {circle.alias} is {recipe.name}:{step} ({digest[:12]})"


def _living(file: Path) -> list[str]:
    """The places in a recipe of sources that read traffic."""
    steps = Recipe.load(file).all_steps().items()
    return [
        f"steps.{name}.source" for name, step in steps if getattr(getattr(step, "source", None), "kind", "") == "traces"
    ]


def _recall(memory: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(memory.read_bytes()) if memory.exists() else {}
    return found


def _keep(memory: Path, told: dict[str, Any]) -> None:
    write_aside(memory, (json.dumps(told) + "\n").encode())


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
