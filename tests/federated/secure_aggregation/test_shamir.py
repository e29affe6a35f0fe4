"""Any so many shares give a secret, and fewer fit every secret alike."""

from __future__ import annotations

import secrets

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.core.errors import LuthierError
from luthier.federated.secure_aggregation.shamir import PRIME, SHARE_BYTES, join_shares, split_secret


@settings(max_examples=40, deadline=None)
@given(st.binary(min_size=32, max_size=32), st.integers(1, 12), st.data())
def test_any_so_many_shares_give_the_secret(secret: bytes, threshold: int, data: st.DataObject) -> None:
    holders = data.draw(st.lists(st.integers(1, 5000), unique=True, min_size=threshold, max_size=20))
    shares = split_secret(secret, holders, threshold)
    chosen = data.draw(st.permutations(holders))[:threshold]
    assert join_shares({holder: shares[holder] for holder in chosen}, threshold) == secret
    with pytest.raises(LuthierError, match="shares of a secret came"):
        join_shares({holder: shares[holder] for holder in chosen[1:]}, threshold)


def test_one_share_too_few_fits_every_secret() -> None:
    shares = split_secret(secrets.token_bytes(32), [1, 2, 3, 4], 3)
    other = secrets.token_bytes(32)
    one, two = (int.from_bytes(shares[number], "big") for number in (1, 2))
    third = (int.from_bytes(other, "big") - 3 * one + 3 * two) % PRIME  # by Lagrange's formula at 0 over 1, 2, 3
    forged = {1: shares[1], 2: shares[2], 3: third.to_bytes(SHARE_BYTES, "big")}
    assert join_shares(forged, 3) == other


def test_shares_of_two_secrets_do_not_belong_together() -> None:
    one, other = (split_secret(secrets.token_bytes(32), [1, 2, 3], 3) for _ in range(2))
    with pytest.raises(LuthierError, match="do not belong together"):
        join_shares({1: one[1], 2: one[2], 3: other[3]}, 3)
    with pytest.raises(ValueError, match="numbered from 1"):
        split_secret(bytes(32), [0, 1], 2)
