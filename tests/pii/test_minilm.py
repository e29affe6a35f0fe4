"""Whose find counts where Rampart, the rules and the tuned model see different things in one place."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from luthier.pii.recognizers.minilm import Minilm
from luthier.pii.span import PiiKind, PiiSpan

TEXT = "Mint called from 12 Mint Street, Leeds."


def _one(kind: PiiKind, start: int, end: int) -> PiiSpan:
    return PiiSpan(start, end, kind, TEXT[start:end])


@pytest.mark.parametrize(
    ("named", "read", "addresses", "wanted"),
    [
        (("person", 0, 4), (0, 4), [], ["organisation"]),
        (("address", 17, 38), (0, 4), [], ["organisation"]),
        (("address", 17, 31), (0, 4), [(17, 38)], ["organisation", "address"]),
        (("person", 20, 24), (20, 24), [(17, 38)], ["address"]),
    ],
)
def test_who_counts(
    monkeypatch: pytest.MonkeyPatch,
    named: tuple[PiiKind, int, int],
    read: tuple[int, int],
    addresses: list[tuple[int, int]],
    wanted: list[str],
) -> None:
    """An address is the tuned model's, and Rampart's persons and the rest give way to it."""
    reader = SimpleNamespace(find=lambda text, at_least: ((_one("organisation", *read), 0.8),))
    found = tuple(_one("address", *span) for span in addresses)
    monkeypatch.setattr(Minilm, "_reader", reader)
    monkeypatch.setattr(Minilm, "_addresses", SimpleNamespace(find=lambda text, at_least: found))
    assert [one.kind for one in Minilm()._found(TEXT, [_one(*named)])] == wanted
