"""Contoso's parts for Luthier; importing them registers them."""

from luthier_contoso.metrics import SignedOff
from luthier_contoso.operators import TicketNumber
from luthier_contoso.rewards import Polite

__all__ = ["Polite", "SignedOff", "TicketNumber"]
