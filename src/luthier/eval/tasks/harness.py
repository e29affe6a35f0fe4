"""Benchmarks as lm-evaluation-harness describes them: its YAML files, with equal numbers on the same model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from luthier.core.digest import digest_of, file_digest
from luthier.core.errors import RecipeError, Where
from luthier.core.paths import PathText, locate
from luthier.eval.exam import Exam
from luthier.eval.task import Brief, EvalTask

if TYPE_CHECKING:
    from luthier.eval.harness.load import Loaded
    from luthier.eval.harness.rows import Rows


class Harness(EvalTask):
    """The rows of a task, or of a group of tasks, that is written for lm-evaluation-harness.

    Scores are called by the task's name: `arc_easy.acc_norm`. Files that call for code of their own are refused.
    """

    kind: Literal["harness"] = "harness"
    path: PathText
    """The task's YAML file, or a group's."""
    data: PathText | None = None
    """The rows: a file, or a folder with one file a split or one that `datasets` saved; for a group a folder with one
    such folder a task. Left out, the files that the YAML itself names."""
    shots: int | None = Field(default=None, ge=0)
    """Examples before each question; left out, as many as the task says."""
    rows: int | None = Field(default=None, ge=1)
    """At most so many rows of each task, the first ones; left out, all."""
    seed: int = 1234
    """From which shots are drawn; the harness' own by default."""

    def fingerprint(self, base: Path) -> str | None:
        """A digest of the YAML files and of the rows."""
        from luthier.eval.harness.load import load

        book = load(self._file(base))
        rows = [self._rows(task, base).files for task in book.tasks]
        files = [*book.files, *(path for own in rows for path in own)]
        return digest_of(sorted({(path.name, file_digest(path)) for path in files}))

    def exams(self, brief: Brief) -> list[Exam]:
        """The questions of each task that the file names."""
        from luthier.eval.harness.exam import exam
        from luthier.eval.harness.load import load

        book = load(self._file(brief.base))
        return [
            exam(task, self._rows(task, brief.base), limit=self.rows, shots=self.shots, seed=self.seed)
            for task in book.tasks
        ]

    def _rows(self, task: Loaded, base: Path) -> Rows:
        """A task's rows; with several tasks, those of the folder that bears its name."""
        from luthier.eval.harness.rows import rows_of

        data = None if self.data is None else locate(self.data, base).resolve()
        if data is not None and task.groups and (data / task.config.task).is_dir():
            data = data / task.config.task
        return rows_of(task.config, task.file, data)

    def _file(self, base: Path) -> Path:
        file = locate(self.path, base).resolve()
        if not file.is_file():
            remedy = "name the YAML file of a task or a group"
            raise RecipeError("is not there", where=Where(file=str(file), field="path"), remedy=remedy)
        return file
