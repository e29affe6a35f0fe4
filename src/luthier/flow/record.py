"""A run as the command line makes it: written into the ledger and a log that survive the terminal, then reported."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from luthier.core.digest import digest_of
from luthier.core.errors import FAULT_EXIT_CODE, Interrupted, LuthierError, Unwritable
from luthier.core.events import Event, Events, Listener
from luthier.core.ledger import Ledger, RunStep, State, ledger_url
from luthier.flow.plan import recipe_store
from luthier.flow.run import Result, run

if TYPE_CHECKING:
    from luthier.core.store import Store
    from luthier.flow.plan import Planned
    from luthier.flow.recipe import Recipe
    from luthier.flow.run import StepResult


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
    made is reported at the end. What ended a run before that stands in the ledger and in its log, too."""
    from luthier.core.render import ToFile
    from luthier.flow.report import write_run_report

    store = recipe_store(recipe.base)
    with Ledger(ledger_url(store.root)) as ledger:
        record = _Record.begin(ledger, recipe)
        with ToFile(run_log(store, record.run)) as log, record.failures(log):
            result = run(recipe, Events(listener, log), only, on_step=record.add)
        record.end("done", result.exit_code)
    return Outcome(result=result, report=write_run_report(result))


def run_log(store: Store, run: str) -> Path:
    """The log of a run: its events as JSON lines."""
    return store.root / "runs" / f"{run}.jsonl"


@dataclass(frozen=True, kw_only=True)
class _Record:
    """A run in the ledger. Its steps are written when it ends, so that a ledger that is away for a while does not stop
    it."""

    ledger: Ledger
    run: str
    steps: list[RunStep] = field(default_factory=list)

    @classmethod
    def begin(cls, ledger: Ledger, recipe: Recipe) -> Self:
        """Write down that a run of a recipe begins."""
        digest = digest_of(recipe.model_dump(mode="json"))
        run = ledger.start_run(
            recipe.name,
            digest,
            str(recipe.base.absolute()),
            file=Path(recipe.file).name,
            text=recipe.written,
            overrides=recipe.overrides,
        )
        return cls(ledger=ledger, run=run)

    def add(self, planned: Planned, result: StepResult) -> None:
        """A step whose artifact is there."""
        kind, digest = planned.step.kind, result.artifact.digest
        step = RunStep(name=planned.name, kind=kind, artifact=digest, cached=result.cached, seconds=result.seconds)
        self.steps.append(step)

    def end(self, state: State, exit_code: int, error: dict[str, Any] | None = None) -> None:
        """Write down the steps that were made, and how the run ended."""
        for step in self.steps:
            self.ledger.record_step(self.run, step)
        self.ledger.finish_run(self.run, state, exit_code, error)

    @contextmanager
    def failures(self, log: Listener) -> Iterator[None]:
        """Write into the log and the ledger what ends a run too early; a fault of Luthier's own with its traceback."""
        try:
            yield
        except (KeyboardInterrupt, Interrupted) as error:
            _log_end(log, str(error) or "interrupted")
            self.end("interrupted", Interrupted.exit_code)
            raise
        except LuthierError as error:
            _log_end(log, str(error))
            self.end("failed", error.exit_code, error.as_json())
            raise
        except Exception as error:  # raised again: the entry point says that it is a fault
            what = f"a fault of Luthier's own: {type(error).__name__}: {error}"
            _log_end(log, what, "".join(traceback.format_exception(error)))
            self.end("failed", FAULT_EXIT_CODE, LuthierError(what).as_json())
            raise


def _log_end(log: Listener, why: str, details: str = "") -> None:
    with suppress(Unwritable):  # where the log cannot be written, that is often what ended the run
        log(Event(kind="failed", text=why, details=details))
