"""A harness task as questions and grades: what is asked for each type of output, and what the answers are worth."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from luthier.core.errors import DataError, SourceLocation
from luthier.core.hashing import canonical_json
from luthier.eval.lm_eval.config import Config
from luthier.eval.lm_eval.grade import argmax_index, build_filter_chains, choice_scores, exact_match, find_gold_indices
from luthier.eval.lm_eval.load import HarnessTaskSpec
from luthier.eval.lm_eval.prompt import HarnessPromptBuilder
from luthier.eval.lm_eval.rows import Doc, HarnessDataset
from luthier.eval.task import BenchmarkTask, TaskItem, TaskResult
from luthier.metrics.columns import CorpusScores, How, RowScores, WeightedColumn
from luthier.metrics.kinds.labels import Mcc
from luthier.metrics.kinds.one_label import F1
from luthier.metrics.kinds.translation import Bleu, Chrf, Ter
from luthier.metrics.metric import Metric
from luthier.models.lm.base import GenerateRequest, LoglikelihoodRequest, Request, Response, RollingLoglikelihoodRequest

MAX_TOKENS = 256
"""Longest answer where a task does not say."""
_HOW: dict[str, How] = {
    "perplexity": "perplexity",
    "word_perplexity": "perplexity",
    "byte_perplexity": "perplexity",
    "bits_per_byte": "bits",
    "brier_score": "brier",
}
_BY_NUMBER: dict[str, Callable[[], Metric]] = {"f1": lambda: F1(label="1"), "mcc": Mcc}
"""Over all rows, from numbers of choices, taken and right; F1 is that of choice 1, as it is there."""
_OF_TEXTS: dict[str, Callable[[], Metric]] = {"bleu": Bleu, "chrf": Chrf, "ter": Ter}
_GREEDY = ("temperature", "do_sample", "until")
_LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")


@dataclass(frozen=True, kw_only=True)
class HarnessTask(BenchmarkTask):
    """One task's rows."""

    loaded: HarnessTaskSpec

    @property
    def config(self) -> Config:
        """The task's settings."""
        return self.loaded.config

    def grade(self, responses: Sequence[Sequence[Response]]) -> TaskResult:
        """Scores by the type of output."""
        match self.config.output_type:
            case "multiple_choice":
                return self._choices(responses)
            case "loglikelihood":
                return self._likelihoods(responses)
            case "loglikelihood_rolling":
                return self._readings(responses)
            case "generate_until":
                return self._writings(responses)

    def _choices(self, responses: Sequence[Sequence[Response]]) -> TaskResult:
        every = [
            choice_scores(own, item.gold["choices"], item.gold["right"])
            for own, item in zip(responses, self.items, strict=True)
        ]
        predictions = [
            item.gold["choices"][argmax_index([one.logprob or 0.0 for one in own[: len(item.gold["choices"])]])]
            for own, item in zip(responses, self.items, strict=True)
        ]
        columns: dict[str, RowScores] = {
            name: _numbered(name, every, self.items)
            if name in _BY_NUMBER
            else _column(name, [scores[name] for scores in every])
            for name in self.config.metrics
        }
        return TaskResult(columns=columns, predictions=predictions)

    def _likelihoods(self, responses: Sequence[Sequence[Response]]) -> TaskResult:
        sums = [float(own[0].logprob or 0.0) for own in responses]
        hits = [float(bool(own[0].is_greedy)) for own in responses]
        found = {"perplexity": _column("perplexity", sums), "acc": _column("acc", hits)}
        predictions = [item.reference if hit else "" for item, hit in zip(self.items, hits, strict=True)]
        return TaskResult(columns={name: found[name] for name in self.config.metrics}, predictions=predictions)

    def _readings(self, responses: Sequence[Sequence[Response]]) -> TaskResult:
        sums = [float(own[0].logprob or 0.0) for own in responses]
        words = [float(len(re.split(r"\s+", item.reference))) for item in self.items]
        size = [float(len(item.reference.encode())) for item in self.items]
        units = {"word_perplexity": words, "byte_perplexity": size, "bits_per_byte": size}
        columns = {name: WeightedColumn.of(_HOW[name], sums, units[name]) for name in self.config.metrics}
        return TaskResult(columns=columns, predictions=["" for _ in self.items])

    def _writings(self, responses: Sequence[Sequence[Response]]) -> TaskResult:
        chains = build_filter_chains(self.config.filter_list, self.loaded.file)
        columns: dict[str, RowScores] = {}
        first = [own[0].text for own in responses]
        for name, chain in chains.items():
            completions = [_through(own[0].text, chain) for own in responses]
            for metric, settings in self.config.metrics.items():
                key = metric if len(chains) == 1 else f"{metric}.{to_rule_name(name)}"
                columns[key] = self._written(metric, settings, completions)
        return TaskResult(columns=columns, predictions=first)

    def _written(self, metric: str, settings: Mapping[str, Any], completions: Sequence[str]) -> RowScores:
        if metric in _OF_TEXTS:
            return CorpusScores.of(_OF_TEXTS[metric](), completions, [item.gold[0] for item in self.items])
        hits = [
            float(any(exact_match(one, str(gold), settings) for gold in item.gold))
            for one, item in zip(completions, self.items, strict=True)
        ]
        return _column(metric, hits)


