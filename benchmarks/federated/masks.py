"""Masked sums: whether they are exact, and what masks cost, also where sites are lost in the middle of a round.

Masks are measured on as many numbers as LoRA of rank 16 has in B in SmolLM2-135M.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from benchmarks.federated.figures import SITES, Extent, print_figure

FFA_NUMBERS = 2_600_000
"""About the numbers of B, rank 16, in SmolLM2-135M."""


def measure(extent: Extent) -> None:
    """Masks of ten sites."""
    measure_masks(SITES, FFA_NUMBERS // (10 if extent.quick else 1))


def measure_lost_sites(extent: Extent) -> None:
    """Masks with drop-outs."""
    measure_dropouts(20 if extent.quick else 100, 6 if extent.quick else 30, 20_000)


def measure_masks(sites: int, numbers: int) -> None:
    """Sum, error and seconds of masks."""
    import numpy
    import torch

    from luthier.federated.messaging.keys import FederationIdentity
    from luthier.federated.secure_aggregation.masks import MaskSettings, PairMasks, decode_sum, encode_update

    keys = [FederationIdentity.create(f"site-{at}") for at in range(sites)]
    settings, small = MaskSettings(), 20_000
    updates = [{"b": torch.randn(small, generator=torch.Generator().manual_seed(at))} for at in range(sites)]
    encoded = [encode_update(one, 100 + at, 1.0, settings, sites) for at, one in enumerate(updates)]
    masks = [PairMasks(own, [other.card for other in keys if other is not own]) for own in keys]
    masked = [mask.mask(one, "ab" * 16, 1, "digest") for mask, one in zip(masks, encoded, strict=True)]
    total = sum(masked[1:], masked[0])
    print_figure("masked_sum_apart", int((total != sum(encoded[1:], encoded[0])).sum()), "0", "units")
    found = decode_sum(total, {"b": updates[0]["b"].double()}, settings, sites)
    right = sum((100 + at) * one["b"].double() for at, one in enumerate(updates)) / found.rows
    error = float((found.weights["b"] - right).abs().max()) / settings.bound
    print_figure("decoding_error", error, f"<= {2.0**-40:.3g}", "of the bound")
    started = time.perf_counter()
    masks[0].mask(numpy.zeros(numbers, numpy.uint64), "ab" * 16, 1, "digest")
    each = (time.perf_counter() - started) / (sites - 1)
    print_figure("mask_seconds_at_100_sites", round(99 * each, 2), "<= 3 % of a round's training", "s")


def measure_dropouts(sites: int, lost: int, numbers: int) -> None:
    """A masked round of many sites, some of which are lost between their shares and their numbers: what one site and
    the coordinator compute, scaled up to the numbers of B."""
    import numpy

    from luthier.federated.messaging.keys import FederationIdentity
    from luthier.federated.secure_aggregation.dropout_masks import (
        DropoutMasks,
        MaskContext,
        RevealedShares,
        find_least,
        unmask_sum,
    )

    identities = {own.card.fingerprint: own for own in (FederationIdentity.create(f"s{at}") for at in range(sites))}
    names = sorted(identities)
    about = MaskContext(federation="ab" * 16, round=1, digest="d", group=tuple(names), least=find_least(sites))
    chance = numpy.random.default_rng(1)
    with tempfile.TemporaryDirectory() as root:
        members = {}
        for name in names:
            folder = Path(root) / name
            folder.mkdir()
            peers = {other: identities[other].card for other in names if other != name}
            members[name] = DropoutMasks(identities[name], peers, folder)
        keys = {name: own.begin(about) for name, own in members.items()}
        started = time.process_time()
        shares = {name: own.share(keys) for name, own in members.items()}
        left = names[lost:]
        encoded = {name: chance.integers(0, 1 << 62, numbers, dtype=numpy.uint64) for name in left}
        masking = time.process_time()
        masked = {
            name: members[name].mask(
                encoded[name], {who: own[name] for who, own in shares.items() if name in own}, names
            )
            for name in left
        }
        masked_s = time.process_time() - masking
        signed = {name: members[name].sign_survivors(left) for name in left}
        revealed = RevealedShares()
        for name in left:
            seeds, own = members[name].reveal(signed)
            for owner, share in seeds.items():
                revealed.seeds.setdefault(owner, {})[name] = share
            for owner, share in own.items():
                revealed.masks.setdefault(owner, {})[name] = share
        each = (time.process_time() - started) / len(left)
        started = time.process_time()
        total = unmask_sum(sum(masked.values(), numpy.zeros(numbers, numpy.uint64)), about, keys, names, left, revealed)
        unmasked = time.process_time() - started
    apart = int((total != sum(encoded.values(), numpy.zeros(numbers, numpy.uint64))).sum())
    print_figure("dropout_sum_apart", apart, "0", f"units, {lost} of {sites} sites lost")
    scale = FFA_NUMBERS / numbers
    print_figure("dropout_site_fixed_seconds", round(each - masked_s / len(left), 2), "little", "CPU-s of a site, keys")
    print_figure(
        "dropout_site_seconds", round(masked_s / len(left) * scale, 2), "<= 3 % of a round", "CPU-s, masks of B"
    )
    print_figure("dropout_coordinator_seconds", round(unmasked * scale, 1), "no goal", "CPU-s to unmask B")
