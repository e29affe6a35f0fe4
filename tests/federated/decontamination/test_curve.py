"""The oblivious function: against slow arithmetic of another hand, and points that are none."""

from __future__ import annotations

import pytest

from luthier.federated.decontamination.curve import (
    compute_oprf_output,
    draw_scalar,
    hash_to_points,
    invert_scalar,
    multiply_points,
)
from luthier.federated.errors import OrderError

P = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, P - 2, P) % P


def add(one: tuple[int, int], two: tuple[int, int]) -> tuple[int, int]:
    """The sum of two points by the affine formula (RFC 8032, section 5.1)."""
    (x, y), (u, v) = one, two
    product = D * x * y * u * v
    return (
        (x * v + y * u) * pow(1 + product, P - 2, P) % P,
        (y * v + x * u) * pow(1 - product, P - 2, P) % P,
    )


def decode(point: bytes) -> tuple[int, int]:
    """A point from its encoding (RFC 8032, section 5.1.3)."""
    number = int.from_bytes(point, "little")
    y, sign = number & (2**255 - 1), number >> 255
    square = (y * y - 1) * pow(D * y * y + 1, P - 2, P) % P
    x = pow(square, (P + 3) // 8, P)
    if (x * x - square) % P:
        x = x * pow(2, (P - 1) // 4, P) % P
    assert (x * x - square) % P == 0
    return (x if x % 2 == sign else P - x), y


def encode(point: tuple[int, int]) -> bytes:
    return (point[1] | (point[0] % 2) << 255).to_bytes(32, "little")


def multiply(point: tuple[int, int], scalar: int) -> tuple[int, int]:
    total = (0, 1)
    while scalar:
        if scalar & 1:
            total = add(total, point)
        point, scalar = add(point, point), scalar >> 1
    return total


IDENTITY = (0, 1)


def test_points_are_of_the_subgroup_and_products_are_those_of_plain_arithmetic() -> None:
    points, scalar = hash_to_points([b"one", b"two"]), draw_scalar()
    assert points[0] != points[1]
    for point, product in zip(points, multiply_points(points, scalar), strict=True):
        assert multiply(decode(point), ORDER) == IDENTITY
        assert encode(multiply(decode(point), int.from_bytes(scalar, "little"))) == product


def test_who_asks_learns_the_value_that_who_answers_computes() -> None:
    """More than one chunk, so that threads keep the order."""
    elements = [at.to_bytes(4, "big") for at in range(1100)]
    points, secret, key = hash_to_points(elements), draw_scalar(), draw_scalar()
    blinded = multiply_points(points, secret)
    assert not set(blinded) & set(points)
    unblinded = multiply_points(multiply_points(blinded, key), invert_scalar(secret))
    assert unblinded == multiply_points(points, key)
    values = [compute_oprf_output(*each) for each in zip(elements, unblinded, strict=True)]
    assert len(set(values)) == len(elements)


SMALL = encode((0, P - 1))
"""The point of order two."""
NOT_CANONICAL = (1 + P).to_bytes(32, "little")
"""The identity, written with a number beyond the field."""


def find_mixed_point() -> bytes:
    """A point of the curve that is not of the subgroup: one of it plus one of order two."""
    return encode(add(decode(hash_to_points([b"any"])[0]), decode(SMALL)))


@pytest.mark.parametrize(
    "point",
    [encode(IDENTITY), bytes(32), b"\xff" * 32, (2).to_bytes(32, "little"), SMALL, NOT_CANONICAL, find_mixed_point()],
    ids=["identity", "zeros", "ones", "not on the curve", "order two", "not canonical", "not of the subgroup"],
)
def test_what_is_no_point_of_the_subgroup_is_refused(point: bytes) -> None:
    with pytest.raises(OrderError, match="no point of the agreed group"):
        multiply_points([*hash_to_points([b"fine"]), point], draw_scalar())
