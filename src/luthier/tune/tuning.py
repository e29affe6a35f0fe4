"""One making of a tuned model: rows, model, loop, and the files that come of it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.core.digest import digest_of
from luthier.core.paths import locate
from luthier.core.process import release_memory
from luthier.core.step import Work
from luthier.models.describe import describe
from luthier.models.speed import cores
from luthier.text.prompt import Prompt
from luthier.text.training import TrainingRecord
from luthier.tune.actor_critic import ActorCritic
from luthier.tune.cost import operations_of
from luthier.tune.material import Material
from luthier.tune.memory import tokens_that_fit
from luthier.tune.objective import About
from luthier.tune.rendered import write_rendered
from luthier.tune.saved import EPOCHS, refuse_idle
from luthier.tune.schedule import DECAY, Course
from luthier.tune.speed import Speed
from luthier.tune.technique import Technique
from luthier.tune.watching import Watching

if TYPE_CHECKING:
    from luthier.tune.checkpoint import Keeper
    from luthier.tune.critic import Critic
    from luthier.tune.lessons import Lessons
    from luthier.tune.loop import Training
    from luthier.tune.steps.tune import Tune


def _clocks() -> tuple[float, float]:
    """Seconds by the clock and of the processors."""
    return time.perf_counter(), time.process_time()


class Tuning:
    """One making of a tuned model."""

    def __init__(self, step: Tune, technique: Technique, work: Work) -> None:
        from luthier.models.load import base_folder, name_of

        self._step, self._technique, self._work = step, technique, work
        self._model = work.inputs["model"]
        self._base = base_folder(self._model)
        self._name = name_of(self._model)
        self._description = describe(self._base)
        step.agree(self._description)
        self._rate = step.rate_for(technique, self._description)
        self._before = [0.0, 0.0]
        """What the technique took before the first step."""

    def run(self) -> dict[str, Any]:
        """Rows, model, loop, files; returns measures."""
        begun = _clocks()  # the first imports here load torch
        from luthier.models.load import pick_dtype
        from luthier.models.lora_product import own_forward
        from luthier.text.ids import Text

        text = Text.load(self._base, before=Prompt.of(self._model))
        for sentence in text.notes:
            self._work.events.note(sentence)
        material, step = Material(self._step, self._work, text), self._step
        course = material.course
        training, keeper = self._prepare(material, course)
        wall, cpu = (now - then for now, then in zip(_clocks(), begun, strict=True))
        begin = {"begin_s": wall - self._before[0], "begin_cpu_s": cpu - self._before[1]}
        bits, headed = 8 * pick_dtype(step.precision).itemsize, step.objective.wants_head()
        operations = operations_of(self._description, training.trainable, bits=bits, headed=headed)
        speed = Speed(self._work, course, operations)
        settings = {**step.deciding(), "learning_rate": self._rate.value, "seed": self._work.seed}
        with Watching(step.trackers, self._work, settings, speed) as told:
            self._warn_unmoved(training.run(keeper, told, self._work.events.note), course)
        own_forward(self.trained)
        self._save(training, material, course)
        write_rendered(self._work.folder, material, step, text)
        self._save_epochs(keeper, training, material, course)
        aside = {"held_out_s": training.held_out_s, "checkpoint_s": keeper.spent_s}
        desk = material.desk
        drawing_s = desk.drawing_s if desk is not None else 0.0
        rates = speed.measures(sum(aside.values()), drawing_s)
        if any(parameter.device.type != "cpu" for parameter in self.trained.parameters()):
            del rates["flops_per_cpu_s"]  # a processor's time tells nothing of an accelerator's
        drawn = {"writing_s": desk.writing_s, "judging_s": desk.judging_s} if desk is not None else {}
        if desk is not None and desk.drawn and desk.writer is None:
            drawn["drawing_flops_per_s"] = desk.drawn * 2 * self._description.parameters / desk.drawing_s
        sizes = {"parameters": self._description.parameters, "bits_a_number": bits}
        return {**rates, **aside, **drawn, **begin, **sizes}

    def _warn_unmoved(self, names: list[str], course: Course) -> None:
        if names and course.steps > 1:  # at the first step LoRA's A stands still, since B is zero
            self._work.events.warning(f"{len(names)} parameters did not move, {names[0]} among them")

    def _prepare(self, material: Material, course: Course) -> tuple[Training, Keeper]:
        import torch

        from luthier.models.kernels.calls import how_computed
        from luthier.models.load import pick_dtype
        from luthier.models.logprobs import forget, reading
        from luthier.models.lora_product import one_product
        from luthier.models.quiet import no_peft_warning
        from luthier.tune.loop import Manner, Training
        from luthier.tune.rehearsal import packs_of

        torch.set_num_threads(cores())
        step = self._step
        dtype = pick_dtype(step.precision)
        plain = self._open(dtype, material.about)
        if step.objective.needs_reference:
            material.refer(plain, course)
            forget(plain)
        with no_peft_warning():
            model = self._technique.adapt(plain, self._work.seed)
        self._technique.check_saved(model)
        critic = self._critic(model)
        tokens = self._tokens(material.lessons)
        begun = _clocks()
        self._technique.begin(model, packs_of(material.lessons, course, tokens))
        self._before = [now - then for now, then in zip(_clocks(), begun, strict=True)]
        one_product(model)
        release_memory()
        how = reading(model)
        if remark := self._technique.remark(self._description):
            self._work.events.note(remark)
        numbers = str(dtype).removeprefix("torch.") + how_computed(model)
        self._say(how.why, numbers, tokens, course)
        manner = Manner(
            rate=self._rate.value,
            schedule=step.shape,
            warmup=step.warmup,
            decay=step.decay or DECAY,
            optimizer=step.optimizer,
            clip=step.clip,
            tokens_per_pack=tokens,
            ema=step.ema,
            spike=step.spike,
            on_spike=step.on_spike,
            rate_of=self._rate_of,
            epochs=step.kept_epochs,
        )
        self.trained = model
        source = material.source(model, tokens, critic)
        training = Training(model, step.objective, source, course, manner, material.watch, material.teacher, critic)
        return training, self._keeper()

    def _critic(self, model: Any) -> Critic | None:
        """The critic that the objective needs, over the same base; it is said with what it begins."""
        policy = self._step.objective
        if not isinstance(policy, ActorCritic):
            return None
        from luthier.tune.critic import Critic, add_critic, start_of

        start, why = None, "as asked for"
        if policy.value_start == "auto":
            start, why = start_of(self._work.inputs.get("reward_model"), self._model, model)
        add_critic(model, self._work.seed, start)
        begins = "with the reward model's adapter and head" if start is not None else f"at zero: {why}"
        self._work.events.note(f"the critic is an adapter and a head over the same base; it begins {begins}")
        return Critic(model, policy.value_loss)

    def _rate_of(self, name: str) -> float:
        """The factor on a parameter's learning rate: the technique's, and the critic's own."""
        own = self._technique.rate_of(name)
        policy = self._step.objective
        if isinstance(policy, ActorCritic):
            from luthier.tune.critic import is_critics

            own *= policy.value_rate if is_critics(name) else 1.0
        return own

    def _open(self, dtype: Any, about: About) -> Any:
        """The plain model to be made trainable, under the head that the objective needs."""
        from luthier.models.load import placed
        from luthier.models.sequence import is_sequence, with_outputs

        model, outputs = placed(self._technique.open(self._model, dtype)), self._step.objective.outputs(about)
        return with_outputs(model, outputs) if outputs or is_sequence(model) else model

    def _keeper(self) -> Keeper:
        """Keeps states under a name that only trainings of one technique with one optimizer share."""
        from luthier.tune.checkpoint import Keeper

        step, place = self._step, self._work.scratch / "checkpoint.safetensors"
        start = locate(step.continues, self._work.base) if step.continues is not None else None
        key = digest_of(["1", step.technique.settings(), step.optimizer.settings()])
        return Keeper(place, key, start, step.checkpoint_steps)

    def _tokens(self, lessons: Lessons) -> int:
        wanted = self._step.tokens_per_pack
        fits = (
            tokens_that_fit(self._step.technique, self._step.optimizer, self._description)
            if wanted == "auto"
            else wanted
        )
        return max(fits, lessons.longest)

    def _say(self, padded: str, numbers: str, tokens: int, course: Course) -> None:
        """What was decided for the user, and why."""
        note = self._work.events.note
        note(
            f"{course.count} rows, {course.steps} steps of {course.rows_per_step} rows, in {numbers} "
            f"on {cores()} cores, at most {tokens} tokens at once"
        )
        rate, step = self._rate, self._step
        note(f"learning rate {rate.value:g} ({rate.why}), {step.shape}, {step.optimizer.kind}, seed {course.seed}")
        if padded:
            note(f"this model cannot be read packed ({padded}); rows are padded: the same result, more slowly")

    def _save(self, training: Training, material: Material, course: Course) -> None:
        """What comes of it."""
        told = {"held_out": training.held_out, **({"stopped": training.stopped} if training.stopped else {})}
        self._write(self._work.folder, training, material, course, len(training.log), told)
        refuse_idle(self._work.folder)

    def _save_epochs(self, keeper: Keeper, training: Training, material: Material, course: Course) -> None:
        """The model after each epoch that is kept, in a folder as if training had ended there."""
        from luthier.tune.average import put

        for epoch in self._step.kept_epochs:
            if (found := keeper.read_epoch(epoch)) is None:
                self._work.events.warning(f"epoch {epoch} did not end in this training: it is not kept")
                continue
            steps, weights = found
            put(self.trained, weights)
            held_out = training.held_out
            told = {"epoch": epoch, "held_out": held_out and {**held_out, "saved_step": steps}}
            self._write(self._work.folder / EPOCHS / str(epoch), training, material, course, steps, told)

    def _write(
        self, folder: Path, training: Training, material: Material, course: Course, steps: int, told: Mapping[str, Any]
    ) -> None:
        """The weights that the model has now, and what is told of so many steps."""
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
                "rows": course.count,
                "rows_seen": min(steps * course.rows_per_step, course.total),
                "learnt_tokens": material.lessons.counts.learnt,
                "trainable_parameters": training.trainable,
                "learning_rate": self._rate.value,
                "learning_rate_why": self._rate.why,
                **told,
                **step.objective.card(material.about),
            }
        )
        record.write(folder)
        lines = training.log[:steps]
        (folder / "log.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        saved = (told["held_out"] or {}).get("saved_step", steps)
        material.write_learnt(folder / "learnt.parquet", training.seen(steps), training.seen(saved))
