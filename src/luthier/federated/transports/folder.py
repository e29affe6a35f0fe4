"""Messages as files in a folder that the coordinator and its sites see: a share, or a synchronised folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from luthier.core.component import BasicMarker
from luthier.core.files import PathText, resolve_path
from luthier.core.step import StepContext
from luthier.federated.envelopes import EnvelopeChannel, FolderPost, digest_cards, read_member_cards
from luthier.federated.keys import FederationIdentity
from luthier.federated.transport import SiteChannel, Transport


class FolderTransport(Transport):
    """Write messages into a folder and read the answers there. Each is signed, encrypted to its reader, and numbered,
    so that the folder need not be trusted."""

    kind: Literal["folder"] = "folder"

    path: Annotated[PathText, BasicMarker()]
    """The folder, which every site sees too."""
    keys: PathText = "coordinator"
    """The folder with the coordinator's own keys, made by `luthier site init --coordinator`."""
    member_cards: Annotated[dict[str, PathText], BasicMarker()] = Field(min_length=1)
    """The file of each site's public keys (its `card.json`), by the site's name."""
    wait_s: float = Field(default=3600.0, gt=0)
    """How long a round waits for answers. Those that come later are not used."""

    @property
    def members(self) -> Mapping[str, str]:
        """The file of each site's public keys."""
        return self.member_cards

    def fingerprint(self, recipe_dir: Path) -> str | None:
        """Names, keys and rows of the sites."""
        return digest_cards(self.member_cards, recipe_dir)

    def open_channel(self, work: StepContext, sites: Sequence[str]) -> SiteChannel:
        """Open it for one federation."""
        identity = FederationIdentity.read(resolve_path(self.keys, work.recipe_dir))
        cards = read_member_cards(self.member_cards, work.recipe_dir)
        folder = resolve_path(self.path, work.recipe_dir) / work.digest
        return EnvelopeChannel(work, identity, cards, FolderPost(folder), self.wait_s)
