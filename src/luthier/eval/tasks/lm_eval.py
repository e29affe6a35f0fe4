"""Benchmarks of lm-evaluation-harness, run by the library itself, with equal numbers on the same model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field, model_validator

from luthier.core.errors import RecipeError, SourceLocation
from luthier.core.files import PathText, resolve_path
from luthier.core.hashing import digest_of, file_digest
from luthier.eval.task import BenchmarkTask, EvalTask, TaskContext

if TYPE_CHECKING:
    from luthier.eval.lm_eval.load import TaskSource


class LmEvalTask(EvalTask):
    """A task, or a group of tasks, of lm-evaluation-harness: one of the library's own by its name, or a YAML file.

    Scores are called by the task's name: `arc_easy.acc_norm`. Code that comes with a task runs, so use only files that
    you trust; tasks that run code which models write are refused. Wants the extra `lm-eval`.
    """

    kind: Literal["lm_eval"] = "lm_eval"
    libraries: ClassVar[Mapping[str, str]] = {"lm_eval": "lm-eval"}

    task: str | None = None
    """The name of a task, a group or a tag of the library's, or of `include_path`."""
    path: PathText | None = None
    """The YAML file of a task or a group, in place of a name."""
    include_path: PathText | None = None
    """A folder of further YAML files: what is in it goes before the library's own."""
    data: PathText | None = None
    """The rows: a file, or a folder with one file a split or one that `datasets` saved; for a group a folder with one
    such folder a task. Left out, the files that the YAML itself names, or what `datasets` fetched before."""
    num_fewshot: int | None = Field(default=None, ge=0)
    """Examples before each question; left out, as many as the task says."""
    apply_chat_template: bool = False
    """Whether questions go through the model's chat template, shots as turns of the conversation, as the model was
    tuned; left out, they are plain text, as in the harness by default."""
    limit: int | None = Field(default=None, ge=1)
    """At most so many rows of each task, the first ones; left out, all."""
    seed: int = 1234
    """From which shots are drawn; the harness' own by default."""

    @model_validator(mode="after")
    def _one_name(self) -> Self:
        if (self.task is None) == (self.path is None):
            raise ValueError("name either a `task` of the library's or the `path` of a YAML file")
        return self

    def fingerprint(self, recipe_dir: Path) -> str | None:
        """A digest of the library's version, the YAML files, code beside them, and the rows."""
        self.check_installed(recipe_dir)
        from importlib.metadata import version

        from luthier.eval.lm_eval.load import list_fetched, list_files, needs_hub_cache

        source = self._source(recipe_dir)
        files = sorted({(path.name, file_digest(path)) for path in list_files(source)})
        fetched = list_fetched() if needs_hub_cache(source) else []
        return digest_of([version("lm_eval"), files, *([fetched] if fetched else [])])

    def benchmarks(self, task_context: TaskContext) -> list[BenchmarkTask]:
        """The questions of each task that is named."""
        self.check_installed(task_context.recipe_dir)
        from luthier.eval.lm_eval.load import load_tasks
        from luthier.eval.lm_eval.task import build_harness_task

        source, chat = self._source(task_context.recipe_dir), self.apply_chat_template
        return [
            build_harness_task(task, source, limit=self.limit, seed=self.seed, chat=chat, say=task_context.events.note)
            for task in load_tasks(source)
        ]

    def _source(self, recipe_dir: Path) -> TaskSource:
        from luthier.eval.lm_eval.load import TaskSource

        file, include_path, data = (
            None if entry is None else resolve_path(entry, recipe_dir).resolve()
            for entry in (self.path, self.include_path, self.data)
        )
        if file is not None and not file.is_file():
            hint = "name the YAML file of a task or a group"
            raise RecipeError("is not there", where=SourceLocation(file=str(file), field="path"), hint=hint)
        return TaskSource(
            file=file, name=self.task or "", include_path=include_path, data=data, num_fewshot=self.num_fewshot
        )
