"""The technical record of a recipe: its report's facts, its monitor, its releases and how its traffic is kept."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from luthier.core.errors import UnknownName
from luthier.core.files import write_atomically
from luthier.recipe.locate import CommandTarget, find_plan

if TYPE_CHECKING:
    from luthier.eval.report.technical_record import OperationFacts
    from luthier.recipe.planner import RecipePlan

FILE = "record.md"


def write_technical_record(target: CommandTarget, folder: Path) -> str:
    """Write the record of a recipe (that of a step's recipe, where a step is named) into a folder; returns the file's
    name."""
    from luthier.eval.report.technical_record import render_technical_record
    from luthier.recipe.report import report_facts
    from luthier.traces.retention import RetentionPolicy, traffic_folder

    word, colon, _ = (target.word or "").rpartition(":")
    plan = find_plan(target.renamed(word) if colon else target)
    policy = RetentionPolicy.of(traffic_folder(plan.recipe.recipe_dir))
    redaction = f"Requests are kept for {policy.days} days; taken out of them first: {', '.join(sorted(policy.kinds))}."
    operation = _collect_operation(plan)._replace(redaction=redaction, releases=tuple(_list_releases(plan)))
    text = render_technical_record(report_facts(plan), operation)
    write_atomically(folder / FILE, text.encode())
    return FILE


def _collect_operation(plan: RecipePlan) -> OperationFacts:
    from luthier.commands.monitor import find_recipe_monitor
    from luthier.eval.report.technical_record import OperationFacts

    try:
        monitor = find_recipe_monitor(plan.recipe)
    except UnknownName:  # its step was not run yet
        monitor = None
    if monitor is None:
        return OperationFacts()
    numbers = dict.fromkeys(f"{signal.called} over {window}" for signal, window in monitor.plan.watched())
    rules = tuple((rule.name, str(rule.alert.expr)) for rule in monitor.plan.rules)
    return OperationFacts(watched=tuple(numbers), alerts=rules)


def _list_releases(plan: RecipePlan) -> Iterator[str]:
    """Every change of the names that meant a model of this recipe."""
    from luthier.commands.release import describe_release
    from luthier.traces.releases import current_releases, history

    digests = {planned.digest for planned in plan}
    if not plan.recipe.workspace.has_ledger():
        return
    with plan.recipe.workspace.open_ledger() as ledger:
        for alias in current_releases(ledger):
            changes = list(reversed(history(ledger, alias)))
            if any(model.digest in digests for change in changes for model in change.models):
                yield from (f"{change.at:%Y-%m-%d} {change.did}: {describe_release(change)}" for change in changes)
