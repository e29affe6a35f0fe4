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
from luthier.flow.monitor import Opened, monitor_of, open_monitor
from luthier.flow.monitor import watch as watched
from luthier.flow.plan import recipe_store
from luthier.flow.recipe import Recipe
from luthier.flow.record import recorded_run
from luthier.monitor.message import Message

if TYPE_CHECKING:
    from luthier.core.events import Listener
    from luthier.flow.run import Result

Say = Callable[[str], None]


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
            yield from _turn(circle, told, memory, listener)
            told = _recall(memory)
        opened = _monitor(circle, told) or opened
        since = datetime.fromisoformat(told["released"]) if told.get("released") else None
        for message in watched(opened, folder, say=say, once=once, since=since):
            yield message.title
            if circle.wants(message):
                _keep(memory, {**told, "turn": {"alert": message.alert, "until": _now()}})
                break
        else:
            return


def _turn(circle: Circle, told: dict[str, Any], memory: Path, listener: Listener) -> Iterator[str]:
    """One turn; killed in the middle, it is made again with the same rows, and what was made is found."""
    turn = told["turn"]
    yield f"{turn['alert']} fired: {circle.then} learns from what was said until {turn['until']}"
    try:
        recipe = Recipe.load(circle.then, _until(circle, turn["until"]))
        outcome = recorded_run(recipe, listener)
    except LuthierError as error:
        _keep(memory, {**told, "turn": None})
        yield f"not released: {error.message}"
        return
    yield from outcome.lines()
    if outcome.result.exit_code != 0:
        _keep(memory, {**told, "turn": None})
        yield f"not released: the gate says {'FAIL' if outcome.result.exit_code == 1 else 'INCONCLUSIVE'}"
        return
    yield _release(circle, recipe, outcome.result)
    _keep(memory, {"turn": None, "released": _now(), "until": turn["until"]})


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
