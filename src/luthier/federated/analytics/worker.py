"""A site's part in queries: it counts its rows, removes small counts, and answers each query once."""

from __future__ import annotations

import hashlib
import os
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from pydantic_core import PydanticCustomError

from luthier.core.component import iter_components
from luthier.core.files import write_atomically
from luthier.core.hashing import digest_of
from luthier.core.revision import code_revision
from luthier.data.check import RowNames
from luthier.federated.analytics.answer_history import AnswerHistory, SiteAnswer
from luthier.federated.analytics.names import MOST_NAMES, TABLES, fill_tables, list_reportable_names, spell_names
from luthier.federated.analytics.query import SiteQuery, SiteRows, list_paths
from luthier.federated.errors import MessageError, OrderError
from luthier.federated.messaging.messages import (
    ANSWERS,
    ASKED,
    CountAnswer,
    FederationMessage,
    Final,
    Measured,
    Rejection,
    RoundUpdate,
    SiteQuestion,
    digest_message,
)
from luthier.federated.privacy import PrivacySpending, add_count_noise, find_name_threshold
from luthier.federated.secure_aggregation.dropout_masks import DropoutMasks, check_least
from luthier.federated.secure_aggregation.masks import LEAST_SITES, MASKED
from luthier.federated.sites.worker import SiteWorker
from luthier.metrics.counts import flatten_counts, move_small_counts
from luthier.tune.privacy.accountant import GREATEST_NOISE, LEAST_NOISE
from luthier.tune.privacy.noise import KEY_BYTES, NoiseKey
from luthier.tune.privacy.settings import ROW

if TYPE_CHECKING:
    from numpy.typing import NDArray

ASKED_FILE = "question"
COUNTS = "counts"
"""The name of counts in a message."""
SALT_NUMBER = 0
"""The number of the message in which the first site of a group makes a salt."""


def read_query(question: SiteQuestion) -> SiteQuery:
    """The query of a question; `MessageError` where its settings are none."""
    try:
        return SiteQuery.parse(question.query)
    except (ValidationError, PydanticCustomError, TypeError, ValueError) as error:
        raise MessageError("the settings of a question are none of a query here") from error


def compute_query_code(query: SiteQuery) -> str:
    """The revision of the code that decides a site's counts."""
    return code_revision(*sorted({type(part).__module__ for part in iter_components(query)} | {__name__}))


