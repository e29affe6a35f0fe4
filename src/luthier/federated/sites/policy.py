"""A site's policy: `policy.yaml` lists what a coordinator may request; everything else is refused with the line."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError
from pydantic_core import PydanticCustomError

from luthier.core.component import Component, iter_components
from luthier.core.errors import InputError, SourceLocation
from luthier.core.files import expand_env_vars
from luthier.federated.aggregator import Aggregator
from luthier.federated.analytics.query import SiteQuery
from luthier.federated.errors import MessageError, OrderError, explain_settings
from luthier.federated.messaging.keys import Name, PublicCard
from luthier.federated.messaging.messages import Order, SiteQuestion, dump_given_settings
from luthier.federated.obstacles import find_federation_obstacle, find_refused_setting
from luthier.federated.privacy import (
    SITE,
    PrivacySpending,
    SpentPrivacy,
    covers,
    find_federated_privacy_obstacle,
)
from luthier.federated.queries.monitor import MonitorQuery
from luthier.federated.sites.worker import build_local_tune, read_order_settings, read_personal_part
from luthier.metrics.metric import Metric
from luthier.monitor.signal import Signal
from luthier.monitor.signals.metric import MetricSignal
from luthier.tune.privacy.settings import ROW
from luthier.tune.steps.tune import Tune

POLICY = "policy.yaml"
PLAIN_SIGNALS = (
    "drift", "error_rate", "latency", "length", "pii", "rating", "refusal_rate", "throughput", "tokens", "toxicity"
)  # fmt: skip
"""Signals whose settings hold no text to look for."""


class SitePolicyError(OrderError):
    """An order that the site's policy does not allow; its words tell of the policy and the order, and of no row."""


