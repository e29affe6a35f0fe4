"""The step `tune`: fine-tunes a model with a technique and an objective on the training rows of a data set."""

from __future__ import annotations

import gc
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from luthier.artifacts.dataset import DatasetSummary, has_split, read_example_batches
from luthier.chat.speech import SPEECH_TYPES
from luthier.core.component import BasicMarker
from luthier.core.errors import DataError, ModelError, SourceLocation
from luthier.core.files import PathText, resolve_path
from luthier.core.hashing import digest_of, file_digest
from luthier.core.param_space import ParamDistribution
from luthier.core.step import (
    ArtifactSpec,
    DataRef,
    ModelRef,
    NotHashed,
    PlanContext,
    Reads,
    Step,
    StepContext,
    StepCostEstimate,
    TeacherRef,
    TrainingWorkload,
)
from luthier.models.cost import describe_step_model, has_sequence_head
from luthier.models.describe import ModelDescription, describe_model_folder
from luthier.models.load import find_base_folder, is_remote_input, require_planned_weights
from luthier.models.shapes import ModelPart
from luthier.tune.dataset.tool_rows import refuse_planned_tool_rows, refuse_tool_rows
from luthier.tune.dataset.validation import ValidationSettings
from luthier.tune.forecast import describe_training_workload, estimate_cost, predict_tuned_model
from luthier.tune.low_rank import LowRankTechnique
from luthier.tune.objective import Objective
from luthier.tune.objectives.sft import Sft
from luthier.tune.optimizer import Optimizer
from luthier.tune.optimizers.adamw import AdamW
from luthier.tune.policy import ActorCritic, PolicyObjective
from luthier.tune.privacy.settings import Privacy, find_privacy_obstacle
from luthier.tune.technique import LearningRate, StandaloneTechnique, Technique, TechniqueBase, rate_for_model
from luthier.tune.techniques.lora import Lora
from luthier.tune.tracker import Tracker
from luthier.tune.training.loss_spikes import Answer
from luthier.tune.training.schedule import DECAY, Curriculum, Shape, choose_used_examples, count_warmup_steps
from luthier.tune.training.trunk import count_steps, find_trunk_obstacle, shorten_training

if TYPE_CHECKING:
    from luthier.chat.messages import Example


LARGE = 64 << 20
"""Model size in bytes from which unused memory of a training is tracked."""


