"""A fitting recipe for what a served model was asked, and what people said of its answers."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from luthier.data.columns.choose import Task
from luthier.data.columns.layouts import Layout
from luthier.data.sources.traces import TraceOutput, Traces, choose_trace_target
from luthier.data.suggest.propose import RecipeProposal, propose_recipe_from_source

_WHY: dict[TraceOutput, str] = {
    "chat": "answers as they were given, or as they were corrected",
    "pairs": "people said what answers should have been: their words are preferred to the model's",
    "verdicts": "people said which answers they liked",
    "labels": "people named the true classes",
}


def propose_trace_recipe(
    folder: Path,
    shown: str,
    where: str | None,
    makes: TraceOutput | None = None,
    requested_layout: Layout = Layout(),  # noqa: B008 - a tuple
) -> RecipeProposal:
    """Propose a recipe for a folder of traffic, as it stands now; `shown` is how the recipe names the folder."""
    now = datetime.now(UTC).replace(microsecond=0)
    settings: dict[str, Any] = {"where": where, "until": now.isoformat().replace("+00:00", "Z")}
    settings = {name: value for name, value in settings.items() if value is not None}
    found = makes or choose_trace_target(Path(), {**settings, "path": str(folder)})
    read = Traces.model_validate({"kind": "traces", "path": str(folder), "makes": found, **settings})
    written = {"kind": "traces", "path": shown, "makes": found, **settings}
    objective = {"pairs": "dpo", "verdicts": "kto"}.get(found, "sft")
    task: Task | None = "label" if found == "labels" else None
    proposal = propose_recipe_from_source(
        read, Path(), shown, written, task=task, objective=objective, requested_layout=requested_layout
    )
    reasons = {
        "source.makes": _WHY[found],
        "source.until": "traffic goes on: below this moment it stands still, so that the same rows come again",
    }
    return proposal.model_copy(update={"reasons": {**proposal.reasons, **reasons}})
