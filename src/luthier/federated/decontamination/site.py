"""One site's part: it asks about its training rows, answers about its held-out rows, and leaves rows out.

Messages between two sites are signed, and encrypted to each other under the keys of their cards; the coordinator
carries them, and sees sizes. What a site answers, it computes once: the worker keeps the bytes of its answers.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    pad_size,
    read_bands,
)
from luthier.federated.decontamination.curve import (
    POINT_BYTES,
    compute_value,
    draw_scalar,
    hash_to_points,
    invert_scalar,
    multiply_points,
    require_libsodium,
)
from luthier.federated.decontamination.settings import BANDS, DecontaminationSettings
from luthier.federated.errors import MessageError, OrderError
from luthier.federated.measure import describe_folder
from luthier.federated.messaging.keys import FederationIdentity, PublicCard
from luthier.federated.messaging.messages import pack_tensors, unpack_tensors

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from luthier.federated.sites.policy import SitePolicy

TRAIN, HELD_OUT = "train", ("validation", "test")
LEFT_OUT = "left_out.jsonl"
"""At the site: the id of each training row that was left out, and the site that holds a near copy out."""
REASON = "near copies of rows that another site holds out"
FOLDER, ROWS = "decontamination", "rows"
_KEY, _QUESTION, _INDICES = "blind.key", "question.sha256", "indices.npy"
_TAG_BYTES, _NUMBER_BYTES = 8, 4
MOST_REPEATS = 64
"""Held-out rows that one band is listed for; the same first ones in every band."""


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
        """For each peer, an envelope with blinded points of this site's training rows."""
        elements = np.unique(self._read((TRAIN,), "training"))
        secret = draw_scalar()
        points = multiply_points(hash_to_points(encode_elements(elements, self._settings)), secret)
        chaff = hash_to_points([secrets.token_bytes(POINT_BYTES) for _ in range(pad_size(len(points)) - len(points))])
        sent = sorted((point, index) for index, point in enumerate([*points, *chaff]))  # an order that tells nothing
        indices = np.array([index if index < len(points) else -1 for _, index in sent], dtype=np.int64)
        content = _pack({"points": _join_points([point for point, _ in sent])})
        self._folder.mkdir(parents=True, exist_ok=True)
        np.save(self._folder / _INDICES, indices)
        descriptor = os.open(self._folder / _KEY, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(secret)
        write_atomically(self._folder / _QUESTION, hashlib.sha256(content).digest())
        return self._seal(dict.fromkeys(self._peers, content), number)

    def evaluate(self, number: int, question_number: int, envelopes: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """For each peer, an envelope with its points times a fresh key, and what this site's held-out rows come to
        under the same key."""
        bands = np.unique(self._read(HELD_OUT, "held-out"), axis=0)
        elements = np.unique(bands)
        encoded = encode_elements(elements, self._settings)
        hashed = hash_to_points(encoded)
        most = pad_size(self._settings.max_rows * BANDS)
        answers = {}
        for peer, content in self._open_all(envelopes, question_number).items():
            points = _read_array(content, "points", POINT_BYTES)
            if len(points) > most:
                name, rows = self._peers[peer].name, self._settings.max_rows
                raise OrderError(f"{name} asks about {len(points):,} elements, more than {rows:,} rows have")
            key = draw_scalar()
            evaluated = multiply_points([point.tobytes() for point in points], key)
            values = [
                compute_value(*each) for each in zip(encoded, multiply_points(hashed, key), strict=True)
            ]  # of an element, only who asked for it learns the value
            answers[peer] = _pack(
                {
                    "answers": np.frombuffer(hashlib.sha256(content).digest(), np.uint8),
                    "points": _join_points(evaluated),
                    "tags": _list_tags(bands, elements, values),
                }
            )
        return self._seal(answers, number)

    def leave_out(self, number: int, envelopes: Mapping[str, Tensor], policy: SitePolicy | None) -> int:
        """Write the rows that remain, and the list of those that do not; returns how many are left out.

        `SitePolicyError` where they are more than the policy allows.
        """
        if not (self._folder / LEFT_OUT).is_file():
            repeated = self._find_repeated(number, envelopes)
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
        (self._folder / _KEY).unlink(missing_ok=True)
        count = count_left_out(self._work.scratch) or 0
        self._work.events.note(f"{format_counted_noun(count, 'training row')} left out: {REASON}")
        return count

    def _find_repeated(self, number: int, envelopes: Mapping[str, Tensor]) -> dict[str, NDArray[np.bool_]]:
        """By peer, which training rows nearly repeat a row that it holds out."""
        bands = self._read((TRAIN,), "training")
        elements = np.unique(bands)
        encoded = encode_elements(elements, self._settings)
        if not (self._folder / _QUESTION).is_file():
            raise OrderError("answers came about rows here, and nothing was asked")
        indices = np.load(self._folder / _INDICES)
        question, inverse = (self._folder / _QUESTION).read_bytes(), invert_scalar((self._folder / _KEY).read_bytes())
        found = {}
        for peer, content in self._open_all(envelopes, number).items():
            if _read_array(content, "answers", None).tobytes() != question:
                raise OrderError(f"{self._peers[peer].name} answers another question than was asked here")
            points = _read_array(content, "points", POINT_BYTES)
            if len(points) != len(indices):
                raise OrderError(f"{self._peers[peer].name} answers about {len(points):,} points of {len(indices):,}")
            order = np.argsort(indices)[np.count_nonzero(indices < 0) :]  # the points of elements, in their order
            plain = multiply_points([points[at].tobytes() for at in order], inverse)
            values = [compute_value(*each) for each in zip(encoded, plain, strict=True)]
            matches = _match_tags(values, _read_array(content, "tags", _TAG_BYTES + _NUMBER_BYTES))
            found[peer] = find_repeated_rows(bands, elements, matches, self._settings.shared_bands)
        return found

    def _read(self, splits: Sequence[str], what: str) -> NDArray[np.uint64]:
        bands = read_bands(self._data, splits, self._settings)
        if len(bands) > self._settings.max_rows:
            message = f"there are more than {self._settings.max_rows:,} {what} rows here to compare"
            raise OrderError(message, hint="raise `decontaminate.max_rows`")
        return bands

    def _seal(self, contents: Mapping[str, bytes], number: int) -> dict[str, Tensor]:
        import torch

        sealed = {}
        for peer, content in contents.items():
            envelope = self._identity.seal(content, self._peers[peer], self._federation, number)
            sealed[peer] = torch.frombuffer(bytearray(envelope), dtype=torch.uint8)
        return sealed

    def _open_all(self, envelopes: Mapping[str, Tensor], number: int) -> dict[str, bytes]:
        """What all peers wrote; `OrderError` where one is missing, or something is not by it and for this site."""
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
    """How many training rows of a site were left out of a federation whose files are in a folder; None before rows
    were compared."""
    path = scratch / FOLDER / LEFT_OUT
    return len(path.read_bytes().splitlines()) if path.is_file() else None


def find_remaining_rows(work: StepContext) -> Artifact:
    """The rows of a site that it trains on: all, unless some were left out."""
    data, folder = work.inputs["data"], work.scratch / FOLDER
    if not count_left_out(work.scratch):
        return data
    digest = digest_of([data.digest, hashlib.sha256((folder / LEFT_OUT).read_bytes()).hexdigest()])
    return describe_folder(folder / ROWS, digest, data.manifest.kind, "dataset", {"data": data})


def _list_tags(bands: NDArray[np.uint64], elements: NDArray[np.uint64], values: Sequence[bytes]) -> NDArray[np.uint8]:
    """(tags, 12): for each band of each row, 8 bytes by which who knows the band's value finds it, and the row's number
    under a mask from the same value; sorted, and padded with random ones.

    Rows have random numbers. A band of several rows has a tag for each, which look like those of others.
    """
    numbers = list(range(len(bands)))
    secrets.SystemRandom().shuffle(numbers)
    listed: list[bytes] = []
    times = [0] * len(elements)
    for row, indices in zip(numbers, np.searchsorted(elements, bands).tolist(), strict=True):
        for index in indices:
            if times[index] < MOST_REPEATS:
                listed.append(_mask_number(values[index], times[index], row))
                times[index] += 1
    size = _TAG_BYTES + _NUMBER_BYTES
    listed += [secrets.token_bytes(size) for _ in range(pad_size(len(listed)) - len(listed))]
    return np.frombuffer(b"".join(sorted(listed)), np.uint8).reshape(-1, size)


def _mask_number(value: bytes, time: int, number: int) -> bytes:
    """The tag of the so manieth row that holds an element, with the row's number under its mask."""
    digest = hashlib.sha256(value + time.to_bytes(4, "big")).digest()
    masked = int.from_bytes(digest[_TAG_BYTES : _TAG_BYTES + _NUMBER_BYTES], "big") ^ number
    return digest[:_TAG_BYTES] + masked.to_bytes(_NUMBER_BYTES, "big")


def _match_tags(values: Sequence[bytes], tags: NDArray[np.uint8]) -> NDArray[np.int64]:
    """(matches, 2): the index of a value that has a tag, and the number of the row there."""
    listed = {tag[:_TAG_BYTES].tobytes(): tag[_TAG_BYTES:].tobytes() for tag in tags}
    found: list[tuple[int, int]] = []
    for index, value in enumerate(values):
        for time in range(MOST_REPEATS):
            none = _mask_number(value, time, 0)
            if (masked := listed.get(none[:_TAG_BYTES])) is None:
                break
            found.append((index, int.from_bytes(masked, "big") ^ int.from_bytes(none[_TAG_BYTES:], "big")))
    return np.array(sorted(set(found)), dtype=np.int64).reshape(-1, 2)


def _join_points(points: Sequence[bytes]) -> NDArray[np.uint8]:
    return np.frombuffer(b"".join(points), np.uint8).reshape(-1, POINT_BYTES)


def _pack(arrays: Mapping[str, NDArray[np.uint8]]) -> bytes:
    import torch

    return pack_tensors({name: torch.from_numpy(array.copy()) for name, array in arrays.items()})


def _read_array(content: bytes, name: str, width: int | None) -> NDArray[np.uint8]:
    """Bytes by their name: (rows, width), or (bytes,) without one; `OrderError` for anything else."""
    try:
        array: Any = unpack_tensors(content).get(name)
    except MessageError as error:
        raise OrderError("what came to be compared is not as it was agreed") from error
    shape = () if array is None else tuple(array.shape)
    if array is None or str(array.dtype) != "torch.uint8" or shape[1:] != (() if width is None else (width,)):
        raise OrderError("what came to be compared is not as it was agreed")
    found: NDArray[np.uint8] = array.numpy()
    return found
