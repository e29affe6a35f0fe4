"""Taking a person's name out of feedback that is kept."""

from __future__ import annotations

import secrets
from pathlib import Path

from filelock import FileLock, Timeout

from luthier.core.errors import InputError, SourceLocation
from luthier.traces.compact import compact_traffic_folder, write_row_groups
from luthier.traces.folder import (
    list_replaced_files,
    read_folder_snapshot,
    recover_replacements,
    replace_files,
    stage_replacement,
)
from luthier.traces.retention import RetentionPolicy
from luthier.traces.segment import is_open_for_writing

_WAIT_S = 30.0


def rename_feedback_author(folder: Path, name: str, pseudonym: str) -> int:
    """Replace who gave feedback by another name, and return how many records that were.

    `InputError` while a server records there: what it is writing cannot be changed.
    """
    from pyarrow import compute, parquet

    busy = InputError(
        "a server is recording there", where=SourceLocation(file=str(folder)), hint="stop it first, then do it again"
    )
    segments = read_folder_snapshot(folder).segments
    if any(is_open_for_writing(path) for path in segments):
        raise busy
    compact_traffic_folder(folder, RetentionPolicy.of(folder), closed=segments)
    changed = 0
    try:
        with FileLock(folder / "compact.lock", timeout=_WAIT_S):
            recover_replacements(folder)
            snapshot = read_folder_snapshot(folder)
            if snapshot.segments:
                raise busy
            for day, paths in snapshot.days["feedback"].items():
                for path in paths:
                    rows = parquet.read_table(path, partitioning=None)
                    own = compute.equal(rows["by"], name)
                    count = compute.sum(own).as_py() or 0
                    if not count:
                        continue
                    renamed = compute.if_else(own, pseudonym, rows["by"])
                    at = rows.schema.get_field_index("by")
                    output_name = f"erased-{secrets.token_hex(8)}"
                    output = stage_replacement(folder, folder / "feedback" / day.isoformat() / f"{output_name}.parquet")
                    write_row_groups(output.aside, "feedback", [rows.set_column(at, rows.schema.field(at), renamed)])
                    replace_files(folder, output_name, [path], [output])
                    changed += count
            for part in ("feedback", "segments"):
                for path in list_replaced_files(folder, part):
                    path.unlink(missing_ok=True)
    except Timeout as error:
        raise busy from error
    return changed
