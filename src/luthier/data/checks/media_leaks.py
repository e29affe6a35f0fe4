"""Held-out rows that show or play what training rows do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar, Literal

from pydantic import Field

from luthier.artifacts.findings import Finding
from luthier.chat.messages import MEDIA_MARK, Media
from luthier.core.events import format_counted_noun
from luthier.core.messages import gettext_noop
from luthier.data.check import (
    Check,
    CheckResult,
    Needs,
    PlantedFaults,
    Summed,
    format_percent,
    severity_of_share,
    share_with_interval,
)
from luthier.data.dedup.media import BYTES, cluster_fingerprints, fingerprints_of
from luthier.data.validate.context import CheckData, CheckRow


class MediaLeaks(Check):
    """Held-out rows with a picture or a sound of which a near copy is trained on: their score says too much.

    Near copies are told by perceptual fingerprints, as by the operator `media_dedup`.
    """

    kind: Literal["media_leaks"] = "media_leaks"
    needs: ClassVar[frozenset[Needs]] = frozenset({"test"})
    measures: ClassVar[Mapping[str, str]] = {
        "media.leaks": gettext_noop("share of held-out rows whose media are trained on")
    }
    false_alarms: ClassVar[float] = 0.0
    summed: ClassVar[Summed] = "within"

    distance: int = Field(default=8, ge=0, le=15)
    """In how many of 128 bits two media differ at most; unlike ones differ in about 64."""
    warning: float = Field(default=0.01, ge=0, le=1)
    """Share of held-out rows from which it is a warning."""
    serious: float = Field(default=0.2, ge=0, le=1)
    """Share of held-out rows from which it is serious."""

    def look(self, data: CheckData) -> Iterable[CheckResult]:
        import numpy as np

        held, keys, owners = 0, list[bytes](), list[int]()
        for index, row in enumerate(data.rows):
            media = fingerprints_of(row.messages)
            held += bool(media) and row.split != "train"
            keys += [kind[:1].encode() + fingerprint for kind, fingerprint in media]
            owners += [index] * len(media)
        unique, which = np.unique(np.array(keys, dtype=np.dtype((np.void, 1 + BYTES))), return_inverse=True)
        prints = unique.view(np.uint8).reshape(-1, 1 + BYTES)
        heads = np.zeros(len(unique), np.int64)
        for kind in (b"i", b"a"):
            own = np.flatnonzero(prints[:, 0] == kind[0])
            heads[own] = own[cluster_fingerprints(prints[own, 1:], self.distance).heads]
        clusters = heads[which.reshape(-1)].tolist()
        trained: dict[int, str] = {}
        for cluster, owner in zip(clusters, owners, strict=True):
            if data.rows[owner].split == "train":
                trained.setdefault(cluster, data.rows[owner].id)
        found: dict[int, str] = {}
        for cluster, owner in zip(clusters, owners, strict=True):
            if data.rows[owner].split != "train" and cluster in trained:
                found.setdefault(owner, trained[cluster])
        number = share_with_interval(len(found), held, self.measures["media.leaks"])
        yield CheckResult(
            Finding(
                name=self.kind,
                severity=severity_of_share(number.value, self.warning, self.serious) if found else "info",
                title=gettext_noop("Media on both sides of the split" if found else "Media of the split"),
                sentence=gettext_noop(
                    f"{format_counted_noun(len(found), 'row')} of {held:,} held out with media "
                    f"({format_percent(number.value)}) {'shows or plays' if len(found) == 1 else 'show or play'} a "
                    "near copy of what is trained on."
                ),
                rows=len(found),
                numbers={"media.leaks": number},
                hint=gettext_noop("Hold near copies on one side of the split." if found else ""),
                mend="{ops: [media_dedup], split: {group: cluster}}" if found else "",
            ),
            [(data.rows[index], None, f"as {twin} of the training rows") for index, twin in found.items()],
        )

    def plant(self, rows: Sequence[CheckRow]) -> PlantedFaults:
        """Every tenth held-out row shows what a training row shows, but for one bit of its fingerprint."""
        import random

        chance = random.Random(0)
        trained = [row for row in rows if row.split == "train"]
        prints = {row.id: chance.getrandbits(8 * BYTES) for row in sorted(rows, key=lambda row: row.id)}
        held = sorted(row.id for row in rows if row.split != "train")[::10]
        for name, twin in zip(held, sorted(row.id for row in trained), strict=False):
            prints[name] = prints[twin] ^ 1
        planted = []
        for row in rows:
            digest = f"{prints[row.id]:032x}"
            media = Media(kind="image", digest=digest * 2, format="png", size=9, width=9, height=9, fingerprint=digest)
            turns = list(row.messages)
            turns[-2] = turns[-2].model_copy(update={"content": f"{MEDIA_MARK} {turns[-2].content}", "media": (media,)})
            planted.append(replace(row, messages=tuple(turns)))
        return PlantedFaults(planted, frozenset(held))
