"""A site's work for a coordinator: it accepts an order, trains rounds one after another, and answers each once.

A repeated message with the same contents gets the bytes of its first answer; another message of the same number is
refused. So a killed coordinator resumes, and none can have a round computed twice.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from pydantic_core import PydanticCustomError

from luthier.artifacts.dataset import DatasetSummary, has_split, read_example_batches
from luthier.artifacts.training import TrainingRecord
from luthier.core.artifact import list_files
from luthier.core.component import iter_components
from luthier.core.errors import LuthierError, OutOfMemory, SystemResourceError
from luthier.core.files import write_atomically
from luthier.core.hashing import digest_of
from luthier.core.revision import code_revision
from luthier.core.step import StepContext
from luthier.federated.aggregator import Aggregator, GlobalWeights
from luthier.federated.aggregators.mean import MeanAggregator
from luthier.federated.control_variates import SiteVariates, add_variates, find_variate_obstacle, split_variates
from luthier.federated.errors import MessageError, OrderError
from luthier.federated.local_training import FederatedTraining, SharedModel, SiteUpdate
from luthier.federated.measure import SPLIT, describe_folder, measure_site
from luthier.federated.messaging.messages import (
    COMPARISONS,
    QUESTIONS,
    STAGES,
    BlindedRows,
    BlindRequest,
    CandidateRequest,
    ComparisonRequest,
    Enrolled,
    EvaluatedRows,
    FederationMessage,
    Final,
    KeyList,
    LeaveOutResponse,
    LocalWork,
    Measured,
    Order,
    Rejection,
    RoundKeys,
    RoundStart,
    RoundUpdate,
    ShareList,
    SharesRevealed,
    SharesSent,
    SiteQuestion,
    SurvivorList,
    SurvivorSignature,
    check_weights,
    digest_message,
    pack_tensors,
    unpack_tensors,
    unpack_weights,
)
from luthier.federated.personal.adapter import PersonalAdapter
from luthier.federated.personal.part import PersonalPart
from luthier.federated.personal.site_model import MODEL, name_own_weights, select_own_weights, train_adapter
from luthier.federated.privacy import (
    SITE,
    FederatedPrivacy,
    PrivacySpending,
    clip_change,
    encode_change,
    find_site_noise,
    subtract_weights,
)
from luthier.federated.secure_aggregation.dropout_masks import DropoutMasks, MaskContext, check_least
from luthier.federated.secure_aggregation.masks import LEAST_SITES, MASKED, BoundError, PairMasks, encode_update
from luthier.federated.sites.state import SiteState
from luthier.metrics.metric import Metric
from luthier.tune.objective import ObjectiveContext
from luthier.tune.privacy.noise import KEY, NoiseKey
from luthier.tune.steps.tune import Tune

if TYPE_CHECKING:
    from torch import Tensor

    from luthier.federated.sites.policy import SitePolicy


DATA = "data"
"""Name of a site's rows in an order's settings."""
ADAPTER = "own-adapter"
"""The folder of the training of a site's own adapter, until it is done."""
UNMASKED = "unmasked.safetensors"
"""A site's update before it is masked."""


def build_local_tune(
    tune: Mapping[str, Any], local: LocalWork, rounds: int, privacy: FederatedPrivacy | None = None
) -> Tune:
    """The training whose steps all rounds share, from the settings of an order."""
    length: dict[str, Any] = {"epochs": 1000.0}
    if privacy is not None and (steps := privacy.for_steps()) is not None:
        length["privacy"] = steps
    if local.steps is not None:
        length["max_steps"] = local.steps * rounds
    if local.epochs is not None:
        length["epochs"] = local.epochs * rounds
    return Tune.model_validate({**tune, "data": DATA, **length})


def read_order_settings(order: Order) -> tuple[Tune, Aggregator]:
    """The training and the aggregator of an order; `MessageError` where its settings are none."""
    try:
        return build_local_tune(order.tune, order.local, order.rounds, order.privacy), Aggregator.parse(order.sum)
    except (ValidationError, PydanticCustomError, TypeError, RecursionError, OverflowError) as error:
        raise MessageError("the order's settings are none of a training here") from error


def read_personal_part(order: Order) -> PersonalPart | None:
    """Return the personal part of an order; `MessageError` for invalid settings."""
    try:
        return None if order.personal is None else PersonalPart.parse(order.personal)
    except (ValidationError, PydanticCustomError, TypeError) as error:
        raise MessageError("the order's `personal` is no part of a model that is known here") from error


