"""A question of one site to another: which of its elements are held there, asked by blinded points."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from luthier.core.files import write_atomically
from luthier.federated.decontamination.bands import encode_elements
from luthier.federated.decontamination.curve import (
    POINT_BYTES,
    compute_oprf_output,
    draw_scalar,
    hash_to_points,
    invert_scalar,
    multiply_points,
)
from luthier.federated.decontamination.settings import DecontaminationSettings
from luthier.federated.errors import MessageError, OrderError
from luthier.federated.messaging.messages import pack_tensors, unpack_tensors

if TYPE_CHECKING:
    from numpy.typing import NDArray

KEY = "blind.key"
_QUESTION, _INDICES = "question.sha256", "indices.npy"


class BlindedQuestion:
    """Points of elements, blinded by a secret that stays in a folder until the answer is read."""

    def __init__(self, folder: Path, settings: DecontaminationSettings) -> None:
        self._folder, self._settings = folder, settings

    def write(self, elements: NDArray[np.uint64], size: int) -> bytes:
        """Return the message for distinct elements, which reveals only `size`: they are among dummy points, in a random
        order.
        """
        secret = draw_scalar()
        points = multiply_points(hash_to_points(encode_elements(elements, self._settings)), secret)
        chaff = hash_to_points([secrets.token_bytes(POINT_BYTES) for _ in range(size - len(points))])
        sent = sorted((point, index) for index, point in enumerate([*points, *chaff]))
        indices = np.array([index if index < len(points) else -1 for _, index in sent], dtype=np.int64)
        content = pack_arrays({"points": join_points([point for point, _ in sent])})
        self._folder.mkdir(parents=True, exist_ok=True)
        np.save(self._folder / _INDICES, indices)
        descriptor = os.open(self._folder / KEY, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(secret)
        write_atomically(self._folder / _QUESTION, hashlib.sha256(content).digest())
        return content

    def read_values(self, elements: NDArray[np.uint64], content: bytes, name: str) -> list[bytes]:
        """The function's values at the elements, from what the site `name` answered."""
        if not (self._folder / _QUESTION).is_file():
            raise OrderError("answers came about rows here, and nothing was asked")
        if read_array(content, "answers", None).tobytes() != (self._folder / _QUESTION).read_bytes():
            raise OrderError(f"{name} answers another question than was asked here")
        points, indices = read_array(content, "points", POINT_BYTES), np.load(self._folder / _INDICES)
        if len(points) != len(indices):
            raise OrderError(f"{name} answers about {len(points):,} points of {len(indices):,}")
        order = np.argsort(indices)[np.count_nonzero(indices < 0) :]  # the points of elements, in their order
        inverse = invert_scalar((self._folder / KEY).read_bytes())
        plain = multiply_points([points[at].tobytes() for at in order], inverse)
        encoded = encode_elements(elements, self._settings)
        return [compute_oprf_output(*each) for each in zip(encoded, plain, strict=True)]

    def forget(self) -> None:
        """Remove the secret."""
        (self._folder / KEY).unlink(missing_ok=True)


def answer_question(content: bytes, key: bytes, most: int, name: str, rows: int) -> dict[str, NDArray[np.uint8]]:
    """The points that the site `name` sent times a key, and which question this answers."""
    points = read_array(content, "points", POINT_BYTES)
    if len(points) > most:
        raise OrderError(f"{name} asks about {len(points):,} elements, more than {rows:,} rows have")
    return {
        "answers": np.frombuffer(hashlib.sha256(content).digest(), np.uint8),
        "points": join_points(multiply_points([point.tobytes() for point in points], key)),
    }


def join_points(points: Sequence[bytes]) -> NDArray[np.uint8]:
    """(points, 32): their bytes."""
    return np.frombuffer(b"".join(points), np.uint8).reshape(-1, POINT_BYTES)


def pack_arrays(arrays: Mapping[str, NDArray[np.uint8]]) -> bytes:
    """Bytes by name, as one message holds them."""
    import torch

    return pack_tensors({name: torch.from_numpy(array.copy()) for name, array in arrays.items()})


def read_array(content: bytes, name: str, width: int | None) -> NDArray[np.uint8]:
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
