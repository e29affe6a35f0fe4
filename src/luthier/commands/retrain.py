"""The circle: an alert fires, what people said becomes the next recipe, it runs, and its gate decides the release.

What a name means now is where every round begins: the recipe that made that model, its monitor, its own report. So the
round after a release goes on from the model that was released, and one after a rollback from the model before.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.commands.monitor import AlertEvaluation, RecipeMonitor, find_recipe_monitor, watch_traffic
from luthier.commands.next_recipe import NumberedRecipeName, write_next_recipe_files
from luthier.commands.release import ReleasedRecipe, find_live_digest, find_recipe_alias, find_released_recipe
from luthier.core.errors import LuthierError, RecipeError, SourceLocation
from luthier.core.files import write_atomically
from luthier.recipe.runner import run_and_record
from luthier.recipe.schema import Recipe
from luthier.recipe.workspace import Workspace

if TYPE_CHECKING:
    from luthier.core.events import Listener
    from luthier.monitor.alerts import AlertMessage
    from luthier.recipe.runner import RunResult

Say = Callable[[str], None]
TRIES = 5
"""So many rounds are made while an alert fires on."""
MORE = 1.5
"""Another round follows a failed one when people have said so many times as much as it knew."""


@dataclass(frozen=True, kw_only=True)
class RetrainLoop:
    """The settings of an automatic retraining loop: the recipe, the alerts that start it, and the alias that is
    released to."""

    workspace: Workspace
    """The folder of the recipes, with its store and database."""
    recipe: Path
    """The recipe of the first model; those of further rounds are written beside it."""
    alias: str
    alerts: Sequence[str] = ()
    """Which alerts set it going; all where none is named."""

    def wants(self, message: AlertMessage) -> bool:
        """Whether a message sets the next round going."""
        return message.tells == "firing" and self.counts(message.alert)

    def counts(self, alert: str) -> bool:
        """Whether an alert is among those that set it going."""
        return not self.alerts or alert in self.alerts

    @property
    def memory(self) -> Path:
        """What is known beyond a restart: a round that was begun, one that failed."""
        return self.workspace.open_store().root / "watch" / f"{self.alias}.json"


def build_retrain_loop(workspace: Workspace, recipe: Path, alias: str | None, alerts: Sequence[str]) -> RetrainLoop:
    """The circle of a recipe, whose model answers to one name."""
    recipe = workspace.resolve(recipe)
    own = workspace.with_folder(recipe if recipe.is_dir() else recipe.parent)
    return RetrainLoop(workspace=own, recipe=recipe, alias=alias or find_recipe_alias(recipe, own), alerts=alerts)


def open_release_monitor(loop: RetrainLoop, released: ReleasedRecipe) -> RecipeMonitor:
    """The monitor of what is released; `RecipeError` where the circle could never close."""
    recipe = released.recipe
    if not any(step.makes == "verdict" for step in recipe.steps.values()):
        hint = "nothing is released but by a gate: add {kind: gate, evaluation: …, rules: […]}"
        raise RecipeError("this recipe has no gate", where=SourceLocation(file=recipe.file), hint=hint)
    recipe_monitor = find_recipe_monitor(recipe)
    if recipe_monitor is None:
        hint = "add one: monitor: {kind: monitor, evaluation: …, signals: […], alerts: […]}"
        raise RecipeError("expected one step of kind `monitor`", where=SourceLocation(file=recipe.file), hint=hint)
    known = [rule.name for rule in recipe_monitor.plan.rules]
    for name in loop.alerts:
        if name not in known:
            raise RecipeError(
                f"no alert is called {name!r}",
                where=SourceLocation(field="--on"),
                hint=f"known: {', '.join(known) or 'none'}",
            )
    return replace(recipe_monitor, plan=replace(recipe_monitor.plan, models=frozenset({loop.alias, *released.ever})))


def run_retrain_loop(
    loop: RetrainLoop, folder: Path | None, *, say: Say, listener: Listener, once: bool = False
) -> Iterator[str]:
    """Watch traffic and retrain whenever one of the loop's alerts fires; yields progress lines."""
    while True:
        state = _recall(loop.memory)
        if state.get("round"):
            yield from _round(loop, state, listener, folder)
            state = _recall(loop.memory)
        released = find_released_recipe(loop.alias, loop.recipe, loop.workspace)
        monitor = open_release_monitor(loop, released)
        traffic = folder or monitor.traffic
        say(f"watching {loop.alias}, which is {_called(released)}: {' or '.join(loop.alerts) or 'any alert'} counts")
        for look in watch_traffic(monitor, traffic, say=say, once=once, since=released.since):
            yield from (message.title for message in look.messages)
            if due := _due(loop, look, state, traffic, released.since):
                _keep(loop.memory, {**state, "round": {**due, **_begun(released)}})
                break
            state = _settled(look, state, loop.memory)
            if once:
                say(_stands(look, state))
            if find_live_digest(loop.alias, loop.workspace) != released.digest:
                break
        else:
            return


def _begun(released: ReleasedRecipe) -> dict[str, Any]:
    """Which recipe a round will write, after which model."""
    recipe = released.recipe
    return {
        "name": NumberedRecipeName.of(recipe.name).after(recipe.recipe_dir),
        "of": released.digest,
        "step": released.step,
    }


