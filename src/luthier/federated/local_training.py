"""One round of training at one site: a slice of a training that spans all rounds, from given weights.

A site's training is a plain one over its rows: the same order, and a learning rate schedule over all rounds together. A
round trains its slice from the given weights, with fresh moments.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from luthier.core.artifact import Artifact
from luthier.core.errors import DataError, SourceLocation
from luthier.core.hashing import digest_of
from luthier.core.step import StepContext
from luthier.federated.aggregator import DOWN, UP, Aggregator, Factors, GlobalWeights
from luthier.federated.errors import MessageError
from luthier.federated.messaging.messages import check_weights, digest_message, pack_tensors, pack_weights
from luthier.federated.privacy import PrivacySpending
from luthier.tune.dataset.training_data import TrainingData
from luthier.tune.model_files import refuse_empty_adapter
from luthier.tune.objective import ObjectiveContext
from luthier.tune.privacy.sampler import PoissonSampler
from luthier.tune.run import TrainingRun
from luthier.tune.steps.tune import Tune
from luthier.tune.technique import LearningRate, Technique
from luthier.tune.training.schedule import BatchSampler, Shape, compute_lr_factor

if TYPE_CHECKING:
    from torch import Tensor

    from luthier.chat.tokenizer import ChatTokenizer
    from luthier.tune.training.checkpoint import CheckpointManager
    from luthier.tune.training.gradient_pull import GradientPull
    from luthier.tune.training.memory import ProbedMemory
    from luthier.tune.training.trainer import StepMetrics


@dataclass(frozen=True, kw_only=True)
class RoundSampler(BatchSampler):
    """The steps of one round out of those of all rounds."""

    offset: int = 0
    """Steps of the rounds before."""
    length: int = 0
    """Steps of this round."""
    order_seed: int = 0
    """Decides the order of the rows; `seed` also decides dropout, and differs between rounds."""

    @classmethod
    def for_round(cls, whole: BatchSampler, round_number: int, rounds: int) -> RoundSampler:
        """Return the sampler of a round (from 0) of `rounds`; `DataError` when it would have no step."""
        begin, end = (whole.steps * number // rounds for number in (round_number, round_number + 1))
        if begin == end:
            what = (
                f"{whole.count} rows make {whole.steps} steps of {whole.batch_size} rows, too few for {rounds} rounds"
            )
            hint = "set fewer rounds, a smaller batch_size, more local epochs, or steps in `local`"
            raise DataError(what, where=SourceLocation(field="rounds"), hint=hint)
        own = {entry.name: getattr(whole, entry.name) for entry in fields(whole)}
        kind = cls
        if isinstance(whole, PoissonSampler):
            kind, own["key"] = PrivateRoundSampler, whole.key.derive(f"round/{round_number}")
        seed = whole.seed if not round_number else int(digest_of([whole.seed, round_number])[:8], 16)
        return kind(**{**own, "seed": seed}, offset=begin, length=end - begin, order_seed=whole.seed)

    @property
    def steps(self) -> int:
        """Steps of this round."""
        return self.length

    @property
    def whole_steps(self) -> int:
        """Steps of all rounds."""
        return super().steps

    def compute_rate_factor(self, step: int, shape: Shape, warmup_steps: int, decay: float) -> float:
        """The share of the full learning rate at a step of this round, by the steps of all rounds."""
        return compute_lr_factor(self.offset + step, self.whole_steps, shape, warmup_steps, decay)

    def get_batch_indices(self, step: int) -> list[int]:
        """Numbers of the rows that a step of this round sees."""
        begin = (self.offset + step) * self.batch_size
        return [self._example_index(at) for at in range(begin, min(begin + self.batch_size, self.total))]

    def _example_index(self, at: int) -> int:
        from luthier.tune.training.schedule import permute_examples

        if self.first is not None and at < self.first_epochs * self.count:
            return int(self.first[at % self.count])
        return int(permute_examples(self.order_seed, at // self.count, self.count)[at % self.count])


@dataclass(frozen=True, kw_only=True)
class PrivateRoundSampler(RoundSampler, PoissonSampler):
    """The steps of one round of a private training, with a noise key of the round's own."""

    def get_batch_indices(self, step: int) -> list[int]:
        """The examples of the units that a step draws."""
        return PoissonSampler.get_batch_indices(self, step)


