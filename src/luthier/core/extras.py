"""Optional libraries: whether one is installed, and which extra of Luthier brings it."""

from __future__ import annotations

from importlib.util import find_spec

from luthier.core.errors import MissingExtra, Where


def is_installed(module: str) -> bool:
    """Whether Python finds a module, without importing it."""
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):  # a package above it is missing, or it was imported in a way of its own
        return False


def require(module: str, extra: str, user: str, *, where: Where | None = None, otherwise: str = "") -> None:
    """`MissingExtra` when a module is not installed; `user` is what needs it, `otherwise` what else can be done."""
    if not is_installed(module):
        what = f"{user} needs the library {module}, which is not installed"
        remedy = f"pip install 'luthier[{extra}]'" + (f", or {otherwise}" if otherwise else "")
        raise MissingExtra(what, where=where, remedy=remedy)
