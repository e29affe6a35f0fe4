"""A run as the command line makes it: written into the ledger and a log that survive the terminal, then reported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from luthier.core.digest import digest_of
from luthier.core.errors import Interrupted, LuthierError
from luthier.core.events import Events, Listener
from luthier.core.ledger import Ledger, RunStep, ledger_url
from luthier.flow.plan import recipe_store
from luthier.flow.run import Result, run

if TYPE_CHECKING:
    from luthier.flow.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A finished run and the report that was written of it."""

    result: Result
    report: Path | None

    def lines(self) -> list[str]:
        """What to tell a person at the end."""
        from luthier.flow.report import headline

        steps = self.result.steps
        made = [name for name, step in steps.items() if not step.cached]
        lines = headline({name: step.artifact for name, step in steps.items()})
        lines.append(f"made {', '.join(made)}" if made else "nothing to make: every step was cached")
        return [*lines, f"report: {self.report}{self._without()}"] if self.report else lines

    def _without(self) -> str:
        unmade = self.result.unmade
        return f", without {', '.join(unmade)}: not made as the recipe stands" if unmade else ""


def recorded_run(recipe: Recipe, listener: Listener, only: Sequence[str] = ()) -> Outcome:
    """Run a recipe, or only some of its steps: events are shown and logged, the run stands in the ledger, and what is
    made is reported at the end."""
    from luthier.core.render import ToFile
    from luthier.flow.report import write_run_report

    store = recipe_store(recipe.base)
    with Ledger(ledger_url(store.root)) as ledger:
        digest = digest_of(recipe.model_dump(mode="json"))
        number = ledger.start_run(recipe.name, digest, str(recipe.base.absolute()))
        with ToFile(store.root / "runs" / f"{number}.jsonl") as log:
            try:
                result = run(recipe, Events(listener, log), only)
            except (KeyboardInterrupt, Interrupted):
                ledger.finish_run(number, "interrupted", Interrupted.exit_code)
                raise
            except LuthierError as error:
                ledger.finish_run(number, "failed", error.exit_code, error.as_json())
                raise
        for name, step in result.steps.items():
            kind = result.plan[name].step.kind
            record = RunStep(
                name=name, kind=kind, artifact=step.artifact.digest, cached=step.cached, seconds=step.seconds
            )
            ledger.record_step(number, record)
        ledger.finish_run(number, "done", result.exit_code)
    return Outcome(result=result, report=write_run_report(result))
