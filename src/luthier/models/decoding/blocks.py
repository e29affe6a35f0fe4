"""Blocks of a key-value cache: who uses which, and a tree of prompts whose blocks are found again.

A block holds the keys and values of `BLOCK` tokens. A full one is known by all tokens up to its end; whoever begins
with the same tokens finds it. Blocks that nobody uses stay while there is room, and the longest unused goes first.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

BLOCK = 16
"""Tokens of a block."""


@dataclass(eq=False)
class Node:
    """A full block that can be found again: the tokens in it follow those of its parent."""

    key: tuple[object, ...]
    block: int
    parent: Node | None
    users: int = 0
    children: int = 0


@dataclass(eq=False)
class Held:
    """The blocks of one line: found or made full ones that are known, then its own."""

    root: Hashable
    known: list[Node] = field(default_factory=list)
    own: list[int] = field(default_factory=list)
    table: array[int] = field(default_factory=lambda: array("i"))
    """All its blocks in the order of its tokens."""


class Blocks:
    """All blocks of a cache."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._free = list(range(count - 1, -1, -1))
        self._nodes: dict[tuple[object, ...], Node] = {}
        self._idle: OrderedDict[Node, None] = OrderedDict()  # known blocks that nobody uses, longest unused first

    @property
    def cached(self) -> int:
        """Tokens that could be found again."""
        return len(self._nodes) * BLOCK

    def hold(self, root: Hashable, ids: Sequence[int], tokens: int) -> Held | None:
        """Room for a line of so many tokens that begins with ids, of which some are found; None while there is none."""
        held = Held(root)
        self.find(held, ids)
        wanted = -(-tokens // BLOCK) - len(held.known)
        if wanted > len(self._free) + len(self._idle):
            self.release(held)
            return None
        held.own = [self._take() for _ in range(wanted)]
        held.table = array("i", [*(node.block for node in held.known), *held.own])
        return held

    def find(self, held: Held, ids: Sequence[int]) -> int:
        """Let a line whose blocks so far are all known use those that are known of its ids; returns their tokens.

        Its last id is never found: somebody must be read for the next one to be written.
        """
        while (len(held.known) + 1) * BLOCK < len(ids):
            node = self._nodes.get(self._key(held, ids))
            if node is None:
                break
            if held.own:
                self._free.append(held.own.pop(0))
                held.table[len(held.known)] = node.block
            self._use(node)
            held.known.append(node)
        return len(held.known) * BLOCK

    def next(self, held: Held, ids: Sequence[int]) -> Hashable:
        """By what a line's next block will be known."""
        return self._key(held, ids)

    def keep(self, held: Held, ids: Sequence[int]) -> None:
        """Make a line's full blocks known: `ids` are those that were read."""
        while (len(held.known) + 1) * BLOCK <= len(ids):
            key, block = self._key(held, ids), held.own.pop(0)
            node = self._nodes.get(key)
            if node is None:
                node = self._nodes[key] = Node(key, block, held.known[-1] if held.known else None)
                if node.parent is not None:
                    node.parent.children += 1
            else:  # somebody else was quicker, with the same numbers
                self._free.append(block)
                held.table[len(held.known)] = node.block
            self._use(node)
            held.known.append(node)

    def release(self, held: Held) -> None:
        """Give a line's blocks back; known ones stay, to be found again."""
        self._free += held.own
        for node in reversed(held.known):  # children before their parents: leaves go first
            node.users -= 1
            if not node.users:
                self._idle[node] = None
        held.own, held.known = [], []

    def forget(self) -> None:
        """Let nothing be found any more, after weights were changed; what is used stays where it is."""
        while self._idle:
            self._drop(next(iter(self._idle)))
        for node in self._nodes.values():
            node.key = ()
        self._nodes.clear()

    def _key(self, held: Held, ids: Sequence[int]) -> tuple[object, ...]:
        at = len(held.known) * BLOCK
        above = held.known[-1] if held.known else held.root
        return (above, *ids[at : at + BLOCK])

    def _use(self, node: Node) -> None:
        self._idle.pop(node, None)
        node.users += 1

    def _take(self) -> int:
        if not self._free:
            self._drop(next(one for one in self._idle if not one.children))
        return self._free.pop()

    def _drop(self, node: Node) -> None:
        del self._idle[node]
        self._nodes.pop(node.key, None)
        if node.parent is not None:
            node.parent.children -= 1
        self._free.append(node.block)
