"""A site's part in decontamination: it queries its training rows, answers for its held-out rows, and removes matching
training rows.

Messages between two sites are signed, and encrypted to each other under the keys of their cards; the coordinator relays
them, and sees sizes. A site computes each answer once: the worker keeps the bytes of its answers.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from luthier.artifacts.dataset import DatasetSummary, read_split_frame
from luthier.core.artifact import Artifact
from luthier.core.errors import DataError, SourceLocation
from luthier.core.events import format_counted_noun
from luthier.core.files import write_atomically
from luthier.core.hashing import digest_of
from luthier.core.step import StepContext
from luthier.federated.decontamination.bands import (
    encode_elements,
    find_repeated_rows,
    pad_candidates,
    pad_size,
    read_bands,
)
from luthier.federated.decontamination.blinded_question import (
    BlindedQuestion,
    answer_question,
    pack_arrays,
    read_array,
)
from luthier.federated.decontamination.curve import (
    compute_oprf_output,
    draw_scalar,
    hash_to_points,
    multiply_points,
    require_libsodium,
)
from luthier.federated.decontamination.settings import (
    FIRST_BANDS,
    LATER_BANDS,
    BandLayout,
    DecontaminationSettings,
)
from luthier.federated.decontamination.tags import TAG_BYTES, TagList, match_tags
from luthier.federated.errors import MessageError, OrderError
from luthier.federated.measure import describe_folder
from luthier.federated.messaging.keys import FederationIdentity, PublicCard

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from luthier.federated.sites.policy import SitePolicy

TRAIN, HELD_OUT = "train", ("validation", "test")
LEFT_OUT = "left_out.jsonl"
"""At the site: the id of each training row that was left out, and the site that holds a near copy out."""
REASON = "near copies of rows that another site holds out"
FOLDER, ROWS = "decontamination", "rows"
_CANDIDATES = "candidates.npy"
_BANDS_AT_ONCE = 32
FIRST_COMPARISON = 2
"""Number of the message that requests the evaluation of the first bands."""


class SiteDecontamination:
    """Leaves out training rows of one site that nearly repeat what others hold out."""

    def __init__(
        self,
        work: StepContext,
        identity: FederationIdentity,
        peers: Mapping[str, PublicCard],
        settings: DecontaminationSettings,
        federation: str,
    ) -> None:
        """`peers` by fingerprint; `federation` is what messages between sites are bound to."""
        require_libsodium()
        self._work, self._identity, self._peers = work, identity, peers
        self._settings, self._federation = settings, federation
        self._folder = work.scratch / FOLDER
        self._data = work.inputs["data"]

    def ask(self, number: int) -> dict[str, Tensor]:
        """For each peer, an envelope with blinded points of the first bands of this site's training rows."""
        elements = np.unique(self._read((TRAIN,), "training"))
        content = self._open_question().write(elements, pad_size(len(elements)))
        return self._seal(dict.fromkeys(self._peers, content), number)

    def ask_more(self, number: int, envelopes: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """For each peer, an envelope with blinded points of more bands of those rows that may be near copies of what it
        holds out, as it answered about the first bands."""
        bands = self._read((TRAIN,), "training")
        found = self._find_repeated(
            number - 1, envelopes, dict.fromkeys(self._peers, bands), self._settings.candidate_bands
        )
        questions = {}
        for peer, candidates in found.items():
            folder = self._folder / peer
            folder.mkdir(parents=True, exist_ok=True)
            np.save(folder / _CANDIDATES, np.flatnonzero(candidates))
            elements = np.unique(self._read_candidates(peer))
            questions[peer] = self._open_question(peer).write(elements, pad_candidates(len(elements), len(bands)))
        return self._seal(questions, number)

    def evaluate(self, number: int, envelopes: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """For each peer, an envelope with its points times a fresh key, and what this site's held-out rows come to
        under the same key."""
        first = number == FIRST_COMPARISON
        layout, rows = FIRST_BANDS if first else LATER_BANDS, self._settings.max_rows
        most = pad_size(rows * layout.number) if first else pad_candidates(rows * layout.number, rows)
        bands = np.unique(self._read(HELD_OUT, "held-out", layout), axis=0)
        keys, answers = {}, {}
        for peer, content in self._open_all(envelopes, number - 1).items():
            keys[peer] = draw_scalar()
            answers[peer] = answer_question(content, keys[peer], most, self._peers[peer].name, rows)
        lists = {peer: TagList(len(bands), layout.number) for peer in keys}
        for begin in range(0, layout.number, _BANDS_AT_ONCE):
            some = bands[:, begin : begin + _BANDS_AT_ONCE]
            elements = np.unique(some)
            encoded = encode_elements(elements, self._settings)
            hashed = hash_to_points(encoded)
            for peer, key in keys.items():  # of an element, only who asked for it learns the value
                values = [
                    compute_oprf_output(*each) for each in zip(encoded, multiply_points(hashed, key), strict=True)
                ]
                lists[peer].add(some, elements, values)
        return self._seal(
            {peer: pack_arrays({**answer, "tags": lists[peer].pack()}) for peer, answer in answers.items()}, number
        )

    def leave_out(self, number: int, envelopes: Mapping[str, Tensor], policy: SitePolicy | None) -> int:
        """Write the rows that remain, and the list of those that do not; returns how many are left out.

        `SitePolicyError` where they are more than the policy allows.
        """
        if not (self._folder / LEFT_OUT).is_file():
            repeated = self._find_verified(number - 1, envelopes)
            left_out: NDArray[np.bool_] = np.logical_or.reduce(list(repeated.values()))
            remaining = len(left_out) - int(left_out.sum())
            if policy is not None:
                policy.check_left_out(len(left_out) - remaining, len(left_out))
            if not remaining:
                what = "every training row here nearly repeats a row that another site holds out"
                raise DataError(what, where=SourceLocation(field="decontaminate"), hint="raise its threshold")
            if remaining < len(left_out):
                self._write_rows(np.flatnonzero(~left_out).tolist())
            lines = self._list_left_out(repeated)
            write_atomically(self._folder / LEFT_OUT, "".join(lines).encode())
        for peer in ("", *self._peers):
            self._open_question(peer).forget()
        count = count_left_out(self._work.scratch) or 0
        self._work.events.note(f"{format_counted_noun(count, 'training row')} left out: {REASON}")
        return count

    def _find_verified(self, number: int, envelopes: Mapping[str, Tensor]) -> dict[str, NDArray[np.bool_]]:
        """By peer, which training rows nearly repeat a row that it holds out, as it answered about candidates."""
        rows = DatasetSummary.read(self._data).rows.get(TRAIN, 0)
        bands = {peer: self._read_candidates(peer) for peer in self._peers}
        verified = {}
        for peer, found in self._find_repeated(number, envelopes, bands, self._settings.shared_bands, True).items():
            verified[peer] = np.zeros(rows, dtype=bool)
            verified[peer][np.load(self._folder / peer / _CANDIDATES)[found]] = True
        return verified

    def _find_repeated(
        self,
        number: int,
        envelopes: Mapping[str, Tensor],
        bands: Mapping[str, NDArray[np.uint64]],
        shared_bands: int,
        candidates: bool = False,
    ) -> dict[str, NDArray[np.bool_]]:
        """Return by peer the rows of `bands` that share enough bands with one of its held-out rows."""
        found = {}
        for peer, content in self._open_all(envelopes, number).items():
            elements = np.unique(bands[peer])
            question = self._open_question(peer if candidates else "")
            values = question.read_values(elements, content, self._peers[peer].name)
            matches = match_tags(values, read_array(content, "tags", TAG_BYTES))
            found[peer] = find_repeated_rows(bands[peer], elements, matches, shared_bands)
        return found

    def _open_question(self, peer: str = "") -> BlindedQuestion:
        """The question to all peers about the first bands, or that to one of them about candidates."""
        return BlindedQuestion(self._folder / peer, self._settings)

    def _read(self, splits: Sequence[str], what: str, layout: BandLayout = FIRST_BANDS) -> NDArray[np.uint64]:
        bands = read_bands(self._data, splits, self._settings, layout)
        if len(bands) > self._settings.max_rows:
            message = f"there are more than {self._settings.max_rows:,} {what} rows here to compare"
            raise OrderError(message, hint="raise `decontaminate.max_rows`")
        return bands

    def _read_candidates(self, peer: str) -> NDArray[np.uint64]:
        """The later bands of the rows that may be near copies of what a peer holds out."""
        path = self._folder / peer / _CANDIDATES
        if not path.is_file():
            raise OrderError("answers came about rows here, and nothing was asked")
        return read_bands(self._data, (TRAIN,), self._settings, LATER_BANDS, np.load(path))

    def _seal(self, contents: Mapping[str, bytes], number: int) -> dict[str, Tensor]:
        import torch

        sealed = {}
        for peer, content in contents.items():
            envelope = self._identity.seal(content, self._peers[peer], self._federation, number)
            sealed[peer] = torch.frombuffer(bytearray(envelope), dtype=torch.uint8)
        return sealed

    def _open_all(self, envelopes: Mapping[str, Tensor], number: int) -> dict[str, bytes]:
        """Return the messages of all peers; `OrderError` where one is missing, or not signed by it for this site."""
        if envelopes.keys() != self._peers.keys():
            raise OrderError("what came to be compared is not of all peers of this site, and of no others")
        found = {}
        for peer in sorted(envelopes):
            card, envelope = self._peers[peer], envelopes[peer]
            try:
                if str(envelope.dtype) != "torch.uint8":
                    raise MessageError("this is no envelope of a federation")
                found[peer] = self._identity.open(envelope.numpy().tobytes(), card, self._federation, number)
            except MessageError as error:
                raise OrderError(f"what came to be compared is not from {card.name}: {error.message}") from error
        return found

    def _write_rows(self, indices: Sequence[int]) -> None:
        """The data set without the rows that are left out; the summary comes last."""
        folder, summary = self._folder / ROWS, DatasetSummary.read(self._data)
        shutil.rmtree(folder, ignore_errors=True)
        for entry in self._data.manifest.files:
            if entry.path.startswith(("examples/", "attributes/")):
                (folder / entry.path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(self._data.path(entry.path), folder / entry.path)
        path = folder / "examples" / f"{TRAIN}.parquet"
        read_split_frame(self._data, TRAIN)[list(indices)].write_parquet(path)
        left_out = summary.rows[TRAIN] - len(indices)
        rows, dropped = {**summary.rows, TRAIN: len(indices)}, {**summary.dropped, REASON: left_out}
        summary.model_copy(update={"rows": rows, "dropped": dropped}).write(folder)

    def _list_left_out(self, repeated: Mapping[str, NDArray[np.bool_]]) -> Iterator[str]:
        """A line for each row that is left out."""
        ids = read_split_frame(self._data, TRAIN)["id"].to_list()
        for at, name in enumerate(ids):
            if peers := sorted(self._peers[peer].name for peer, found in repeated.items() if found[at]):
                yield json.dumps({"id": name, "held_out_by": peers}) + "\n"


def count_left_out(scratch: Path) -> int | None:
    """Return the number of training rows that a site removed, from its files in a folder; None before rows were
    compared.
    """
    path = scratch / FOLDER / LEFT_OUT
    return len(path.read_bytes().splitlines()) if path.is_file() else None


def find_remaining_rows(work: StepContext) -> Artifact:
    """The rows of a site that it trains on: all, unless some were left out."""
    data, folder = work.inputs["data"], work.scratch / FOLDER
    if not count_left_out(work.scratch):
        return data
    digest = digest_of([data.digest, hashlib.sha256((folder / LEFT_OUT).read_bytes()).hexdigest()])
    return describe_folder(folder / ROWS, digest, data.manifest.kind, "dataset", {"data": data})
