"""Edit distance and longest common subsequence of two sequences, by bits of Python's whole numbers.

Hyyrö 2003 (Levenshtein's distance) and Hyyrö 2004 (LCS): one addition a row instead of one comparison a cell.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence


def _places(items: Sequence[Hashable]) -> dict[Hashable, int]:
    """For each item, the bits of the positions at which it stands."""
    positions: dict[Hashable, int] = {}
    for position, item in enumerate(items):
        positions[item] = positions.get(item, 0) | (1 << position)
    return positions


def levenshtein_distance(reference: Sequence[Hashable], prediction: Sequence[Hashable]) -> int:
    """The least number of insertions, deletions and substitutions that turn one into the other."""
    if not reference or not prediction:
        return max(len(reference), len(prediction))
    positions, full, last = _places(reference), (1 << len(reference)) - 1, 1 << (len(reference) - 1)
    up, down, distance = full, 0, len(reference)
    for item in prediction:
        same = positions.get(item, 0)
        vertical = same | down
        horizontal = (((same & up) + up) ^ up) | same
        rise, fall = down | (~(horizontal | up) & full), up & horizontal
        distance += bool(rise & last) - bool(fall & last)
        rise, fall = ((rise << 1) | 1) & full, (fall << 1) & full
        up, down = fall | (~(vertical | rise) & full), rise & vertical
    return distance


def lcs_bit_rows(reference: Sequence[Hashable], prediction: Sequence[Hashable]) -> list[int]:
    """For each beginning of the reference, bits that are 0 where the LCS with the prediction grows by one."""
    positions, full = _places(prediction), (1 << len(prediction)) - 1
    row = full
    rows = [row]
    for item in reference:
        kept = row & positions.get(item, 0)
        row = ((row + kept) | (row - kept)) & full
        rows.append(row)
    return rows


def lcs_length(reference: Sequence[Hashable], prediction: Sequence[Hashable]) -> int:
    """The length of the longest common subsequence."""
    return len(prediction) - lcs_bit_rows(reference, prediction)[-1].bit_count()


def lcs_positions(reference: Sequence[Hashable], prediction: Sequence[Hashable]) -> list[int]:
    """Positions in the reference of one longest common subsequence, read from the end, ties to the reference's side."""
    rows = lcs_bit_rows(reference, prediction)

    def length(beginning: int, columns: int) -> int:
        return columns - (rows[beginning] & ((1 << columns) - 1)).bit_count()

    i, j = len(reference), len(prediction)
    found: list[int] = []
    while i > 0 and j > 0:
        if reference[i - 1] == prediction[j - 1]:
            i, j = i - 1, j - 1
            found.append(i)
        elif length(i, j - 1) > length(i - 1, j):
            j -= 1
        else:
            i -= 1
    return found[::-1]
