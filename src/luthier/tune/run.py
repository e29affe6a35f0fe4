"""One training run: data, model, trainer, trackers and the files of the tuned model.

Trackers receive the metrics of every step and the end of the training. An adapter without weights, or without effect,
is refused. A full model is saved in Hugging Face's layout, where equal weights give equal bytes.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.artifacts.dataset import list_source_datasets
from luthier.artifacts.training import TrainingRecord
from luthier.chat.prompt import PromptPrefix
from luthier.core.errors import RecipeError, SourceLocation
from luthier.core.events import format_counted_noun
from luthier.core.files import resolve_path
from luthier.core.hashing import digest_of
from luthier.core.step import StepContext
from luthier.core.system.process import get_rank_in_job, trim_malloc_heap
from luthier.models.cost import count_cores
from luthier.models.describe import describe_model_folder
from luthier.models.sequence_head import ends_in_sequence_head
from luthier.models.shapes import find_part
from luthier.tune.cost import TrainingSpeedMeter, build_flop_counter, estimate_max_pack_tokens
from luthier.tune.dataset.preview import write_rendered_rows
from luthier.tune.dataset.training_data import TrainingData
from luthier.tune.model_files import refuse_empty_adapter
from luthier.tune.objective import ObjectiveContext
from luthier.tune.policy import ActorCritic
from luthier.tune.technique import Technique
from luthier.tune.tracker import TrackerCallback
from luthier.tune.training.schedule import DECAY, BatchSampler
from luthier.tune.training.trunk import digest_prefix

if TYPE_CHECKING:
    import torch

    from luthier.chat.tokenizer import ChatTokenizer
    from luthier.tune.dataset.tokenized import TokenizedDataset
    from luthier.tune.steps.tune import Tune
    from luthier.tune.training.checkpoint import CheckpointManager
    from luthier.tune.training.critic import Critic
    from luthier.tune.training.group import RankGroup, RankLost
    from luthier.tune.training.private_gradient import PrivateSteps
    from luthier.tune.training.ranks import RankHost
    from luthier.tune.training.trainer import Trainer
    from luthier.tune.training.trunk_states import TrunkStates


def describe_task(step: Tune, work: StepContext) -> dict[str, Any]:
    """Describe a training for another process on this machine that takes part in it: `luthier.tune.training.follower`
    reads it.
    """
    folders = {source.digest: str(source.folder.absolute()) for source in list_source_datasets(work.inputs["data"])}
    waiting = [artifact for field, artifact in work.inputs.items() if field != "data"]
    while waiting:
        artifact = waiting.pop()
        if artifact.digest not in folders:
            folders[artifact.digest] = str(artifact.folder.absolute())
            waiting += [artifact.parent(field) for field in artifact.manifest.inputs if field in _STANDS_ON]
    return {
        "step": step.settings(),
        "inputs": {field: artifact.digest for field, artifact in work.inputs.items()},
        "folders": folders,
        "seed": work.seed,
        "recipe_dir": str(work.recipe_dir.absolute()),
    }


_STANDS_ON = ("model", "of")
"""Inputs of a model without which it cannot be loaded."""
EPOCHS = "epochs"
"""Folder of the artifact with a folder for each epoch whose weights were kept."""


def _clocks() -> tuple[float, float]:
    """Return wall-clock and processor seconds."""
    return time.perf_counter(), time.process_time()


class TrainingRun:
    """One run of training, which makes a tuned model."""

    def __init__(self, step: Tune, technique: Technique, work: StepContext) -> None:
        from luthier.models.load import find_base_folder, get_model_name

        self._step, self._technique, self._work = step, technique, work
        self._model = work.inputs["model"]
        self._base = find_base_folder(self._model)
        self._name = get_model_name(self._model)
        self._description = describe_model_folder(self._base)
        step.agree(self._description)
        self._rate = step.rate_for(technique, self._description)
        self._before = [0.0, 0.0]
        """What the technique took before the first step."""
        self._private: PrivateSteps | None = None

    def run(self) -> dict[str, Any]:
        """Train and write all files; returns measures."""
        start_clocks = _clocks()  # the first imports here load torch
        from luthier.chat.tokenizer import ChatTokenizer

        text = ChatTokenizer.load(self._base, before=PromptPrefix.of(self._model))
        for sentence in text.notes:
            self._work.events.note(sentence)
        with self._start_ranks() as host:
            return self._train(TrainingData(self._step, self._work, text), text, host, start_clocks)

    @contextmanager
    def _start_ranks(self) -> Iterator[RankHost | None]:
        """Start the ranks that compute with this process, so that they load libraries meanwhile; None without other
        ranks.
        """
        if self._step.parts == 1:
            yield None
            return
        from luthier.tune.training.ranks import JobRanks, LocalRanks

        host: RankHost
        if get_rank_in_job()[1] > 1:
            host = JobRanks()
        elif self._step.processes > 1:
            warn = self._work.events.warning
            host = LocalRanks(self._step.processes, describe_task(self._step, self._work), self._work.scratch, warn)
        else:
            yield None
            return
        try:
            yield host
        finally:
            host.close()

    def _train(
        self, material: TrainingData, text: ChatTokenizer, host: RankHost | None, start_clocks: tuple[float, float]
    ) -> dict[str, Any]:
        """Run the trainer and write all files; returns measures."""
        from luthier.models.kernels.lora import restore_peft_forward
        from luthier.models.load import pick_dtype

        step, sampler = self._step, material.sampler
        training, checkpoints = self._prepare(material, sampler, host)
        wall, cpu = (now - then for now, then in zip(_clocks(), start_clocks, strict=True))
        begin = {"begin_s": wall - self._before[0], "begin_cpu_s": cpu - self._before[1]}
        bits, headed = 8 * pick_dtype(step.dtype).itemsize, step.objective.wants_head()
        operations = build_flop_counter(self._description, training.trainable, bits=bits, headed=headed)
        speed = TrainingSpeedMeter(self._work, sampler, operations)
        settings = {**step.hashed_settings(), "learning_rate": self._rate.value, "seed": self._work.seed}
        with TrackerCallback(step.report_to, self._work, settings, speed) as on_step:
            unmoved = training.run(checkpoints, on_step, self._work.events.note, self._trunk_states(sampler))
            self._warn_unmoved(unmoved, sampler)
        restore_peft_forward(self.trained)
        self._save(training, material, sampler)
        write_rendered_rows(self._work.folder, material, step, text)
        self._save_epochs(checkpoints, training, material, sampler)
        self._save_states(checkpoints, training, material, sampler)
        aside = {"held_out_s": training.held_out_s, "checkpoint_s": checkpoints.spent_s}
        rollout_sampler = material.rollout_sampler
        drawing_s = rollout_sampler.drawing_s if rollout_sampler is not None else 0.0
        rates = speed.measures(sum(aside.values()), drawing_s)
        if host is not None or any(parameter.device.type != "cpu" for parameter in self.trained.parameters()):
            del rates["flops_per_cpu_s"]  # this processor's time tells nothing of an accelerator's, nor of other ranks'
        drawn = (
            {"writing_s": rollout_sampler.writing_s, "judging_s": rollout_sampler.judging_s}
            if rollout_sampler is not None
            else {}
        )
        if rollout_sampler is not None and rollout_sampler.drawn and rollout_sampler.writer is None:
            drawn["drawing_flops_per_s"] = (
                rollout_sampler.drawn * 2 * self._description.parameters / rollout_sampler.drawing_s
            )
        sizes = {"parameters": self._description.parameters, "bf16": bits == 16}
        return {**rates, **aside, **drawn, **begin, **sizes}

    def _warn_unmoved(self, names: list[str], sampler: BatchSampler) -> None:
        if names and sampler.steps > 1:  # at the first step LoRA's A stands still, since B is zero
            self._work.events.warning(f"{len(names)} parameters did not move, {names[0]} among them")

    def _prepare(
        self, material: TrainingData, sampler: BatchSampler, host: RankHost | None
    ) -> tuple[Trainer, CheckpointManager]:
        import torch

        from luthier.models.kernels.calls import describe_kernels
        from luthier.models.kernels.lora import install_fused_lora
        from luthier.models.load import pick_dtype
        from luthier.models.media.towers import find_towers
        from luthier.models.packing.logprobs import clear_forward_mode, detect_forward_mode
        from luthier.tune.training.memory import iterate_packs
        from luthier.tune.training.ranks import agree_with_followers, send_weights
        from luthier.tune.training.trainer import Trainer, TrainingArguments

        torch.set_num_threads(count_cores())
        step = self._step
        dtype = pick_dtype(step.dtype)
        parts = self._choose_parts(material, sampler)
        if host is not None:
            host.connect()
            order = {"classes": dict(material.about.classes), "seed": sampler.seed, "parts": parts}
            host.group.broadcast({**order, "media": material.export_media()})
        plain = self._open(dtype, material.about)
        self._attach_media(material, plain)
        if step.objective.needs_reference:
            material.add_reference_logprobs(plain, sampler)
            clear_forward_mode(plain)
        model = self._adapt(plain)
        critic = self._critic(model)
        tokens = self._tokens(material.dataset)
        start_clocks = _clocks()
        packs = iterate_packs(material.dataset, replace(sampler, max_steps=None), tokens)
        self._technique.begin(model, packs)
        self._reads_packs = inspect.getgeneratorstate(packs) != inspect.GEN_CREATED
        self._before = [now - then for now, then in zip(_clocks(), start_clocks, strict=True)]
        if host is not None:
            send_weights(host.group, model)
        install_fused_lora(model)
        trim_malloc_heap()
        mode = detect_forward_mode(model)
        if host is not None:
            agree_with_followers(host.group, model, step.code())
        if warning := self._technique.warning(self._description):
            self._work.events.note(warning)
        numbers = str(dtype).removeprefix("torch.") + describe_kernels(model)
        self._report_plan(mode.why, numbers, tokens, sampler)
        if mode.media_alone and find_towers(plain) is not None:
            self._work.events.note(
                f"rows with pictures are read one by one, as {mode.media_alone}: the same result, more slowly"
            )
        self._private = self._plan_privacy(material, sampler)
        args = TrainingArguments(
            rate=self._rate.value,
            schedule=step.shape,
            warmup_steps=step.count_warmup_steps(sampler.whole_steps),
            decay=step.decay or DECAY,
            optimizer=step.optimizer,
            clip=step.max_grad_norm,
            max_tokens_per_microbatch=tokens,
            ema=step.ema,
            spike=step.loss_spike,
            on_loss_spike=step.on_loss_spike,
            rate_of=self._rate_of,
            epochs=step.kept_epochs,
            states=step.choose_kept_steps(sampler.steps),
            parts=parts,
            private=self._private,
            ranks=host,
        )
        self.trained = model
        source = material.source(model, tokens, critic)
        training = Trainer(model, step.objective, source, sampler, args, material.watch, material.teacher, critic)
        return training, self._keeper()

    def open_before_training(self, material: TrainingData, dtype: torch.dtype) -> Any:
        """Return the model before the first step, with its trainable parameters; rows get its log-probabilities as a
        reference.
        """
        from luthier.models.kernels.lora import install_fused_lora
        from luthier.models.packing.logprobs import clear_forward_mode, detect_forward_mode
        from luthier.tune.training.memory import iterate_packs

        plain = self._open(dtype, material.about)
        material.attach_media(plain)
        if self._step.objective.needs_reference:
            material.add_reference_logprobs(plain, material.sampler)
            clear_forward_mode(plain)
        model = self._adapt(plain)
        whole = replace(material.sampler, max_steps=None)
        self._technique.begin(model, iterate_packs(material.dataset, whole, self._tokens(material.dataset)))
        install_fused_lora(model)
        detect_forward_mode(model)
        return model

    def count_pack_tokens(self, material: TrainingData) -> int:
        """Return the maximum tokens of a microbatch."""
        return self._tokens(material.dataset)

    def _attach_media(self, material: TrainingData, plain: Any) -> None:
        """Let the model read the data's images; `RecipeError` for a private training."""
        from luthier.models.media.towers import find_towers

        material.attach_media(plain)
        if self._step.privacy is not None and find_towers(plain) is not None:
            what = "a model that reads pictures is not tuned privately yet"
            raise RecipeError(what, where=SourceLocation(field="privacy"), hint="leave `privacy` out")

    def _adapt(self, plain: Any) -> Any:
        """Return the model with its trainable parameters."""
        from luthier.models.quiet import silence_peft_warnings

        with silence_peft_warnings():
            model = self._technique.adapt(plain, self._work.seed)
        self._technique.check_saved(model)
        self._check_part_rates(model)
        return model

    def _plan_privacy(self, material: TrainingData, sampler: BatchSampler) -> PrivateSteps | None:
        """Find the noise for the privacy budget; None without one."""
        from luthier.tune.privacy.accountant import find_noise
        from luthier.tune.privacy.sampler import PoissonSampler
        from luthier.tune.training.private_gradient import PrivateSteps

        if (privacy := self._step.privacy) is None or not isinstance(sampler, PoissonSampler):
            return None
        unit_by_row = {material.dataset.keys[index]: unit for unit, some in enumerate(sampler.units) for index in some}
        units, delta = len(sampler.units), privacy.find_delta(len(sampler.units))
        noise = find_noise(privacy.epsilon, delta, sampler.sampling, self._count_private_steps(sampler))
        self._work.events.note(
            f"private: {format_counted_noun(units, 'unit')} ({privacy.unit}), epsilon {privacy.epsilon:g} at delta "
            f"{delta:.2g}, so noise of {noise:g} times the clipping norm {privacy.clip:g}"
        )
        return PrivateSteps(
            key=sampler.key,
            clip=privacy.clip,
            noise=noise,
            sampling=sampler.sampling,
            expected_units=sampler.expected_units,
            unit_of=unit_by_row.__getitem__,
        )

    def _count_private_steps(self, sampler: BatchSampler) -> int:
        """Return the number of steps that the noise is calibrated for."""
        return sampler.whole_steps

    def _describe_privacy(self, sampler: BatchSampler, steps: int) -> dict[str, Any]:
        """Return the ε and δ spent by `steps` steps, for the model's record."""
        from luthier.tune.privacy.sampler import PoissonSampler

        privacy, private = self._step.privacy, self._private
        if privacy is None or private is None or not isinstance(sampler, PoissonSampler):
            return {}
        delta = privacy.find_delta(len(sampler.units))
        return {
            "privacy": {
                "unit": privacy.unit,
                "units": len(sampler.units),
                "epsilon": private.epsilon(steps, delta),
                "delta": delta,
                "clip": private.clip,
                "noise": private.noise,
                "sampling": private.sampling,
            }
        }

    def _choose_parts(self, material: TrainingData, sampler: BatchSampler) -> int:
        """Return the parts of each step; `auto` looks at steps of the whole training.

        `RecipeError` where there are more ranks than parts.
        """
        parts = self._step.parts
        if parts == "auto":
            from luthier.tune.training.memory import read_step_rows
            from luthier.tune.training.parts import LOOKED_AT, choose_parts

            whole = replace(sampler, max_steps=None)
            looked_at = sorted({at * whole.steps // LOOKED_AT for at in range(LOOKED_AT)})
            parts = choose_parts([read_step_rows(material.dataset, whole, step) for step in looked_at])
            self._work.events.note(f"each step is dealt to {format_counted_noun(parts, 'part')}")
        if parts < (requested := max(self._step.processes, get_rank_in_job()[1])):
            what = f"{requested} processes have {format_counted_noun(parts, 'part')} of each step to compute"
            hint = "set parts to a number, or processes to fewer"
            raise RecipeError(what, where=SourceLocation(field="processes"), hint=hint)
        return parts

    def follow(self, connect: Callable[[], RankGroup], connect_again: Callable[[RankLost], RankGroup]) -> None:
        """Compute parts of a training that another process leads and whose files that process writes; returns at its
        end.
        """
        import torch

        from luthier.artifacts.media import MediaReader
        from luthier.chat.messages import Media
        from luthier.chat.tokenizer import ChatTokenizer
        from luthier.models.kernels.lora import install_fused_lora
        from luthier.models.load import pick_dtype
        from luthier.models.media.towers import attach_media
        from luthier.models.packing.logprobs import clear_forward_mode
        from luthier.tune.teacher import open_teacher
        from luthier.tune.training.mixed_precision import MixedPrecisionOptimizer, OptimizerSettings
        from luthier.tune.training.pack_gradient import PackGradientComputer
        from luthier.tune.training.parts import PartReader
        from luthier.tune.training.ranks import PartFollower, agree_with_leader, pin_to_cores, receive_weights
        from luthier.tune.training.reference_logprobs import enable_dropout

        step, objective = self._step, self._step.objective
        group = connect()
        pin_to_cores(group.rank, group.size)
        torch.set_num_threads(1)
        begin = group.receive(0)
        plain = self._open(pick_dtype(step.dtype), ObjectiveContext(classes=begin["classes"], seed=begin["seed"]))
        text = ChatTokenizer.load(self._base, before=PromptPrefix.of(self._model))
        read_media = MediaReader(self._work.inputs["data"]).read
        if text.media is not None:
            for known in begin["media"]:
                text.media.meet(Media.model_validate(known))
        attach_media(plain, text.media, read_media)
        model = self._adapt(plain)
        critic = self._critic(model)
        receive_weights(group, model)
        clear_forward_mode(model)
        install_fused_lora(model)
        agree_with_leader(group, model, step.code())
        settings = OptimizerSettings(optimizer=step.optimizer, clip=step.max_grad_norm, rate_of=self._rate_of)
        updater = MixedPrecisionOptimizer(model, settings)
        teacher = None
        if objective.needs_teacher and not objective.stored:
            teacher = open_teacher(self._work.inputs["teacher"], step.dtype, text, read_media)
        packs = PackGradientComputer(model, objective, updater, teacher, critic)
        reader = PartReader(packs, updater, seed=begin["seed"], parts=begin["parts"])
        with enable_dropout(model, objective):
            PartFollower(reader, updater, connect_again).run(group)

    def _critic(self, model: Any) -> Critic | None:
        """Return the critic that the objective needs, over the same base; its initial weights are reported."""
        policy = self._step.objective
        if not isinstance(policy, ActorCritic):
            return None
        from luthier.tune.training.critic import Critic, add_critic, find_critic_start

        start, why = None, "as asked for"
        if policy.value_start == "auto":
            start, why = find_critic_start(self._work.inputs.get("reward_model"), self._model, model)
        add_critic(model, self._work.seed, start)
        begins = "with the reward model's adapter and head" if start is not None else f"at zero: {why}"
        self._work.events.note(f"the critic is an adapter and a head over the same base; it begins {begins}")
        return Critic(model, policy.value_loss)

    def _rate_of(self, name: str) -> float:
        """Return the learning rate factor of a parameter: the technique's, its part's, and the critic's own."""
        own = self._part_rate(name)
        policy = self._step.objective
        if isinstance(policy, ActorCritic):
            from luthier.tune.training.critic import is_critic_parameter

            own *= policy.value_rate if is_critic_parameter(name) else 1.0
        return own

    def _part_rate(self, name: str) -> float:
        """Return the technique's learning rate factor of a parameter, or that of its part of the model where one is
        given; a critic belongs to no part.
        """
        from luthier.tune.training.critic import is_critic_parameter

        own, part = self._technique.rate_of(name), find_part(name)
        rate = self._step.part_learning_rates.get(part)
        if rate is None or is_critic_parameter(name):
            return own
        share = rate / self._rate.value
        return share if part == "projector" else share * own  # a projector moves whole: LoRA+'s factor is not for it

    def _check_part_rates(self, model: Any) -> None:
        """Raise `RecipeError` for a learning rate of a part without trainable parameters."""
        if not self._step.part_learning_rates:
            return
        moving = {find_part(name) for name, parameter in model.named_parameters() if parameter.requires_grad}
        for part in self._step.part_learning_rates:
            if part not in moving:
                what = f"a learning rate is given for {part}, and nothing of it moves; what does: {', '.join(moving)}"
                hint = f"leave {part} out, or let it move: `on` of lora, `names` of layers"
                raise RecipeError(what, where=SourceLocation(field="part_learning_rates"), hint=hint)

    def _open(self, dtype: Any, about: ObjectiveContext) -> Any:
        """Return the plain model, with the head that the objective needs."""
        from luthier.models.load import move_to_gpu
        from luthier.models.sequence_head import add_sequence_head

        model, outputs = move_to_gpu(self._technique.open(self._model, dtype)), self._step.objective.outputs(about)
        return add_sequence_head(model, outputs) if outputs or ends_in_sequence_head(model) else model

    def _keeper(self) -> CheckpointManager:
        """Return the checkpoint manager, whose files are shared only by trainings of one technique with one
        optimizer.
        """
        from luthier.tune.training.checkpoint import CheckpointManager

        step, path = self._step, self._work.scratch / "checkpoint.safetensors"
        start = resolve_path(step.resume_from, self._work.recipe_dir) if step.resume_from is not None else None
        key = digest_of(["1", step.technique.settings(), step.optimizer.settings()])
        return CheckpointManager(path, key, start, step.save_steps)

    def _trunk_states(self, sampler: BatchSampler) -> TrunkStates | None:
        """Return stored states of trainings with the same beginning; None where there are none."""
        from luthier.tune.training.trunk_states import TrunkStates

        step, work = self._step, self._work
        if step.find_trunk_obstacle():
            return None
        if work.kept is None:
            if step.keep_trunk:
                work.events.note("the state at the end of the trunk is not kept: there is no folder for it here")
            return None
        warmup_steps = step.count_warmup_steps(sampler.steps)
        prefix = digest_prefix(step, work, self._rate.value, warmup_steps, reads_packs=self._reads_packs)
        return TrunkStates(work.kept / "states", prefix, step.keep_trunk, work.events.note)

    def _tokens(self, dataset: TokenizedDataset) -> int:
        requested = self._step.max_tokens_per_microbatch
        fits = (
            estimate_max_pack_tokens(self._step.technique, self._step.optimizer, self._description)
            if requested == "auto"
            else requested
        )
        return max(fits, dataset.longest)

    def _report_plan(self, padded: str, numbers: str, tokens: int, sampler: BatchSampler) -> None:
        """Report what was decided for the user, and why."""
        note = self._work.events.note
        note(
            f"{sampler.count} rows, {sampler.steps} steps of {sampler.batch_size} rows, in {numbers} "
            f"on {count_cores()} cores, at most {tokens} tokens at once"
        )
        rate, step = self._rate, self._step
        note(f"learning rate {rate.value:g} ({rate.why}), {step.shape}, {step.optimizer.kind}, seed {sampler.seed}")
        if padded:
            note(f"this model cannot be read packed ({padded}); rows are padded: the same result, more slowly")

    def _save(self, training: Trainer, material: TrainingData, sampler: BatchSampler) -> None:
        """Write the tuned model."""
        record = {"held_out": training.held_out, **({"stopped": training.stopped} if training.stopped else {})}
        self._write(self._work.folder, training, material, sampler, len(training.log), record)
        refuse_empty_adapter(self._work.folder)

    def _save_epochs(
        self, checkpoints: CheckpointManager, training: Trainer, material: TrainingData, sampler: BatchSampler
    ) -> None:
        """Write the model after each kept epoch to a folder, as if training had ended there."""
        from luthier.tune.training.trainer import set_weights

        for epoch in self._step.kept_epochs:
            if (saved := checkpoints.read_epoch(epoch)) is None:
                self._work.events.warning(f"epoch {epoch} did not end in this training: it is not kept")
                continue
            steps, weights = saved
            set_weights(self.trained, weights)
            held_out = training.held_out
            record = {"epoch": epoch, "held_out": held_out and {**held_out, "saved_step": steps}}
            self._write(self._work.folder / EPOCHS / str(epoch), training, material, sampler, steps, record)

    def _save_states(
        self, checkpoints: CheckpointManager, training: Trainer, material: TrainingData, sampler: BatchSampler
    ) -> None:
        """Write the kept states, with the learning rate and the rows of each step."""
        from luthier.tune.training.kept_states import write_kept_states

        kept = {
            step: tensors
            for step in self._step.choose_kept_steps(sampler.steps)
            if (tensors := checkpoints.read_kept(step)) is not None
        }
        if kept:
            rows = {
                step: [material.dataset.keys[index] for index in examples]
                for step, examples in training.iterate_steps_seen(len(training.log))
            }
            write_kept_states(self._work.folder, kept, training.log, rows, self._rate_of)

    def _write(
        self,
        folder: Path,
        training: Trainer,
        material: TrainingData,
        sampler: BatchSampler,
        steps: int,
        summary: Mapping[str, Any],
    ) -> None:
        """Write the model's current weights, and its record of `steps` steps."""
        step = self._step
        folder.mkdir(parents=True, exist_ok=True)
        self._technique.save(self.trained, folder, self._base, self._name)
        record = TrainingRecord.model_validate(
            {
                "technique": step.technique.settings(),
                "objective": step.objective.settings(),
                "optimizer": step.optimizer.settings(),
                "base": self._name,
                "steps": steps,
                "rows": sampler.count,
                "rows_seen": min(steps * sampler.batch_size, sampler.total)
                if not sampler.without
                else sum(training.count_examples_seen(steps).values()),
                "learnt_tokens": material.dataset.counts.trained_tokens,
                "trainable_parameters": training.trainable,
                "learning_rate": self._rate.value,
                "learning_rate_why": self._rate.why,
                **summary,
                **self._describe_privacy(sampler, steps),
                **step.objective.card(material.about),
            }
        )
        record.write(folder)
        lines = training.log[:steps]
        (folder / "log.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        saved = (summary["held_out"] or {}).get("saved_step", steps)
        material.write_learnt(
            folder / "training_examples.parquet",
            training.count_examples_seen(steps),
            training.count_examples_seen(saved),
        )
