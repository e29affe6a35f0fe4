"""The bytes of pictures and sounds that requests bring, for as long as a request needs them."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from luthier.core.errors import ModelError


class RequestMedia:
    """Holds media by digest; what several requests bring is held once. All methods may be called from any thread."""

    def __init__(self) -> None:
        self._held: dict[str, tuple[bytes, int]] = {}
        self._lock = threading.Lock()

    @contextmanager
    def hold(self, media: Mapping[str, bytes]) -> Iterator[None]:
        """Hold some media for a while."""
        with self._lock:
            for digest, content in media.items():
                self._held[digest] = content, self._held.get(digest, (b"", 0))[1] + 1
        try:
            yield
        finally:
            with self._lock:
                for digest in media:
                    content, holders = self._held.pop(digest)
                    if holders > 1:
                        self._held[digest] = content, holders - 1

    def read(self, digest: str) -> bytes:
        """The bytes of a medium; `ModelError` where no request holds it any more."""
        with self._lock:
            if digest not in self._held:
                raise ModelError(f"the medium {digest[:12]} belongs to no request that is being answered")
            return self._held[digest][0]
