"""A site at work: it fetches envelopes, checks each against keys, policy and log, computes, and answers."""

from __future__ import annotations

import datetime
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from luthier.core.artifact import Artifact
from luthier.core.errors import InputError, LuthierError, SourceLocation, SystemResourceError, UnknownName
from luthier.core.events import StepEventEmitter
from luthier.core.files import translate_write_errors, write_atomically
from luthier.core.step import StepContext
from luthier.federated.analytics.answer_history import AnswerHistory
from luthier.federated.analytics.worker import ASKED_FILE, QueryWorker, read_query
from luthier.federated.decontamination.site import count_left_out
from luthier.federated.errors import MessageError, OrderError
from luthier.federated.messaging.keys import (
    EnvelopeHeader,
    FederationIdentity,
    PublicCard,
    read_envelope_header,
    verify_envelope,
)
from luthier.federated.messaging.mailbox import SiteMailbox
from luthier.federated.messaging.messages import (
    ANSWERS,
    QUESTIONS,
    BlindRequest,
    ComparisonRequest,
    CountAnswer,
    FederationMessage,
    Final,
    LeaveOutResponse,
    Measured,
    Order,
    Rejection,
    RoundStart,
    SiteQuestion,
    digest_message,
)
from luthier.federated.personal.site_model import FEDERATIONS, MODEL
from luthier.federated.privacy import PrivacySpending
from luthier.federated.secure_aggregation.masks import PairMasks
from luthier.federated.sites.ledger import LedgerEntry, SiteLedger
from luthier.federated.sites.policy import SitePolicy, SitePolicyError
from luthier.federated.sites.worker import SiteWorker

APPROVED = "approved"
POLL_S = 0.5
RETRY_S = 5.0
"""Between two tries of a message that a full disk or a broken network held up."""


@dataclass(frozen=True, kw_only=True)
class SiteInputs:
    """A site's own inputs."""

    data: Artifact | None
    """None where requests to a served model alone are counted."""
    model: Artifact | None
    """None where questions alone are answered."""
    kept: Path | None = None
    traffic: Path | None = None
    """Folder of requests to a served model."""
    references: Path | None = None
    """What the signals of the site's own monitor were fitted to."""
    peers: tuple[PublicCard, ...] = ()
    """The other sites, towards which numbers are masked."""


