"""Names of classes and fields that enough rows bear, found without telling those that few do.

A name is a text of the data. So it is short, of one line, and holds no personal data that patterns find. Without masks
a site names what enough of its own rows bear. Under masks, what enough rows of all sites together bear is found in two
sums. First, each name's rows are counted in one bucket of each of three tables, by a hash under a salt that sites share
and the coordinator does not have. Then each site spells the names whose buckets are all heavy: the bytes times the
rows. Where one name alone is in a bucket, the sum over the sites gives its bytes back, and not which sites have it.
"""

from __future__ import annotations

import hashlib
import hmac
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

from luthier.data.check import RowNames

CLASS, FIELD = "class:", "field:"
TABLES, BUCKETS = 3, 4096
NAME_BYTES = 64
"""The longest name, with what it names before it."""
_CHECK_BYTES = 4
MOST_NAMES = 400
WIDTH = 1 + NAME_BYTES + _CHECK_BYTES
"""Numbers of a spelled bucket: rows, and bytes times rows."""


def find_name_obstacle(name: str) -> str:
    """Return why a name may not be sent; empty when it may."""
    from luthier.pii.detect import find_pii
    from luthier.pii.span import PATTERN_KINDS

    text = name.partition(":")[2]
    if not name.startswith((CLASS, FIELD)) or not text.strip():
        return "it names nothing"
    if len(name.encode()) > NAME_BYTES:
        return f"it is longer than {NAME_BYTES} bytes"
    if any(unicodedata.category(char).startswith(("C", "Zl", "Zp")) for char in text):
        return "it has a line break or a control character"
    if next(iter(find_pii(text, PATTERN_KINDS)), None) is not None:
        return "it holds personal data"
    return ""


def list_reportable_names(counts: Mapping[str, int]) -> dict[str, int]:
    """The names that may be sent, with their rows; of too many, those with most."""
    allowed = sorted(
        ((name, rows) for name, rows in counts.items() if not find_name_obstacle(name)),
        key=lambda entry: (-entry[1], entry[0]),
    )
    return dict(allowed[:MOST_NAMES])


def collect_names(names: Iterable[str]) -> RowNames:
    """Classes and fields apart, sorted."""
    found = sorted(set(names))
    return RowNames(
        classes=tuple(name.removeprefix(CLASS) for name in found if name.startswith(CLASS)),
        fields=tuple(name.removeprefix(FIELD) for name in found if name.startswith(FIELD)),
    )


def find_bucket(salt: bytes, table: int, name: str) -> int:
    """The bucket of a name in a table."""
    digest = hmac.new(salt, bytes([table]) + name.encode(), hashlib.sha256).digest()
    return int.from_bytes(digest[:8], "big") % BUCKETS


def fill_tables(counts: Mapping[str, int], salt: bytes) -> list[int]:
    """The rows in each bucket, table after table."""
    cells = [0] * (TABLES * BUCKETS)
    for name, rows in counts.items():
        for table in range(TABLES):
            cells[table * BUCKETS + find_bucket(salt, table, name)] += rows
    return cells


def find_heavy_buckets(cells: Sequence[int], least: int) -> list[list[int]]:
    """The buckets of each table with enough rows; the heaviest, where there are too many."""
    found = []
    for table in range(TABLES):
        own = cells[table * BUCKETS : (table + 1) * BUCKETS]
        heavy = sorted((bucket for bucket in range(BUCKETS) if own[bucket] >= least), key=lambda bucket: -own[bucket])
        found.append(sorted(heavy[:MOST_NAMES]))
    return found


def spell_names(counts: Mapping[str, int], salt: bytes, heavy: Sequence[Sequence[int]]) -> list[int]:
    """For each heavy bucket: the rows of the names in it that are heavy in all tables, and their bytes times the
    rows."""
    indices = [{bucket: at for at, bucket in enumerate(buckets)} for buckets in heavy]
    starts = [sum(map(len, heavy[:table])) for table in range(len(heavy))]
    cells = [0] * (WIDTH * sum(map(len, heavy)))
    for name, rows in counts.items():
        buckets = [find_bucket(salt, table, name) for table in range(len(heavy))]
        if not all(bucket in own for bucket, own in zip(buckets, indices, strict=True)):
            continue
        text = name.encode().ljust(NAME_BYTES, b"\0")
        spelled = [1, *text, *_checksum(text)]
        for start, bucket, own in zip(starts, buckets, indices, strict=True):
            begin = WIDTH * (start + own[bucket])
            for at, value in enumerate(spelled):
                cells[begin + at] += rows * value
    return cells


def read_names(cells: Sequence[int], least: int) -> dict[str, int]:
    """The names that sums of spelled buckets give back, with their rows."""
    found = {}
    for begin in range(0, len(cells), WIDTH):
        rows, *values = cells[begin : begin + WIDTH]
        if rows < least or any(value % rows for value in values):
            continue
        content = [value // rows for value in values]
        if max(content) > 255 or min(content) < 0:
            continue
        text = bytes(content[:NAME_BYTES])
        if bytes(content[NAME_BYTES:]) != _checksum(text):
            continue  # two names in one bucket: another table has them apart
        name = text.rstrip(b"\0").decode("utf-8", "replace")
        if not find_name_obstacle(name):
            found[name] = rows
    return found


def _checksum(text: bytes) -> bytes:
    return hashlib.sha256(text).digest()[:_CHECK_BYTES]