class SiteUpdate(NamedTuple):
    """A site's result of a round."""

    weights: Mapping[str, Tensor]
    """Trained weights that are sent, by parameter name."""
    rows: int
    """Rows that it learns from."""
    steps: int
    loss: float
    """The mean of its steps' losses."""
    own: Mapping[str, Tensor] = {}  # a NamedTuple's default is never changed
    """Trained weights that stay at the site."""


class SharedModel:
    """The model that the simulated sites of one process share: the base is loaded once, and sites train in turn.

    Each round sets all trainable weights, so that sites do not affect one another. Rounds with changed frozen weights,
    or with references of the plain base, load a model of their own.
    """

    def __init__(self) -> None:
        self._model: Any = None
        self._key = ""
        self._moving: frozenset[str] = frozenset()
        self._initial: dict[str, Tensor] = {}
        self._tokenizers: dict[Path, ChatTokenizer] = {}
        self._memory: ProbedMemory | None = None

    def find(self, key: str) -> Any:
        """The model that was opened under a key, with all that moves ready to; None where there is none."""
        if self._model is None or self._key != key:
            return None
        for name, parameter in self._model.named_parameters():
            parameter.requires_grad_(name in self._moving)
        return self._model

    def keep(self, key: str, model: Any, keeps: Callable[[str], bool]) -> None:
        """Keep an adapted model under a key, before any round froze a part of it, with what sites `keep` for themselves
        as it begins."""
        self._model, self._key = model, key
        moving = {name: value for name, value in model.named_parameters() if value.requires_grad}
        self._moving = frozenset(moving)
        self._initial = copy_weights({name: value for name, value in moving.items() if keeps(name)})

    @property
    def moving(self) -> frozenset[str]:
        """The parameters that move, by name."""
        return self._moving

    @property
    def initial(self) -> Mapping[str, Tensor]:
        """The initial values of the weights that stay at sites."""
        return self._initial

    @property
    def memory(self) -> ProbedMemory:
        """The largest packs that were seen to fit."""
        from luthier.tune.training.memory import ProbedMemory

        self._memory = self._memory or ProbedMemory()
        return self._memory

    def load_tokenizer(self, folder: Path, model: Artifact) -> ChatTokenizer:
        """The tokenizer of a base, read once."""
        from luthier.chat.prompt import PromptPrefix
        from luthier.chat.tokenizer import ChatTokenizer

        if folder not in self._tokenizers:
            self._tokenizers[folder] = ChatTokenizer.load(folder, before=PromptPrefix.of(model))
        return self._tokenizers[folder]