class SiteServer:
    """Serves one coordinator."""

    def __init__(
        self,
        folder: Path,
        identity: FederationIdentity,
        coordinator: PublicCard,
        mailbox: SiteMailbox,
        inputs: SiteInputs,
        policy: SitePolicy | None,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        """`policy` is None for a process that the coordinator itself started."""
        self._folder, self._identity, self._coordinator = folder, identity, coordinator
        self._mailbox, self._inputs, self._policy, self._say = mailbox, inputs, policy, say
        if policy is not None:
            policy.check_keys([coordinator, *inputs.peers])
        self._ledger = SiteLedger(folder)
        self._ledger.read()
        self._obstacle = ""
        self._waiting: set[str] = set()
        self._refused: set[str] = set()
        self._held: dict[str, float] = {}
        """When a message may be tried again that this machine or the network did not let through."""
        self.done = False
        """Whether a federation ended."""

    def run(self, stop: Callable[[], bool] = lambda: False, *, once: bool = False) -> None:
        """Answer messages until `stop` returns True; `once`: until one federation has ended. `InputError` where another
        process answers for this site.
        """
        try:
            with FileLock(self._folder / "serve.lock", timeout=0):
                name, coordinator = self._identity.card.name, self._coordinator.name
                self._say(f"{name} looks for messages of {coordinator} {self._mailbox.location}, until it is stopped")
                while not stop() and not (once and self.done):
                    if not self.answer_waiting():
                        time.sleep(POLL_S)
        except Timeout:
            hint = "stop that one first; an order is approved by `luthier site approve` while it runs"
            where = SourceLocation(file=str(self._folder))
            raise InputError("another process answers for this site", where=where, hint=hint) from None

    def close(self) -> None:
        """Close the mailbox."""
        self._mailbox.close()

    def _tell_obstacle(self) -> None:
        """Report once why the coordinator does not respond, and once when it does again."""
        now, before = self._mailbox.obstacle, self._obstacle
        if now != before:
            self._say(now or f"messages can come again {self._mailbox.location}")
            self._obstacle = now

    def answer_waiting(self) -> int:
        """Answer what waits now; returns how many messages were answered."""
        answered = 0
        for envelope in self._mailbox.fetch():
            self._tell_obstacle()
            digest = digest_message(envelope)
            if digest in self._refused:
                self._mailbox.refuse(envelope)
                continue
            if time.monotonic() < self._held.get(digest, 0.0):
                continue
            try:
                with translate_write_errors(self._folder):
                    answered += self._answer(envelope)
            except SystemResourceError as error:
                self._held[digest] = time.monotonic() + RETRY_S
                self._say(f"{error}; nothing was lost: it is tried again in {RETRY_S:g} s")
        self._tell_obstacle()
        return answered

    def _answer(self, envelope: bytes) -> bool:
        digest = digest_message(envelope)
        try:
            header = verify_envelope(envelope, self._coordinator)
            content = self._identity.open(envelope, self._coordinator, header.federation, header.number)
            message = FederationMessage.decode(content, *QUESTIONS, SiteQuestion)
        except MessageError as error:
            self._refuse(envelope, digest, error)
            return False
        kind = message.header.kind
        if self._must_wait(header, message):
            return False
        started = time.monotonic()
        try:
            self._refuse_lost_answer(header)
            spent, refusal = self._plan_spending(header, message)
            about = describe_question(message.header) if isinstance(message.header, SiteQuestion) else ""
            self._write(header, "in", kind, content, spent=spent, why=about)
            reply = refusal or self._compute(header, message, content)
        except MessageError as error:
            self._refuse(envelope, digest, error)
            return False
        seconds = time.monotonic() - started
        answer = FederationMessage.decode(reply, *ANSWERS).header
        why = ""
        if isinstance(answer, LeaveOutResponse):
            why = f"{count_left_out(self._folder / FEDERATIONS / header.federation)} training rows left out"
        if isinstance(answer, CountAnswer) and answer.names:
            why = f"{len(answer.names)} names of classes and columns sent"
        self._write(header, "out", answer.kind, reply, seconds=seconds, why=why)
        if isinstance(answer, Rejection):
            self._say(f"refused {kind} {header.number}: {answer.message}")
        sealed = self._identity.seal(reply, self._coordinator, header.federation, header.number)
        self._mailbox.answer(header.federation, header.number, sealed)
        self._say(f"answered {kind} {header.number} of federation {header.federation[:12]} in {seconds:.1f} s")
        if isinstance(answer, Measured) and answer.personal and self._policy is not None:
            where = self._folder / FEDERATIONS / header.federation / MODEL
            self._say(f"this site's own model lies in {where}: `luthier site model` tells how to use it")
        self.done = self.done or isinstance(message.header, Final) or isinstance(answer, Rejection)
        return True

    def _compute(self, header: EnvelopeHeader, message: FederationMessage, content: bytes) -> bytes:
        order = message.header
        try:
            if isinstance(order, Order | SiteQuestion) and order.federation != header.federation:
                raise MessageError(f"a message {order.kind!r} names another federation than its envelope")
            if self._is_question(header, order):
                return self._query_worker(header).answer(header.number, content)
            worker = self._worker(header)
            measures = isinstance(order, Final) and bool(worker.order.metrics)
            if self._policy is not None and (isinstance(order, Order | BlindRequest | RoundStart) or measures):
                done = self._ledger.count_answered("measured" if measures else "update")
                self._policy.check_budget(done, self._ledger.sum_hours(header.federation))
            if self._policy is not None and isinstance(order, ComparisonRequest):
                self._policy.check_comparisons(self._ledger.count_comparisons(header.federation))
            return worker.answer(header.number, content)
        except SitePolicyError as error:
            return FederationMessage(Rejection(message=str(error)[:1000])).encode()

    def _refuse_lost_answer(self, header: EnvelopeHeader) -> None:
        """`MessageError` for what was answered before by an answer that is not kept any more: with the federation's
        folder its noise keys went, so a second answer would have other noise, and tell more than the log counts."""
        answered = self._ledger.find_last_answered(header.federation)
        if header.number <= answered and not self._worker(header).keeps_answer(header.number):
            raise MessageError(f"message {header.number} was answered before, and its answer is not kept here")

    def _plan_spending(
        self, header: EnvelopeHeader, message: FederationMessage
    ) -> tuple[PrivacySpending | None, bytes | None]:
        """Return the privacy cost of a training, and the refusal where it exceeds the budget."""
        body = message.header
        ends = isinstance(body, Final) and not self._is_question(header, body)
        if self._policy is None or not (ends or isinstance(body, RoundStart | SiteQuestion)):
            return None, None
        here = (header.federation, header.number)
        before = self._ledger.list_spent(lambda entry: (entry.federation, entry.number) == here)
        request: Order | SiteQuestion
        try:
            if isinstance(body, SiteQuestion):
                request, spent = body, self._query_worker(header).plan_question(body)
            else:
                worker = self._worker(header)
                request, spent = worker.order, worker.plan_spending(header.number)
            if spent is None and not isinstance(body, RoundStart):
                return None, None
            if isinstance(body, SiteQuestion) and read_query(body).window is not None:
                before, kept = (), None  # each request is in one window: nothing adds up
            else:
                kept = spent
            self._policy.check_privacy(request, before, spent)
        except OrderError as error:
            return None, FederationMessage(Rejection(message=str(error)[:1000])).encode()
        return kept, None

    def _is_question(self, header: EnvelopeHeader, request: object) -> bool:
        """Return whether a message requests counts, or continues the masks of such a request."""
        return (
            isinstance(request, SiteQuestion) or (self._folder / FEDERATIONS / header.federation / ASKED_FILE).is_file()
        )

    def _query_worker(self, header: EnvelopeHeader) -> QueryWorker:
        """Return the worker for queries; with a policy, it answers each about the same rows once."""
        worker = QueryWorker(*self._describe_site(header))
        worker.traffic, worker.references = self._inputs.traffic, self._inputs.references
        if self._policy is not None:
            worker.answered = AnswerHistory(self._folder, self._identity.secret)
        return worker

    def _worker(self, header: EnvelopeHeader) -> SiteWorker:
        spent = self._ledger.list_spent(lambda entry: entry.federation == header.federation)
        return SiteWorker(*self._describe_site(header), spent=spent)

    def _describe_site(self, header: EnvelopeHeader) -> tuple[str, StepContext, SitePolicy | None, PairMasks | None]:
        """Name, rows, policy and masks of the site, for one federation."""
        scratch = self._folder / FEDERATIONS / header.federation
        scratch.mkdir(parents=True, exist_ok=True)
        work = StepContext(
            name=self._identity.card.name,
            inputs={name: own for name, own in (("data", self._inputs.data), ("model", self._inputs.model)) if own},
            folder=scratch,
            scratch=scratch,
            recipe_dir=scratch,
            events=StepEventEmitter.saying(self._say),
            kept=self._inputs.kept,
        )
        masks = PairMasks(self._identity, self._inputs.peers) if self._inputs.peers else None
        return self._identity.card.name, work, self._policy, masks

    def _must_wait(self, header: EnvelopeHeader, message: FederationMessage) -> bool:
        """Return whether an order needs approval."""
        if self._policy is None or self._policy.approval == "never":
            return False
        if not isinstance(message.header, Order | SiteQuestion):
            return False
        if header.federation in read_approved(self._folder):
            return False
        if header.federation not in self._waiting:
            self._waiting.add(header.federation)
            order, what = message.header, "a question" if isinstance(message.header, SiteQuestion) else "an order"
            path = self._folder / f"order-{header.federation[:12]}.json"
            write_atomically(path, order.model_dump_json(indent=1).encode())
            self._say(
                f"{what} waits for approval: read {path}, then "
                f"`luthier site approve {self._folder} {header.federation[:12]}`"
            )
        return True

    def _refuse(self, envelope: bytes, digest: str, error: LuthierError) -> None:
        """Log what is refused; nothing is sent, for who sent it is not known."""
        self._refused.add(digest)
        try:
            header = read_envelope_header(envelope)
            federation, number = header.federation, header.number
        except MessageError:
            federation, number = "", 0
        self._ledger.append(
            LedgerEntry(
                at=_now(), federation=federation, way="refused", number=number, kind="envelope", digest=digest,
                bytes=len(envelope), why=error.message[:500],
            )
        )  # fmt: skip
        self._mailbox.refuse(envelope)
        self._say(f"refused: {error.message}")

    def _write(
        self,
        header: EnvelopeHeader,
        way: str,
        kind: str,
        content: bytes,
        seconds: float = 0.0,
        spent: PrivacySpending | None = None,
        why: str = "",
    ) -> None:
        self._ledger.append(
            LedgerEntry.model_validate(
                {
                    "at": _now(), "federation": header.federation, "way": way, "number": header.number, "kind": kind,
                    "digest": digest_message(content), "bytes": len(content), "seconds": round(seconds, 3),
                    "spent": spent, "why": why,
                }
            )
        )  # fmt: skip


def describe_question(question: SiteQuestion) -> str:
    """Describe a query, for the log."""
    how = [word for word, holds in (("masked", question.group), ("with noise", question.noise)) if holds]
    return ", ".join([f"{str(question.query.get('kind'))[:40]}: {question.stage}", *how])


def read_approved(folder: Path) -> set[str]:
    """The federations that a person approved here."""
    path = folder / APPROVED
    return set(path.read_text(encoding="ascii").split()) if path.is_file() else set()


def approve_order(folder: Path, federation: str) -> str:
    """Approve the order that waits under the beginning of a federation's digest; returns the whole digest."""
    found = [
        path
        for path in folder.glob("order-*.json")
        if len(federation) >= 8 and path.stem[6:].startswith(federation[:12])
    ]
    if len(found) != 1:
        raise UnknownName(
            f"no order waits under {federation!r}", hint=f"`luthier site serve {folder}` names those that wait"
        )
    digest = str(json.loads(found[0].read_bytes())["federation"])
    write_atomically(folder / APPROVED, "\n".join(sorted({*read_approved(folder), digest})).encode())
    return digest


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