def compute_training_code(tune: Tune, aggregator: Aggregator, personal: PersonalPart | None = None) -> str:
    """The revision of the code that decides a site's update."""
    modules = {type(part).__module__ for part in iter_components(tune)} | {type(aggregator).__module__, __name__}
    if personal is not None:
        modules.add(type(personal).__module__)
    return code_revision(*sorted(modules))


def describe_own_promise(privacy: FederatedPrivacy | None) -> dict[str, Any]:
    """Return the privacy guarantee of a site's own model, for its record: none for whole sites, since its own weights
    have no noise.
    """
    if privacy is None:
        return {}
    about = privacy.model_dump(include={"unit", "epsilon", "delta", "clip"})
    return {"privacy": {**about, "epsilon": None} if privacy.unit == SITE else about}


def count_class_rows(work: StepContext) -> dict[str, int]:
    """Training rows of each class."""
    counts: dict[str, int] = {}
    for examples in read_example_batches(work.inputs["data"], "train"):
        for example in examples:
            if example.label:
                counts[example.label] = counts.get(example.label, 0) + 1
    return counts


class SiteWorker:
    """Answers the messages of one federation at one site."""

    def __init__(
        self,
        name: str,
        work: StepContext,
        policy: SitePolicy | None = None,
        masks: PairMasks | None = None,
        shared: SharedModel | None = None,
        spent: Sequence[PrivacySpending] = (),
    ) -> None:
        """`work` has the site's rows as `data`, its copy of the base as `model`, and a scratch folder of its own;
        `shared` is what sites of this process have in common, `spent` what other federations cost the rows."""
        self.name, self._spent = name, spent
        self._work, self._policy, self._masks, self._shared = work, policy, masks, shared
        self._seen: dict[int, tuple[str, Path]] = {}
        for path in sorted(work.scratch.glob("answer-*")):
            number, _, digest = path.name.removeprefix("answer-").partition("-")
            self._seen[int(number)] = (digest, path)
        order_path = work.scratch / "order"
        self._order: Order | None = None
        if order_path.is_file():
            self._take_order(FederationMessage.decode(order_path.read_bytes(), Order).header)

    def keeps_answer(self, number: int) -> bool:
        """Return whether the answer to a message is stored here."""
        return number in self._seen

    def answer(self, number: int, content: bytes) -> bytes:
        """The answer to a message by its number (0: the order; then rounds; then the end).

        `MessageError` for one that is out of turn or was asked with other contents; a refusal by the policy is an
        answer.
        """
        digest = digest_message(content)
        if number in self._seen:
            known, kept = self._seen[number]
            if known != digest:
                raise MessageError(f"message {number} came before with other contents; nothing is computed for it")
            return kept.read_bytes()
        if self._seen and number <= max(self._seen):
            raise MessageError(f"message {number} was answered before; nothing is computed for it again")
        try:
            reply = self._compute(number, content)
        except MessageError:
            raise
        except LuthierError as error:
            if isinstance(error, SystemResourceError) and not isinstance(error, OutOfMemory):
                raise  # a full disk is no answer: the message is computed when there is room
            reply = FederationMessage(Rejection(message=self._describe(error))).encode()
            if number == 0:
                return reply  # not kept: nothing was computed, and the policy may allow the same order later
        self._keep(number, digest, reply)
        return reply

    def _compute(self, number: int, content: bytes) -> bytes:
        message = FederationMessage.decode(content, *(QUESTIONS[1:] if number else QUESTIONS[:1]))
        header = message.header
        if isinstance(header, Order):
            return self._enroll(header, content)
        order = self.order
        if isinstance(header, Final):
            if number != order.last_number:
                raise MessageError(f"message {number} ends a federation of {order.rounds} rounds")
            return self._measure(order, message)
        if number <= order.comparisons:
            if not isinstance(header, COMPARISONS[number - 1]):
                raise MessageError(f"message {number} compares rows, and is of kind {header.kind!r}")
            return self._decontaminate(order, number, message)
        round_number, stage = order.find_stage(number)
        if type(header) in COMPARISONS:
            raise MessageError(f"message {number} compares rows by a message {header.kind!r}, and trains")
        if header.round != round_number or round_number > order.rounds or not isinstance(header, STAGES[stage]):
            raise MessageError(
                f"message {number} asks for round {header.round} of {order.rounds} by a message {header.kind!r}"
            )
        if isinstance(header, RoundStart):
            self._require_comparison(order)
            return self._train(order, message, digest_message(content))
        return self._advance(order, header)

    def _enroll(self, order: Order, content: bytes) -> bytes:
        from luthier.models.load import compute_weights_digest, find_base_artifact

        summary = DatasetSummary.read(self._work.inputs["data"])
        counts = count_class_rows(self._work) if order.asks_classes else {}
        if self._policy is not None:
            self._policy.check_order(order, summary.rows.get("train", 0))
        tune, aggregator = read_order_settings(order)
        personal = read_personal_part(order)
        if order.control_variates and (why := find_variate_obstacle(aggregator, order.privacy)):
            raise OrderError(why)
        self._check_peers(order)
        base = compute_weights_digest(find_base_artifact(self._work.inputs["model"]))
        if order.base != base:
            raise OrderError(f"the base model here is {base[:12]}, and the order is for {order.base[:12]}")
        if order.code != (code := compute_training_code(tune, aggregator, personal)):
            what = f"the code that trains here is {code[:12]}, and that of the coordinator {order.code[:12]}"
            raise OrderError(what, hint="install the same version of Luthier at both")
        self._take_order(order)
        if self._policy is not None:
            self._policy.check_privacy(order, self._spent, self.plan_spending())
        write_atomically(self._work.scratch / "order", content)
        rows = min(summary.rows.get("train", 0), tune.max_train_samples or summary.rows.get("train", 0))
        classes = self._list_classes(order, FederatedTraining(tune, self._work, aggregator, self._shared), counts)
        hidden = order.masks is not None or order.decontaminate is not None
        return FederationMessage(Enrolled(rows=None if hidden else rows, classes=classes)).encode()

    def _check_peers(self, order: Order) -> None:
        """`OrderError` where an order names another group of sites than the peers of the policy."""
        if order.masks is not None:
            whole = [] if self._masks is None else self._masks.group
            part = order.masks.groups is not None and self._masks is not None and self._masks.own in order.group
            if order.group != whole and not (part and set(order.group) <= set(whole)):
                raise OrderError(
                    "the order masks numbers among other sites than this one and the `peers` of its policy, which must "
                    "name the card of every site"
                )
            if len(order.group) < LEAST_SITES:
                raise OrderError(f"masks need {LEAST_SITES} sites, and the order's group has {len(order.group)}")
            if order.least is not None and (why := check_least(len(order.group), order.least)):
                raise OrderError(why)
        if order.decontaminate is not None and order.compared != ([] if self._masks is None else self._masks.group):
            raise OrderError("the order compares rows among other sites than this site and its peers")

    def _list_classes(self, order: Order, training: FederatedTraining, counts: Mapping[str, int]) -> dict[str, str]:
        """Return the answer text of each class with enough rows, where the order asks for classes.

        `OrderError` where an agreed class has another text here.
        """
        if not order.classes and not order.asks_classes:
            return {}
        texts = training.read_data(None).about.classes
        if any(texts.get(label, label) != label for label in order.classes):
            raise OrderError("a class of the order is answered here by other words than its name")
        least = self._policy.least_class_rows if self._policy is not None else 1
        return {label: text for label, text in texts.items() if order.asks_classes and counts.get(label, 0) >= least}

    def _decontaminate(self, order: Order, number: int, message: FederationMessage) -> bytes:
        """Compare rows with those of the other sites; where some are left out, rounds train on the rest."""
        from luthier.federated.decontamination.site import SiteDecontamination

        assert order.decontaminate is not None, "only then rows are compared"
        assert self._masks is not None, "an order without peers was refused"
        comparison = SiteDecontamination(
            self._work, self._masks.identity, self._masks.peers, order.decontaminate, order.federation
        )
        if isinstance(message.header, BlindRequest):
            return FederationMessage(BlindedRows(), comparison.ask(number)).encode()
        if isinstance(message.header, CandidateRequest):
            return FederationMessage(BlindedRows(), comparison.ask_more(number, message.tensors)).encode()
        if isinstance(message.header, ComparisonRequest):
            return FederationMessage(EvaluatedRows(), comparison.evaluate(number, message.tensors)).encode()
        count = comparison.leave_out(number, message.tensors, self._policy)
        least = self._policy.least_class_rows if self._policy is not None else 0
        shared = count >= least and order.masks is None and order.privacy is None
        return FederationMessage(LeaveOutResponse(left_out=count if shared else None)).encode()

    def _require_comparison(self, order: Order) -> None:
        """`OrderError` for a round that leaves out the comparison of rows, which was agreed."""
        from luthier.federated.decontamination.site import count_left_out

        if order.decontaminate is not None and count_left_out(self._work.scratch) is None:
            raise OrderError("a round is to begin before rows were compared with what other sites hold out")

    def _train(self, order: Order, message: FederationMessage, digest: str) -> bytes:
        from luthier.tune.training.gradient_pull import GradientPull, ProximalPull

        start: RoundStart = message.header
        training, state = self._open_training(order, start.classes), SiteState(self._work.scratch)
        classes = start.classes if order.wants_classes else None
        variates, tensors = None, message.tensors
        pulls: list[GradientPull] = [ProximalPull(order.proximal)] if order.proximal else []
        if order.control_variates:
            tensors, shared = split_variates(message.tensors)
            variates = self._open_variates(order, start, unpack_weights(tensors), shared)
            pulls.append(variates.pull)
        given, own = unpack_weights(tensors), select_own_weights(state.read(start.round).tensors)
        update = training.train_round(given, start.round - 1, order.rounds, classes, pulls, own)
        kept = name_own_weights(update.own)
        if variates is not None:
            changes = variates.find_changes(update.weights)
            kept |= variates.dump(changes)
            update = update._replace(weights=add_variates(update.weights, changes))
        if kept:
            state.write(start.round, kept)
        return self._build_update(order, update, given, start.round, digest)

    def _open_training(self, order: Order, classes: Mapping[str, str]) -> FederatedTraining:
        """A training of the order's rounds over this site's rows."""
        tune, aggregator = read_order_settings(order)
        personal = read_personal_part(order)
        keeps = (lambda name: False) if personal is None else personal.keeps
        other = None if personal is None else personal.build_tune(tune)
        return FederatedTraining(tune, self._open_scratch(classes), aggregator, self._shared, keeps, other=other)

    def _build_update(self, order: Order, update: SiteUpdate, given: GlobalWeights, number: int, digest: str) -> bytes:
        """The answer to a round's message: what travels of an update, under masks where they were agreed."""
        import numpy
        import torch

        if order.masks is not None and self._masks is not None:
            encoded = self._encode(order, update, given, number)
            if order.least is not None:
                return self._offer_keys(order, number, digest, encoded)
            masked = self._masks.within(order.group).mask(encoded, order.federation, number, digest)
            numbers = torch.from_numpy(masked.view(numpy.int64))
            return FederationMessage(RoundUpdate(round=number, answers=digest), {MASKED: numbers}).encode()
        loss = update.loss if order.privacy is None else None
        header = RoundUpdate(round=number, answers=digest, rows=update.rows, steps=update.steps, loss=loss)
        return FederationMessage(header, update.weights).encode()

    def _open_variates(
        self,
        order: Order,
        start: RoundStart,
        given: GlobalWeights,
        shared: Mapping[str, Tensor],
    ) -> SiteVariates:
        """This site's control variates in a round; `MessageError` where the shared ones are not those that move."""
        _, aggregator = read_order_settings(order)
        moving = {name: value for name, value in given.moving.items() if not aggregator.freezes(name, start.round - 1)}
        check_weights(shared, moving, "the coordinator")
        if start.round == 1 and any(bool(value.any()) for value in shared.values()):
            raise MessageError("the coordinator sends control variates that are not zero in the first round")
        if order.position >= len(start.counted):
            raise MessageError(f"round {start.round} tells what was counted of {len(start.counted)} sites alone")
        kept = SiteState(self._work.scratch).read(start.round)
        return SiteVariates(kept, start.counted[order.position], shared)

    def plan_spending(self, number: int | None = None) -> PrivacySpending | None:
        """Return the privacy cost of a message, or of the whole order; None without a guarantee."""
        order = self.order
        if (privacy := order.privacy) is None:
            return None
        if number == order.last_number:
            return self._plan_own_spending(order)
        round_number, stage = order.find_stage(number) if number else (None, 0)
        if stage or not 1 <= (round_number or 1) <= order.rounds:
            return None
        if privacy.unit == SITE:
            noise = find_site_noise(privacy, order.rounds)
            return PrivacySpending(unit=SITE, noise=noise, sampling=1.0, steps=1 if round_number else order.rounds)
        training = self._open_training(order, {})
        return training.plan_spending(order.rounds, None if round_number is None else round_number - 1)

    def _plan_own_spending(self, order: Order) -> PrivacySpending | None:
        """Return the privacy cost of the site's own training after the rounds; None without one, or without noise."""
        (tune, _), personal = read_order_settings(order), read_personal_part(order)
        own = None if personal is None else personal.build_tune(tune)
        if own is None or own.privacy is None:
            return None
        return FederatedTraining(own, self._open_scratch({}), MeanAggregator(), other=tune).plan_spending(1, 0)

    def _encode(self, order: Order, update: SiteUpdate, given: GlobalWeights, number: int) -> Any:
        """Return the masked content: weights, rows and loss; with a guarantee to sites, a clipped change with noise."""
        assert order.masks is not None, "only then something is masked"
        sites, privacy = len(order.group), order.privacy
        if privacy is None or privacy.unit != SITE:
            loss = update.loss if privacy is None else 0.0
            return encode_update(update.weights, update.rows, loss, order.masks, sites)
        change = clip_change(subtract_weights(update.weights, given.moving), privacy.clip)
        noise = find_site_noise(privacy, order.rounds) * privacy.clip
        key, label = NoiseKey.load(self._work.scratch), f"site/{number}"
        return encode_change(change, order.masks, sites, privacy.clip, noise, order.least or sites, key, label)

    def _offer_keys(self, order: Order | SiteQuestion, number: int, digest: str, encoded: Any) -> bytes:
        """Keep what is to be masked, and make keys for the round."""
        import numpy
        import torch

        assert order.least is not None, "only then a round has stages"
        about = MaskContext(
            federation=order.federation, round=number, digest=digest, group=tuple(order.group), least=order.least
        )
        keys = self._open_masks().begin(about)
        kept = pack_tensors({MASKED: torch.from_numpy(encoded.view(numpy.int64))})
        write_atomically(self._work.scratch / UNMASKED, kept)
        (self._work.scratch / UNMASKED).chmod(0o600)
        return FederationMessage(RoundKeys(keys=keys)).encode()

    def _advance(self, order: Order | SiteQuestion, header: Any) -> bytes:
        """A later stage of a masked round."""
        import numpy
        import torch

        masks, kept = self._open_masks(), self._work.scratch / UNMASKED
        answer: Any
        if isinstance(header, KeyList):
            answer = SharesSent(shares=masks.share(header.keys))
        elif isinstance(header, ShareList):
            if not kept.is_file():
                raise MessageError(f"there is no training of round {header.round} here to be masked")
            numbers = unpack_tensors(kept.read_bytes())[MASKED].numpy().view(numpy.uint64)
            masked = masks.mask(numbers, header.shares, header.senders)
            answer = RoundUpdate(round=header.round, answers=masks.about.digest)
            return FederationMessage(answer, {MASKED: torch.from_numpy(masked.view(numpy.int64))}).encode()
        elif isinstance(header, SurvivorList):
            kept.unlink(missing_ok=True)
            answer = SurvivorSignature(signature=masks.sign_survivors(header.survivors))
        else:
            seeds, own = masks.reveal(header.signatures)
            answer = SharesRevealed(seeds=seeds, masks=own)
        return FederationMessage(answer).encode()

    def _open_masks(self) -> DropoutMasks:
        if self._masks is None:
            raise MessageError("this site has no peers to mask its numbers towards")
        peers = self._masks.peers
        if self._order is not None:
            peers = {fingerprint: card for fingerprint, card in peers.items() if fingerprint in self._order.group}
        return DropoutMasks(self._masks.identity, peers, self._work.scratch)

    def _measure(self, order: Order, message: FederationMessage) -> bytes:
        """Write the site's own model, where a part stays here, and sum the agreed metrics over its held-out rows, by
        that model or by the last weights; noise keys are removed."""
        for path in self._work.scratch.rglob(KEY):
            if ADAPTER not in path.parts:  # that of the site's own training lasts as long as it does
                path.unlink()
        personal = read_personal_part(order)
        if not order.metrics and personal is None:
            return FederationMessage(Measured(rows=0)).encode()
        if order.metrics and not has_split(self._work.inputs["data"], SPLIT):
            raise OrderError(f"there are no {SPLIT} rows here to measure by")
        classes = message.header.classes if order.wants_classes else {}
        training, folder, own = self._write_last_model(order, personal, message, classes)
        header = Measured(rows=0, personal=own)
        if order.metrics:
            work, data = self._open_scratch(classes), self._work.inputs["data"]
            digest = digest_of([entry.model_dump() for entry in list_files(folder)])  # answers are kept by it
            model = describe_folder(folder, digest, "tune", "model", {"data": data, "model": work.inputs["model"]})
            metrics = [Metric.parse(settings) for settings in order.metrics]
            rows, sums = measure_site(training, model, work, metrics, list(classes))
            if self._policy is not None:
                self._policy.check_measured(rows)
            header = Measured(rows=rows, sums=sums, personal=own)
        return FederationMessage(header).encode()

    def _write_last_model(
        self, order: Order, personal: PersonalPart | None, message: FederationMessage, classes: Mapping[str, str]
    ) -> tuple[FederatedTraining, Path, bool]:
        """The model of the last weights with this site's own part; whether there is such a part."""
        tune, _ = read_order_settings(order)
        training, given = self._open_training(order, classes), unpack_weights(message.tensors)
        kept = select_own_weights(SiteState(self._work.scratch).read(order.rounds + 1).tensors)
        own = bool(kept) or isinstance(personal, PersonalAdapter)
        given = given._replace(moving={**given.moving, **kept})
        if isinstance(personal, PersonalAdapter):
            rows = open_scratch(self._work.scratch / ADAPTER)  # drawn and dealt by another seed
            work = replace(self._open_scratch(classes), scratch=rows)
            known = classes if order.wants_classes else None
            training, given = train_adapter(personal, tune, work, given, known)
        writing = self._work.scratch / ("model" if not own else f"{MODEL}.part")
        shutil.rmtree(writing, ignore_errors=True)
        writing.mkdir()
        training.write_weights(given, classes, writing, complete=personal is None)
        about = ObjectiveContext(classes=classes, seed=order.seed)
        settings = {
            "technique": tune.technique.settings(),
            "objective": tune.objective.settings(),
            "optimizer": tune.optimizer.settings(),
            "base": training.base_name,
            "federation": {
                "federation": order.federation, "site": self.name, "rounds": order.rounds, "sum": order.sum,
                "personal": order.personal, "base": order.base,
            },
            **describe_own_promise(order.privacy),
            **tune.objective.card(about),
        }  # fmt: skip
        TrainingRecord.model_validate(settings).write(writing)
        if not own:
            return training, writing, False
        folder = self._work.scratch / MODEL
        shutil.rmtree(folder, ignore_errors=True)
        writing.rename(folder)
        shutil.rmtree(self._work.scratch / ADAPTER, ignore_errors=True)
        return training, folder, True

    @property
    def scratch(self) -> Path:
        """Folder of its own model at the end."""
        return self._work.scratch

    def _describe(self, error: LuthierError) -> str:
        """An error in one line. A site elsewhere tells no more than its policy's words: others may quote a row."""
        if self._policy is None or isinstance(error, OrderError | BoundError):
            return " ".join(str(error).split())[:1000]
        self._work.events.warning(str(error))
        return f"training failed there ({type(error).__name__}); the site's own output tells more"

    def _open_scratch(self, classes: Mapping[str, str]) -> StepContext:
        """Return the folder of the tokenized training rows, which depend on the classes."""
        data, about = self._work.inputs["data"], repr(sorted(classes.items()))
        if self.order.decontaminate is not None:
            from luthier.federated.decontamination.site import find_remaining_rows

            data = find_remaining_rows(self._work)
            about += "" if data is self._work.inputs["data"] else data.digest
        scratch = self._work.scratch / f"rows-{digest_message(about.encode())[:12]}"
        scratch.mkdir(parents=True, exist_ok=True)
        return replace(self._work, scratch=scratch, seed=self.order.seed, inputs={**self._work.inputs, "data": data})

    def _take_order(self, order: Order) -> None:
        self._order = order
        self._work = replace(self._work, seed=order.seed)

    @property
    def order(self) -> Order:
        """The accepted order; `MessageError` before that."""
        if self._order is None:
            raise MessageError("a round comes before its order")
        return self._order

    def _keep(self, number: int, digest: str, reply: bytes) -> None:
        """Keep the answer; of earlier rounds, only that they were answered."""
        kept = self._work.scratch / f"answer-{number}-{digest}"
        write_atomically(kept, reply)
        for path in self._work.scratch.glob(f"answer-{number - 1}-*"):
            if number > 1:
                path.unlink()
        self._seen.pop(number - 1 if number > 1 else -1, None)
        self._seen[number] = (digest, kept)


def open_scratch(folder: Path) -> Path:
    """A folder of a site, made where it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    return folder
