"""The command line: parse, call, print; no logic of its own."""

from __future__ import annotations

import sys


def main(arguments: list[str] | None = None) -> None:
    """Run one command and exit with its code (see `luthier.core.errors`)."""
    from luthier.cli.app import run_command

    sys.exit(run_command(sys.argv[1:] if arguments is None else arguments))
