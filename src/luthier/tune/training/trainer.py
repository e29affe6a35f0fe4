"""The training loop, and the exponential moving average of weights.

The rows of a step, their split and every update depend only on recipe and seed. A step's rows are packed together,
split only to fit into memory, and divided by one denominator over the whole step, so a split changes the gradient only
by the order of sums. A killed run resumes from its newest checkpoint and ends in the same bytes.
"""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from luthier.core.errors import ModelError, SourceLocation
from luthier.models.kernels.calls import disable_kernels, get_kernel_names
from luthier.models.media.towers import StepMedia, learn_media, list_row_media
from luthier.models.packing.pack import Pack, TokenRow
from luthier.models.packing.parallel import WorkerThreads, count_parallel_packs, is_thread_safe
from luthier.tune.cost import PackWorkload
from luthier.tune.dataset.validation import BestCheckpoint, ValidationSettings, update_best_checkpoint
from luthier.tune.objective import BatchSource, Objective, Teacher
from luthier.tune.optimizer import Optimizer
from luthier.tune.training.checkpoint import CheckpointManager, TrainingState, count_tensor_bytes, count_threads
from luthier.tune.training.critic import Critic
from luthier.tune.training.gradient_pull import GradientPull
from luthier.tune.training.loss_spikes import MOST_SKIPPED, Answer, diagnose_step
from luthier.tune.training.memory import AllocatorCacheTrimmer, ProbedMemory, probe_memory
from luthier.tune.training.mixed_precision import MixedPrecisionOptimizer, OptimizerSettings, select_moments
from luthier.tune.training.pack_gradient import PackGradient, PackGradientComputer, StepGradient
from luthier.tune.training.parallel import schedule_parallel_packs
from luthier.tune.training.parts import PartReader, mix_seed
from luthier.tune.training.private_gradient import PrivateReader, PrivateSteps
from luthier.tune.training.ranks import PartLeader, RankHost, get_local_share
from luthier.tune.training.reference_logprobs import compute_row_logprob_sums, enable_dropout
from luthier.tune.training.schedule import BatchSampler, Shape, count_trunk_steps
from luthier.tune.training.trunk_states import TrunkStates


class ExponentialMovingAverage:
    """The exponential moving average of some tensors, by name, starting at their current values."""

    def __init__(self, moving: Mapping[str, Tensor], decay: float) -> None:
        self._decay = decay
        self.values = {name: value.detach().clone() for name, value in moving.items()}

    def follow(self, moving: Mapping[str, Tensor], step: int) -> None:
        """Include the weights after a step (from 1); the decay is smaller in early steps, so that the start is soon
        forgotten.
        """
        decay = min(self._decay, step / (step + 9.0))
        for name, value in self.values.items():
            value.lerp_(moving[name].detach(), 1.0 - decay)

    def restore(self, values: Mapping[str, Tensor]) -> None:
        """Restore stored averages."""
        for name, value in values.items():
            self.values[name].copy_(value)


@contextmanager
def use_weights(model: torch.nn.Module, values: Mapping[str, Tensor]) -> Iterator[None]:
    """Use other weights of a model within a context, by parameter name; its own are not copied."""
    own = {name: parameter.data for name, parameter in model.named_parameters() if name in values}
    try:
        set_weights(model, values)
        yield
    finally:
        for name, parameter in model.named_parameters():
            if name in own:
                parameter.data = own[name]


def set_weights(model: torch.nn.Module, values: Mapping[str, Tensor]) -> None:
    """Set a model's weights, by parameter name, in the dtype of its computation."""
    for name, parameter in model.named_parameters():
        if name in values:
            parameter.data = values[name].to(device=parameter.device, dtype=parameter.dtype)


_EMA = "ema/"
"""Prefix of averaged weights in a checkpoint."""
_BEST = "best/"
"""Prefix of the best weights so far in a state at the end of a trunk."""


