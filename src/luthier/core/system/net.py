"""URLs without secrets, and the Hugging Face hub's cache.

`HubRepository` reads a repository from the local hub cache, or downloads it on demand. `HF_ENDPOINT`, `HF_HUB_CACHE`
and `HF_TOKEN` apply. A download resumes after a broken connection and keeps the files that are complete.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qsl, quote, urlsplit

from luthier.core.errors import InputError, SourceLocation
from luthier.core.files import is_env_var

HIDDEN = "***"
_PASSWORD = re.compile(r"(?P<before>[A-Za-z][\w+.-]*://[^:/@?#]*:)(?P<password>[^@]*)@")
_SECRET_NAMES = re.compile(r"pass|pwd|secret|token|signature|credential|api_?key|access_?key", re.IGNORECASE)
_SECRET_PAIR = re.compile(r"(?P<before>[?&;](?P<name>[^=&;#?]*)=)(?P<value>[^&;#]*)")


def is_database_url(url: str) -> bool:
    """Whether a URL means a database, not a file: SQLAlchemy knows its scheme; `$NAME` is taken as one, too."""
    if is_env_var(url):
        return True
    from sqlalchemy.dialects import registry
    from sqlalchemy.exc import NoSuchModuleError

    try:
        registry.load(url.partition("://")[0].replace("+", ".").replace("postgres:", "postgresql:"))
    except (NoSuchModuleError, ImportError):
        return url.startswith(("postgres", "mysql", "mssql", "oracle", "sqlite"))
    return True


def find_plain_secret(url: str) -> str | None:
    """Where a URL holds a secret that is not `$NAME`: `password`, or the name of a parameter; None when nowhere."""
    match = _PASSWORD.match(url)
    if match and match["password"] and not is_env_var(match["password"]):
        return "password"
    for pair in _SECRET_PAIR.finditer(url):
        inner = re.search(r"(?:pwd|password)(?:=|%3d)", pair["value"], re.IGNORECASE)
        if inner or (_SECRET_NAMES.search(pair["name"]) and pair["value"] and not is_env_var(pair["value"])):
            return pair["name"]
    return None


def redact_url(url: str) -> str:
    """The URL as it may be written down: no user, no password, and no value of a parameter that is a secret."""
    bare = re.sub(r"^([A-Za-z][\w+.-]*://)[^/?#]*@", r"\1", url)
    return _SECRET_PAIR.sub(_hide_pair, bare)


def _hide_pair(pair: re.Match[str]) -> str:
    secret = _SECRET_NAMES.search(pair["name"]) and pair["value"]
    return pair["before"] + HIDDEN if secret else pair[0]


def secrets_of(url: str) -> set[str]:
    """The secrets that a URL holds, each as it stands there and as it is meant."""
    found = {match["password"] for match in [_PASSWORD.match(url)] if match}
    pairs = parse_qsl(urlsplit(url).query) if "?" in url else []
    found |= {value for name, value in pairs if _SECRET_NAMES.search(name)}
    return {form for secret in found if secret for form in (secret, quote(secret, safe=""))}


def redact_secrets(text: str, secrets: Iterable[str]) -> str:
    """A text in which secrets are hidden, the longest first."""
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return text


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
class HubRepository:
    """A repository of the hub, and how errors speak of it."""

    id: str
    revision: str
    online: bool
    holds: Literal["model", "dataset"]
    noun: str
    where: SourceLocation
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
            hint = "accept its terms on the hub and set HF_TOKEN"
            raise self._build_error("is given out only to those who accepted its terms", hint) from error
        except RevisionNotFoundError as error:
            raise self._build_error(f"has no revision {self.revision!r}", "look it up on the hub") from error
        except RepositoryNotFoundError as error:
            hint = f"check the spelling; for a private {self.noun} set HF_TOKEN"
            what = f"the hub has no {self.noun} {self.id!r}"
            raise self.error(what, where=self.where, hint=hint) from error
        except OfflineModeIsEnabled as error:
            raise self._build_offline_error() from error
        except LocalEntryNotFoundError as error:
            raise (self._build_offline_error() if self.online and is_offline_mode() else self._not_here()) from error
        except (HfHubHTTPError, OSError) as error:
            what = f"the hub could not give {self.id}: {type(error).__name__}"
            raise self.error(what, where=self.where, hint="try again later") from error
        return Path(found)

    def _build_error(self, what: str, hint: str) -> InputError:
        return self.error(f"{self.id} {what}", where=self.where, hint=hint)

    def _build_offline_error(self) -> InputError:
        what = "is not in the local hub cache, and HF_HUB_OFFLINE forbids to ask the hub"
        return self._build_error(what, "unset HF_HUB_OFFLINE")

    def _not_here(self) -> InputError:
        if self.online:
            hint = "connect, or set HF_ENDPOINT to your mirror"
            return self._build_error("is not in the local hub cache, and the hub cannot be reached", hint)
        hint = f"to fetch it, {self.example}; if a folder was meant, there is none of that name"
        what = f"{self.id} (revision {self.revision!r}) is not in the local hub cache"
        return self.error(what, where=self.where, hint=hint)
