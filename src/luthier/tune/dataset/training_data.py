"""The data of one training step: examples to train on, held-out rows to measure, and an account of each row."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.artifacts.dataset import BATCH, DatasetSummary, examples_at, has_split, read_example_batches
from luthier.chat.messages import Example, answer_text_by_label, prompt_of
from luthier.core.errors import DataError, SourceLocation
from luthier.core.events import format_counted_noun
from luthier.core.hashing import digest_of
from luthier.core.step import StepContext
from luthier.tune.dataset.validation import (
    HELD_OUT,
    HeldOutSplit,
    check_metric,
    is_objective_metric,
    read_labeled_examples,
    split_held_out,
)
from luthier.tune.objective import Objective, ObjectiveContext, Teacher, TrainingExample
from luthier.tune.objectives.classify import Classify
from luthier.tune.policy import PolicyObjective
from luthier.tune.privacy.noise import NoiseKey
from luthier.tune.privacy.sampler import PoissonSampler, group_units
from luthier.tune.reward import RewardContext
from luthier.tune.teacher import PACK_TOKENS, add_teacher_logprobs, check_teacher, open_teacher
from luthier.tune.training.schedule import BatchSampler, choose_used_examples, order_by_curriculum

if TYPE_CHECKING:
    from luthier.artifacts.media import MediaReader
    from luthier.chat.tokenizer import ChatTokenizer
    from luthier.models.packing.pack import TokenRow
    from luthier.tune.dataset.tokenized import TokenizedDataset
    from luthier.tune.objective import BatchSource
    from luthier.tune.rollout.sampler import PromptDataset as Asked
    from luthier.tune.rollout.sampler import RolloutSampler
    from luthier.tune.steps.tune import Tune
    from luthier.tune.training.critic import Critic
    from luthier.tune.training.reference_logprobs import LabelQuestions
    from luthier.tune.training.trainer import ValidationEvaluator, ValidationPlan


LEFT_OUT = "`without` names it"
"""The reason in `training_examples.parquet` for a row that `without` removes."""


class TrainingData:
    """The training and held-out data of one tuning step; memory does not grow with the data set."""

    def __init__(self, step: Tune, work: StepContext, text: ChatTokenizer) -> None:
        self._step, self._work, self._text = step, work, text
        self._data = work.inputs["data"]
        if not has_split(self._data, "train"):
            raise DataError("the data set has no training rows", where=SourceLocation(field="data"))
        if "teacher" in work.inputs:
            check_teacher(work.inputs["teacher"], text)

    @cached_property
    def dataset(self) -> TokenizedDataset:
        """The examples to train on; what is left out is counted and reported."""
        dataset = self._write_tokenized("train", "train", self._train_indices)
        self._warn(dataset)
        return dataset

    @cached_property
    def _train_indices(self) -> Sequence[int]:
        """Indices of the training rows that are used."""
        rest, rows = self._split.rest, self._step.max_train_samples
        drawn = rows is not None and rows < len(rest)
        return [rest[at] for at in choose_used_examples(self._work.seed, len(rest), rows)] if drawn else rest

    @cached_property
    def sampler(self) -> BatchSampler:
        """The order of the training examples."""
        step, dataset, seed = self._step, self.dataset, self._work.seed
        sampler = BatchSampler(
            seed=seed,
            count=len(dataset),
            epochs=step.epochs,
            batch_size=step.batch_size,
            max_steps=step.max_steps,
            without=self._excluded_indices,
        )
        if (privacy := step.privacy) is not None:
            units = group_units(privacy.unit, dataset.keys, self._data)
            return PoissonSampler.of(sampler, NoiseKey.load(self._work.scratch), units)
        if (curriculum := step.curriculum) is None:
            return sampler
        return replace(
            sampler, first=order_by_curriculum(curriculum, self._data, dataset, seed), first_epochs=curriculum.epochs
        )

    @cached_property
    def _excluded_indices(self) -> frozenset[int]:
        """Examples that `without` removes; `DataError` for an id that no training row has, or when none is left."""
        if not (ids := self._step.read_without(self._work.recipe_dir)):
            return frozenset()
        where, keys = SourceLocation(field="without"), self.dataset.keys
        known = {*keys, *(record["id"] for record in self.dataset.read_records())}
        if unknown := [name for name in ids if name not in known]:
            what = f"{format_counted_noun(len(unknown), 'id')} of `without` names no training row: {unknown[0]!r}"
            raise DataError(what, where=where, hint="give whole ids, as `luthier lineage` shows them")
        left_out = set(ids)
        excluded = frozenset(number for number, key in enumerate(keys) if key in left_out)
        if len(excluded) == len(keys):
            raise DataError("`without` leaves no row to learn from", where=where, hint="name fewer rows")
        return excluded

    @cached_property
    def about(self) -> ObjectiveContext:
        """What the objective may know of the whole data set."""
        examples = chain.from_iterable(read_example_batches(self._data, "train"))
        labels = DatasetSummary.read(self._data).labels
        return ObjectiveContext(classes=answer_text_by_label(labels, examples) if labels else {}, seed=self._work.seed)

    @cached_property
    def watch(self) -> ValidationPlan | None:
        """The validation plan, when rows are held out."""
        from luthier.tune.training.reference_logprobs import HeldOutEvaluator
        from luthier.tune.training.trainer import ValidationPlan

        if (held_out := self._step.validation) is None:
            return None
        check_metric(held_out, self._data, self._step.objective)
        dataset = self._validation_dataset
        if not len(dataset):
            raise DataError(
                "nothing can be measured on the held-out rows", where=SourceLocation(field="validation.rows")
            )
        self._work.events.note(
            f"{format_counted_noun(len(dataset), 'row')} of {self._split.split} held out, to measure on the way"
        )
        if self.rollout_sampler is not None:
            return ValidationPlan(held_out, self._build_rollout_evaluator(self.rollout_sampler))
        if isinstance(held_out.metric, str) or is_objective_metric(held_out.metric, self._step.objective):
            return ValidationPlan(held_out, HeldOutEvaluator(self._step.objective, dataset, self.teacher))
        return ValidationPlan(
            held_out, HeldOutEvaluator(self._step.objective, dataset, self.teacher, held_out.metric, self._questions())
        )

    def first(self, number: int) -> Iterator[TrainingExample]:
        """Yield the first `number` training examples, built as in a training but not stored."""
        return islice(self._build_examples("train", self._train_indices), number)

    def examples(self, number: int) -> list[Example]:
        """Return the examples of the data behind the first `number` training examples."""
        return examples_at(self._data, "train", [int(at) for at in self._train_indices[:number]])

    def write_learnt(self, path: Path, seen_counts: Mapping[int, int], taught: Mapping[int, int]) -> None:
        """Write the account of each example to a Parquet file.

        It holds how often the example was seen in the training, and by the weights that are saved (the best ones come
        before the end), its tokens, its trained tokens, whether it was cut, and why nothing was trained on when that is
        so.
        """
        import polars

        number = 0
        rows: list[dict[str, Any]] = []
        for record in self.dataset.read_records():
            times = (0, 0) if record["nothing"] else (seen_counts.get(number, 0), taught.get(number, 0))
            left_out = not record["nothing"] and number in self._excluded_indices
            rows.append(_build_example_record(record, times, LEFT_OUT if left_out else record["nothing"]))
            number += not record["nothing"]
        if self._step.validation is not None and self._split.split == "train":
            rows += [
                _build_example_record(response, (0, 0), HELD_OUT)
                for response in self._validation_dataset.read_records()
            ]
        numbers = dict.fromkeys(("seen", "taught", "tokens", "learnt"), polars.Int64)
        kinds = {"id": polars.String, **numbers}
        polars.DataFrame(rows, schema={**kinds, "cut": polars.Boolean, "nothing": polars.String}).write_parquet(path)

    def add_reference_logprobs(self, model: Any, sampler: BatchSampler) -> None:
        """Add to the rows the log-probabilities of a model that has not been trained yet: all rows that will be seen or
        measured.
        """
        from luthier.tune.dataset.tokenized import READ_TOGETHER
        from luthier.tune.training.reference_logprobs import compute_row_logprobs

        def read(rows: list[TokenRow]) -> list[list[float]]:
            return compute_row_logprobs(model, rows, PACK_TOKENS)

        key = digest_of([self._work.inputs["model"].digest, str(next(model.parameters()).dtype)])
        whole = math.ceil(min(sampler.total, sampler.count) / READ_TOGETHER) * READ_TOGETHER
        example_indices = sampler.first_seen(whole)  # so none is read beside others because training ends sooner
        self._work.events.note(
            f"computing reference log-probabilities ({format_counted_noun(len(example_indices), 'row')})"
        )
        self.dataset.add_reference_logprobs(example_indices, read, digest_of([key, len(example_indices)]))
        if self._step.validation is not None:
            self._validation_dataset.add_reference_logprobs(range(len(self._validation_dataset)), read, key)

    @cached_property
    def _split(self) -> HeldOutSplit:
        return split_held_out(self._step.validation, self._data, self._work.seed, self._step.max_train_samples)

    @cached_property
    def _validation_dataset(self) -> TokenizedDataset:
        return self._write_tokenized("held_out", self._split.split, self._split.held)

    def _write_tokenized(self, name: str, split: str, indices: Sequence[int]) -> TokenizedDataset:
        """Write the examples of some rows of a split to files."""
        from luthier.tune.dataset.tokenized import TokenizedDataset

        held_out = self._step.validation.model_dump(mode="json") if self._step.validation else None
        key = digest_of([self._step.objective.settings(), self._step.max_train_samples, held_out, self._text.digest])
        examples = self._build_examples(split, indices)
        if self._step.objective.stored:
            examples = self._add_teacher(examples)
        return TokenizedDataset.write(self._work.scratch / name, examples, key, self._text.media)

    def _add_teacher(self, examples: Iterator[TrainingExample]) -> Iterator[TrainingExample]:
        """Add the teacher's log-probabilities; it is opened for the first example and closed after the last."""
        teacher = self._open_teacher()
        self._work.events.note("computing the teacher's log-probabilities")
        yield from add_teacher_logprobs(examples, self._step.objective, teacher)

    @cached_property
    def teacher(self) -> Teacher | None:
        """The teacher that is read at each step; None without one, or where its choices are stored."""
        needed = self._step.objective.needs_teacher and not self._step.objective.stored
        return self._open_teacher() if needed else None

    def _open_teacher(self) -> Teacher:
        return open_teacher(self._work.inputs["teacher"], self._step.dtype, self._text, self._media.read)

    def _build_examples(self, split: str, indices: Sequence[int]) -> Iterator[TrainingExample]:
        done, remarks = 0, Counter[str]()
        read = chain.from_iterable(
            read_example_batches(self._data, split, indices, BATCH // 8)
        )  # what is ahead is little
        for some in _batch_examples(read, len(indices)):
            yield from self._step.objective.build_training_examples(some, self._text, self.about)
            done += len(some)
            remarks.update(warning for example in some for warning in self._text.remarks(example.messages))
            self._work.events.progress(done, len(indices), "rows read")
        for warning, rows in sorted(remarks.items()):
            self._work.events.note(f"{warning} (seen in {rows} of {done} rows)")

    def source(self, model: Any, tokens: int, critic: Critic | None = None) -> BatchSource:
        """Return the source of each step's rows: these examples, or completions that the model samples for them."""
        from luthier.tune.objective import PreparedBatchSource
        from luthier.tune.training.private_gradient import PrivateBatchSource
        from luthier.tune.training.reference_logprobs import compute_row_logprob_sums

        if self.rollout_sampler is None:
            read = lambda rows: compute_row_logprob_sums(model, rows, tokens)  # noqa: E731 - a name for one line
            kind = PreparedBatchSource if self._step.privacy is None else PrivateBatchSource
            return kind(self.dataset, self.sampler, self._step.objective, read)
        from luthier.tune.rollout.rollout import RolloutBatchSource

        self.rollout_sampler.model = model
        prompts = self._build_prompt_dataset(self.dataset, "train", self._train_indices)
        return RolloutBatchSource(
            self._policy, self.rollout_sampler, prompts, self.sampler, tokens, self._work.events.warning, critic
        )

    @property
    def _policy(self) -> PolicyObjective:
        assert isinstance(self._step.objective, PolicyObjective), "objectives that draw are policies"
        return self._step.objective

    @cached_property
    def rollout_sampler(self) -> RolloutSampler | None:
        """The sampler of completions and rewards, under an objective that samples."""
        if not self._step.objective.draws:
            return None
        from luthier.tune.rollout.sampler import RolloutSampler

        drawing = self._policy.rollout
        worth = drawing.truncated if isinstance(drawing.truncated, float) else None
        talking, writer = drawing.environment, drawing.writer
        return RolloutSampler(
            self._text, drawing.max_completion_length, self._build_reward_context(), worth, talking, writer
        )

    def _build_reward_context(self, judge: str = "reward_model") -> RewardContext:
        """Build the context of rewards, with the reward model that the input `judge` names, when there is one."""

        judged = self._work.inputs.get(judge)
        path = self._work.scratch / "judged"
        path.mkdir(parents=True, exist_ok=True)
        model = None
        if judged is not None:
            from luthier.models.reward_model import RewardModel

            model = RewardModel(judged, self._step.dtype, self._media.read)
        work = self._work
        return RewardContext(
            recipe_dir=work.recipe_dir, seed=work.seed, events=work.events, kept=path, models=Path, model=model
        )

    def _build_rollout_evaluator(self, rollout_sampler: RolloutSampler) -> ValidationEvaluator:
        from luthier.tune.rollout.rollout import RolloutEvaluator

        questions = self._build_prompt_dataset(self._validation_dataset, self._split.split, self._split.held)
        return RolloutEvaluator(
            self._policy,
            rollout_sampler,
            questions,
            self._build_reward_context("gold_model") if self._step.gold_model else None,
        )

    def _build_prompt_dataset(self, dataset: TokenizedDataset, split: str, indices: Sequence[int]) -> Asked:
        """Training examples that are prompts, with the examples that they were made of."""
        from luthier.tune.rollout.sampler import PromptDataset as Asked

        records = zip(indices, dataset.read_records(), strict=True)
        trained_indices = [index for index, entry in records if not entry["nothing"]]
        return Asked(
            dataset.rows,
            lambda some: examples_at(self._data, split, [trained_indices[at] for at in some]),
            len(dataset),
        )

    def _questions(self) -> LabelQuestions:
        """The held-out rows as labelled questions, as evaluation asks them."""
        from luthier.tune.training.reference_logprobs import LabelQuestions

        examples = read_labeled_examples(self._data, self._split)
        streams = [read_example_batches(self._data, split) for split in dict.fromkeys(["train", self._split.split])]
        text_by_label = answer_text_by_label(
            DatasetSummary.read(self._data).labels, chain.from_iterable(chain.from_iterable(streams))
        )
        encoded = [
            self._text.options(prompt_of(example), text_by_label.values(), example.tools) for example in examples
        ]
        return LabelQuestions(
            prompts=[prompt for prompt, _ in encoded],
            choices=[choices for _, choices in encoded],
            labels=list(text_by_label),
            references=[example.label or "" for example in examples],
            normalize=objective.normalize if isinstance(objective := self._step.objective, Classify) else "sum",
        )

    def attach_media(self, model: Any) -> None:
        """Let a model read the images and audio of the data set; does nothing for a text model."""
        from luthier.models.media.towers import attach_media

        kept = None if self._work.kept is None else self._work.kept / "features"
        attach_media(model, self._text.media, self._media.read, kept)

    def export_media(self) -> list[dict[str, Any]]:
        """Return the images and audio of the examples as JSON, for the other ranks."""
        return [] if self._text.media is None else self._text.media.export_known()

    @cached_property
    def _media(self) -> MediaReader:
        from luthier.artifacts.media import MediaReader

        return MediaReader(self._data)

    def _warn(self, dataset: TokenizedDataset) -> None:
        """Report what is not trained on, and why; `DataError` when nothing is left."""
        counts, events = dataset.counts, self._work.events
        reasons = Counter(record["nothing"] for record in dataset.read_records() if record["nothing"])
        message = "; ".join(
            f"{format_counted_noun(number, 'row')}: {reason}" for reason, number in sorted(reasons.items())
        )
        if not counts.trained_examples:
            what = f"nothing can be learnt from any training row ({message or 'there is none'})"
            raise DataError(what, hint=self._step.objective.hint(reasons) or "")
        if reasons:
            events.warning(f"not learnt: {message} (listed in training_examples.parquet)")
        if counts.cut:
            rows = format_counted_noun(counts.cut, "row was", "rows were")
            events.warning(f"{rows} cut to {_limit(self._step.objective)} (listed in training_examples.parquet)")


def _batch_examples(examples: Iterable[Example], count: int) -> Iterator[list[Example]]:
    """Yield batches of examples, `count` in all, each as large as a batch of the data set.

    No example stands alone where there are others: `kto` compares an answer with its neighbour's.
    """
    waiting, left = iter(examples), count
    while some := list(islice(waiting, BATCH + 1 if left == BATCH + 1 else BATCH)):
        left -= len(some)
        yield some


def _build_example_record(record: dict[str, Any], times: tuple[int, int], nothing: str) -> dict[str, Any]:
    seen_count, taught = times
    kept = {
        "id": record["id"],
        "seen": seen_count,
        "taught": taught,
        "tokens": record["tokens"],
        "learnt": record["learnt"],
    }
    return {**kept, "cut": record["cut"] > 0, "nothing": nothing or None}


def _limit(objective: Objective) -> str:
    limit = getattr(objective, "max_length", None)
    return f"{limit} tokens" if limit is not None else "their limit"
