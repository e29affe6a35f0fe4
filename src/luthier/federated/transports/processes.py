"""A process for each site on this machine, with keys of its own, for rehearsals."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from luthier.core.artifact import Artifact
from luthier.core.step import StepContext
from luthier.core.system.process import python_command
from luthier.federated.messaging.envelopes import EnvelopeChannel, FolderPost
from luthier.federated.messaging.keys import CARD_FILE, KEY_FILE, FederationIdentity, PublicCard
from luthier.federated.personal.site_model import FEDERATIONS
from luthier.federated.transport import SiteChannel, Transport


class ProcessesTransport(Transport):
    """Train each site in a process of its own on this machine: the messages are those between machines, signed and
    encrypted under keys that are made for the federation."""

    kind: Literal["processes"] = "processes"
    remote: ClassVar[bool] = False

    wait_s: float = Field(default=3600.0, gt=0)
    """How long a round waits for answers. Those that come later are not used."""

    def open_channel(
        self,
        work: StepContext,
        sites: Sequence[str],
        traffic: Mapping[str, Path] | None = None,
        references: Path | None = None,
    ) -> SiteChannel:
        """Start the processes.

        `traffic` are the folders of each site's requests to a served model, and `references` what the signals of a
        monitor were fitted to; sites that count requests have no rows among the inputs of `work`.
        """
        mail = work.scratch / "mail"
        shutil.rmtree(mail, ignore_errors=True)
        identity = FederationIdentity.create("coordinator")
        cards, tasks = dict[str, PublicCard](), dict[str, dict[str, Any]]()
        for at, name in enumerate(sites):
            folder = work.scratch / "sites" / name
            folder.mkdir(parents=True, exist_ok=True)
            cards[name] = _open_identity(folder, f"site-{at}").card
            inputs = {"data": work.inputs.get(f"sites.{at}"), "model": work.inputs.get("model")}
            tasks[name] = {
                "folder": str(folder.absolute()),
                "mail": str(mail.absolute()),
                "coordinator": identity.card.model_dump(mode="json"),
                **{field: own and own.digest for field, own in inputs.items()},
                "folders": _list_folders([own for own in inputs.values() if own is not None]),
                "traffic": _describe_path((traffic or {}).get(name)),
                "references": _describe_path(references),
            }
        for name, task in tasks.items():
            task["peers"] = [card.model_dump(mode="json") for other, card in cards.items() if other != name]
        post = FolderPost(mail / work.digest)
        return ProcessesChannel(work, identity, cards, post, self.wait_s, tasks)


class ProcessesChannel(EnvelopeChannel):
    """Sites in processes, which end with it."""

    def __init__(
        self,
        work: StepContext,
        identity: FederationIdentity,
        cards: Mapping[str, PublicCard],
        post: FolderPost,
        wait_s: float,
        tasks: Mapping[str, Mapping[str, Any]],
    ) -> None:
        super().__init__(work, identity, cards, post, wait_s)
        self._processes: dict[str, subprocess.Popen[str]] = {}
        self._gone: set[str] = set()
        for name, task in tasks.items():
            process = subprocess.Popen(  # noqa: S603  # this very program
                python_command("-m", "luthier.federated.sites.process"), stdin=subprocess.PIPE, text=True
            )
            assert process.stdin is not None, "it was opened as a pipe"
            process.stdin.write(json.dumps(task) + "\n")
            process.stdin.flush()  # it stays open: the site ends when this process does
            self._processes[name] = process

    def list_gone(self) -> frozenset[str]:
        """Sites whose process ended by itself; of each, the first time, a warning."""
        gone = {name for name, process in self._processes.items() if process.poll() not in (None, 0)}
        for name in sorted(gone - self._gone):
            code = self._processes[name].returncode
            self._work.events.warning(f"the process of site {name} ended with exit code {code}")
        self._gone |= gone
        return frozenset(gone)

    def find_scratch(self, site: str) -> Path | None:
        """The folder of this federation at a site's process."""
        return self._work.scratch / "sites" / site / FEDERATIONS / self._work.digest

    def close(self) -> None:
        """End the processes."""
        super().close()
        for process in self._processes.values():
            assert process.stdin is not None, "it was opened as a pipe"
            process.stdin.close()
        for process in self._processes.values():
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _open_identity(folder: Path, name: str) -> FederationIdentity:
    """The keys of a site, made where there are none: they last as long as the federation, since what was masked towards
    them before a kill is masked so after it."""
    if not (folder / CARD_FILE).is_file():  # it is written after the keys
        (folder / KEY_FILE).unlink(missing_ok=True)
        FederationIdentity.create(name).write(folder)
    return FederationIdentity.read(folder)


def _describe_path(path: Path | None) -> str | None:
    return None if path is None else str(path.absolute())


def _list_folders(artifacts: Sequence[Artifact]) -> dict[str, str]:
    """Return the folders of some artifacts and of their base models, by digest."""
    folders: dict[str, str] = {}
    waiting = list(artifacts)
    while waiting:
        artifact = waiting.pop()
        if artifact.digest not in folders:
            folders[artifact.digest] = str(artifact.folder.absolute())
            waiting += [artifact.parent(field) for field in ("model", "of") if field in artifact.manifest.inputs]
    return folders
