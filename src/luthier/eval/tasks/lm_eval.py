"""Benchmarks as lm-evaluation-harness describes them: its YAML files, with equal numbers on the same model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from luthier.core.errors import RecipeError, SourceLocation
from luthier.core.files import PathText, resolve_path
from luthier.core.hashing import digest_of, file_digest
from luthier.eval.task import BenchmarkTask, EvalTask, TaskContext

if TYPE_CHECKING:
    from luthier.eval.lm_eval.load import HarnessTaskSpec
    from luthier.eval.lm_eval.rows import HarnessDataset


class LmEvalTask(EvalTask):
    """The rows of a task, or of a group of tasks, that is written for lm-evaluation-harness.

    Scores are called by the task's name: `arc_easy.acc_norm`. Files that call for code of their own are refused.
    """

    kind: Literal["lm_eval"] = "lm_eval"
    path: PathText
    """The task's YAML file, or a group's."""
    data: PathText | None = None
    """The rows: a file, or a folder with one file a split or one that `datasets` saved; for a group a folder with one
    such folder a task. Left out, the files that the YAML itself names."""
    num_fewshot: int | None = Field(default=None, ge=0)
    """Examples before each question; left out, as many as the task says."""
    limit: int | None = Field(default=None, ge=1)
    """At most so many rows of each task, the first ones; left out, all."""
    seed: int = 1234
    """From which shots are drawn; the harness' own by default."""

    def fingerprint(self, base: Path) -> str | None:
        """A digest of the YAML files and of the rows."""
        from luthier.eval.lm_eval.load import load_harness_tasks

        book = load_harness_tasks(self._file(base))
        rows = [self._rows(task, base).files for task in book.tasks]
        files = [*book.files, *(path for own in rows for path in own)]
        return digest_of(sorted({(path.name, file_digest(path)) for path in files}))

    def exams(self, brief: TaskContext) -> list[BenchmarkTask]:
        """The questions of each task that the file names."""
        from luthier.eval.lm_eval.load import load_harness_tasks
        from luthier.eval.lm_eval.task import build_harness_task

        book = load_harness_tasks(self._file(brief.base))
        return [
            build_harness_task(
                task, self._rows(task, brief.base), limit=self.limit, shots=self.num_fewshot, seed=self.seed
            )
            for task in book.tasks
        ]

    def _rows(self, task: HarnessTaskSpec, base: Path) -> HarnessDataset:
        """A task's rows; with several tasks, those of the folder that bears its name."""
        from luthier.eval.lm_eval.rows import open_harness_dataset

        data = None if self.data is None else resolve_path(self.data, base).resolve()
        if data is not None and task.groups and (data / task.config.task).is_dir():
            data = data / task.config.task
        return open_harness_dataset(task.config, task.file, data)

    def _file(self, base: Path) -> Path:
        file = resolve_path(self.path, base).resolve()
        if not file.is_file():
            hint = "name the YAML file of a task or a group"
            raise RecipeError("is not there", where=SourceLocation(file=str(file), field="path"), hint=hint)
        return file