class FederatedTraining(TrainingRun):
    """A training that begins from weights that it is given, and gives back what it trained."""

    def __init__(
        self,
        step: Tune,
        work: StepContext,
        aggregator: Aggregator,
        shared: SharedModel | None = None,
        keeps: Callable[[str], bool] = lambda name: False,
        *,
        trusts: bool = False,
        other: Tune | None = None,
    ) -> None:
        """`keeps` tells by its name whether a parameter that moves stays at the site; `trusts`, whether the weights to
        begin with are this site's own, and may be any. `other` is another training on the same rows that a promise
        covers together with this one."""
        assert isinstance(step.technique, Technique), "a technique without weights is refused by the plan"
        super().__init__(step, step.technique, work)
        self._aggregator = aggregator
        self._shared, self._keeps = shared or SharedModel(), keeps
        self._trusts, self._other = trusts, other
        self._own: Mapping[str, Tensor] = {}
        self._shares = shared is not None and not step.objective.needs_reference
        self._is_adapted = False
        self._round = 0
        self._given: GlobalWeights | None = None

    @property
    def base_name(self) -> str:
        """Display name of the base model."""
        return self._name

    @property
    def rate(self) -> LearningRate:
        """The learning rate at its height, and why."""
        return self._rate

    def initial_weights(self, classes: Mapping[str, str]) -> GlobalWeights:
        """Return the initial trainable weights, from the base and the seed alone."""
        model = self.open_trainable(classes)
        moving = {name: value for name, value in model.named_parameters() if value.requires_grad}
        return GlobalWeights(copy_weights(moving), {})

    def open_trainable(self, classes: Mapping[str, str]) -> Any:
        """The base under the technique, with fresh weights."""
        from luthier.models.load import pick_dtype

        about = ObjectiveContext(classes=classes, seed=self._work.seed)
        return TrainingRun._adapt(self, TrainingRun._open(self, pick_dtype(self._step.dtype), about))

    def write_weights(
        self, given: GlobalWeights, classes: Mapping[str, str], folder: Path, *, complete: bool = True
    ) -> None:
        """Write the model's files, as a plain training writes its own. What is not given is as it began; the adapter of
        a model that is not `complete` may do nothing."""
        model = self._find_shared(given, classes) or self.open_trainable(classes)
        set_global_weights(model, GlobalWeights(given.moving, {}), 1.0)
        if given.base:
            write_stacked_adapter(model, given.base, folder, self._name)
        else:
            self._technique.save(model, folder, self._base, self._name)
        if complete:
            refuse_empty_adapter(folder)

    def _find_shared(self, given: GlobalWeights, classes: Mapping[str, str]) -> Any:
        """The model that sites of this process share, where what is given sets all that moves in it; else None."""
        from luthier.models.load import pick_dtype

        about = ObjectiveContext(classes=classes, seed=self._work.seed)
        key = self._name_model(pick_dtype(self._step.dtype), about)
        return self._shared.find(key) if self._shares and self._shared.moving <= given.moving.keys() else None

    def _name_model(self, dtype: Any, about: ObjectiveContext) -> str:
        """A name that adapted models share which begin alike: of the classes, only the outputs of a head matter."""
        outputs = self._step.objective.outputs(about)
        return digest_of([str(dtype), self._step.technique.settings(), self._model.digest, outputs])

    @property
    def dtype(self) -> Literal["float32", "bfloat16", "auto"]:
        """The dtype of computation."""
        return self._step.dtype

    def read_data(self, classes: Mapping[str, str] | None) -> TrainingData:
        """The rows of this site, with the classes of all sites where the objective names them."""
        material = TrainingData(self._step, self._work, self._shared.load_tokenizer(self._base, self._model))
        if classes is not None:
            material.about = ObjectiveContext(classes=classes, seed=self._work.seed)
        return material

    def _count_private_steps(self, sampler: BatchSampler) -> int:
        """The steps of all rounds, and those of the other training that the promise covers."""
        if (other := self._other) is None:
            return sampler.whole_steps
        more = BatchSampler(
            seed=0, count=sampler.count, epochs=other.epochs, batch_size=sampler.batch_size, max_steps=other.max_steps
        )
        return sampler.whole_steps + more.steps

    def plan_spending(self, rounds: int, round_number: int | None = None) -> PrivacySpending | None:
        """Return the privacy cost of a round (from 0), or of all, to this site's units; None without noise."""
        from luthier.tune.privacy.accountant import find_noise

        if (privacy := self._step.privacy) is None:
            return None
        sampler = self.read_data(None).sampler
        assert isinstance(sampler, PoissonSampler), "a private training draws units by chance"
        delta = privacy.find_delta(len(sampler.units))
        steps = self._count_private_steps(sampler)
        noise = find_noise(privacy.epsilon, delta, sampler.sampling, steps)
        if round_number is not None:
            steps = RoundSampler.for_round(sampler, round_number, rounds).steps
        return PrivacySpending(unit=privacy.unit, noise=noise, sampling=sampler.sampling, steps=steps)

    def train_round(
        self,
        given: GlobalWeights,
        round_number: int,
        rounds: int,
        classes: Mapping[str, str] | None,
        pulls: Sequence[GradientPull] = (),
        own: Mapping[str, Tensor] = {},  # never changed
    ) -> SiteUpdate:
        """Train one round (from 0) of `rounds`; a killed one resumes from its checkpoint.

        `own` are the site's own weights of its last round; without it, they start as at every site.
        """
        from luthier.models.kernels.lora import restore_peft_forward

        self._given, self._round, self._own = given, round_number, own
        material = self.read_data(classes)
        sampler = RoundSampler.for_round(material.sampler, round_number, rounds)
        material.sampler = sampler
        training, keeper = self._prepare(material, sampler, None)
        if self._shares_model(given):
            training.rehearsed = self._shared.memory
        training.start_from(self._given.moving, pulls)

        def hear(stepped: StepMetrics) -> None:
            self._work.events.progress(stepped.step, sampler.steps, "steps")

        training.run(keeper, hear, lambda text: None)
        if not self._shares_model(given):
            restore_peft_forward(self.trained)
        losses = [loss for line in training.log if (loss := _read_loss(line)) is not None]
        trained = {name: value.detach().cpu().clone() for name, value in training.weights.items()}
        weights = {name: value for name, value in trained.items() if not self._keeps(name)}
        kept = {name: value for name, value in trained.items() if self._keeps(name)}
        for path in keeper.path.parent.glob("*"):
            path.unlink()
        mean = sum(losses) / max(1, len(losses))
        return SiteUpdate(weights, len(material.dataset), len(training.log), mean, kept)

    def _adapt(self, plain: Any) -> Any:
        """The model with what the sum added to its base, what moves as it was given, and what stands still frozen."""
        assert self._given is not None, "weights are given before a round"
        model = plain if self._is_adapted else super()._adapt(plain)
        if self._shares_model(self._given) and not self._is_adapted:
            self._shared.keep(self._key, model, self._keeps)
        own = {name: value for name, value in model.named_parameters() if value.requires_grad}
        expected = {name: value.detach().float() for name, value in own.items() if not self._keeps(name)}
        check_weights(self._given.moving, expected, "the coordinator")
        if not self._trusts:
            self._check_base(model, {name.partition(DOWN)[0] for name in own if DOWN in name})
        if not self._trusts and not self._is_adapted:
            self._check_beginning(own)
        if kept := [name for name in own if self._keeps(name)]:
            initial = self._shared.initial if self._is_adapted else copy_weights({name: own[name] for name in kept})
            given = {name: self._own.get(name, initial[name]) for name in kept}
            self._given = self._given._replace(moving={**self._given.moving, **given})
        set_global_weights(model, self._given, self._scale_of(model))
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and self._aggregator.freezes(name, self._round):
                parameter.requires_grad_(requires_grad=False)
        return model

    def _check_base(self, model: Any, adapted: Set[str]) -> None:
        """`MessageError` for a change of frozen weights that no round of this sum can have made."""
        assert self._given is not None, "weights are given before a round"
        for name, (up, down) in self._given.base.items():
            if name not in adapted or not self._round or self._aggregator.linear or not self._aggregator.exact:
                raise MessageError(f"the coordinator adds to {name[:200]}, which no round of this sum does")
            shape = model.get_submodule(name).get_base_layer().weight.shape
            if up.ndim != 2 or down.ndim != 2 or up.shape[1] != down.shape[0]:
                raise MessageError(f"the coordinator adds to {name[:200]} what is no product")
            if (up.shape[0], down.shape[1]) not in (tuple(shape), tuple(reversed(shape))):
                raise MessageError(f"the coordinator adds another shape to {name[:200]} than it has")

    def _check_beginning(self, fresh: Mapping[str, Tensor]) -> None:
        """`MessageError` unless weights that no round has moved yet are those that recipe and seed begin with.

        Weights that a coordinator chose could sort rows by their words into numbers of their own, which no sum hides
        (Fowl et al., 2022).
        """
        import torch

        assert self._given is not None, "weights are given before a round"
        for name, value in self._given.moving.items():
            if self._keeps(name):
                continue  # the site's own
            restarts = self._aggregator.restarts and (DOWN in name or UP in name)
            before = range(0 if restarts else self._round)
            if name not in fresh or not all(self._aggregator.freezes(name, number) for number in before):
                continue
            initial = fresh[name].detach().to(value.device, value.dtype)
            if not torch.allclose(value, initial, rtol=1e-4, atol=1e-6):  # machines round the last bits differently
                raise MessageError(f"the coordinator sends {name} other than recipe and seed begin it")

    def _shares_model(self, given: GlobalWeights) -> bool:
        return self._shares and not given.base

    def _open(self, dtype: Any, about: ObjectiveContext) -> Any:
        """The shared model, which is adapted already, or a plain one of its own."""
        assert self._given is not None, "weights are given before a round"
        self._key = self._name_model(dtype, about)
        found = self._shared.find(self._key) if self._shares_model(self._given) else None
        self._is_adapted = found is not None
        return super()._open(dtype, about) if found is None else found

    def _scale_of(self, model: Any) -> float:
        return get_adapter_scale(model) if hasattr(model, "peft_config") else 1.0

    def _keeper(self) -> CheckpointManager:
        """Keeps states of this round alone."""
        from luthier.tune.training.checkpoint import CheckpointManager

        assert self._given is not None, "weights are given before a round"
        folder = self._work.scratch / "round"
        folder.mkdir(parents=True, exist_ok=True)
        key = digest_of([self._step.settings(), self._round, digest_message(pack_tensors(pack_weights(self._given)))])
        return CheckpointManager(folder / "checkpoint.safetensors", key, None, self._step.save_steps)

    def _say(self, padded: str, numbers: str, tokens: int, sampler: BatchSampler) -> None:
        """Discard the report of how rounds compute."""


