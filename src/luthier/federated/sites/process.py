"""The process of one site on the coordinator's own machine; it ends when its standard input does."""

from __future__ import annotations

import json
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from luthier.core.artifact import Artifact, read_manifest
from luthier.core.errors import LuthierError
from luthier.core.system.process import set_thread_wait_policy
from luthier.federated.messaging.keys import FederationIdentity, PublicCard
from luthier.federated.messaging.mailbox import FolderMailbox
from luthier.federated.sites.server import SiteInputs, SiteServer


def serve_task(task: dict[str, Any], ended: threading.Event) -> None:
    """Serve one federation of a task to its end."""

    def find(digest: str) -> Artifact:
        folder = Path(task["folders"][digest])
        return Artifact(folder, read_manifest(folder), find)

    folder = Path(task["folder"])
    site = folder.name
    server = SiteServer(
        folder,
        FederationIdentity.read(folder),
        PublicCard.model_validate(task["coordinator"]),
        FolderMailbox(Path(task["mail"]), site),
        SiteInputs(
            data=find(task["data"]) if task["data"] else None,
            model=find(task["model"]) if task["model"] else None,
            traffic=Path(task["traffic"]) if task["traffic"] else None,
            references=Path(task["references"]) if task["references"] else None,
            peers=tuple(PublicCard.model_validate(card) for card in task["peers"]),
        ),
        None,
    )
    server.run(ended.is_set, once=True)


def main() -> int:
    """Serve; returns the exit code."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the coordinator is asked to stop, and ends this process
    set_thread_wait_policy()
    task = json.loads(sys.stdin.readline())
    ended = threading.Event()

    def watch() -> None:
        sys.stdin.read()
        ended.set()

    threading.Thread(target=watch, daemon=True).start()
    try:
        serve_task(task, ended)
    except LuthierError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
