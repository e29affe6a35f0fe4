"""Tune MiniLM-L6 to mark addresses, as `organisations` does: the same change for the same seed on one machine.

OMP_NUM_THREADS=1 python -m benchmarks.addresses.tune addresses.safetensors
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.addresses.texts import text
from benchmarks.organisations.tune import tuned
from safetensors.numpy import save_file

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("into", type=Path)
    parser.add_argument("--count", type=int, default=45_000)
    parser.add_argument("--seed", type=int, default=7)
    asked = parser.parse_args()
    save_file(tuned(asked.count, asked.seed, text, classes=2).change(), asked.into)