class QueryWorker(SiteWorker):
    """Answers the questions of one coordinator at one site."""

    answered: AnswerHistory | None = None
    """Earlier answers to any federation; None at sites of the coordinator's own machine."""
    traffic: Path | None = None
    """Folder of the site's requests to a served model."""
    references: Path | None = None
    """What the signals of the site's own monitor were fitted to."""

    def _compute(self, number: int, content: bytes) -> bytes:
        message = FederationMessage.decode(content, *ASKED)
        header, digest = message.header, digest_message(content)
        if isinstance(header, Final):
            return FederationMessage(Measured(rows=0)).encode()
        if not isinstance(header, SiteQuestion):
            if header.round != self._open_masks().about.round:
                raise MessageError(f"message {number} goes on with the sum of message {header.round}")
            return self._advance(self._read_question(), header)
        query = read_query(header)
        self._check(header, query)
        write_atomically(self._work.scratch / ASKED_FILE, content)
        if header.stage == "salt":
            return FederationMessage(CountAnswer(answers=digest, sealed=self._seal_salt(number, header))).encode()
        answer = self.compute_answer(header, query)
        if not header.group:
            import torch

            reply = CountAnswer(answers=digest, names=list(answer.names))
            return FederationMessage(reply, {COUNTS: torch.tensor(answer.numbers, dtype=torch.int64)}).encode()
        if header.stage == "names" and header.privacy is not None:
            return FederationMessage(CountAnswer(answers=digest, names=list(answer.names))).encode()
        return self._mask(header, number, answer)

    def _keep(self, number: int, digest: str, reply: bytes) -> None:
        """Keep an answer; a refusal is none, and the policy may allow the same question later."""
        if not isinstance(FederationMessage.decode(reply, *ANSWERS).header, Rejection):
            super()._keep(number, digest, reply)

    def plan_question(self, question: SiteQuestion) -> PrivacySpending | None:
        """Return the privacy cost of an answer: none without noise, or for a repeated answer."""
        query = read_query(question)
        if question.noise is None or question.privacy is None or question.stage == "salt":
            return None
        if self.answered is not None:
            rows = self._find_rows(query, question)
            if self.answered.find(rows, _describe(query, question), _digest_question(question, b""))[0] is not None:
                return None
        names = question.stage == "names"
        steps = 1 if names else len(query.list_groups(_read_names(question)))
        delta = question.privacy.delta / 2 if names else 0.0
        return PrivacySpending(unit=ROW, noise=question.noise, sampling=1.0, steps=max(1, steps), delta=delta)

    def compute_answer(self, question: SiteQuestion, query: SiteQuery) -> SiteAnswer:
        """The numbers and names of an answer before masks: those of the first time, where it was given before."""
        salt = b"" if question.stage in ("salt", "counts") or not question.sealed else self._open_salt(question)
        digest, what = _digest_question(question, salt), _describe(query, question)
        rows = self._find_rows(query, question) if self.answered is not None else ""
        if self.answered is not None:
            kept, same = self.answered.find(rows, what, digest)
            if not same:
                raise OrderError(
                    f"another question of the kind {query.kind} was answered of the same rows: their difference could "
                    "tell of one row"
                )
            if kept is not None:
                return kept
        answer = self._count(question, query, salt)
        if self.answered is not None:
            self.answered.keep(rows, what, digest, answer)
        return answer

    def _check(self, question: SiteQuestion, query: SiteQuery) -> None:
        """`OrderError` for what is not answered here."""
        if self._order is not None:
            raise MessageError("a question comes in the federation of an order")
        if list_paths(query):
            raise OrderError("a question names a file, which it may not")
        if why := query.refuses():
            raise OrderError(why)
        names = _read_names(question)
        if question.privacy is not None and (why := query.find_noise_obstacle(names)):
            raise OrderError(f"{why}, so that no noise protects it; leave that check out")
        if (question.privacy is None) != (question.noise is None):
            raise MessageError("a question with privacy names its noise, and no other does")
        if question.noise is not None and question.noise < LEAST_NOISE:
            raise OrderError(f"noise of {question.noise:g} is none; at least {LEAST_NOISE:g} is needed")
        if question.noise is not None and question.noise > GREATEST_NOISE:
            raise OrderError(f"noise of {question.noise:g} leaves nothing of a count; {GREATEST_NOISE:g} is the most")
        if any(len(set(given)) < len(given) or len(given) > 2 * MOST_NAMES for given in names):
            raise MessageError("a question names a class or a column twice, or too many of them")
        if sum(map(len, question.heavy)) > TABLES * MOST_NAMES:
            raise MessageError(f"a question names more than {MOST_NAMES} buckets of a table")
        if self._policy is not None:
            rows = None if query.window is not None else len(self._rows.data.rows)
            self._policy.check_question(question, query, rows)
        if question.group:
            self._check_masks(question)
        if question.code != (code := compute_query_code(query)):
            what = f"the code that counts here is {code[:12]}, and that of the coordinator {question.code[:12]}"
            raise OrderError(what, hint="install the same version of Luthier at both")

    def _check_masks(self, question: SiteQuestion) -> None:
        """`OrderError` for another group of sites than this one and its peers, or one that is too small."""
        whole = [] if self._masks is None else self._masks.group
        if question.group != whole:
            raise OrderError("the question's group of sites is not the one that this site masks towards")
        if len(whole) < LEAST_SITES:
            raise OrderError(f"masks need {LEAST_SITES} sites, and the group has {len(whole)}")
        if question.least is not None and (why := check_least(len(whole), question.least)):
            raise OrderError(why)

    def _open_masks(self) -> DropoutMasks:
        """Masks towards all peers, of which the group of a question is made."""
        if self._masks is None:
            raise MessageError("this site has no peers to mask its counts towards")
        return DropoutMasks(self._masks.identity, self._masks.peers, self._work.scratch)

    def _count(self, question: SiteQuestion, query: SiteQuery, salt: bytes) -> SiteAnswer:
        names, least = _read_names(question), self._find_least(question)
        if question.stage == "counts":
            groups = query.list_groups(names)
            counts = query.count(self._rows, names)
            if question.noise is None:
                counts = move_small_counts(groups, counts, least)
            numbers = flatten_counts(groups, counts)
            return SiteAnswer(tuple(numbers if question.noise is None else _add_noise(numbers, question.noise)))
        found = list_reportable_names(query.count_names(self._rows))
        if self._policy is not None and not self._policy.class_names:
            found = {name: rows for name, rows in found.items() if not name.startswith("class:")}
        if question.stage == "names" and question.noise is not None and question.privacy is not None:
            found = {name: rows for name, rows in found.items() if name.startswith("class:")}
            noisy = _add_noise(list(found.values()), question.noise)
            threshold = find_name_threshold(question.noise, question.privacy.delta / 2)
            return SiteAnswer(
                names=tuple(sorted(name for name, rows in zip(found, noisy, strict=True) if rows >= threshold))
            )
        found = {name: rows for name, rows in found.items() if rows >= least}
        if question.stage == "tables":
            return SiteAnswer(tuple(fill_tables(found, salt)))
        if question.group:
            return SiteAnswer(tuple(spell_names(found, salt, question.heavy)))
        return SiteAnswer(names=tuple(sorted(found)))

    def _find_least(self, question: SiteQuestion) -> int:
        """Return the minimum count that this site reveals: under masks a smaller one may be part of a sum over all
        sites, where the policy allows it.
        """
        if question.group and (self._policy is None or self._policy.pooled_counts):
            return 1
        own = 1 if self._policy is None else self._policy.least_class_rows
        return max(own, question.least_rows)

    @cached_property
    def _rows(self) -> SiteRows:
        return SiteRows(self._work.inputs.get("data"), traffic=self.traffic, references=self.references)

    def _find_rows(self, query: SiteQuery, question: SiteQuestion) -> str:
        assert self.answered is not None, "only then answers are kept"
        if query.window is not None:
            window = self.answered.find_window(*query.window)
            if window is None:
                raise OrderError("the window shares seconds with another one that was answered")
            return window
        least = max(question.least_rows, 1 if self._policy is None else self._policy.least_class_rows)
        found = self.answered.find_rows(query.list_row_ids(self._rows), least)
        if found is None:
            raise OrderError(
                f"fewer than {least} rows differ from those of an earlier answer: the difference could tell of each"
            )
        return found

    def _seal_salt(self, number: int, question: SiteQuestion) -> dict[str, str]:
        """A salt for each other site, by the first site of the group alone."""
        if self._masks is None or number != SALT_NUMBER or self._masks.own != question.group[0]:
            return {}
        identity, salt = self._masks.identity, self._make_salt()
        return {
            fingerprint: identity.seal(salt, card, question.federation, SALT_NUMBER).hex()
            for fingerprint, card in self._masks.peers.items()
        }

    def _make_salt(self) -> bytes:
        """Return a salt that depends on the rows alone, so that a repeated query reveals nothing new."""
        assert self._masks is not None, "only under masks there is a salt"
        ids = digest_of(sorted(row.id for row in self._rows.data.rows))
        return hashlib.sha256(self._masks.identity.secret + b"salt of names 1" + ids.encode()).digest()

    def _open_salt(self, question: SiteQuestion) -> bytes:
        assert self._masks is not None, "only under masks there is a salt"
        if self._masks.own == question.group[0]:
            return self._make_salt()
        try:
            envelope = bytes.fromhex(question.sealed)
        except ValueError as error:
            raise MessageError("a salt cannot be read") from error
        first = self._masks.peers[question.group[0]]
        return self._masks.identity.open(envelope, first, question.federation, SALT_NUMBER)

    def _mask(self, question: SiteQuestion, number: int, answer: SiteAnswer) -> bytes:
        import numpy
        import torch

        assert self._masks is not None, "the group was checked"
        digest = digest_for_masks(question)
        numbers: NDArray[Any] = numpy.array(answer.numbers, dtype=numpy.int64).view(numpy.uint64)
        if question.least is not None:
            return self._offer_keys(question, number, digest, numbers)
        masked = self._masks.mask(numbers, question.federation, number, digest)
        update = RoundUpdate(round=max(1, number), answers=digest)
        return FederationMessage(update, {MASKED: torch.from_numpy(masked.view(numpy.int64))}).encode()

    def _read_question(self) -> SiteQuestion:
        header: SiteQuestion = FederationMessage.decode(
            (self._work.scratch / ASKED_FILE).read_bytes(), SiteQuestion
        ).header
        return header


def _read_names(question: SiteQuestion) -> RowNames:
    return RowNames(tuple(question.classes), tuple(question.fields))


def _describe(query: SiteQuery, question: SiteQuestion) -> str:
    """Return what identifies an answer: a stage of a kind of query."""
    return f"{query.kind}-{question.stage}"


def _digest_question(question: SiteQuestion, salt: bytes) -> str:
    """Return the digest of everything that determines an answer, without the federation, and with the salt in place of
    its envelope.
    """
    content = question.model_dump(mode="json", exclude={"federation", "sealed", "code"})
    return digest_of([content, salt.hex()])


def _add_noise(numbers: list[int], noise: float) -> list[int]:
    """Counts with noise of the system's generator."""
    return add_count_noise(numbers, noise, NoiseKey(os.urandom(KEY_BYTES)), "counts")


def count_steps(query: SiteQuery) -> int:
    """Histograms that a question with noise tells of at most, each of which one row moves by one."""
    return len(query.list_groups(RowNames(classes=("any",)))) + int(query.asks_names)


def digest_for_masks(question: SiteQuestion) -> str:
    """Return the digest that masks are bound to: the query, in the form that all sites share."""
    return digest_of(question.model_dump(mode="json", exclude={"sealed"}))
