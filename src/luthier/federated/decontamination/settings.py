"""Settings of near duplicates of another site's held-out rows."""

from __future__ import annotations

import math
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from luthier.core.component import add_field_descriptions
from luthier.data.dedup.shingles import Compared, Unit


class BandLayout(NamedTuple):
    """The compared bands of MinHash signatures: bands match independently, since no two share a column."""

    number: int
    """Number of bands."""
    width: int
    """Columns of each, of one byte."""
    first: int
    """Index of the first band."""
    seed: int
    """Seed of the signature."""

    def find_chance(self, similarity: float, least: int) -> float:
        """Return the probability that at least `least` bands match for two rows of a Jaccard similarity."""
        chance = (similarity + (1 - similarity) / 256) ** self.width
        return math.fsum(
            math.comb(self.number, count) * chance**count * (1 - chance) ** (self.number - count)
            for count in range(least, self.number + 1)
        )


FIRST_BANDS = BandLayout(32, 4, 0, 7919)
"""Bands that find candidates: the 128 columns that `near_dedup` computes."""
LATER_BANDS = BandLayout(256, 6, 32, 104_729)
"""Bands that estimate the similarity of candidates, from 1,536 other columns. Wider ones say more about similar rows,
and almost nothing about others: rows that share less than two fifths of their shingles match in neither kind."""
MISSED = 0.01
"""The chance that a pair at the threshold is overlooked, at the most: half of it in each of both comparisons."""


class DecontaminationSettings(BaseModel):
    """Training rows that nearly repeat a row that another site holds out are left out, as `near_dedup` compares rows.

    Sites compare bands of MinHash signatures by an oblivious pseudorandom function, first a few of all rows, then many
    of the candidates that these show. Nothing is verified by the texts: a pair at the threshold is overlooked once in a
    hundred, and most pairs within a few hundredths below it are left out.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_extra=add_field_descriptions)

    threshold: float = Field(default=0.8, ge=0.7, le=1)
    """Jaccard similarity of pieces from which two rows are near copies."""
    of: Compared = "prompt"
    """The compared part of a row; equal prompts with other answers are near duplicates, too, unless both are
    compared."""
    unit: Unit = "char"
    """Pieces of characters suit short texts and any script; pieces of words suit long ones."""
    size: int = Field(default=5, ge=1, le=20)
    """Characters or words in a piece."""
    max_rows: int = Field(default=20_000, ge=1, le=10_000_000)
    """Training rows, and held-out rows, of a site at the most: with each row, a site could test one guess."""

    @property
    def candidate_bands(self) -> int:
        """Minimum number of first bands that two rows share to be candidates."""
        return self._find_least(FIRST_BANDS)

    @property
    def shared_bands(self) -> int:
        """Minimum number of later bands that candidates share to be near duplicates."""
        return self._find_least(LATER_BANDS)

    def find_chance(self, similarity: float) -> float:
        """The chance that two rows of a Jaccard similarity count as near copies."""
        first = FIRST_BANDS.find_chance(similarity, self.candidate_bands)
        return first * LATER_BANDS.find_chance(similarity, self.shared_bands)

    def _find_least(self, bands: BandLayout) -> int:
        """Return the number that misses a pair at the threshold with half of the probability `MISSED`."""
        enough = 1 - MISSED / 2
        return max(least for least in range(bands.number + 1) if bands.find_chance(self.threshold, least) >= enough)