class HttpAddress(BaseModel):
    """Address of the coordinator, and the TLS credentials of both ends, besides the messages' own signatures."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str = Field(pattern=r"^https?://")
    """Such as `https://coordinator.example:8443`; the site calls out, and nobody calls it."""
    ca: str | None = None
    """A file with the authority that signed the coordinator's certificate; the system's own when not given."""
    certificate: str | None = None
    """A file with the certificate by which the site proves itself (mutual TLS)."""
    private_key: str | None = None
    """A file with the key of that certificate."""


class SitePolicy(BaseModel):
    """What a site accepts from a coordinator."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Name
    """What the coordinator calls this site."""
    coordinator: str
    """The file with the coordinator's public keys (its `card.json`)."""
    recipe: str
    """The site's own recipe, which prepares the rows and names the base model."""
    data: str = "data"
    """The step of that recipe whose training rows are learnt from."""
    model: str = "model"
    """The step of that recipe with the base model; `model` is the recipe's own."""
    folder: str | None = None
    """A folder that the coordinator also sees, for the transport `folder`."""
    http: HttpAddress | None = None
    """Where the coordinator listens, for the transport `http`."""
    flower: str | None = None
    """The Unix socket to listen at for the Flower app, for the transport `flower`."""
    bases: tuple[str, ...] = ()
    """Digests (12 characters or more) of the base models that may be tuned; any that the site has when empty."""
    techniques: tuple[str, ...] = ("lora",)
    """Techniques that are allowed."""
    objectives: tuple[str, ...] = ("sft",)
    """Objectives that are allowed."""
    optimizers: tuple[str, ...] = ("adamw",)
    """Optimizers that are allowed."""
    sums: tuple[str, ...] = ("ffa", "alternate", "factors", "mean")
    """Aggregators that are allowed."""
    parts: tuple[str, ...] = ()
    """Further parts that an order may use, such as `reward.length`; none by default. A part that speaks to other
    machines or runs code (an endpoint, a judge, an environment) can carry rows away: allow none that you do not
    know."""
    metrics: tuple[str | dict[str, Any], ...] = ()
    """Metrics whose sums over held-out rows may be sent at the end: a kind with its usual settings, or a mapping with
    the settings that are allowed. Other settings could ask for a text: `{kind: json_valid, obeys: …}` counts answers
    that a pattern fits."""
    queries: tuple[str, ...] = ()
    """Questions that are answered by counts: `schema`, `validate`, `monitor`. Of the same rows each has one answer, and
    none tells of fewer than `least_class_rows` rows."""
    signals: tuple[str | dict[str, Any], ...] = PLAIN_SIGNALS
    """Signals that questions of the kind `monitor` may ask for: of those that look for no text of the question's own,
    the kind; of `schema_validity` a mapping with its settings. Metrics are those of `metrics`."""
    monitor: str | None = None
    """The step `monitor` of the recipe: what drift of requests is held against, where questions of the kind `monitor`
    are answered. The requests are those that the recipe's folder keeps."""
    pooled_counts: bool = False
    """Whether under masks counts below `least_class_rows` may be part of a sum over all sites; otherwise each site
    leaves its own out. The coordinator then learns sums that may be small, and one that lies about which names many
    rows have learns those that few have: for a coordinator that you trust with that."""
    class_names: bool = False
    """Whether the names of classes may be sent, which objectives over classes need: they are texts of the data."""
    revoked: tuple[str, ...] = ()
    """Fingerprints (12 characters or more) of keys that were stolen or withdrawn, the coordinator's or a peer's:
    nothing is read from them, and no numbers are masked towards them."""
    peers: dict[str, str] = {}
    """The files of the other sites' public keys (their `card.json`), by name: numbers are masked towards all of
    them."""
    least_group: int | None = Field(default=None, ge=3)
    """How many sites the sum of a group must be over at the least, this one among them; all `peers` when not given. The
    coordinator deals the groups: it and the others of a group together know this site's update."""
    decontaminate: bool = False
    """Whether rows may be compared with those of `peers`, to leave out training rows that nearly repeat what a peer
    holds out. A peer learns which of its own texts nearly repeat held-out rows here, so it can test guesses."""
    most_compared_rows: int = Field(default=20_000, ge=1)
    """Rows that a peer may ask about in one federation: with each, it can test one guess."""
    total_comparisons: int = Field(default=20, ge=1)
    """Federations in which peers may ask about rows, of all that the log tells of, finished or not."""
    most_left_out: float = Field(default=0.1, ge=0, le=1)
    """The share of the training rows that may be left out because peers claim to hold them out."""
    require_masks: bool = False
    """Whether an order without masks is refused, under which the coordinator would see this site's own update."""
    epsilon: float | None = Field(default=None, gt=0)
    """The budget of differential privacy of all federations together, as the log adds it up; orders without `privacy`
    are then refused."""
    delta: float = Field(default=1e-5, gt=0, lt=1)
    """The chance of failing at which the budget is counted."""
    unit: str = ROW
    """What the budget protects: `row`, or a column such as `meta.customer`, or the whole `site`. An order may promise
    more, and no less."""
    least_rows: int = Field(default=50, ge=1)
    """Training rows below which the site takes no part, and a round learns nothing: a sum over few rows tells of each.
    A round of one step over a batch of one row would give that row away."""
    least_class_rows: int = Field(default=10, ge=1)
    """Rows of a class below which its name is not sent, and it is not learnt; and held-out rows below which no sums of
    metrics are sent."""
    rounds: int = Field(default=20, ge=1)
    """Most rounds of one federation."""
    total_rounds: int = Field(default=200, ge=1)
    """Most rounds of all federations that the log tells of, and as many measurements at their ends."""
    message_bytes: int = Field(default=8 << 30, ge=1 << 20)
    """The largest message that is read; a larger one is refused before it is in memory."""
    hours: float = Field(default=24.0, gt=0)
    """Most hours that computing for one federation may take."""
    approval: Literal["always", "never"] = "always"
    """Whether a person looks at each order first: it waits until `luthier site approve` names it."""
    _lines: Mapping[str, int] = PrivateAttr(default_factory=dict)
    _path: Path = PrivateAttr(default=Path(POLICY))

    @classmethod
    def read(cls, folder: Path) -> SitePolicy:
        """The policy of a site's folder; `InputError` with the line of what is wrong."""
        path = folder / POLICY
        try:
            text = path.read_text(encoding="utf-8")
            node = yaml.compose(text, Loader=yaml.SafeLoader)
            values = yaml.safe_load(text)
        except FileNotFoundError as error:
            hint = "make a site first: `luthier site init FOLDER --name NAME --coordinator CARD`"
            raise InputError("there is no such policy", where=SourceLocation(file=str(path)), hint=hint) from error
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            hint = "write one by `luthier site init`"
            raise InputError("cannot be read as a policy", where=SourceLocation(file=str(path)), hint=hint) from error
        lines = dict(_list_lines(node))
        try:
            policy = cls.model_validate(values if isinstance(values, dict) else {})
        except ValidationError as error:
            what, hint, field = explain_settings(error, cls)
            line = lines.get(field.partition(".")[0])
            where = SourceLocation(file=str(path), line=line, field=field or None)
            raise InputError(what, where=where, hint=hint) from error
        policy._lines, policy._path = lines, path
        return policy

    def resolve(self, path: str) -> Path:
        """A path in the policy, from its own folder."""
        return self._path.parent / Path(expand_env_vars(path)).expanduser()

    def build_refusal(self, field: str, what: str) -> SitePolicyError:
        """The refusal by a line of the policy."""
        line = self._lines.get(field)
        location = f"{POLICY}:{line}" if line is not None else f"{POLICY} ({field}, which stands at its default)"
        return SitePolicyError(f"{location}: {what}")

    def check_keys(self, cards: Iterable[PublicCard]) -> None:
        """`SitePolicyError` for a key that was revoked."""
        for card in cards:
            if any(len(gone) >= 12 and card.fingerprint.startswith(gone) for gone in self.revoked):
                raise self.build_refusal("revoked", f"the key of {card.name} ({card.fingerprint[:12]}) was revoked")

    def check_order(self, order: Order, rows: int) -> None:
        """Raise `SitePolicyError`, with the line, for an order that exceeds the policy."""
        tune, aggregator = read_order_settings(order)
        self._check_parts(tune, aggregator)
        bare = build_local_tune(order.tune, order.local, order.rounds)
        personal = read_personal_part(order)
        if why := find_refused_setting(bare, length=False) or find_federation_obstacle(
            tune, aggregator, order.rounds, personal, order.privacy
        ):
            raise SitePolicyError(why)
        if self.bases and not any(len(base) >= 12 and order.base.startswith(base) for base in self.bases):
            raise self.build_refusal("bases", f"the base {order.base[:12]} is not among those that may be tuned")
        if order.privacy is not None and (
            why := find_federated_privacy_obstacle(
                order.privacy,
                wants_classes=order.asks_classes,
                metrics=bool(order.metrics),
                mean=aggregator.linear and aggregator.exact,
            )
        ):
            raise SitePolicyError(why)
        for metric in order.metrics:
            self._check_metric(metric)
        remaining = order.least or len(order.group)
        if order.masks is not None and order.masks.groups and remaining < (self.least_group or math.inf):
            what = f"the order masks within a group of {len(order.group)} sites"
            what += f", of which {remaining} must remain" if order.least else ""
            raise self.build_refusal("least_group", f"{what}, at least {self.least_group or 'all peers'} must be")
        self._check_decontamination(order)
        if order.masks is None and self.require_masks:
            raise self.build_refusal("require_masks", "the order has no masks")
        if order.asks_classes and not self.class_names:
            raise self.build_refusal(
                "class_names", f"{tune.objective.kind} needs names of classes, which may not be sent"
            )
        used = min(rows, tune.max_train_samples or rows)
        if used < self.least_rows:
            raise self.build_refusal("least_rows", "there are too few training rows here to take part")
        local, batch = order.local, tune.batch_size
        round_rows = local.steps * batch if local.steps is not None else (local.epochs or 0.0) * used
        if round_rows < self.least_rows:
            raise self.build_refusal("least_rows", "a round would learn from too few rows; take more steps or epochs")
        if order.rounds > self.rounds:
            raise self.build_refusal("rounds", f"at most {self.rounds} rounds, got {order.rounds}")

    def check_question(self, question: SiteQuestion, query: SiteQuery, rows: int | None) -> None:
        """`SitePolicyError`, with the line, for a question that is not allowed; `rows` are those of the data
        set that it is about, if it is about one."""
        if query.kind not in self.queries:
            raise self.build_refusal("queries", f"questions of the kind {query.kind} are not answered")
        if not question.group and self.require_masks:
            raise self.build_refusal("require_masks", "the question has no masks")
        if self.epsilon is not None and question.privacy is None:
            raise self.build_refusal("epsilon", "the question makes no promise of differential privacy")
        if self.epsilon is None and question.privacy is not None:
            what = "noise takes the place of `least_class_rows` within a budget alone, and none is set"
            raise self.build_refusal("epsilon", what)
        if isinstance(query, MonitorQuery):
            for signal in query.signals:
                self._check_signal(signal)
        if rows is not None and rows < self.least_rows:
            raise self.build_refusal("least_rows", "there are too few rows here to count")

    def check_privacy(
        self, order: Order | SiteQuestion, spent: Sequence[PrivacySpending], planned: PrivacySpending | None
    ) -> None:
        """`SitePolicyError` for what is not within the budget; `spent` is what the log tells, `planned` comes next."""
        if self.epsilon is None:
            return
        if order.privacy is None or planned is None:
            raise self.build_refusal("epsilon", "the order makes no promise of differential privacy")
        if not covers(planned.unit, self.unit):
            raise self.build_refusal("unit", f"the order protects each {_shown(planned.unit)}, not each {self.unit}")
        if planned.unit == SITE and order.masks is None:
            what = "the coordinator itself would add the noise, and see the update without it: the order has no masks"
            raise self.build_refusal("epsilon", what)
        before = SpentPrivacy(tuple(spent)).count_epsilon(self.delta)
        after = SpentPrivacy((*spent, planned)).count_epsilon(self.delta)
        if after > self.epsilon:
            what = f"the order would bring epsilon from {before:.3g} to {after:.3g} at delta {self.delta:g}"
            raise self.build_refusal("epsilon", f"{what}, and the budget is {self.epsilon:g}")

    def _check_decontamination(self, order: Order) -> None:
        if (settings := order.decontaminate) is None:
            return
        if not self.decontaminate:
            raise self.build_refusal("decontaminate", "the order compares rows across sites")
        if settings.max_rows > self.most_compared_rows:
            what = f"the order compares up to {settings.max_rows:,} rows, at most {self.most_compared_rows:,} may be"
            raise self.build_refusal("most_compared_rows", what)

    def check_comparisons(self, before: int) -> None:
        """`SitePolicyError` where peers asked in as many other federations as they may, as the log tells."""
        if before >= self.total_comparisons:
            what = f"peers asked about rows in {before} federations, at most {self.total_comparisons}"
            raise self.build_refusal("total_comparisons", what)

    def check_left_out(self, count: int, rows: int) -> None:
        """`SitePolicyError` where too large a share of the rows would be left out, or too few remain."""
        if count > self.most_left_out * rows:
            what = f"more than {self.most_left_out:.1%} of the training rows here nearly repeat held-out rows of others"
            raise self.build_refusal("most_left_out", what)
        if rows - count < self.least_rows:
            raise self.build_refusal("least_rows", "there are too few training rows here to take part")

    def check_measured(self, rows: int) -> None:
        """`SitePolicyError` for sums over too few held-out rows."""
        if rows < self.least_class_rows:
            raise self.build_refusal("least_class_rows", "there are too few held-out rows here to sum over")

    def check_budget(self, rounds: int, hours: float) -> None:
        """`SitePolicyError` where rounds or hours are used up, as the log tells them."""
        if rounds >= self.total_rounds:
            raise self.build_refusal("total_rounds", f"{rounds} rounds are done, at most {self.total_rounds}")
        if hours >= self.hours:
            raise self.build_refusal("hours", f"this federation took the {self.hours:g} hours that it may")

    def _check_signal(self, signal: Signal) -> None:
        """Only signals that are listed: others may count answers that a text of the question fits."""
        if isinstance(signal, MetricSignal):
            self._check_metric(dump_given_settings(signal.metric))
            return
        if signal.kind in PLAIN_SIGNALS and signal.kind in self.signals:
            return
        named = signal.model_copy(update={"name": ""})
        if not any(named == Signal.parse(allowed) for allowed in self.signals):
            raise self.build_refusal("signals", f"counts of {_shown(signal.kind)} may not be asked for so")

    def _check_metric(self, settings: Mapping[str, Any]) -> None:
        """Only metrics that are listed, with the settings that are listed."""
        kind = settings.get("kind")
        same = [
            allowed
            for allowed in self.metrics
            if kind in (allowed, allowed.get("kind") if isinstance(allowed, dict) else "")
        ]
        if not same:
            raise self.build_refusal("metrics", f"sums of {_shown(kind)} may not be sent")
        try:
            metric = Metric.parse(dict(settings))
            known = [Metric.parse(allowed) for allowed in same]
        except (ValidationError, PydanticCustomError, TypeError, RecursionError) as error:
            raise MessageError("the order's metrics are none of this version") from error
        if metric not in known:
            raise self.build_refusal("metrics", f"sums of {_shown(kind)} may not be sent with other settings than here")

    def _check_parts(self, tune: Tune, aggregator: Aggregator) -> None:
        """Only parts that are listed, and none that reads or writes a path."""
        if aggregator.kind not in self.sums:
            raise self.build_refusal("sums", f"sums by {aggregator.kind} are not allowed")
        allowed = {
            "technique": ("techniques", self.techniques),
            "objective": ("objectives", self.objectives),
            "optimizer": ("optimizers", self.optimizers),
        }
        for part in iter_components(tune):
            if part is tune:
                continue
            if part.role in allowed:
                field, kinds = allowed[part.role]
                if part.kind not in kinds:
                    raise self.build_refusal(field, f"{part.role} {part.kind} is not allowed")
            elif f"{part.role}.{part.kind}" not in self.parts:
                raise self.build_refusal("parts", f"{part.role}.{part.kind} is not allowed")
            if any(True for _ in _list_paths(part)):
                raise self.build_refusal("parts", f"{part.role} {part.kind} names a file, which an order may not")


def _list_paths(part: Component) -> Iterator[str]:
    """Files that a part's settings name."""
    yield from (name for name, _ in part.paths(Path()))


def _list_lines(node: Any) -> Iterator[tuple[str, int]]:
    """The line of each field of a mapping, from 1."""
    if isinstance(node, yaml.MappingNode):
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                yield key.value, key.start_mark.line + 1


def _shown(value: Any) -> str:
    return str(value)[:60]
