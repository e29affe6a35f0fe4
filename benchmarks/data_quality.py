"""How right the data room is, on data that its rules were not written from.

    python benchmarks/data_quality.py [--quick] [PART …]

Every module of `benchmarks/quality` is a part: its function `measure(quick)` prints what it sees and yields figures.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import pkgutil
import platform
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "src")]


def main() -> None:
    """Run the parts that were asked for, and end with one JSON line a figure."""
    import benchmarks.quality as home

    parts = sorted(found.name for found in pkgutil.iter_modules(home.__path__))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rows of everything")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"one of {', '.join(parts)}; all by default")
    asked = parser.parse_args()
    if unknown := sorted(set(asked.parts) - set(parts)):
        parser.error(f"there is no part {', '.join(unknown)}; there are {', '.join(parts)}")
    device = f"{platform.machine()}, {os.cpu_count()} cores, python {platform.python_version()}"
    figures = []
    for name in asked.parts or parts:
        print(f"== {name}", flush=True)
        figures += list(importlib.import_module(f"benchmarks.quality.{name}").measure(asked.quick))
    for figure in figures:
        print(json.dumps({**figure, "device": device}), flush=True)


if __name__ == "__main__":
    main()
