"""A harness task as rows for several models, scored as the library does."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
from lm_eval.api.instance import Instance
from lm_eval.api.task import ConfigurableTask, Task

from luthier.eval.lm_eval.load import LoadedTask, TaskSource, run_library
from luthier.eval.lm_eval.model import HarnessLM, to_request
from luthier.eval.lm_eval.scores import build_column
from luthier.eval.task import AskModel, BenchmarkTask, TaskItem, TaskResult
from luthier.metrics.columns import RowScores

Rows = tuple[tuple[Instance, ...], ...]


@dataclass(frozen=True, kw_only=True)
class HarnessTask(BenchmarkTask):
    """One task's rows."""

    task: Task
    rows: Rows
    """The library's requests of each row."""
    source: TaskSource
    greedy: bool
    """Whether a score needs to know if greedy decoding writes a continuation."""

    def run(self, ask: AskModel) -> TaskResult:
        """Ask each kind of request as one list, through the library's `LM`; filters and scores are the library's."""
        lm = HarnessLM(ask, greedy=self.greedy)
        instances = [entry for row in self.rows for entry in row]
        for item in instances:
            item.resps, item.filtered_resps = [], {}
        for kind in dict.fromkeys(instance.request_type for instance in instances):
            own = [
                instance
                for instance in instances
                if instance.request_type == kind
                for _ in range(instance.repeats or 1)
            ]
            for item, response in zip(own, getattr(lm, kind)(own), strict=True):
                item.resps.append(response)
        with run_library(self.source.where):
            self.task.apply_filters()
            columns = self._columns(list(instances[0].filtered_resps))
            predictions = [_prediction(self.task, row) for row in self.rows]
        return TaskResult(columns=columns, predictions=predictions, cut=len(lm.truncated))

    def _columns(self, filters: Sequence[str]) -> dict[str, RowScores]:
        columns = {}
        for name in filters:
            scores = [
                self.task.process_results(row[0].doc, [entry.filtered_resps[name] for entry in row])
                for row in self.rows
            ]
            for metric in dict.fromkeys(metric for row in scores for metric in row):
                key = to_rule_name(metric) if len(filters) == 1 else f"{to_rule_name(metric)}.{to_rule_name(name)}"
                columns[key] = build_column(self.task, metric, [row.get(metric) for row in scores])
        return columns


def build_harness_task(
    loaded: LoadedTask, source: TaskSource, *, limit: int | None, seed: int, chat: bool, say: Callable[[str], None]
) -> HarnessTask:
    """A task's questions: `limit` takes its first rows; with `chat` they are messages for the model's template."""
    task = loaded.task
    shots = task.get_config("num_fewshot")
    if source.num_fewshot is not None and shots == 0 != source.num_fewshot:
        say(f"{task.task_name} is written for no shots, and is asked without any; num_fewshot changes nothing for it.")
    elif source.num_fewshot is not None:
        shots = source.num_fewshot
    with run_library(source.where):
        task.set_config("num_fewshot", shots or 0)
        task.set_fewshot_seed(seed)
        template = HarnessLM(lambda _: []).apply_chat_template if chat else None
        task.build_all_requests(
            limit=limit, apply_chat_template=chat, fewshot_as_multiturn=chat, chat_template=template
        )
        by_row: dict[int, list[Instance]] = {}
        for instance in task.instances:
            by_row.setdefault(instance.doc_id, []).append(instance)
        rows = tuple(tuple(sorted(own, key=lambda entry: entry.idx)) for own in by_row.values())
        greedy = _asks_greedy(task)
        items = tuple(_item(task, number, row, greedy=greedy) for number, row in zip(by_row, rows, strict=True))
    how = [task.get_config("metric_list"), task.get_config("filter_list")]
    about = f"lm-eval {version('lm_eval')}:{task.OUTPUT_TYPE}|version:{task.VERSION}|shots:{shots or 0}|seed:{seed}"
    return HarnessTask(
        name=to_rule_name(task.task_name),
        items=items,
        groups=tuple(map(to_rule_name, loaded.groups)),
        equal_groups=frozenset(map(to_rule_name, loaded.equal_groups)),
        about=f"{about}|metrics:{json.dumps(how, default=_function_name, sort_keys=True)}{'|chat' if chat else ''}",
        task=task,
        rows=rows,
        source=source,
        greedy=greedy,
    )


def to_rule_name(name: str) -> str:
    """Convert a name for gate rules: letters, digits and underscores."""
    return re.sub(r"\W", "_", name)


def _item(task: Task, number: int, row: Sequence[Instance], *, greedy: bool) -> TaskItem:
    contexts = dict.fromkeys(str(entry.args[0]) for entry in row if entry.args[0])
    reference = _reference(task, row[0].doc)
    return TaskItem(
        id=str(number),
        questions=tuple(to_request(entry, greedy=greedy) for entry in row),
        shown="\n".join(contexts),
        reference=reference,
        gold=str(task.doc_to_target(row[0].doc)),
    )


def _asks_greedy(task: Task) -> bool:
    """Return whether the library's own scores of this task use greedy decoding; a task's own code always may."""
    if type(task) is not ConfigurableTask or callable(task.config.process_results):
        return True
    metrics = set(task.aggregation())
    return "exact_match" in metrics or (task.OUTPUT_TYPE == "loglikelihood" and "acc" in metrics)


def _choices(task: Task, doc: Any) -> list[str]:
    """The answers to choose from; none where the task has no such list."""
    if not isinstance(task, ConfigurableTask) or task.config.doc_to_choice is None:
        return []
    return [str(entry) for entry in task.doc_to_choice(doc)]


def _reference(task: Task, doc: Any) -> str:
    gold = task.doc_to_text(doc) if getattr(task, "multiple_input", 0) else task.doc_to_target(doc)
    first = gold[0] if isinstance(gold, list) and gold else gold
    choices = _choices(task, doc)
    return choices[first] if isinstance(first, int) and 0 <= first < len(choices) else str(first)


def _prediction(task: Task, row: Sequence[Instance]) -> str:
    """Return a model's prediction: its text, or the likeliest continuation."""
    first = row[0]
    if first.request_type != "loglikelihood":
        return str(first.resps[0]) if first.request_type == "generate_until" else ""
    if len(row) == 1:
        return str(first.args[1]) if first.resps[0][1] else ""
    choices = _choices(task, first.doc) or [str(entry.args[1]) for entry in row]
    return choices[int(np.argmax([entry.resps[0][0] for entry in row[: len(choices)]]))]


def _function_name(value: Any) -> str:
    return str(getattr(value, "__qualname__", type(value).__qualname__))
