"""The step that tunes one model over sites whose rows stay there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from luthier.core.component import BasicMarker
from luthier.core.errors import ModelError, RecipeError, SourceLocation
from luthier.core.step import (
    ArtifactSpec,
    ModelRef,
    NotHashed,
    PlanContext,
    Reads,
    Step,
    StepContext,
    StepCostEstimate,
)
from luthier.federated.aggregator import Aggregator, RoundNumbers
from luthier.federated.aggregators.ffa import FrozenDownAggregator
from luthier.federated.control_variates import find_variate_obstacle
from luthier.federated.decontamination.settings import DecontaminationSettings
from luthier.federated.late_updates import LateSettings, find_late_obstacle
from luthier.federated.measure import find_metric_obstacle
from luthier.federated.messaging.messages import LocalWork, dump_given_settings
from luthier.federated.obstacles import find_federation_obstacle, find_refused_setting, find_sites_obstacle
from luthier.federated.partition import PartitionSettings
from luthier.federated.personal.part import PersonalPart
from luthier.federated.privacy import (
    SITE,
    FederatedPrivacy,
    find_federated_privacy_obstacle,
    find_noise_obstacle,
    find_site_noise,
)
from luthier.federated.robust_rule import RobustRule
from luthier.federated.secure_aggregation.dropout_masks import LEAST_SITES as LEAST_DROPOUT_SITES
from luthier.federated.secure_aggregation.dropout_masks import check_least, find_least
from luthier.federated.secure_aggregation.masks import LEAST_SITES, MaskSettings
from luthier.federated.transport import Transport
from luthier.metrics.metric import Metric
from luthier.models.cost import describe_step_model
from luthier.models.describe import ModelDescription
from luthier.tune.low_rank import LowRankTechnique
from luthier.tune.objectives.classify import Classify
from luthier.tune.optimizer import Optimizer
from luthier.tune.optimizers.sgd import Sgd
from luthier.tune.steps.tune import Tune

PLACEHOLDER = "sites"
"""Stands in `tune.data`: the rows are those of each site."""
SERVER_RATE = 0.01
"""Default rate of adaptive optimizers: about the best in most tasks of Reddi et al. (2021)."""
MOST_EPOCHS = 1000
"""Maximum epochs, as in a plain training."""
EACH_S = 2.0
"""Seconds to open a model, for each site and round."""


def _read_tune(value: Any) -> Any:
    if isinstance(value, Mapping):
        if value.get("data", PLACEHOLDER) != PLACEHOLDER:
            raise ValueError(
                "the rows of a federation are those of its sites; leave data out, and name steps in `sites`"
            )
        return {"kind": "tune", **value, "data": PLACEHOLDER}
    return value


class Federate(Step):
    """Tune one model over sites whose rows never leave them: the recipe travels, and sums of weights come back.

    In each round every site trains from the same weights on its own rows, and the coordinator sums what they trained.
    The result is a model as that of `tune`. A site elsewhere runs its own Luthier under its own policy
    (`luthier site`).
    """

    kind: Literal["federate"] = "federate"
    makes: ClassVar[str] = "model"
    checkpoints: ClassVar[tuple[str, ...]] = ("federation.state",)
    other_names: ClassVar[Mapping[str, str]] = {
        "num_rounds": "rounds",
        "clients": "sites",
        "aggregator": "sum",
        "strategy": "sum",
        "partitioner": "partition",
        "num_partitions": "partition.number",
        "clients_per_round": "sites_per_round",
        "min_fit_clients": "least",
        "min_available_clients": "least",
        "proximal_mu": "proximal",
        "scaffold": "control_variates",
        "local_epochs": "local",
        "server_optimizer": "server",
        "personalization": "personal",
        "personal_layers": "personal",
    }

    sites: Annotated[tuple[str, ...], Reads("dataset"), BasicMarker()] = ()
    """The steps whose data sets are the sites, for sites on this machine. Leave it out with a transport to sites
    elsewhere, which bring their own rows."""
    partition: PartitionSettings | None = None
    """Deal the training rows of the one step in `sites` to simulated sites, which train in this process over one model:
    `{number: 1000, alpha: 0.1}`."""
    sites_per_round: int | None = Field(default=None, ge=1)
    """How many sites take part in a round, drawn by seed and round; all of them when not given."""
    model: ModelRef = None
    """The step whose model is tuned; the recipe's own model when not given. Every site has the same one."""
    tune: Annotated[Tune, BeforeValidator(_read_tune)] = Tune(data=PLACEHOLDER)
    """What a site trains: any settings of a step `tune`, without its data, model and length."""
    rounds: Annotated[int, BasicMarker()] = Field(default=3, ge=1, le=10_000)
    """How often sites train and are summed."""
    local: LocalWork = LocalWork(epochs=1.0)
    """How much each site trains in a round: `{epochs: 1}` or `{steps: 20}`. The learning rate has its shape over all
    rounds together."""
    sum: Annotated[Aggregator, BasicMarker()] = FrozenDownAggregator()
    """How the sites' weights become one: `ffa`, `alternate`, `stack` or `residual` for low-rank adapters, which are
    exact; `svd` or `factors`, which are not; `mean` for all other techniques."""
    server: Optimizer | None = None
    """An optimizer that follows the way to the sites' mean, instead of taking the mean: `sgd` is FedAvgM, `adamw`
    FedAdam, `yogi` FedYogi."""
    server_learning_rate: float | None = Field(default=None, gt=0)
    """The learning rate of `server`: 1 for `sgd`, 0.01 for all others, when not given."""
    proximal: float = Field(default=0.0, ge=0)
    """How strongly each local step is drawn back to the weights that the round began with (mu in FedProx, Li et al.,
    2020); 0.01 to 1 where sites differ much."""
    control_variates: bool = False
    """Whether each site keeps what is usual in its gradients, and exchanges it for what is usual at all sites
    (SCAFFOLD, Karimireddy et al., 2020): sites that differ much then train towards what is best for all. Messages are
    twice as long. For sums that are means: `ffa`, `alternate`, `factors`, `mean`."""
    secure: MaskSettings | None = None
    """Mask each site's numbers, so that the coordinator learns the sum over all sites alone; `{}` for the usual bounds.
    All sites must answer in each round unless `least` allows fewer, more than two thirds of them. For sums that are
    exact means: `ffa`, `alternate`, `mean`."""
    least: int | None = Field(default=None, ge=1)
    """How many sites a round needs; all of them when not given. With fewer than all, those that do not answer in time
    are left out of a round, and the model depends on who answered. With `secure.groups`, so many must remain in groups
    of which more than two thirds remain; other groups are left out whole."""
    late: LateSettings | None = None
    """Use an update that comes after its round in a later one, by its age (FedBuff, Nguyen et al., 2022): `{}` for the
    usual three rounds. For sites elsewhere or in processes, with `least`; for `ffa`, `factors` and `mean`, without
    masks."""
    privacy: FederatedPrivacy | None = None
    """Differential privacy over all rounds, of each `row`, of groups such as `meta.customer`, or of each whole `site`.
    Rows and groups are protected by noise in each site's steps; sites by noise in the sum, to which under masks each
    site adds its share."""
    robust: RobustRule | None = None
    """What takes the place of the mean where some sites may send anything: `median`, `trimmed_mean`,
    `geometric_median`, `krum`, `bulyan` or `norm_bound`. All sites count alike. Under masks it chooses between
    `secure.groups`. For `ffa`, `alternate` and `mean`."""
    personal: PersonalPart | None = None
    """What stays at each site and never travels: `head`, `lora_b` (with `sum: mean`), or an `adapter` of its own beside
    the shared one. Each site then has a model of its own; a step `site_model` takes it."""
    decontaminate: DecontaminationSettings | None = None
    """Leave out training rows that nearly repeat a row that another site holds out; `{}` for near copies as
    `near_dedup` finds them. Sites compare hashes under keys of their own, and neither side sees the other's rows. All
    sites must answer, also with `least`."""
    classes: Annotated[str | None, Reads("findings", optional=True)] = None
    """The step `validate_sites` by which sites agreed on the classes, for objectives over classes; then no site names
    any. When not given, each site names those that enough of its rows have."""
    metrics: tuple[Metric, ...] = ()
    """Metrics over the test rows of all sites with the last weights, and with the site's own part where there is one:
    each site sends sums of sufficient statistics, which give the pooled values exactly, and its own. They stand in
    `federation.json`."""
    transport: Annotated[Transport | None, NotHashed()] = None
    """How messages travel: `processes` for a process for each site on this machine, `folder` or `http` for sites
    elsewhere. Sites train one after another in this process when not given."""

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if why := find_sites_obstacle(self.sites, self.transport):
            raise ValueError(why)
        if self.local.epochs is not None and (epochs := self.local.epochs * self.rounds) > MOST_EPOCHS:
            raise ValueError(f"{self.rounds} rounds are {epochs:g} epochs in all, at most {MOST_EPOCHS:g}")
        if why := find_refused_setting(self.tune, length=True):
            raise ValueError(why)
        self._check_partition()
        number = self._count_sites()
        if self.least is not None and self.least > number:
            raise ValueError(f"there are {number} sites, and `least` is {self.least}")
        if self.server is None and self.server_learning_rate is not None:
            raise ValueError("server_learning_rate changes nothing without a `server`; leave it out")
        if self.server is not None and not self.sum.linear:
            raise ValueError(f"a server's optimizer follows a mean, and {self.sum.kind} is none; leave `server` out")
        if self.server is not None and self.server.averages:
            raise ValueError(
                f"{self.server.kind} averages over steps, of which a server has few; take sgd, adamw or yogi"
            )
        self._check_masks(number)
        if self.decontaminate is not None and number < 2:
            raise ValueError("rows are compared among sites, and there is one; leave `decontaminate` out")
        self._check_privacy()
        self._check_robust(number)
        if self.classes is not None and not isinstance(self.tune.objective, Classify):
            raise ValueError(f"{self.tune.objective.kind} has no classes; leave `classes` out, or take classify")
        self._check_variates()
        self._check_late()
        shares = isinstance(self.tune.objective, Classify)
        if why := next(filter(None, (find_metric_obstacle(metric, shares) for metric in self.metrics)), ""):
            raise ValueError(why)
        if why := find_federation_obstacle(self.tune, self.sum, self.rounds, self.personal, self.privacy):
            raise ValueError(why)
        return self

    def _check_partition(self) -> None:
        """`ValueError` for what simulated sites cannot do, and for more sites a round than there are."""
        if self.sites_per_round is not None:
            if self.secure is not None:
                raise ValueError("under masks all sites answer in each round; leave `sites_per_round` out")
            if (number := self._count_sites()) and self.sites_per_round > number:
                raise ValueError(f"there are {number} sites, and `sites_per_round` is {self.sites_per_round}")
        if self.partition is None:
            return
        if len(self.sites) != 1:
            raise ValueError("`partition` deals the rows of one step; name one step in `sites`")
        for name, given in (("transport", self.transport), ("secure", self.secure), ("least", self.least)):
            if given is not None:
                raise ValueError(f"simulated sites all answer in this process; leave `{name}` out")
        if self.decontaminate is not None:
            raise ValueError(
                "simulated sites have training rows alone; leave `decontaminate` out, and use the operator of `prepare`"
            )
        if self.metrics:
            raise ValueError("simulated sites have training rows alone; leave `metrics` out, and use a step `evaluate`")

    def _count_sites(self) -> int:
        """Return the number of sites; 0 where the rows determine it."""
        if self.partition is not None:
            return self.partition.number or 0
        return len(self.site_names)

    def _check_masks(self, number: int) -> None:
        """`ValueError` for what masks do not allow."""
        if self.secure is None:
            return
        if not (self.sum.linear and self.sum.exact):
            raise ValueError(
                f"{self.sum.kind} needs the part of each site, which masks hide; take ffa, alternate or mean"
            )
        if number < LEAST_SITES:
            raise ValueError(f"of {number} sites each knows the others from the sum; masks need {LEAST_SITES} or more")
        if self.least is not None and self.secure.groups is None and (why := check_least(number, self.least)):
            raise ValueError(f"{why}; leave `least` out to wait for all of them")

    def _check_robust(self, number: int) -> None:
        """`ValueError` for rules that cannot bear what they should."""
        groups = self.secure.groups if self.secure is not None else None
        if self.robust is None:
            if groups is not None:
                raise ValueError("groups of masks are for `robust` rules; leave `secure.groups` out")
            return
        if not (self.sum.linear and self.sum.exact):
            raise ValueError(
                f"a rule takes the place of a mean, and {self.sum.kind} is none; take ffa, alternate or mean"
            )
        if self.privacy is not None and self.privacy.unit == SITE:
            raise ValueError("the promise to whole sites is for a mean; leave `robust` out, updates are clipped anyway")
        if self.secure is None:
            fewest = self.least or self.sites_per_round or number
            if fewest and (why := self.robust.check_count(fewest)):
                raise ValueError(why)
            return
        if groups is None:
            raise ValueError("under masks no site's update is seen: write `secure: {groups: …}` to choose between sums")
        smallest = LEAST_SITES if self.least is None else LEAST_DROPOUT_SITES
        if number // groups < smallest:
            what = "" if self.least is None else ", the fewest of which one may be missing; leave `least` out"
            raise ValueError(f"{groups} groups of {number} sites have fewer than {smallest} sites{what}")
        if why := self.robust.check_count(groups, "groups"):
            raise ValueError(why)
        if self.least is not None:
            self._check_group_least(self.secure, self.robust, self.least)

    def _check_group_least(self, masks: MaskSettings, rule: RobustRule, least: int) -> None:
        """`ValueError` where the sites that a round needs may be those of fewer groups than the rule needs."""
        sizes = sorted((len(group) for group in masks.deal(self.site_names)), reverse=True)
        needed = rule.count_needed()
        if least <= (most := sum(sizes[: needed - 1])):
            what = f"{least} sites may be those of {needed - 1} groups, and {rule.kind} needs {needed}"
            raise ValueError(f"{what}: set `least` to {most + 1} or more")

    def _check_variates(self) -> None:
        """`ValueError` where control variates cannot be, or change nothing."""
        if not self.control_variates:
            return
        if why := find_variate_obstacle(self.sum, self.privacy):
            raise ValueError(why)
        if self.robust is not None:
            raise ValueError("control variates are a mean, which one poisoned site moves; leave `robust` out")
        if self.rounds == 1 or self._count_sites() == 1:
            raise ValueError("control_variates change nothing in one round, or at one site; leave them out")

    def _check_late(self) -> None:
        """`ValueError` where no update can be late, or a late one cannot be used."""
        if self.late is None:
            return
        if self.secure is not None:
            raise ValueError(
                "masks cancel in the sum of their own round alone, so a late update is noise; leave `late` or `secure` "
                "out"
            )
        if self.transport is None:
            raise ValueError("sites in this process are never late; leave `late` out, or set a `transport`")
        if self.least is None or self.least == self._count_sites():
            raise ValueError("a round waits for all sites, so none is late; set `least` to go on without some")
        if why := find_late_obstacle(self.sum):
            raise ValueError(f"{why}; leave `late` out, or take ffa, factors or mean")

    def _check_privacy(self) -> None:
        """`ValueError` for what breaks the promise."""
        if (privacy := self.privacy) is None:
            return
        why = find_federated_privacy_obstacle(
            privacy,
            wants_classes=isinstance(self.tune.objective, Classify) and self.classes is None,
            metrics=bool(self.metrics),
            mean=self.sum.linear and self.sum.exact,
        )
        if why:
            raise ValueError(why)
        try:
            self.build_site_tune()
        except ValidationError as error:
            raise ValueError(str(error.errors()[0]["msg"]).removeprefix("Value error, ")) from error

    def _check_noise(self) -> None:
        """`RecipeError` where the sites' shares of noise have no room in the ring."""
        if self.secure is None or self.privacy is None or self.privacy.unit != SITE:
            return
        number = len(self.site_names)
        why = find_noise_obstacle(self.secure, number, self.privacy.clip, self.site_noise, self.least or number)
        if why:
            raise RecipeError(why, where=SourceLocation(field="privacy"), hint="see `secure.bound` and `secure.rows`")

    @property
    def site_noise(self) -> float:
        """Standard deviation of the noise in the sum of sites' changes; 0 where no promise is made to sites."""
        if self.privacy is None or self.privacy.unit != SITE:
            return 0.0
        return find_site_noise(self.privacy, self.rounds) * self.privacy.clip

    @property
    def site_names(self) -> tuple[str, ...]:
        """The sites, in the order in which they are summed."""
        return self.sites or tuple(self.transport.members if self.transport is not None else ())

    @property
    def server_rate(self) -> float:
        """The learning rate of the server's optimizer."""
        usual = 1.0 if isinstance(self.server, Sgd) else SERVER_RATE
        return usual if self.server_learning_rate is None else self.server_learning_rate

    def make(self, work: StepContext) -> Mapping[str, Any]:
        """Train over the sites, and write the model with `training.json`, `log.jsonl` and `federation.json`."""
        from luthier.federated.coordinator import Federation

        return Federation(self, work).run()

    def estimate_cost(self, plan_context: PlanContext) -> StepCostEstimate:
        """Estimate the bytes of a round, and the sites' trainings where they are simulated here; and what the
        coordinator sees.
        """
        model = describe_step_model(plan_context)
        if model is not None:
            self._agree(model)
        self._check_noise()
        tune, more = self.build_site_tune(), list[StepCostEstimate]()
        costs = [self._estimate_site(plan_context, at, tune) for at in range(len(self.sites))]
        if self.personal is not None and (own := self.personal.build_tune(tune)) is not None:
            more = [self._estimate_site(plan_context, at, own) for at in range(len(self.sites))]
        seconds = [cost.seconds * self._count_trainings() for cost in costs if cost.seconds is not None]
        seconds += [cost.seconds for cost in more if cost.seconds is not None]
        known = bool(costs) and len(seconds) == len(costs) + len(more)
        opening = EACH_S * (1 if self.partition is not None else self.rounds * max(1, len(self.site_names)))
        return StepCostEstimate(
            seconds=sum(seconds) + opening if known else None,
            peak_bytes=max((cost.peak_bytes or 0 for cost in costs), default=0) or None,
            tokens=self._sum_tokens(costs, more) if known else None,
            how=costs[0].how if known else "sites elsewhere take time of their own",
            statement=self.describe_exchange(model),
        )

    def _sum_tokens(self, costs: Sequence[StepCostEstimate], more: Sequence[StepCostEstimate]) -> int:
        rounds = sum(cost.tokens or 0 for cost in costs) * self._count_trainings()
        return round(rounds + sum(cost.tokens or 0 for cost in more))

    def _count_trainings(self) -> float:
        """Return how often a training over the rows of a step in `sites` is computed: simulated sites with epochs see
        all rows together, those with steps have as many steps each.
        """
        if self.partition is None:
            return 1.0
        number = self._count_sites()
        whole = 1.0 if self.local.steps is None else float(number or 1)
        return whole * min(1.0, (self.sites_per_round or number or 1) / (number or 1))

    def _estimate_site(self, plan_context: PlanContext, at: int, tune: Tune) -> StepCostEstimate:
        """Estimate a plain training over the rows of one site."""
        field = f"sites.{at}"

        def narrow(values: Mapping[str, Any]) -> dict[str, Any]:
            return {
                "data" if name == field else name: value for name, value in values.items() if name in (field, "model")
            }

        context = replace(
            plan_context,
            inputs=narrow(plan_context.inputs),
            upstream=narrow(plan_context.upstream),
            outlines=narrow(plan_context.outlines),
            forecasts=narrow(plan_context.forecasts),
            history={},
        )
        return tune.estimate_cost(context)

    def build_site_tune(self) -> Tune:
        """The training whose steps all rounds share."""
        from luthier.federated.sites.worker import build_local_tune

        return build_local_tune(dump_given_settings(self.tune), self.local, self.rounds, self.privacy)

    def _agree(self, model: ModelDescription) -> None:
        """`ModelError` where the base cannot be trained so."""
        from luthier.models.shapes import ADAPTED_EXPERTS

        self.tune.agree(model)
        if self.personal is not None and (why := self.personal.find_model_obstacle(self.tune, model)):
            raise ModelError(why, where=SourceLocation(field="personal"))
        technique = self.tune.technique
        fused = model.model_type in ADAPTED_EXPERTS and technique.settings().get("target_modules") == "all-linear"
        if fused and self.sum.low_rank and self.sum.kind not in ("ffa", "alternate"):
            what = f"the adapters of fused experts are no plain product, which {self.sum.kind} adds up"
            raise ModelError(what, where=SourceLocation(field="sum"), hint="take ffa or alternate")

    def describe_exchange(self, model: ModelDescription | None) -> str:
        """Describe what the coordinator sees, whether the sum is exact, and the bytes of a round."""
        aggregator = self.sum
        sees = f"the coordinator can see {self._describe_view()}"
        if self.privacy is not None:
            sees = f"{self.privacy.describe()}{self._describe_unprotected()}; {sees}"
        exact = "exact" if aggregator.exact else "not exact, its error is logged"
        masks = (
            "possible under masks"
            if aggregator.linear and aggregator.exact
            else "impossible under masks, since each site's part is needed"
        )
        text = f"{sees}; sum {aggregator.kind}: {exact}, {masks}"
        if self.robust is not None:
            what = "sites" if self.secure is None else "groups"
            of = self.sites_per_round or self._count_sites() or "all" if self.secure is None else self.secure.groups
            text += f"; {self.robust.kind} in place of the mean bears {self.robust.poisoned} poisoned of {of} {what}"
        elif self.secure is not None:
            text += "; a poisoned update is part of the sum: rules that bear it need `secure.groups`"
        if self.personal is not None:
            text += f"; {self.personal.describe(self.tune, model)}"
        if self.decontaminate is not None:
            text += "; training rows that nearly repeat what another site holds out are left out"
        if model is None:
            return text
        down, up, other = self.count_trained_numbers(model)
        sites = max(1, self.sites_per_round or self._count_sites())
        whole = numbers = aggregator.count_numbers(down, up, other, sites)
        if self.personal is not None:
            numbers = self.personal.count_numbers(aggregator, down, up, other, sites)
        if self.control_variates:
            numbers, whole = (RoundNumbers(one.down + one.up, 2 * one.up) for one in (numbers, whole))
        wide = 4 if self.secure is None else 8
        to, back = _format_size(4 * numbers.down), _format_size(wide * numbers.up)
        text += f"; a round sends {to} to and {back} from each site"
        if (saved := 4 * (whole.down - numbers.down) + wide * (whole.up - numbers.up)) > 0:
            text += f", {_format_size(saved)} less than if all of it traveled"
        return text

    def _describe_unprotected(self) -> str:
        """Describe what the guarantee does not cover."""
        if self.personal is None or self.privacy is None or self.privacy.unit != SITE:
            return ""
        return ", for what travels alone: each site's own model has a part without noise, and no promise"

    def _describe_view(self) -> str:
        """Describe what the coordinator sees of the sites' updates."""
        if self.secure is None:
            return "the update of each site (there are no masks)"
        which = "all sites" if self.least is None else f"{self.least} sites or more"
        if self.secure.groups is not None:
            which = f"each of {self.secure.groups} groups of sites"
            if self.least is not None:
                fewest = min(map(len, self.secure.deal(self.site_names)))
                which += f", over {find_least(fewest)} sites or more of each,"
        return f"sums over {which} alone (updates are masked)"

    def count_trained_numbers(self, model: ModelDescription) -> tuple[int, int, int]:
        """Numbers of A, of B, and of what is no factor."""
        technique = self.tune.technique
        trainable = technique.trainable(model)
        if not isinstance(technique, LowRankTechnique):
            return 0, 0, trainable
        layers = technique.adapted(model)
        down = technique.r * sum(layer.inputs for layer in layers)
        up = technique.r * sum(layer.outputs for layer in layers)
        return down, up, max(0, trainable - down - up)

    def outline(self, plan_context: PlanContext) -> ArtifactSpec:
        """Predict the result of a training."""
        return self.tune.outline(plan_context)


def _format_size(size: float) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"
