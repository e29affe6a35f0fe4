"""Memory that freed tensors leave behind, given back before it is needed elsewhere.

glibc keeps what is freed for the thread that asked for it. Packs of many sizes break it into pieces that the next pack
does not find, and packs that are read side by side do not find what one pack alone left: without this, a training of a
few hundred steps held twice what its largest step needs.
"""

from __future__ import annotations

from luthier.core.process import release_memory, resident_bytes

SLACK = 1.1
"""How much more than the largest step was seen to need may be held: giving back costs as much as asking again."""


class Leftovers:
    """What a training holds, and whether the next packs would find it."""

    def __init__(self) -> None:
        self._bound = 0
        self._beside = 0
        self._fresh = False

    def before(self, beside: int) -> None:
        """Before so many packs are read at once: give back what they would not find, or what is too much."""
        held = resident_bytes()
        if self._fresh:  # what is held now is what the packs since needed
            self._bound = max(self._bound, held)
        self._fresh = beside != self._beside or held > SLACK * self._bound
        self._beside = beside
        if self._fresh:
            release_memory()