def _due(
    loop: RetrainLoop, look: AlertEvaluation, state: dict[str, Any], traffic: Path, since: datetime | None
) -> dict[str, Any] | None:
    """The next round: an alert fires that no round has answered since the release, be it that another program heard
    it begin; or it fires on and people have said much more since a round failed."""
    failed = state.get("failed")
    fired = next((message.alert for message in look.messages if loop.wants(message)), None)
    if fired is None and not failed:
        released = since.timestamp() if since else 0.0
        fired = next((name for name, at in look.firing.items() if loop.counts(name) and at >= released), None)
    if fired is not None:
        return {"alert": fired, "until": _now(), "tries": 1}
    if not failed or failed["alert"] not in look.firing or failed["tries"] >= TRIES:
        return None
    if _said(traffic) < failed["said"] * MORE + 1:
        return None
    return {"alert": failed["alert"], "until": _now(), "tries": failed["tries"] + 1}


def _stands(look: AlertEvaluation, state: dict[str, Any]) -> str:
    """What is said of a look after which nothing is to be done."""
    if failed := state.get("failed"):
        return f"{failed['alert']} fires on after a round that failed; {_next_try(failed)}"
    return f"nothing to be done; firing now: {', '.join(look.firing) or 'none'}"


def _settled(look: AlertEvaluation, state: dict[str, Any], memory: Path) -> dict[str, Any]:
    """A failed round is forgotten once its alert is over."""
    if state.get("failed") and state["failed"]["alert"] not in look.firing:
        state = {**state, "failed": None}
        _keep(memory, state)
    return state


def _said(traffic: Path, until: datetime | None = None) -> int:
    """How often people have said something of an answer, before a moment."""
    import polars as pl

    from luthier.traces.store import scan_table

    if not traffic.is_dir():
        return 0
    return int(scan_table(traffic, "feedback", until=until).select(pl.len()).collect().item())


def _round(loop: RetrainLoop, state: dict[str, Any], listener: Listener, folder: Path | None) -> Iterator[str]:
    """One round; killed in the middle, it is made again with the same rows, and what was made is found."""
    current_round = state["round"]
    until = datetime.fromisoformat(current_round["until"])
    if _meanwhile(loop, current_round):
        _keep(loop.memory, {**state, "round": None})
        yield f"{current_round['name']} is over: {loop.alias} means another model than when it began"
        return
    path = loop.workspace.folder / f"{current_round['name']}.yaml"
    yield f"{current_round['alert']} fired: {path.name} learns from what was said until {current_round['until']}"
    try:
        recipe = _recipe(loop, path, until, folder)
        outcome = run_and_record(recipe, listener)
        why = {0: "", 1: "the gate says FAIL"}.get(outcome.result.exit_code, "the gate says INCONCLUSIVE")
        lines = list(outcome.lines())
        if not why and _meanwhile(loop, current_round):
            why = f"{loop.alias} was changed meanwhile"
    except LuthierError as error:
        why, lines = error.message, []
    yield from lines
    if why:
        feedback_count = _said(folder or get_traffic_folder(loop), until)
        failed = {"alert": current_round["alert"], "said": feedback_count, "tries": current_round["tries"]}
        _keep(loop.memory, {"round": None, "failed": failed})
        yield f"not released: {why}; {_next_try(failed)}"
        return
    yield _release(loop, current_round["step"], outcome.result)
    _keep(loop.memory, {"round": None, "failed": None})


def _meanwhile(loop: RetrainLoop, current_round: dict[str, Any]) -> bool:
    """Whether the name means another model than when a round was begun: somebody released one, or went back."""
    before: str = current_round["of"]
    return find_live_digest(loop.alias, loop.workspace) != before


def _recipe(loop: RetrainLoop, path: Path, until: datetime, folder: Path | None) -> Recipe:
    """The recipe of a round, written unless it was before a kill."""
    if not path.exists():
        write_next_recipe_files(
            path.stem,
            find_released_recipe(loop.alias, loop.recipe, loop.workspace),
            folder or get_traffic_folder(loop),
            until,
        )
    return Recipe.load(path, (), loop.workspace)


def get_traffic_folder(loop: RetrainLoop) -> Path:
    """Where the traffic of the recipes' folder is kept."""
    from luthier.traces.retention import traffic_folder

    return traffic_folder(loop.workspace.folder)


def _next_try(failed: dict[str, Any]) -> str:
    if failed["tries"] >= TRIES:
        return f"after {TRIES} tries the next waits until the alert was over"
    return f"while the alert fires, the next try comes when people have said {MORE:g} times as much"


def _release(loop: RetrainLoop, step: str, result: RunResult) -> str:
    """Let the model that passed answer to the name."""
    from luthier.traces.releases import ReleasedModel, release

    recipe, digest = result.plan.recipe, result[step].artifact.digest
    with recipe.workspace.open_ledger() as ledger:
        release(ledger, loop.alias, ReleasedModel(word=f"{recipe.file}:{step}", model=digest, digest=digest))
    return f"released: {loop.alias} is {recipe.name}:{step} ({digest[:12]})"


def _called(released: ReleasedRecipe) -> str:
    return f"{Path(released.recipe.file).name}:{released.step} ({released.digest[:12]})"


def _recall(memory: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(memory.read_bytes()) if memory.exists() else {}
    return found


def _keep(memory: Path, state: dict[str, Any]) -> None:
    write_atomically(memory, (json.dumps(state) + "\n").encode())


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
