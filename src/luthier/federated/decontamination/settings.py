"""What counts as a near copy of a row that another site holds out."""

from __future__ import annotations

import math

from pydantic import BaseModel, ConfigDict, Field

from luthier.core.component import add_field_descriptions
from luthier.data.dedup.shingles import Compared, Unit

BANDS, BAND_WIDTH = 32, 4
"""The 128 columns of a MinHash signature, each in one band: bands agree independently of each other."""
MISSED = 0.01
"""The chance that a pair at the threshold is overlooked, at the most."""


class DecontaminationSettings(BaseModel):
    """Training rows that nearly repeat a row that another site holds out are left out, as `near_dedup` compares rows.

    Sites compare bands of MinHash signatures by an oblivious pseudorandom function, so nothing is verified by the
    texts: a pair at the threshold is overlooked once in a hundred, and some pairs somewhat below it are left out.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_extra=add_field_descriptions)

    threshold: float = Field(default=0.8, ge=0.7, le=1)
    """Jaccard similarity of pieces from which two rows are near copies."""
    of: Compared = "prompt"
    """What is compared; equal prompts with other answers are near copies, too, unless both are compared."""
    unit: Unit = "char"
    """Pieces of characters suit short texts and any script; pieces of words suit long ones."""
    size: int = Field(default=5, ge=1, le=20)
    """Characters or words in a piece."""
    max_rows: int = Field(default=20_000, ge=1, le=10_000_000)
    """Training rows, and held-out rows, of a site at the most: with each row, a site could test one guess."""

    @property
    def shared_bands(self) -> int:
        """Bands that two rows share at the least to be near copies: as many as overlook a pair at the threshold with
        the chance `MISSED`."""
        chance = (self.threshold + (1 - self.threshold) / 256) ** BAND_WIDTH
        least, below = 0, _binomial(0, chance)
        while least < BANDS and below <= MISSED:
            least += 1
            below += _binomial(least, chance)
        return least

    def find_chance(self, similarity: float) -> float:
        """The chance that two rows of a Jaccard similarity count as near copies."""
        chance = (similarity + (1 - similarity) / 256) ** BAND_WIDTH
        return sum(_binomial(count, chance) for count in range(self.shared_bands, BANDS + 1))


def _binomial(count: int, chance: float) -> float:
    return math.comb(BANDS, count) * chance**count * (1 - chance) ** (BANDS - count)
