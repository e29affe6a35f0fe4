"""A copy of what somebody published on the Hugging Face hub: from the local hub cache, or over the network when asked.

`HF_ENDPOINT`, `HF_HUB_CACHE` and `HF_TOKEN` apply. A file goes on after a broken connection; the files that were whole
when a download was stopped are not fetched again.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from luthier.core.errors import InputError, Where

Progress = Callable[[float, float], object]
"""Told the bytes that are here and the bytes of all files."""


@contextmanager
def _no_bars() -> Iterator[None]:
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    shown = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            enable_progress_bars()


def _bar(progress: Progress) -> type[Any]:
    """What the hub's library counts its bytes with, which draws nothing and tells `progress`."""
    from huggingface_hub.utils.tqdm import tqdm

    class Bar(tqdm):
        """One count of bytes or of files."""

        def __init__(self, *given: Any, **settings: Any) -> None:
            settings |= {"disable": False, "file": io.StringIO()}
            super().__init__(*given, **settings)  # type: ignore[no-untyped-call]  # the library's class has no types

        def update(self, n: float | None = 1) -> bool | None:
            done: bool | None = super().update(n)
            if self.unit == "B":
                progress(self.n, self.total or 0)
            return done

    return Bar


@dataclass(frozen=True, kw_only=True)
class Published:
    """A repository of the hub, and how errors speak of it."""

    id: str
    revision: str
    online: bool
    holds: Literal["model", "dataset"]
    noun: str
    where: Where
    error: type[InputError]
    example: str
    """What to do to have it fetched, as an order."""

    def snapshot(self, patterns: Sequence[str], ignored: Sequence[str] = (), progress: Progress | None = None) -> Path:
        """The folder with the files that fit; its name is the commit. `progress` hears of what is fetched."""
        from huggingface_hub import is_offline_mode, snapshot_download
        from huggingface_hub.errors import (
            GatedRepoError,
            HfHubHTTPError,
            LocalEntryNotFoundError,
            OfflineModeIsEnabled,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )

        try:
            with nullcontext() if progress is not None else _no_bars():
                found = snapshot_download(
                    self.id,
                    repo_type=self.holds,
                    revision=self.revision,
                    allow_patterns=list(patterns),
                    ignore_patterns=list(ignored),
                    local_files_only=not self.online,
                    cache_dir=os.environ.get("HF_HUB_CACHE"),
                    endpoint=os.environ.get("HF_ENDPOINT"),
                    tqdm_class=_bar(progress) if progress is not None else None,
                )
        except GatedRepoError as error:
            remedy = "accept its terms on the hub and set HF_TOKEN"
            raise self._told("is given out only to those who accepted its terms", remedy) from error
        except RevisionNotFoundError as error:
            raise self._told(f"has no revision {self.revision!r}", "look it up on the hub") from error
        except RepositoryNotFoundError as error:
            remedy = f"check the spelling; for a private {self.noun} set HF_TOKEN"
            what = f"the hub has no {self.noun} {self.id!r}"
            raise self.error(what, where=self.where, remedy=remedy) from error
        except OfflineModeIsEnabled as error:
            raise self._forbidden() from error
        except LocalEntryNotFoundError as error:
            raise (self._forbidden() if self.online and is_offline_mode() else self._not_here()) from error
        except (HfHubHTTPError, OSError) as error:
            what = f"the hub could not give {self.id}: {type(error).__name__}"
            raise self.error(what, where=self.where, remedy="try again later") from error
        return Path(found)

    def _told(self, what: str, remedy: str) -> InputError:
        return self.error(f"{self.id} {what}", where=self.where, remedy=remedy)

    def _forbidden(self) -> InputError:
        what = "is not in the local hub cache, and HF_HUB_OFFLINE forbids to ask the hub"
        return self._told(what, "unset HF_HUB_OFFLINE")

    def _not_here(self) -> InputError:
        if self.online:
            remedy = "connect, or set HF_ENDPOINT to your mirror"
            return self._told("is not in the local hub cache, and the hub cannot be reached", remedy)
        remedy = f"to fetch it, {self.example}; if a folder was meant, there is none of that name"
        what = f"{self.id} (revision {self.revision!r}) is not in the local hub cache"
        return self.error(what, where=self.where, remedy=remedy)
