"""The command line: parse arguments, call `luthier.commands`, print results."""

from __future__ import annotations

import sys


def main(arguments: list[str] | None = None) -> None:
    """Run one command and exit with its code (see `luthier.core.errors`)."""
    from luthier.cli.app import run_command

    sys.exit(run_command(sys.argv[1:] if arguments is None else arguments))