@dataclass(frozen=True, kw_only=True)
class TrainingArguments:
    """Arguments of the training loop."""

    rate: float
    schedule: Shape
    warmup_steps: int
    decay: float
    optimizer: Optimizer
    clip: float | None
    max_tokens_per_microbatch: int
    ema: float | None = None
    """Decay of the moving average of the weights; None: no average."""
    spike: float = 10.0
    """Robust standard deviations above recent losses from which a loss is a spike."""
    on_loss_spike: Answer = "stop"
    rate_of: Callable[[str], float]
    """Learning rate factor, by the parameter's name."""
    epochs: Sequence[int] = ()
    """The epochs (from 1) after which the weights are kept."""
    states: Sequence[int] = ()
    """The steps (from 1) after which weights and second moments are kept."""
    parts: int = 1
    """Number of parts into which the rows of each step are divided."""
    private: PrivateSteps | None = None
    """Clipping and noise of each unit's gradient; None: neither."""
    ranks: RankHost | None = None
    """The ranks that compute parts under this process's lead; None: a single process."""


class ValidationEvaluator(Protocol):
    """The interface that measures a model during training."""

    def take(self, model: Any, tokens: int) -> dict[str, float]:
        """Return measures by name, `held_out_loss` among them, in packs of at most `tokens` tokens."""


class ValidationPlan(NamedTuple):
    """The validation settings and the evaluator."""

    held_out: ValidationSettings
    exam: ValidationEvaluator


ASIDE = ("taken", "measures", "example_losses", "skipped", "samples", "instead")
"""Fields of a step that its log line does not contain as they are."""


@dataclass(frozen=True, kw_only=True)
class StepMetrics:
    """The metrics of one optimizer step (loss, learning rate, gradient norm, tokens); every value follows from recipe
    and seed.
    """

    step: int
    loss: float
    lr: float
    grad_norm: float
    rows: int
    tokens: int
    """Tokens of the rows, each counted alone."""
    taken: PackWorkload
    """The workload; the log has its tokens, shared prefixes counted once."""
    measures: dict[str, float]
    example_losses: dict[str, float]
    """Each example's share of the loss, by its id."""
    skipped: str = ""
    """Why the weights were not updated; empty when they were."""
    samples: tuple[dict[str, Any], ...] = ()
    """Completions to show."""
    instead: tuple[int, ...] = ()
    """Indices of the examples that were trained on in place of the sampler's."""

    def line(self) -> str:
        """Return the step as a line of `log.jsonl`; a non-finite number becomes null."""
        own = {name: value for name, value in self.__dict__.items() if name not in ASIDE}
        own["computed"] = round(self.taken.tokens)
        record = {**own, **self.measures, **({"skipped": self.skipped} if self.skipped else {})}
        record |= {name: some for name, some in (("samples", self.samples), ("instead", self.instead)) if some}
        return json.dumps({name: _drop_nonfinite(value) for name, value in record.items()}, sort_keys=True)


