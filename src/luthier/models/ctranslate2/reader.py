"""Reads the weights of a CTranslate2 `model.bin` without that library.

The format is that of `ModelSpec._serialize` in CTranslate2's python/ctranslate2/specs/model_spec.py: version, name of
the specification and its revision, then each variable with its shape and type, then aliases. Numbers are little-endian.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from luthier.core.errors import ModelError, SourceLocation

if TYPE_CHECKING:
    from torch import Tensor

VERSIONS = range(2, 7)
"""Versions of the format that are read."""
_TYPES = ("float32", "int8", "int16", "int32", "float16", "bfloat16")
_AGAIN = "fetch the model again"


class CTranslate2File(NamedTuple):
    """The contents of a `model.bin`."""

    specification: str
    """Kind of model: `WhisperSpec`, `TransformerSpec`, ..."""
    variables: dict[str, Tensor]
    """Weights and settings by name; quantized ones as stored, with their `_scale`."""
    aliases: dict[str, str]
    """Alternative names of variables."""

    def get_weight(self, name: str) -> Tensor:
        """Return a variable as floating-point numbers: int8 and int16 ones divided by their scale."""
        value = self.variables[self.aliases.get(name, name)]
        if value.is_floating_point():
            return value
        scale = self.variables[f"{name}_scale"].float()
        return value.float() / (scale[:, None] if scale.dim() else scale)


def is_ctranslate2_folder(folder: Path) -> bool:
    """Return whether a folder has a CTranslate2 model: a `model.bin` that begins with its version and a name."""
    path = folder / "model.bin"
    if not path.is_file():
        return False
    with path.open("rb") as file:
        head = file.read(6)
        if len(head) < 6:
            return False
        version, length = struct.unpack("<IH", head)
        name = file.read(length)
    return version in VERSIONS and name.endswith(b"Spec\0")


def read_ctranslate2_file(path: Path) -> CTranslate2File:
    """Read all variables of a `model.bin`; `ModelError` when it is truncated."""
    try:
        return _parse_file(memoryview(path.read_bytes()))
    except (struct.error, UnicodeDecodeError, IndexError, ValueError) as error:
        raise ModelError(
            f"is not a whole CTranslate2 model: {error}", where=SourceLocation(file=str(path)), hint=_AGAIN
        ) from error


def _parse_file(content: memoryview) -> CTranslate2File:
    import torch

    offset = 0

    def read_struct(layout: str) -> tuple[int, ...]:
        nonlocal offset
        found = struct.unpack_from(f"<{layout}", content, offset)
        offset += struct.calcsize(f"<{layout}")
        return found

    def text() -> str:
        nonlocal offset
        (length,) = read_struct("H")
        found = bytes(content[offset : offset + length - 1]).decode()
        offset += length
        return found

    (version,) = read_struct("I")
    if version not in VERSIONS:
        raise ValueError(f"its format has the version {version}; {VERSIONS[0]} to {VERSIONS[-1]} are known")
    specification = text()
    _, number = read_struct("II")
    variables: dict[str, Tensor] = {}
    for _ in range(number):
        name = text()
        (rank,) = read_struct("B")
        shape = read_struct(f"{rank}I")
        kind, size = read_struct("BI")
        dtype = getattr(torch, _TYPES[kind])
        if offset + size > len(content):
            raise ValueError(f"the file ends within {name}")
        flat = torch.frombuffer(bytearray(content[offset : offset + size]), dtype=dtype)
        variables[name] = flat.reshape(shape)
        offset += size
    aliases = {}
    if version >= 3:
        (number,) = read_struct("I")
        aliases = {text(): text() for _ in range(number)}
    return CTranslate2File(specification, variables, aliases)