def copy_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a copy of a model's current weights, in fp32."""
    return {name: value.detach().float().cpu().clone() for name, value in weights.items()}


def _read_loss(line: str) -> float | None:
    loss = json.loads(line)["loss"]
    return None if loss is None else float(loss)


def get_adapter_scale(model: Any) -> float:
    """Return PEFT's scale of the product of a low-rank adapter; 1 for other adapters."""
    config = model.peft_config[model.active_adapter]
    if not hasattr(config, "lora_alpha"):
        return 1.0
    return float(config.lora_alpha / (config.r**0.5 if config.use_rslora else config.r))


def set_global_weights(model: Any, given: GlobalWeights, scale: float) -> None:
    """Give an adapted model the weights that a round begins with."""
    import torch

    from luthier.tune.training.trainer import set_weights

    set_weights(model, {name: value.clone() for name, value in given.moving.items()})  # training writes into them
    with torch.no_grad():
        for name, factors in given.base.items():
            weight = model.get_submodule(name).get_base_layer().weight
            change = scale * (factors.up.double() @ factors.down.double())
            change = change if change.shape == weight.shape else change.T  # GPT-2 keeps inputs first
            weight.data = (weight.double() + change.to(weight.device)).to(weight.dtype)


def write_stacked_adapter(model: Any, base: Mapping[str, Factors], folder: Path, name: str) -> None:
    """Write the adapter's product and what was added to the base as one adapter over the untouched base."""
    import torch

    from luthier.tune.technique import adapter_weights, write_adapter

    own = adapter_weights(model)
    scale = get_adapter_scale(model)
    total: dict[str, Factors] = {}
    for down in (key for key in own if DOWN in key):
        module = down.partition(DOWN)[0]
        product = Factors(own[down.replace(DOWN, UP)].float(), own[down].float())
        carried = base.get(module)
        if carried is not None:
            product = carried.add(product) if bool(product.up.any()) else carried
        total[down] = product.limit_rank()
    rank = max(factors.up.shape[1] for factors in total.values())
    weights = dict(own)
    for down, factors in total.items():
        missing = rank - factors.up.shape[1]
        weights[down] = torch.nn.functional.pad(factors.down.float(), (0, 0, 0, missing))
        weights[down.replace(DOWN, UP)] = torch.nn.functional.pad(factors.up.float(), (0, missing))
    config = model.peft_config[model.active_adapter]
    alpha = scale * (rank**0.5 if config.use_rslora else rank)
    write_adapter(model, folder, name, weights, r=rank, lora_alpha=alpha, init_lora_weights=True)