class Trainer:
    """The training loop of one model."""

    def __init__(
        self,
        model: Any,
        objective: Objective,
        source: BatchSource,
        sampler: BatchSampler,
        args: TrainingArguments,
        watch: ValidationPlan | None,
        teacher: Teacher | None = None,
        critic: Critic | None = None,
    ) -> None:
        self._model, self._objective, self._source = model, objective, source
        self._sampler, self._args, self._watch = sampler, args, watch
        self._tokens = args.max_tokens_per_microbatch
        settings = OptimizerSettings(optimizer=args.optimizer, clip=args.clip, rate_of=args.rate_of)
        self._updater = MixedPrecisionOptimizer(model, settings)
        self._reader = PackGradientComputer(model, objective, self._updater, teacher, critic)
        self._parts: PartLeader | None = None
        self._lanes = WorkerThreads(
            count_parallel_packs(model) if critic is None else 1, "learning"
        )  # a critic speaks through it too
        self._private: PrivateReader | None = None
        if args.private is not None:
            read = lambda rows: compute_row_logprob_sums(model, rows, self._tokens)  # noqa: E731 - a name for one line
            self._private = PrivateReader(self._reader, self._updater, objective, args.private, read, sampler.seed)
        if args.parts > 1:
            part_reader = PartReader(self._reader, self._updater, seed=sampler.seed, parts=args.parts)
            self._parts = PartLeader(part_reader, self._updater, args.ranks)
            self._lanes = part_reader.threads
            if critic is None and is_thread_safe(model):
                self._lanes.count = min(args.parts, get_local_share(self._parts.size))
        self._average = ExponentialMovingAverage(self._updater.weights(), args.ema) if args.ema is not None else None
        self._log: list[str] = []
        self._losses: list[float] = []
        self._standing = BestCheckpoint()
        self._since = 0
        self._why_over = ""
        self._kernels = get_kernel_names(model)
        self.rehearsed: ProbedMemory | None = None
        """What trainings over the same model before this one saw to fit into memory."""
        self.held_out_s = 0.0
        """Seconds that held-out measurements took, in this process."""
        self.stopped = ""
        """After which step, and why, it ended before its last one."""
        self._begun = self._updater.fingerprints()
        self._leftovers = AllocatorCacheTrimmer()

    def start_from(self, weights: Mapping[str, Tensor], pulls: Sequence[GradientPull] = ()) -> None:
        """Set the initial weights, by parameter name, before the first step; pulls are added to each gradient."""
        self._updater.start_from(weights, pulls)
        self._begun = self._updater.fingerprints()

    @property
    def weights(self) -> Mapping[str, Tensor]:
        """The trainable weights, by parameter name, in at least fp32."""
        return self._weights()

    @property
    def log(self) -> tuple[str, ...]:
        """One line of JSON for each finished step."""
        return tuple(self._log)

    def count_examples_seen(self, steps: int) -> Counter[int]:
        """Return how often each example was seen in the first `steps` steps, without those that were skipped."""
        return Counter(index for _, example_numbers in self.iterate_steps_seen(steps) for index in example_numbers)

    def iterate_steps_seen(self, steps: int) -> Iterator[tuple[int, Sequence[int]]]:
        """Yield each of the first `steps` steps (from 1) with an update, and the examples in it."""
        for step, line in enumerate(map(json.loads, self._log[:steps])):
            if "skipped" not in line:
                yield step + 1, line.get("instead") or self._sampler.get_batch_indices(step)

    @property
    def held_out(self) -> dict[str, Any] | None:
        """The best held-out measurement, and the step whose weights are saved; None when nothing is held out."""
        if self._watch is None:
            return None
        held_out, best = self._watch.held_out, self._standing
        saved = best.step if held_out.keep == "best" and best.step else len(self._log)
        return {"metric": held_out.name, "best": best.value, "best_step": best.step, "saved_step": saved}

    @property
    def trainable(self) -> int:
        """Number of trainable parameters."""
        return self._updater.numbers

    def run(
        self,
        checkpoints: CheckpointManager,
        on_step: Callable[[StepMetrics], None],
        say: Callable[[str], None],
        trunk_states: TrunkStates | None = None,
    ) -> list[str]:
        """Train from the newest checkpoint, or from a kept state of the trunk, to the end; the model then has the
        weights to save.

        `on_step` gets each step's metrics. Returns the names of trainable parameters that did not change (such as
        experts that no token chose); `ModelError` when none changed.
        """
        first_step = self._resume(checkpoints, say)
        with (
            enable_dropout(self._model, self._objective),
            nullcontext() if self._kernels else disable_kernels(),
            ExitStack() as stack,
        ):
            stack.callback(self._lanes.close)
            if first_step < self._sampler.steps:
                self._probe_memory(say)
            if trunk_states is not None and not first_step:
                first_step = self._begin_on_trunk(trunk_states, checkpoints, say)
            if self._parts is not None:
                self._parts.start(kernels=bool(self._kernels))
            for step in range(first_step, self._sampler.steps):
                if why := self._find_stop_reason():
                    self.stopped = f"after step {step}: {why}"
                    say(f"stopped {self.stopped}")
                    break
                if trunk_states is not None and step == self._trunk and trunk_states.wants(step):
                    self._keep_trunk(trunk_states, checkpoints)
                if step > first_step and self._source.can_resume_at(step) and checkpoints.is_due(step, self._size):
                    checkpoints.write(self._state())
                stepped = self._measured(self._step(step, checkpoints), checkpoints)
                for epoch in self._list_ended_epochs(stepped.step):
                    checkpoints.write_epoch(self._weights(), epoch, stepped.step)
                if stepped.step in self._args.states:
                    checkpoints.write_kept(select_moments(self._find_state()), stepped.step)
                self._note(stepped.line())
                on_step(stepped)
        try:
            unmoved = self._list_unchanged_parameters()
            self._load_final_weights(checkpoints)
        finally:
            if self._parts is not None:
                self._parts.end()
        if trunk_states is not None:
            trunk_states.close(self._trunk)
        return unmoved

    @property
    def _trunk(self) -> int:
        """Return the number of steps that a longer training has in common with this one; 0: none."""
        args = self._args
        return count_trunk_steps(self._sampler.steps, args.schedule, args.warmup_steps, args.decay)

    def _begin_on_trunk(
        self, trunk_states: TrunkStates, checkpoints: CheckpointManager, say: Callable[[str], None]
    ) -> int:
        """Restore the latest kept state on this training's own path; returns the number of finished steps."""
        ways = (count_threads(), self._tokens, self._kernels, self._lane_count)
        training_state = trunk_states.read(
            self._trunk, lambda state: (state.threads, state.tokens, state.kernels, state.lanes) == ways
        )
        if training_state is None:
            return 0
        best = {
            name.removeprefix(_BEST): value for name, value in training_state.tensors.items() if name.startswith(_BEST)
        }
        self._take(training_state)
        if best:
            checkpoints.write_best(best, self._standing.step)
        say(
            f"goes on after step {training_state.step}, where an earlier training that begins as this one "
            "left its trunk"
        )
        return training_state.step

    @property
    def _lane_count(self) -> int:
        """Return the number of packs read in parallel, where it affects the bytes of the result."""
        return self._lanes.count if self._parts is None else 1

    def _keep_trunk(self, trunk_states: TrunkStates, checkpoints: CheckpointManager) -> None:
        """Store the current state, with the best weights so far where these may be saved in the end."""
        state = self._state()
        if self._watch is not None and self._watch.held_out.keep == "best" and self._standing.step:
            step, best = checkpoints.read_best() or (0, {})
            if step != self._standing.step:  # a killed process had gone further, and its best ones took their place
                return
            state = state._replace(tensors={**state.tensors, **{f"{_BEST}{name}": v for name, v in best.items()}})
        trunk_states.write(state)

    def gradient(self, rows: list[TokenRow], denominator: float, step: int = 0) -> StepGradient:
        """Compute the gradient of one step's rows: by parts, by packs, or by units."""
        if self._private is not None:
            return self._private.gradient(rows, self._tokens, step)
        if self._parts is not None:
            return self._parts.gradient(rows, denominator, tokens=self._tokens, step=step)
        step_gradient = StepGradient()
        with learn_media(self._model, lambda: list_row_media(rows)) as media:
            for number, parallel_packs in enumerate(schedule_parallel_packs(rows, self._tokens, self._lanes.count)):
                torch.manual_seed(mix_seed(self._sampler.seed, step, number))  # only dropout asks for it
                self._leftovers.before(min(len(parallel_packs), self._lanes.count))
                for pack, read in zip(parallel_packs, self._gather(parallel_packs, denominator, media), strict=True):
                    step_gradient = step_gradient.and_of(self._reader.describe(read, pack, denominator))
        if media is not None:
            self._updater.gather(media.gradients(list(self._updater.parameters.values())))
        return step_gradient

    def _gather(
        self, parallel_packs: Sequence[Pack], denominator: float, media: StepMedia | None
    ) -> list[PackGradient]:
        """Read packs in parallel, and add their gradients in order."""
        ready = [self._reader.prepare(pack) for pack in parallel_packs]
        pack_gradients = []
        with closing(self._lanes.each(lambda pack: self._reader.read(pack, denominator), ready)) as packs_read:
            for read in packs_read:
                self._updater.gather(read.gradients)
                if media is not None:
                    media.gather(read.media)
                pack_gradients.append(read._replace(gradients=[], media={}))
        return pack_gradients

    def _step(self, step: int, checkpoints: CheckpointManager) -> StepMetrics:
        """Run one optimizer step over all of its rows."""
        training_batch = self._source.draw(step)
        rows = training_batch.rows
        total, pack_workload, measures, examples = self.gradient(rows, training_batch.denominator, step)
        args = self._args
        norm = self._updater.norm() if self._parts is None else self._parts.norm()
        rate = args.rate * self._sampler.compute_rate_factor(step, args.schedule, args.warmup_steps, args.decay)
        watched = args.on_loss_spike != "off" and not self._objective.draws  # a loss on own answers has no level
        skipped = diagnose_step(total, norm, self._losses, args.spike if watched else None)
        if skipped:
            skipped = f"{skipped}, on examples {_named(examples)}"
            self._give_up_or_skip(step, skipped, checkpoints)
        elif not training_batch.nothing:
            self._update(rate, norm)
            if self._average is not None:
                self._average.follow(self._find_weights(), step + 1)
        return StepMetrics(
            step=step + 1,
            loss=total,
            lr=rate,
            grad_norm=norm,
            rows=len(self._sampler.get_batch_indices(step)),
            tokens=sum(len(row.ids) for row in rows),
            taken=pack_workload,
            measures={**training_batch.measures, **measures},
            example_losses=examples,
            skipped=skipped or training_batch.nothing,
            samples=training_batch.samples,
            instead=training_batch.instead,
        )

    def _update(self, rate: float, norm: float) -> None:
        """Apply the step's gradient, at all ranks."""
        if self._parts is not None:
            self._parts.update(rate, norm)
        else:
            self._updater.update(rate, norm)

    def _find_weights(self) -> Mapping[str, Tensor]:
        """Return the optimizer's weights, from all ranks."""
        return self._updater.weights() if self._parts is None else self._parts.weights()

    def _find_state(self) -> dict[str, Tensor]:
        """Return all optimizer state that a resumed run needs, from all ranks."""
        return self._updater.state() if self._parts is None else self._parts.state()

    def _give_up_or_skip(self, step: int, what: str, checkpoints: CheckpointManager) -> None:
        """Drop the step's gradient; where steps are not to be skipped, store the state before it and raise."""
        if self._parts is not None:
            self._parts.drop()
        else:
            self._updater.drop()
        often = [json.loads(line).get("skipped") for line in self._log[-MOST_SKIPPED + 1 :]]
        if self._args.on_loss_spike == "skip" and not (len(often) == MOST_SKIPPED - 1 and all(often)):
            return
        checkpoints.write(self._state())
        checkpoints.wait()
        raise ModelError(
            f"training diverged at step {step + 1}: {what}",
            where=SourceLocation(file=str(checkpoints.path)),
            hint="lower learning_rate or set max_grad_norm; the state before this step is kept: "
            f"`resume_from: {checkpoints.path}` goes on from it",
        )

    def _measured(self, stepped: StepMetrics, checkpoints: CheckpointManager) -> StepMetrics:
        """Return the step with its validation measures, when they are due."""
        if self._watch is None:
            return stepped
        if not self._watch.held_out.is_due(stepped.step, self._sampler.steps) and not self._list_ended_epochs(
            stepped.step
        ):
            return stepped
        held_out, exam = self._watch
        weights, start = self._weights(), time.perf_counter()
        with use_weights(self._model, weights):
            measures = exam.take(self._model, self._tokens)
        self.held_out_s += time.perf_counter() - start
        standing = update_best_checkpoint(
            held_out, self._standing, stepped.step, _drop_nonfinite(measures[held_out.name])
        )
        if standing.step == stepped.step and held_out.keep == "best":
            checkpoints.write_best(weights, stepped.step)
        return replace(stepped, measures={**stepped.measures, **measures})

    def _list_ended_epochs(self, step: int) -> list[int]:
        """Return the epochs that end with a step (from 1) and whose weights are kept."""
        return [epoch for epoch in self._args.epochs if self._sampler.end_of(epoch) == step]

    def _note(self, line: str) -> None:
        """Append a step's line to the log, and note what later steps need of it."""
        self._log.append(line)
        record = json.loads(line)
        self._why_over = self._source.record_step(record)
        if not record.get("skipped"):
            self._losses.append(record["loss"])
        if self._watch is not None and len(self._log) > self._since:
            value = record.get(self._watch.held_out.name)
            self._standing = update_best_checkpoint(self._watch.held_out, self._standing, record["step"], value)

    def _find_stop_reason(self) -> str:
        """Return why training stops early: validation without improvement, or the batch source's reason."""
        patience = self._watch.held_out.patience if self._watch is not None else None
        if patience is not None and self._standing.since >= patience:
            return f"no better since step {self._standing.step}"
        return self._why_over

    def _weights(self) -> Mapping[str, Tensor]:
        """Return the weights for evaluation: the trainable weights, or their average."""
        return self._average.values if self._average is not None else self._find_weights()

    def _load_final_weights(self, checkpoints: CheckpointManager) -> None:
        """Load the weights to save into the model."""
        weights = self._weights()
        if self._watch is not None and self._watch.held_out.keep == "best" and self._standing.step:
            best = checkpoints.read_best()
            assert best is not None, "best weights reach the disk before any state that knows of them"
            weights = best[1]
        set_weights(self._model, weights)
        checkpoints.wait()

    def _resume(self, checkpoints: CheckpointManager, say: Callable[[str], None]) -> int:
        """Restore the newest checkpoint, when there is one; returns the number of finished steps."""
        if (training_state := checkpoints.read()) is None:
            return 0
        self._check(training_state.tensors)
        if training_state.kernels and training_state.kernels != self._kernels:
            say("this training was begun with kernels that are not here: its last bits may come out otherwise")
        self._take(training_state)
        return training_state.step

    def _take(self, kept: TrainingState) -> None:
        """Restore a state: weights, moments, averages, log, and how it was computed."""
        averaged = {name.removeprefix(_EMA): value for name, value in kept.tensors.items() if name.startswith(_EMA)}
        self._updater.restore({name: v for name, v in kept.tensors.items() if not name.startswith((_EMA, _BEST))})
        if self._average is not None:
            self._average.restore(averaged or self._updater.weights())
        self._tokens, self._since = kept.tokens, kept.since
        if self._parts is None:
            self._lanes.count = min(kept.lanes, count_parallel_packs(self._model))
        torch.set_num_threads(kept.threads)
        self._kernels = self._kernels if kept.kernels else ""
        for line in kept.log:
            self._note(line)

    def _check(self, kept: Mapping[str, Tensor]) -> None:
        """Raise `ModelError` when a state has other weights than those trained here."""
        mine = {f"master/{name}": value.shape for name, value in self._updater.weights().items()}
        if mine != {name: value.shape for name, value in kept.items() if name.startswith("master/")}:
            what = "the state to go on from is of another model or technique"
            raise ModelError(
                what, where=SourceLocation(field="resume_from"), hint="use the settings that it was made with"
            )

    def _probe_memory(self, say: Callable[[str], None]) -> None:
        """Find the packs that fit into memory, and whether reading them uses random numbers, which have one order: no
        threads then.
        """
        drawn, known, requested = False, self.rehearsed, (self._tokens, self._lanes.count)
        packs = self._source.largest(*requested)
        if not packs:  # by chance no step of a private training draws anybody
            return
        if known is not None and known.covers(packs):
            self._lanes.count = 1 if known.drawn else self._lanes.count
            return

        def read(parallel_packs: Sequence[Pack]) -> None:
            nonlocal drawn
            before = torch.get_rng_state()
            with self._reader.learn_media(parallel_packs) as media:
                self._gather(parallel_packs, 1.0, media)
            if media is not None:
                media.gradients(list(self._updater.parameters.values()))
            drawn = drawn or not torch.equal(before, torch.get_rng_state())

        self._tokens, lanes, what = probe_memory(self._source.largest, self._tokens, self._lanes.count, read)
        if known is not None and (self._tokens, lanes) == requested:
            known.tokens, known.drawn = sum(pack.tokens for pack in packs), drawn
        self._lanes.count = 1 if drawn else lanes
        self._updater.drop()
        say(what)

    def _state(self) -> TrainingState:
        averaged = self._average.values if self._average is not None else {}
        own = self._find_state()
        tensors = {**own, **{f"{_EMA}{name}": value for name, value in averaged.items()}}
        log = tuple(self._log)
        return TrainingState(
            len(log), tensors, log, count_threads(), self._tokens, self._since, self._kernels, self._lane_count
        )

    @cached_property
    def _size(self) -> int:
        return count_tensor_bytes(self._state().tensors)

    def _list_unchanged_parameters(self) -> list[str]:
        now = self._updater.fingerprints() if self._parts is None else self._parts.fingerprints()
        still = [name for name, before in self._begun.items() if now[name] == before]
        if len(still) == len(now):
            why = {json.loads(line).get("skipped", "") for line in self._log}
            what = f"no parameter moved: in every step {why.pop()}" if len(why) == 1 and all(why) else ""
            hint = "ask for what the model sometimes gets right: easier prompts, more samples, rewards with degrees"
            if what:
                raise ModelError(what, where=SourceLocation(field="objective.rewards"), hint=hint)
            raise ModelError("no parameter moved", hint="raise learning_rate, or train for more steps")
        return still


def _named(losses: Mapping[str, float]) -> str:
    """Name a step's examples briefly, those with the largest or a non-finite loss first."""
    keys = sorted(losses, key=lambda key: -losses[key] if math.isfinite(losses[key]) else -math.inf)
    return ", ".join(keys[:4]) + (f" and {len(keys) - 4} more" if len(keys) > 4 else "")


def _drop_nonfinite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
