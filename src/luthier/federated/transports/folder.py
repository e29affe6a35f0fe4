"""Messages as files in a folder that the coordinator and its sites see: a share, or a synchronised folder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from luthier.core.component import BasicMarker
from luthier.core.files import PathText, resolve_path
from luthier.core.step import StepContext
from luthier.federated.messaging.envelopes import EnvelopeChannel, EnvelopeTransport, FolderPost, read_member_cards
from luthier.federated.messaging.keys import FederationIdentity
from luthier.federated.transport import SiteChannel


class FolderTransport(EnvelopeTransport):
    """Write messages into a folder and read the answers there. Each is signed, encrypted to its reader, and numbered,
    so that the folder need not be trusted."""

    kind: Literal["folder"] = "folder"

    path: Annotated[PathText, BasicMarker()]
    """The folder, which every site sees too."""

    def open_channel(self, work: StepContext, sites: Sequence[str]) -> SiteChannel:
        """Open it for one federation."""
        identity = FederationIdentity.read(resolve_path(self.keys, work.recipe_dir))
        cards = read_member_cards(self.member_cards, work.recipe_dir, self.revoked)
        folder = resolve_path(self.path, work.recipe_dir) / work.digest
        return EnvelopeChannel(work, identity, cards, FolderPost(folder), self.wait_s)
