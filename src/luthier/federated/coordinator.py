"""The coordinator of a federation: it orders rounds, aggregates the sites' updates, and writes the model.

The weights of a round are a pure function of recipe, seed, round and the updates that arrived in time. After each round
the encrypted state is stored in the scratch folder, so that a killed coordinator resumes to the same bytes.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import BaseModel

from luthier.artifacts.training import TrainingRecord
from luthier.core.errors import DataError, ModelError, SourceLocation
from luthier.core.events import RunEventEmitter, format_counted_noun
from luthier.core.files import write_atomically
from luthier.core.hashing import digest_of
from luthier.core.step import StepContext
from luthier.federated.aggregator import AggregatedWeights, Factors, GlobalWeights, WeightSum
from luthier.federated.control_variates import add_variates, move_shared
from luthier.federated.decontamination.settings import DecontaminationSettings
from luthier.federated.errors import MessageError, SiteRefusal
from luthier.federated.federation_state import FederationState, RoundRecord, SiteRound
from luthier.federated.late_updates import LateAnswers
from luthier.federated.local_training import FederatedTraining, SharedModel
from luthier.federated.measure import PRODUCTS, pool_sums
from luthier.federated.messaging.messages import (
    Enrolled,
    FederationMessage,
    Final,
    Measured,
    Order,
    Rejection,
    RoundStart,
    RoundUpdate,
    digest_message,
    dump_given_settings,
    pack_weights,
)
from luthier.federated.partition import PartitionSettings, partition_rows, write_site_rows
from luthier.federated.personal.site_model import MODEL
from luthier.federated.privacy import SITE
from luthier.federated.queries.schema import SCHEMA_FILE
from luthier.federated.secure_aggregation.masked_round import MaskedRound
from luthier.federated.sites.worker import SiteWorker, compute_training_code, open_scratch
from luthier.federated.transport import LocalChannel, SiteChannel
from luthier.federated.update_sum import REPLIES, UpdateSum, build_local_masks
from luthier.models.load import compute_weights_digest, find_base_artifact
from luthier.tune.objectives.classify import Classify
from luthier.tune.privacy.noise import NoiseKey
from luthier.tune.technique import write_settings
from luthier.tune.training.schedule import permute_examples

if TYPE_CHECKING:
    from torch import Tensor

    from luthier.federated.steps.federate import Federate

STATE = "federation.state"
LEFT_OUT = "left_out.json"
RECORD = "federation.json"
_REPORTED_SITES = 20
"""Number of sites above which a round reports its progress."""


class RoundAnswers(NamedTuple):
    """The sites' answers in a round."""

    updates: dict[str, FederationMessage]
    """Updates in use, by site; without tensors where these were summed on arrival."""
    digests: dict[str, str]
    names: set[str]
    """The sites that answered."""
    up_bytes: int
    """Bytes of the largest answer."""