def build_harness_task(
    loaded: HarnessTaskSpec, rows: HarnessDataset, *, limit: int | None, shots: int | None, seed: int
) -> HarnessTask:
    """A task's questions: `limit` takes its first rows, as the harness does."""
    config = loaded.config
    writer = HarnessPromptBuilder(config, rows)
    count = min(len(writer.docs), limit or len(writer.docs))
    shown = (config.num_fewshot or 0) if shots is None else shots
    contexts = writer.contexts(count, shown, seed)
    build_filter_chains(config.filter_list, loaded.file)  # a clear error before anything is asked
    items = []
    for number, (doc, context) in enumerate(zip(writer.docs[:count], contexts, strict=True)):
        try:
            items.append(_item(config, writer, doc, context, number))
        except DataError as error:
            where = SourceLocation(file=str(loaded.file), field=error.where.field)
            raise DataError(f"row {number + 1}: {error.message}", where=where, hint=error.hint) from error
    about = f"harness:{config.output_type}|shots:{shown}|seed:{seed}"
    about += f"|metrics:{canonical_json([config.metrics, config.filter_list])}"
    groups = tuple(to_rule_name(name) for name in loaded.groups)
    return HarnessTask(name=to_rule_name(config.task), items=tuple(items), groups=groups, about=about, loaded=loaded)


def to_rule_name(name: str) -> str:
    """A name as rules can say it: letters, digits and underscores."""
    return re.sub(r"\W", "_", name)


def _item(config: Config, writer: HarnessPromptBuilder, doc: Doc, context: str | list[str], number: int) -> TaskItem:
    make = {
        "multiple_choice": _choice,
        "loglikelihood": _likelihood,
        "loglikelihood_rolling": _reading,
        "generate_until": _writing,
    }[config.output_type]
    questions, reference, gold = make(config, writer, doc, context)
    shown = context if isinstance(context, str) else "\n".join(context)
    return TaskItem(id=str(number), questions=tuple(questions), shown=shown, reference=reference, gold=gold)


Made = tuple[Sequence[Request], str, Any]


def _choice(config: Config, writer: HarnessPromptBuilder, doc: Doc, context: str | list[str]) -> Made:
    choices, delimiter, asks = writer.choices(doc), config.target_delimiter, "exact_match" in config.metrics
    if not choices:
        raise DataError("there is nothing to choose from", where=SourceLocation(field="doc_to_choice"))
    if isinstance(context, list):
        after = f"{delimiter}{writer.target(doc)}"
        questions = [LoglikelihoodRequest(prompt=one, continuation=after, greedy=asks) for one in context]
        gold: Any = writer.text(doc)
    else:
        questions = [
            LoglikelihoodRequest(prompt=context, continuation=f"{delimiter}{one}", greedy=asks) for one in choices
        ]
        gold = writer.target(doc)
    if "acc_mutual_info" in config.metrics:
        questions += [LoglikelihoodRequest(prompt="", continuation=f"{delimiter}{one}", greedy=asks) for one in choices]
    right = find_gold_indices(gold, choices)
    _refuse_many(config, _BY_NUMBER, len(right), "doc_to_target")
    if "f1" in config.metrics and len(choices) != 2:
        raise DataError(
            f"f1 is of two choices, and there are {len(choices)}", where=SourceLocation(field="metric_list")
        )
    if not right:
        what = f"the right answer is {gold!r}, which is none of the {len(choices)} choices"
        raise DataError(what, where=SourceLocation(field="doc_to_target"))
    return questions, choices[right[0]], {"choices": choices, "right": right}


def _likelihood(config: Config, writer: HarnessPromptBuilder, doc: Doc, context: str | list[str]) -> Made:
    answer = str(writer.target(doc))
    return (
        [LoglikelihoodRequest(prompt=str(context), continuation=answer, greedy="acc" in config.metrics)],
        answer,
        answer,
    )


def _reading(config: Config, writer: HarnessPromptBuilder, doc: Doc, context: str | list[str]) -> Made:
    text = str(writer.target(doc))
    return [RollingLoglikelihoodRequest(text=text)], text, text


def _writing(config: Config, writer: HarnessPromptBuilder, doc: Doc, context: str | list[str]) -> Made:
    generation_kwargs = dict(config.generation_kwargs or {})
    limit = next((int(generation_kwargs[name]) for name in _LENGTHS if name in generation_kwargs), MAX_TOKENS)
    if unknown := sorted(set(generation_kwargs) - {*_GREEDY, *_LENGTHS}):
        raise DataError(
            f"generation_kwargs: {unknown[0]} is not known here", where=SourceLocation(field="generation_kwargs")
        )
    if generation_kwargs.get("do_sample"):
        raise DataError(
            "answers are drawn by chance; only greedy ones are compared", where=SourceLocation(field="do_sample")
        )
    gold = writer.target(doc)
    if config.doc_to_choice is not None:
        gold = writer.choices(doc)[gold]
    references = [str(one) for one in gold] if isinstance(gold, list) else [str(gold)]
    if not references:
        raise DataError("the row has no right answer", where=SourceLocation(field="doc_to_target"))
    _refuse_many(config, _OF_TEXTS, len(references), "doc_to_target")
    return [GenerateRequest(prompt=str(context), max_tokens=limit, stop=config.until)], references[0], references


def _refuse_many(config: Config, measured: Mapping[str, object], count: int, field: str) -> None:
    """`DataError` where a metric over all rows is to compare with several right answers."""
    if count > 1 and (name := next((one for one in measured if one in config.metrics), None)):
        raise DataError(
            f"{name} compares with one right answer, and there are {count}", where=SourceLocation(field=field)
        )


def _column(name: str, amounts: Sequence[float]) -> WeightedColumn:
    return WeightedColumn.of(_HOW.get(name, "share"), amounts)


def _numbered(name: str, every: Sequence[Mapping[str, float]], items: Sequence[TaskItem]) -> CorpusScores:
    taken = [str(int(scores["taken"])) for scores in every]
    return CorpusScores.of(_BY_NUMBER[name](), taken, [str(item.gold["right"][0]) for item in items])


def _through(text: str, chain: Sequence[Any]) -> str:
    for one in chain:
        text = one(text)
    return text
