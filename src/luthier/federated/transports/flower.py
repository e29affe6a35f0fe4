"""Messages through Flower's SuperLink and SuperNodes, for those who run them already."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from luthier.core.component import BasicMarker
from luthier.core.files import PathText, resolve_path
from luthier.core.step import StepContext
from luthier.federated.messaging.envelopes import EnvelopeChannel, EnvelopeTransport, read_member_cards
from luthier.federated.messaging.keys import FederationIdentity
from luthier.federated.transport import SiteChannel
from luthier.federated.transports.http import HttpPost


class FlowerTransport(EnvelopeTransport):
    """Hand messages to a Flower app over a Unix socket; the app carries them through SuperLink and SuperNodes to the
    sites, and can read none. Flower runs in an environment of its own (`luthier site flower` writes the app)."""

    kind: Literal["flower"] = "flower"

    socket: Annotated[PathText, BasicMarker()] = "coordinator.sock"
    """The Unix socket to listen at; the app's `socket` names the same."""

    def open_channel(self, work: StepContext, sites: Sequence[str]) -> SiteChannel:
        """Listen for one federation."""
        identity = FederationIdentity.read(resolve_path(self.keys, work.recipe_dir))
        cards = read_member_cards(self.member_cards, work.recipe_dir, self.revoked)
        path = resolve_path(self.socket, work.recipe_dir).absolute()
        post = HttpPost(cards, identity.card, work.digest, path, None)
        work.events.note(f"listens for the Flower app of {len(cards)} sites at {path}")
        return EnvelopeChannel(work, identity, cards, post, self.wait_s)