class Federation:
    """One federation, from its order to its model."""

    def __init__(self, step: Federate, work: StepContext) -> None:
        self._step, self._work = step, work
        self._aggregator, self._sum = step.sum, UpdateSum(step, work)
        self._tune = step.build_site_tune()
        self._training = FederatedTraining(self._tune, work, step.sum)
        self._keeps = (lambda name: False) if step.personal is None else step.personal.keeps
        self._wants_classes = isinstance(self._tune.objective, Classify)

    def run(self) -> dict[str, Any]:
        """Order, train, sum and write; returns measures."""
        channel = self._open_channel()
        try:
            state = self._read_state() or self._enroll(channel)
            while len(state.rounds) < self._step.rounds:
                state = self._train_round(channel, state)
                state.write(self._work.scratch / STATE)
                shutil.rmtree(self._work.scratch / REPLIES, ignore_errors=True)
                self._report(state)
            ended = self._end(channel, state)
        finally:
            channel.close()
        NoiseKey.forget(self._work.scratch)
        self._write_model(state, self._pool(ended, state), self._copy_site_models(channel, ended))
        sent = sum(record.up_bytes for record in state.rounds) / len(state.rounds)
        received = sum(record.down_bytes for record in state.rounds) / len(state.rounds)
        return {"bytes_up": sent, "bytes_down": received}

    def _open_channel(self) -> SiteChannel:
        step, work = self._step, self._work
        if step.transport is not None:
            return step.transport.open_channel(work, step.sites)
        if step.partition is not None:
            return self._open_partition(step.partition)
        keyed = step.secure is not None or step.decontaminate is not None
        workers, masks = {}, build_local_masks(work, step.sites) if keyed else {}
        for at, name in enumerate(step.sites):
            scratch = open_scratch(work.scratch / "sites" / name)
            inputs = {"data": work.inputs[f"sites.{at}"], "model": work.inputs["model"]}
            workers[name] = SiteWorker(name, replace(work, inputs=inputs, scratch=scratch), masks=masks.get(name))
        return LocalChannel(workers, {name: own.identity.card for name, own in masks.items()})

    def _open_partition(self, partition: PartitionSettings) -> SiteChannel:
        """Sites that the rows of one data set are dealt to; they train over one model, one after another."""
        data, shared = self._work.inputs["sites.0"], SharedModel()
        parts = partition_rows(partition, data, self._work.seed)
        smallest, largest = min(map(len, parts.values())), max(map(len, parts.values()))
        rows = f"{smallest:,} to {largest:,} rows" if smallest < largest else f"{smallest:,} rows each"
        self._work.events.note(f"{len(parts):,} simulated sites of {rows}")
        workers = {}
        for at, (name, indices) in enumerate(parts.items()):
            scratch = open_scratch(self._work.scratch / "sites" / str(at))
            digest = digest_of([data.digest, self._step.sites, partition.model_dump(), self._work.seed, at])
            inputs = {
                "data": write_site_rows(data, indices, scratch / "rows", digest),
                "model": self._work.inputs["model"],
            }
            events = RunEventEmitter(lambda event: None).of(name)
            work = replace(self._work, inputs=inputs, scratch=scratch, events=events)
            workers[name] = SiteWorker(name, work, shared=shared)
        return LocalChannel(workers, {})

    def _choose_sites(self, state: FederationState, number: int) -> tuple[str, ...]:
        """Return the sites of a round (from 1): all, or the number in the step, chosen by seed and round."""
        number_of_sites = self._step.sites_per_round
        if number_of_sites is None or number_of_sites >= len(state.sites):
            return state.sites
        order = permute_examples(int(digest_of(["sites", self._work.seed, number])[:8], 16), 0, len(state.sites))
        return tuple(state.sites[at] for at in sorted(int(index) for index in order[:number_of_sites]))

    def _enroll(self, channel: SiteChannel) -> FederationState:
        """Send the order, and begin with what the sites that take part have in common."""
        step = self._step
        order = Order(
            federation=self._work.digest,
            tune=dump_given_settings(step.tune),
            sum=dump_given_settings(step.sum),
            rounds=step.rounds,
            local=step.local,
            proximal=step.proximal,
            control_variates=step.control_variates,
            seed=self._work.seed,
            base=compute_weights_digest(find_base_artifact(self._work.inputs["model"])),
            code=compute_training_code(self._tune, step.sum, step.personal),
            wants_classes=self._wants_classes,
            classes=self._read_agreed_classes(),
            metrics=[dump_given_settings(metric) for metric in step.metrics],
            masks=step.secure,
            privacy=step.privacy,
            personal=None if step.personal is None else dump_given_settings(step.personal),
            decontaminate=step.decontaminate,
            compared=sorted(card.fingerprint for card in channel.cards.values()) if step.decontaminate else [],
        )
        groups = self._sum.describe_groups(channel)
        orders = {
            name: order.model_copy(
                update={**groups.get(name, {}), "position": position if step.control_variates else 0}
            )
            for position, name in enumerate(channel.sites)
        }
        answers = channel.exchange(0, {name: FederationMessage(own).encode() for name, own in orders.items()})
        found = {name: self._read(name, answers[name], Enrolled).header for name in channel.sites if name in answers}
        self._require_sites(found, channel.sites, "take part")
        rows = f"{sum(entry.rows or 0 for entry in found.values()):,} rows in all"
        known = rows if step.secure is None else "numbers of rows that are masked"
        known = known if step.decontaminate is None else "rows that are compared first"
        self._work.events.note(f"{format_counted_noun(len(found), 'site')} with {known}")
        classes = {name: name for name in order.classes} if order.classes else {}
        if order.asks_classes:
            classes = _unite_classes(found)
        if step.decontaminate is not None:
            self._decontaminate(channel, step.decontaminate)
        initial = self._training.initial_weights(classes)
        self._check_parts(initial)
        variates = {}
        if step.control_variates:
            shared = self._list_shared(initial).moving
            variates = {name: value.new_zeros(value.shape) for name, value in shared.items()}
        all_rows = float(sum(entry.rows or 0 for entry in found.values()))
        return FederationState(initial, {}, (), tuple(found), classes, variates, all_rows)

    def _check_parts(self, initial: GlobalWeights) -> None:
        """`ModelError` where nothing would stay at the sites, or nothing would travel."""
        personal = self._step.personal
        if personal is None or personal.build_tune(self._tune) is not None:
            return
        kept = sum(self._keeps(name) for name in initial.moving)
        if kept and kept < len(initial.moving):
            return
        what = f"{self._tune.technique.kind} trains nothing that `personal: {personal.kind}` keeps at a site"
        if kept:
            what = f"`personal: {personal.kind}` keeps all that {self._tune.technique.kind} trains at the sites"
        raise ModelError(what, where=SourceLocation(field="personal"), hint="take another technique or personal part")

    def _list_shared(self, given: GlobalWeights) -> GlobalWeights:
        """The weights that travel."""
        return given._replace(moving={name: value for name, value in given.moving.items() if not self._keeps(name)})

    def _decontaminate(self, channel: SiteChannel, settings: DecontaminationSettings) -> None:
        """Have sites leave out what others hold out, and keep what they tell of it."""
        from luthier.federated.decontamination.exchange import DecontaminationExchange

        found = DecontaminationExchange(channel, settings, self._work.scratch / REPLIES, self._read).run()
        write_atomically(self._work.scratch / LEFT_OUT, json.dumps(found).encode())
        counts = ", ".join(f"{count:,} at {name}" for name, count in found.items() if count is not None)
        self._work.events.note(f"sites left out near copies of rows that others hold out ({counts or 'none tells'})")

    def _read_agreed_classes(self) -> list[str]:
        """The classes that a step agreed on with the sites; `DataError` where they break what is promised."""
        if (agreed := self._work.inputs.get("classes")) is None:
            return []
        where = SourceLocation(field="classes")
        if not any(entry.path == SCHEMA_FILE for entry in agreed.manifest.files):
            raise DataError("the step agreed on nothing with sites", where=where, hint="name a step `validate_sites`")
        record = agreed.read_json(SCHEMA_FILE)
        if self._step.privacy is not None and record["privacy"] is None:
            what = "the names of classes come from rows without noise, which breaks the promise of `privacy`"
            raise DataError(what, where=where, hint="give that step `privacy`, too")
        if len(record["classes"]) < 2:
            what = f"the step agreed on {len(record['classes'])} classes, and two are needed"
            raise DataError(what, where=where, hint="lower its `least_rows`, or leave `classes` out")
        return [str(name) for name in record["classes"]]

    def _train_round(self, channel: SiteChannel, state: FederationState) -> FederationState:
        """Run one round with all its sites, and late ones."""
        number, travelling = len(state.rounds) + 1, self._list_shared(state.given)
        moving = {
            name: value for name, value in travelling.moving.items() if not self._aggregator.freezes(name, number - 1)
        }
        shared = {name: state.variates[name] for name in moving} if self._step.control_variates else {}
        message = self._write_round_start(channel, state, number, add_variates(pack_weights(travelling), shared))
        expected, given = add_variates(moving, shared), state.given.moving
        question_digest = digest_message(message)
        late = self._open_late_answers(state, number)
        chosen = self._choose_sites(state, number)
        sites = [name for name in state.sites if name in late.sent or name in chosen]
        requests = {name: message for name in sites if name not in late.sent}
        answers, masked_round = self._ask(channel, number, message, expected, requests, late)
        total = WeightSum() if self._sum.sums_as_they_come else None
        received = self._take_answers(answers, sites, question_digest, expected, given, late, total)
        updates = received.updates
        due = sites if masked_round is None else masked_round.list_sites(sites)
        self._require_sites(updates, due, f"answered in round {number}")
        found = self._sum.combine(updates, expected, given, total, masked_round)
        if masked_round is not None:
            updates = {name: update for name, update in updates.items() if name in masked_round.list_survivors()}
        all_rows = state.all_rows or (found.rows or 0) * len(state.sites) / len(updates)
        if shared:
            assert found.rows is not None, "rows are hidden by a promise to sites alone, which has no variates"
            shared = move_shared(shared, found.variates, found.rows, all_rows)
        weights, server = self._apply(state, found.combined)
        record = RoundRecord(
            round=number,
            rows=found.rows,
            loss=found.loss,
            error=found.combined.error,
            sites={
                name: SiteRound(
                    rows=update.header.rows,
                    steps=update.header.steps,
                    loss=update.header.loss,
                    digest=received.digests[name],
                    age=late.find_age(name),
                )
                for name, update in updates.items()
            },
            missing=[name for name in sites if name not in updates],
            down_bytes=len(message),
            up_bytes=received.up_bytes,
        )
        silent = [name for name in sites if name not in received.names] if self._step.late is not None else []
        return state._replace(
            given=weights,
            server=server,
            rounds=(*state.rounds, record),
            variates={**state.variates, **shared},
            all_rows=all_rows,
            waiting={name: late.find_question(name, question_digest) for name in silent},
        )

    def _open_late_answers(self, state: FederationState, number: int) -> LateAnswers:
        """The sites that this round waits for since an earlier one."""
        privacy = self._step.privacy
        clip = privacy.clip if privacy is not None and privacy.unit == SITE else None
        scratch = self._work.scratch
        return LateAnswers(self._step.late, scratch, state.waiting, number, self._sum.find_number, clip)

    def _take_answers(
        self,
        answers: Iterable[tuple[str, bytes]],
        sites: Sequence[str],
        question_digest: str,
        expected: Mapping[str, Tensor],
        given: Mapping[str, Tensor],
        late: LateAnswers,
        total: WeightSum | None,
    ) -> RoundAnswers:
        """Check each answer as it comes, and add its weights to `total` where there is one.

        `MessageError` or `SiteRefusal` for one that cannot be used; with `least`, its site is left out of the round.
        """
        found = RoundAnswers({}, {}, set(), 0)
        for name, answer in answers:
            found.names.add(name)
            try:
                update = self._read(name, answer, RoundUpdate)
                if (update.header.round, update.header.answers) != late.find_question(name, question_digest):
                    what = f"site {name} sends its update of round {update.header.round} in round {late.number}"
                    raise MessageError(what)
                self._sum.check(name, update, expected)
            except (MessageError, SiteRefusal) as error:
                if self._step.least is None or self._step.secure is not None:
                    raise
                self._work.events.warning(f"site {name} is left out of round {late.number}: {error.message}")
                continue
            update = update._replace(tensors=late.bring_up(name, update.tensors, given))
            found.digests[name] = digest_message(answer)
            found = found._replace(up_bytes=max(found.up_bytes, len(answer)))
            if total is not None:
                total.add(update.tensors, update.header.rows)
                update = update._replace(tensors={})
            found.updates[name] = update
            if len(sites) > _REPORTED_SITES:
                self._work.events.progress(len(found.updates), len(sites), f"sites of round {late.number}")
        return found

    def _ask(
        self,
        channel: SiteChannel,
        number: int,
        message: bytes,
        expected: Mapping[str, Tensor],
        requests: Mapping[str, bytes],
        late: LateAnswers,
    ) -> tuple[Iterable[tuple[str, bytes]], MaskedRound | None]:
        """The answers of sites in their order, and the round that takes masks out of the sum where sites may drop
        out."""
        if self._step.late is not None:
            late.keep(message)
            first = self._sum.find_number(number)
            gathered = channel.exchange_with_late(first, requests, late.sent, self._step.least or 0)
            return [(name, gathered[name]) for name in channel.sites if name in gathered], None
        if self._sum.stages == 1:
            return channel.iterate_answers(self._sum.find_number(number), requests), None
        masked_round = self._sum.open_masked_round(channel, number, message, expected, self._read)
        gathered = masked_round.gather(requests)
        return [(name, gathered[name]) for name in requests if name in gathered], masked_round

    def _write_round_start(
        self, channel: SiteChannel, state: FederationState, number: int, tensors: Mapping[str, Tensor]
    ) -> bytes:
        """The message that begins a round, the same for all sites."""
        counted = state.find_counted() if self._step.control_variates else {}
        header = RoundStart(
            round=number,
            classes=dict(state.classes),
            counted=[counted.get(name, 0) for name in channel.sites] if counted else [],
        )
        return FederationMessage(header, tensors).encode()

    def _apply(self, state: FederationState, combined: AggregatedWeights) -> tuple[GlobalWeights, Mapping[str, Tensor]]:
        """The weights that the next round begins with, and what the server's optimizer remembers."""
        base = dict(state.given.base)
        for name, factors in combined.base.items():
            total = base[name].add(_as_fp32(factors)) if name in base else _as_fp32(factors).limit_rank()
            base[name] = total
        moved = dict(combined.weights)
        server: Mapping[str, Tensor] = state.server
        if self._step.server is not None:
            moved, server = self._step_server(state, moved)
        return GlobalWeights({**state.given.moving, **moved}, base), server

    def _step_server(
        self, state: FederationState, mean: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], Mapping[str, Tensor]]:
        """Apply the server's optimizer to the difference of the sites' mean and the previous weights."""
        from luthier.federated.weight_holder import WeightHolder
        from luthier.tune.training.mixed_precision import MixedPrecisionOptimizer, OptimizerSettings

        assert self._step.server is not None, "there is one where it is asked"
        holder = WeightHolder(state.given.moving)
        updater = MixedPrecisionOptimizer(holder, OptimizerSettings(optimizer=self._step.server, clip=None))
        if state.server:
            kept = {f"master/{name}": value for name, value in state.given.moving.items()}
            updater.restore({**state.server, **kept})
        before = {name: value.clone() for name, value in state.given.moving.items()}
        updater.gather([before[name] - mean[name] if name in mean else None for name in before])
        updater.update(self._step.server_rate, 0.0)
        remembered = {name: value for name, value in updater.state().items() if not name.startswith("master/")}
        weights = updater.weights()
        return {name: weights[name].clone() for name in mean}, remembered

    def _read(self, name: str, content: bytes, kind: type[BaseModel]) -> FederationMessage:
        """A site's answer; `SiteRefusal` with its reason where it refuses."""
        message = FederationMessage.decode(content, kind, Rejection)  # type: ignore[arg-type]  # all are headers
        if isinstance(message.header, Rejection):
            raise SiteRefusal(f"site {name} refuses: {message.header.message}", where=SourceLocation(field="sites"))
        return message

    def _require_sites(self, found: Mapping[str, object], sites: Sequence[str], what: str) -> None:
        least = self._step.least or len(sites)
        if len(found) >= least:
            for name in sites:
                if name not in found:
                    self._work.events.warning(f"site {name} did not {what.replace('answered', 'answer')} in time")
            return
        missing = ", ".join(name for name in sites if name not in found)
        raise DataError(
            f"{len(found)} of {len(sites)} sites {what}, and at least {least} are needed; missing: {missing}",
            where=SourceLocation(field="least"),
            hint="run again when they are there: finished rounds are kept; or lower `least`",
        )

    def _end(self, channel: SiteChannel, state: FederationState) -> dict[str, Measured]:
        """Tell the sites that it is over, with the last weights where they need them; returns their answers."""
        needed = bool(self._step.metrics) or self._step.personal is not None
        weights = pack_weights(self._list_shared(state.given)) if needed else {}
        final = FederationMessage(Final(classes=dict(state.classes)), weights).encode()
        number = self._sum.find_number(self._step.rounds + 1)
        answers = channel.exchange(number, dict.fromkeys(state.sites, final))
        return {name: self._read(name, answers[name], Measured).header for name in state.sites if name in answers}

    def _copy_site_models(self, channel: SiteChannel, ended: Mapping[str, Measured]) -> dict[str, Any]:
        """Copy the own models of sites on this machine into the artifact; returns where they are."""
        if (personal := self._step.personal) is None:
            return {}
        sites: dict[str, str | None] = {}
        width = len(str(max(0, len(ended) - 1)))
        for at, name in enumerate(name for name, entry in ended.items() if entry.personal):
            scratch, sites[name] = channel.find_scratch(name), None
            if scratch is not None:
                sites[name] = f"{MODEL}/{at:0{width}}"
                shutil.copytree(scratch / MODEL, self._work.folder / MODEL / f"{at:0{width}}")
        where = "here" if all(sites.values()) else "there"
        self._work.events.note(f"{format_counted_noun(len(sites), 'site')} have models of their own, which lie {where}")
        return {"part": personal.settings(), "sites": sites}

    def _pool(self, found: Mapping[str, Measured], state: FederationState) -> dict[str, Any]:
        """The agreed metrics over the held-out rows of all sites, from what each summed over its own."""
        metrics = self._step.metrics
        if not metrics:
            return {}
        self._require_sites(found, state.sites, "answered with sums")
        rows = {name: entry.rows for name, entry in found.items()}
        pooled = {}
        for metric in metrics:
            for name, entry in found.items():
                if metric.kind not in entry.sums:
                    raise MessageError(f"site {name} sends no sums of {metric.kind}")
            products = {name: entry.sums.get(f"{metric.kind}{PRODUCTS}", []) for name, entry in found.items()}
            pooled[metric.kind] = pool_sums(
                metric, {name: entry.sums[metric.kind] for name, entry in found.items()}, rows, products
            )
            value = pooled[metric.kind]["value"]
            self._work.events.note(f"{metric.kind} {value:.4g} over {sum(rows.values()):,} held-out rows of all sites")
        return pooled

    def _report(self, state: FederationState) -> None:
        record, events = state.rounds[-1], self._work.events
        measures = {} if record.loss is None else {"loss": record.loss}
        events.progress(record.round, self._step.rounds, "rounds", **measures)
        if record.error is not None:
            events.note(
                f"round {record.round}: {self._aggregator.kind} misses the sum of the sites' products by "
                f"{record.error:.1%} of its norm"
            )

    def _read_state(self) -> FederationState | None:
        if (state := FederationState.read(self._work.scratch / STATE)) is not None:
            self._work.events.note(f"goes on after round {len(state.rounds)}")
        return state

    def _write_model(self, state: FederationState, pooled: Mapping[str, Any], personal: Mapping[str, Any]) -> None:
        """The model's files, `training.json`, `log.jsonl` and `federation.json`."""
        from luthier.tune.objective import ObjectiveContext

        step, folder, tune = self._step, self._work.folder, self._tune
        name = self._training.base_name
        complete = not any(self._keeps(name) for name in state.given.moving)
        self._training.write_weights(state.given, state.classes, folder, complete=complete)
        rows = {site: entry.rows for record in state.rounds for site, entry in record.sites.items()}
        about = ObjectiveContext(classes=state.classes, seed=self._work.seed)
        record = TrainingRecord.model_validate(
            {
                "technique": tune.technique.settings(),
                "objective": tune.objective.settings(),
                "optimizer": tune.optimizer.settings(),
                "base": name,
                "steps": sum(max(site.steps or 0 for site in entry.sites.values()) for entry in state.rounds) or None,
                "rows": max(entry.rows or 0 for entry in state.rounds) or None,
                "trainable_parameters": sum(value.numel() for value in state.given.moving.values()),
                "learning_rate": self._training.rate.value,
                "learning_rate_why": self._training.rate.why,
                "federation": {
                    "sites": rows,
                    "rounds": step.rounds,
                    "sum": step.sum.settings(),
                    "exact": step.sum.exact,
                    **({} if step.personal is None else {"personal": step.personal.settings()}),
                },
                **self._describe_privacy(),
                **tune.objective.card(about),
            }
        )
        record.write(folder)
        rounds = [entry.model_dump(mode="json") for entry in state.rounds]
        left_out = {} if step.decontaminate is None else json.loads((self._work.scratch / LEFT_OUT).read_bytes())
        optional = {"left_out": left_out, "metrics": pooled, "personal": personal}
        write_settings(
            folder / RECORD, {"rounds": rounds, **{name: found for name, found in optional.items() if found}}
        )
        lines = ({"step": entry.round, "loss": entry.loss, "rows": entry.rows} for entry in state.rounds)
        text = "".join(f"{json.dumps(line, sort_keys=True)}\n" for line in lines)
        (folder / "log.jsonl").write_text(text, encoding="utf-8")

    def _describe_privacy(self) -> dict[str, Any]:
        """Return the privacy guarantee, for the model's record."""
        if (privacy := self._step.privacy) is None:
            return {}
        return {"privacy": {"unit": privacy.unit, "epsilon": privacy.epsilon, "delta": privacy.delta,
                            "clip": privacy.clip}}  # fmt: skip


def _as_fp32(factors: Factors) -> Factors:
    return Factors(factors.up.float(), factors.down.float())


def _unite_classes(found: Mapping[str, Enrolled]) -> dict[str, str]:
    """The classes of all sites, sorted; `DataError` where sites answer one class by different words."""
    classes: dict[str, str] = {}
    for name, entry in found.items():
        for label, text in entry.classes.items():
            if classes.setdefault(label, text) != text:
                what = f"site {name} answers class {label!r} by {text!r}, and another by {classes[label]!r}"
                raise DataError(what, where=SourceLocation(field="sites"), hint="prepare the rows alike at all sites")
    return dict(sorted(classes.items()))