class Tune(Step):
    """Fine-tune a model on the training rows of a data set."""

    kind: Literal["tune"] = "tune"
    makes: ClassVar[str] = "model"
    tells_of_machine: ClassVar[bool] = True
    checkpoints: ClassVar[tuple[str, ...]] = (
        "checkpoint.safetensors",
        "best.safetensors",
        "epoch-*.safetensors",
        "state-*.safetensors",
        "hosted.json",
        "answers/*.json",
    )
    other_names: ClassVar[Mapping[str, str]] = {
        "lr": "learning_rate",
        "mm_projector_lr": "part_learning_rates",
        "vision_tower_lr": "part_learning_rates",
        "num_train_epochs": "epochs",
        "num_epochs": "epochs",
        "n_epochs": "epochs",
        "num_training_steps": "max_steps",
        "total_steps": "max_steps",
        "num_warmup_steps": "warmup_steps",
        "train_batch_size": "batch_size",
        "per_device_train_batch_size": "batch_size",
        "effective_batch_size": "batch_size",
        "micro_batch_size": "max_tokens_per_microbatch",
        "gradient_clipping": "max_grad_norm",
        "gradient_clip_val": "max_grad_norm",
        "lr_scheduler_type": "lr_scheduler",
        "optim": "optimizer",
        "torch_dtype": "dtype",
        "bf16": "dtype",
        "resume_from_checkpoint": "resume_from",
        "eval_dataset": "validation",
        "method": "technique",
        "peft": "technique",
        "peft_config": "technique",
        "adapter": "technique",
        "loss": "objective",
        "loss_type": "objective",
        "base_model": "model",
        "model_name_or_path": "model",
        "dataset": "data",
        "train_dataset": "data",
    }

    data: DataRef
    """The step whose rows are learnt."""
    model: ModelRef = None
    """The step whose model is tuned; the recipe's own model when not given. `technique: plain` needs none."""
    teacher: TeacherRef = None
    """The teacher model, under an objective that has one (`distil`); none otherwise."""
    reward_model: TeacherRef = None
    """The step whose reward model scores completions, under an objective with the reward `model`; none otherwise."""
    gold_model: TeacherRef = None
    """The step whose reward model the reward `model` uses within `gold`, for held-out completions: one that the policy
    is never trained on. The `reward_model` when not given."""
    technique: TechniqueBase = Lora()
    """What changes: which weights move, or (`prompt_search`) which words stand in front; or (`plain`) that a classifier
    without a network is made."""
    objective: Objective = Sft()
    """What is wanted of the model."""
    epochs: Annotated[float, BasicMarker()] = Field(default=1.0, gt=0, le=1000)
    """How often each row is seen. One pass over fresh rows learns most for its time; two to four for small sets."""
    max_steps: int | None = Field(default=None, ge=1)
    """Number of steps after which training ends, if the epochs have more. The learning rate schedule has this length;
    the order of the rows is that of the whole training."""
    save_epochs: int = Field(default=0, ge=0)
    """Number of epochs before the last one, counted backwards, after which the weights are kept as well: the step
    `epoch` makes a model of each. Held-out rows are measured there, too."""
    keep_states: int = Field(default=0, ge=0, le=1000)
    """Number of states kept in `states/`, evenly spaced, the last one at the end: the trainable weights, their second
    moments and learning rate, and the rows of each step. The step `influence` reads them."""
    without: tuple[str, ...] | PathText = ()
    """Ids of training rows, or a file with one a line, that have no weight in a training with the same seed, steps and
    order: what the model would be without them. Their positions in the order stay empty, and averages of a step are
    taken over its other rows."""
    max_train_samples: int | None = Field(default=None, ge=1)
    """How many training rows are used, drawn by the seed; all of them when not given."""
    batch_size: Annotated[int, BasicMarker()] = Field(default=32, ge=1)
    """Rows that each update averages over: 32 is small enough to learn from few rows (small batches generalise well and
    LoRA suffers from large ones, "LoRA Without Regret") and large enough to share long prefixes."""
    seed: int | None = Field(default=None, ge=0, lt=2**32)
    """The seed of this training alone, for several trainings on the same data; the recipe's when not given."""
    curriculum: Curriculum | None = None
    """The order of the rows; a random order in each epoch when not given."""
    learning_rate: Annotated[Annotated[float, Field(gt=0)] | Literal["auto"], BasicMarker()] = "auto"
    """Size of the updates at their height; `auto` follows the technique, the width of the model and the
    objective: preferences are learnt at a twentieth of the rate of answers, as by TRL's defaults."""
    part_learning_rates: Mapping[ModelPart, Annotated[float, Field(gt=0)]] = {}
    """Learning rates of parts of a model that reads images or audio, by name: `{projector: 1.0e-3, vision: 2.0e-6}` as
    in LLaVA. Other parts have `learning_rate`."""
    optimizer: Optimizer = AdamW()
    """How gradients become updates."""
    lr_scheduler: Shape | Literal["auto"] = "auto"
    """The shape of the learning rate after the warm-up: a linear decay to zero (best in Defazio et al., 2023), a
    cosine, constant, or constant with a decay at the end (`wsd`: warm-up, stable, decay). `auto`: linear; constant
    where the optimizer averages the weights itself."""
    warmup_ratio: float = Field(default=0.03, ge=0, lt=1)
    """Share of all steps over which the learning rate rises from zero."""
    warmup_steps: int | None = Field(default=None, ge=0)
    """Warm-up as a number of steps, in place of `warmup_ratio`: it does not depend on the length of the training."""
    decay: float | None = Field(default=None, gt=0, le=1)
    """Share of all steps over which `wsd` decays; a fifth when not given, which is as good as a cosine (Hägele et al.,
    2024)."""
    max_grad_norm: float | None = Field(default=1.0, gt=0)
    """Maximum norm of the whole gradient; larger ones are scaled down to it. None: no limit."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Dtype of the model's computation; trainable weights are always kept in fp32. `auto`: bfloat16 where the processor
    supports it."""
    max_tokens_per_microbatch: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    """Tokens of a microbatch; a step with more is split, with the same gradient. `auto`: what fits into memory."""
    parts: Annotated[int, Field(ge=1, le=4096)] | Literal["auto"] = 1
    """Number of parts into which the rows of each step are divided, each packed and computed by one thread. At most
    this many processes compute a step, and their number changes no byte. Prefixes that rows of several parts share are
    computed again. `auto`: the largest power of two that computes at most 5 % more. 1: rows are packed together, and
    one process uses all cores."""
    processes: Annotated[int, Field(ge=1, le=256), NotHashed()] = 1
    """Processes on this machine that compute the parts of each step together, at most one for each part. Other machines
    take part through torchrun's environment variables, as jobs of an executor have them."""
    save_steps: Annotated[int | None, Field(ge=1), NotHashed()] = None
    """Steps between checkpoints; when not given, chosen such that writing takes at most 2 % of the time."""
    keep_trunk: Annotated[bool, NotHashed()] = False
    """Keep the state before the learning rate falls (`wsd`), or before the last step (`constant`), in the store: a
    training that differs in `max_steps`, `epochs` or `decay` alone, and is as long, goes on from there, and ends in the
    same bytes as without. Give the warm-up in `warmup_steps` and `validation.every` in steps."""
    validation: ValidationSettings | None = None
    """Rows that are held out of training and measured during it: a validation curve, early stopping, and the best
    weights in place of the last. Nothing is held out when not given."""
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Saves an exponential moving average of the weights in place of the last ones; this is its decay (0.99 to 0.999;
    less in the first steps). Steadier where the learning rate does not decay to zero."""
    loss_spike: float = Field(default=10.0, gt=0)
    """Height of a loss spike: this many robust standard deviations (1.4826 times the median absolute deviation) over
    the median of the last 128 steps, and at least three times the highest loss of the first 32."""
    on_loss_spike: Answer = "stop"
    """Whether a loss spike stops the training, keeping the state before it, is skipped (`skip`; after ten in a row
    training stops), or is ignored (`off`). A loss that is not finite always stops the training, or is skipped."""
    privacy: Privacy | None = None
    """Differential privacy of the training rows: steps include each unit at random, clip its gradient, and add the
    noise that epsilon needs. The noise differs from run to run; a resumed run keeps its own. What is written next to
    the weights (log, rows, held-out measures) is not covered, and the names of classes count as public. None when not
    given."""
    resume_from: PathText | None = None
    """A state that another training stopped at (its error names the file): weights, moments, log and step are taken
    from it, and training continues with these settings, such as a lower `learning_rate`."""
    report_to: Annotated[tuple[Tracker, ...], NotHashed()] = ()
    """Experiment trackers that receive the metrics of each step; none by default."""

    @model_validator(mode="after")
    def _teacher_agrees(self) -> Self:
        if self.objective.needs_teacher and self.teacher is None:
            raise ValueError(f"{self.objective.kind} learns from a `teacher`; name the step that makes that model")
        if self.teacher is not None and not self.objective.needs_teacher:
            raise ValueError(f"{self.objective.kind} has no teacher; leave `teacher` out, or learn by distil")
        return self

    @model_validator(mode="after")
    def _epochs_agree(self) -> Self:
        if self.save_epochs >= math.ceil(self.epochs) and self.save_epochs:
            before = math.ceil(self.epochs) - 1
            what = f"the last epoch is kept anyway, and {before} end before it, got save_epochs {self.save_epochs}"
            raise ValueError(f"{what}; leave it out" if not before else f"{what}; at most {before}")
        return self

    @model_validator(mode="after")
    def _parts_agree(self) -> Self:
        if self.parts != "auto" and self.processes > self.parts:
            what = f"{self.processes} processes have {self.parts} part{'s' * (self.parts > 1)} of each step to compute"
            raise ValueError(f"{what}; set parts to {self.processes} or more, or to auto")
        if self.parts == "auto" and self.objective.draws:
            what = f"{self.objective.kind} writes its rows on the way, so nothing can be counted before"
            raise ValueError(f"{what}; give parts as a number")
        return self

    @model_validator(mode="after")
    def _keeps_private(self) -> Self:
        if self.privacy is not None and (obstacle := find_privacy_obstacle(self)):
            raise ValueError(f"privacy does not go with this {obstacle[0]}: {obstacle[1]}")
        return self

    @model_validator(mode="after")
    def _policy_agrees(self) -> Self:
        """Refuse settings that an objective with rollouts lacks, and settings without effect under it."""
        policy = self.objective if isinstance(self.objective, PolicyObjective) else None
        gold = policy is not None and any(reward.needs_model for reward in policy.gold)
        if self.gold_model is not None and not gold:
            raise ValueError("nothing asks a gold_model here; leave it out, or set `gold: [model]` in the objective")
        judged = policy is not None and any(reward.needs_model for reward in policy.rewards)
        judged = judged or (gold and self.gold_model is None)
        if judged != (self.reward_model is not None):
            raise ValueError(
                "the reward `model` asks a `reward_model`; name the step that makes it" if judged
                else "nothing asks a reward_model here; leave it out, or give the objective the reward `model`"
            )  # fmt: skip
        if policy is None:
            return self
        if isinstance(policy, ActorCritic) and not isinstance(self.technique, LowRankTechnique):
            what = f"the critic of {policy.kind} is a low-rank adapter beside the policy's, over one frozen base"
            raise ValueError(f"{what}; tune by lora or qlora, or take an objective without one (grpo, rloo)")
        if policy.rollout.writer is not None and getattr(policy, "correct", 1.0) is None:
            raise ValueError("answers of another writer are learnt with `correct`: leave it at 2, or set a bound")
        if self.technique.settings().get("lora_dropout"):
            raise ValueError(f"{policy.kind} learns without dropout, by which answers would be others; leave it out")
        if self.loss_spike != type(self).model_fields["loss_spike"].default:
            raise ValueError(
                f"the loss of {policy.kind} has no level that a spike could rise above; leave loss_spike out"
            )
        if self.validation is not None and self.validation.metric != "loss":
            raise ValueError("held-out answers of a policy are judged by its rewards, or by `gold`; leave metric out")
        if self.validation is None and (policy.gold or policy.stop.hacking):
            raise ValueError(f"{'gold' if policy.gold else 'stop.hacking'} needs `validation`: answers to judge by it")
        return self

    @model_validator(mode="after")
    def _without_agrees(self) -> Self:
        named = [name for name, given in (("without", self.without), ("keep_states", self.keep_states)) if given]
        if named and self.objective.draws:
            what = f"{self.objective.kind} learns from answers that it draws, and without a row it draws others"
            raise ValueError(f"{what}; leave {named[0]} out")
        return self

    def read_without(self, recipe_dir: Path) -> tuple[str, ...]:
        """Return the ids of the rows without weight."""
        if isinstance(self.without, tuple):
            return self.without
        path = resolve_path(self.without, recipe_dir)
        try:
            lines = path.read_text(encoding="utf-8").split()
        except (OSError, UnicodeDecodeError) as error:
            where = SourceLocation(file=str(path), field="without")
            raise DataError("cannot be read as a file of ids", where=where, hint="write one id a line") from error
        return tuple(lines)

    @model_validator(mode="after")
    def _schedule_agrees(self) -> Self:
        if self.optimizer.averages and self.lr_scheduler not in ("auto", "constant"):
            words = f"{self.optimizer.kind} averages the weights itself and wants a constant learning rate"
            raise ValueError(f"{words}, got lr_scheduler {self.lr_scheduler!r}; leave it out, or write constant")
        if self.decay is not None and self.lr_scheduler != "wsd":
            raise ValueError(
                f"decay belongs to `lr_scheduler: wsd`, got {self.lr_scheduler!r}; leave it out, or write wsd"
            )
        if self.warmup_steps is not None and self.warmup_ratio != type(self).model_fields["warmup_ratio"].default:
            raise ValueError(f"warmup_steps {self.warmup_steps} stands in place of warmup_ratio; leave one of them out")
        if self.warmup_steps is not None:
            return self
        if self.lr_scheduler == "wsd" and (both := self.warmup_ratio + (self.decay or DECAY)) > 1:
            raise ValueError(f"warmup_ratio and decay are {both:g} of all steps together; at most 1")
        return self

    @model_validator(mode="after")
    def _keeps_a_trunk(self) -> Self:
        if self.keep_trunk and (why := self.find_trunk_obstacle()):
            raise ValueError(f"keep_trunk changes nothing here: {why}; leave it out")
        return self

    def find_trunk_obstacle(self) -> str:
        """Return why a longer training cannot resume from a state of this one; empty when it can."""
        return find_trunk_obstacle(self)

    def count_steps(self, rows: int) -> int:
        """Return the optimizer steps for `rows` training rows; 0 under a technique without steps."""
        return count_steps(self, rows)

    def count_warmup_steps(self, steps: int) -> int:
        """Return the warm-up steps of a training of `steps` steps."""
        return self.warmup_steps if self.warmup_steps is not None else count_warmup_steps(steps, self.warmup_ratio)

    def at_share(self, share: float, rows: int) -> Tune:
        """Return the training shortened to a share (0, 1] of its steps for `rows` training rows; the step itself for 1.

        It has the warm-up steps of the whole training, measures at the same steps, decays at its own end (`wsd`; a
        constant rate stays constant), and keeps its trunk where it has one, so that a training with a larger share
        continues from there. A technique without steps gets a share of its own budget, or of the rows. `ValueError` for
        any other share.
        """
        return shorten_training(self, share, rows)

    @property
    def kept_epochs(self) -> range:
        """The epochs (from 1) before the last one after which the weights are kept."""
        last = math.ceil(self.epochs)
        return range(last - self.save_epochs, last)

    def choose_kept_steps(self, steps: int) -> list[int]:
        """Return the steps (from 1) after which a state is kept, the last step included."""
        number = min(self.keep_states, steps)
        return [round(steps * (at + 1) / number) for at in range(number)]

    @property
    def shape(self) -> Shape:
        """The learning rate schedule."""
        if self.lr_scheduler == "auto":
            return "constant" if self.optimizer.averages else "linear"
        return self.lr_scheduler

    def make(self, work: StepContext) -> Mapping[str, Any]:
        """Write adapter, whole model, prompt or classifier, `training.json`, `training_examples.parquet`, and the log
        of steps or candidates.
        """
        if self.seed is not None:
            work = replace(work, seed=self.seed)
        if "model" in work.inputs:
            refuse_tool_rows(work.inputs["data"], work.inputs["model"])
        if isinstance(self.technique, Technique):
            from luthier.tune.run import TrainingRun

            measures = TrainingRun(self, self.technique, work).run()
            if describe_model_folder(find_base_folder(work.inputs["model"])).weight_bytes > LARGE:
                gc.collect()  # layers and what was hung on them hold one another: the next step has the room
            return measures
        assert isinstance(self.technique, StandaloneTechnique), "a technique trains weights or stands alone"
        return self.technique.fit(work, self.examples(work), self.dtype)

    @property
    def takes_ranks(self) -> bool:
        """Whether several ranks can compute it: where steps have parts."""
        return self.parts != 1 and isinstance(self.technique, Technique)

    def follow(self, work: StepContext) -> None:
        """Compute parts of the training that rank 0 leads; `RankLost` when it ends."""
        from luthier.tune.run import TrainingRun
        from luthier.tune.training.group import RankGroup, RankLost, connect_job_ranks

        def fail(error: RankLost) -> RankGroup:
            raise error

        assert isinstance(self.technique, Technique), "only a technique that trains weights has steps"
        work = work if self.seed is None else replace(work, seed=self.seed)
        TrainingRun(self, self.technique, work).follow(connect_job_ranks, fail)

    def estimate_cost(self, plan_context: PlanContext) -> StepCostEstimate:
        """Estimate the cost from the size of data and model and the speed of this machine; refuse what cannot run."""
        refuse_planned_tool_rows(plan_context)
        if isinstance(self.technique, StandaloneTechnique):
            return self.technique.estimate_cost(plan_context, self.max_train_samples)
        for field in ("model", "teacher"):
            require_planned_weights(plan_context, field)
        if has_sequence_head(plan_context) and not self.objective.wants_head():
            what = "the model names classes, or gives a number, by a head of its own"
            what = f"{what}, and {self.objective.kind} wants one that writes text"
            raise ModelError(
                what, where=SourceLocation(field="model"), hint="begin with the model that it was tuned from"
            )
        if (model := describe_step_model(plan_context)) is not None:
            self.agree(model)
        return estimate_cost(self, plan_context)

    def describe_training(self, plan_context: PlanContext) -> TrainingWorkload | None:
        """Describe the computation; None where a technique trains no network here."""
        if isinstance(self.technique, StandaloneTechnique) or is_remote_input(plan_context):
            return None
        return describe_training_workload(self, plan_context)

    def outline(self, plan_context: PlanContext) -> ArtifactSpec:
        """Predict the size of the base model."""
        if isinstance(self.technique, StandaloneTechnique):
            return self.technique.outline(plan_context)
        artifact = plan_context.inputs.get("model")
        base = (
            describe_model_folder(find_base_folder(artifact))
            if artifact is not None and not is_remote_input(plan_context)
            else None
        )
        merging, headed = self.technique.merges(base), self.objective.wants_head()
        return replace(predict_tuned_model(plan_context), merging=merging, headed=headed)

    @model_validator(mode="after")
    def _each_setting_matters(self) -> Self:
        """Refuse settings of the trainer under a technique without one."""
        if not isinstance(self.technique, StandaloneTechnique):
            return self
        for name, field in type(self).model_fields.items():
            if name == "model" and self.technique.needs_model:
                continue
            if name not in self.technique.used and getattr(self, name) != field.get_default(call_default_factory=True):
                kind = self.technique.kind
                raise ValueError(f"{name} changes nothing under {kind}, which trains no network; leave it out")
        return self

    def inputs(self) -> dict[str, Reads]:
        """Leave the recipe's own model out under a technique that reads no base model."""
        return {name: mark for name, mark in self.reads().items() if name != "model" or self.technique.needs_model}

    def fingerprint(self, recipe_dir: Path) -> str | None:
        """Return the contents of the resumed state, and of the file of rows without weight."""
        paths = [path for path in (self.resume_from, self.without) if path and not isinstance(path, tuple)]
        digests = [file_digest(resolve_path(path, recipe_dir)) for path in paths]
        return digests[0] if len(digests) == 1 else digest_of(digests) if digests else None

    def rate_for(self, technique: Technique, model: ModelDescription) -> LearningRate:
        """Return the learning rate, and why it was chosen."""
        if self.learning_rate == "auto":
            rate, share = self.optimizer.rate(rate_for_model(technique, model)), self.objective.rate_share
            why = rate.why if share == 1 else f"{rate.why}; times {share:g} for {self.objective.kind}"
            return LearningRate(float(f"{rate.value * share:.3g}"), why)
        return LearningRate(self.learning_rate, "as given")

    def examples(self, work: StepContext) -> list[Example]:
        """Return the training rows that are used, in source order."""
        data = work.inputs["data"]
        if not has_split(data, "train"):
            raise DataError("the data set has no training rows", where=SourceLocation(field="data"))
        indices = choose_used_examples(work.seed, DatasetSummary.read(data).rows["train"], self.max_train_samples)
        return [example for some in read_example_batches(data, "train", indices) for example in some]

    def agree(self, model: ModelDescription) -> None:
        """Raise `ModelError` when the technique cannot train the objective on this model."""
        why = self.technique.refuses(self.objective.kind, model)
        if not why and model.model_type in SPEECH_TYPES:
            why = _refuses_speech(self.technique.kind, wants_head=self.objective.wants_head())
        if why:
            what = f"{self.technique.kind} and {self.objective.kind} do not go together: {why}"
            raise ModelError(
                what, where=SourceLocation(field="technique"), hint="choose another technique or objective"
            )

    def hashed_settings(self) -> dict[str, Any]:
        """Leave defaults of newer settings out, so that trainings without them keep their artifact name."""
        settings = super().hashed_settings()
        usual = {
            "parts": self.parts == 1,
            "keep_states": not self.keep_states,
            "without": not self.without,
            "part_learning_rates": not self.part_learning_rates,
        }
        return {name: value for name, value in settings.items() if not usual.get(name)}

    def search_space(self) -> Mapping[str, ParamDistribution]:
        """The technique's learning rates scaled to objective and optimizer, epochs, and the batch size; empty where no
        network is trained.
        """
        if isinstance(self.technique, StandaloneTechnique):
            return {}
        found = {
            "epochs": ParamDistribution(values=(1.0, 2.0, 3.0, 4.0)),
            "batch_size": ParamDistribution(values=(8, 16, 32, 64)),
        }
        if (rates := self.technique.search_space().get("learning_rate")) is None:
            return found
        ends = (LearningRate(end * self.objective.rate_share, "") for end in (rates.low, rates.high))
        low, high = (self.optimizer.rate(end).value for end in ends)
        return {"learning_rate": replace(rates, low=low, high=high), **found}


def _refuses_speech(technique: str, *, wants_head: bool) -> str:
    """Return what a speech recognition model cannot be trained on; empty for all else."""
    if technique in ("prompt", "p_tuning", "prefix"):
        return "the virtual tokens of a pack would attend to one sound, and its rows have different ones"
    return "a model that transcribes has no head for classes or rewards" if wants_head else ""
