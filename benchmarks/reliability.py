"""What is lost when a server is killed under load, when its database goes away, and when anything at all is sent to it.

    python benchmarks/reliability.py [--quick]

These are the tests of reliability at length, against servers in processes of their own: 50 kills with clients that ask
and a job that goes on, a minute without PostgreSQL and a minute with SQLite locked, 50 kills of a recorder and 30 of
its writer, slow clients, and schemathesis on the two OpenAPI descriptions. Each says what it counted; one that fails
fails the run. `benchmarks/soak.py` is the run that takes ten minutes.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
from pathlib import Path

HOME = Path(__file__).parent.parent
TESTS = {
    "tests/commands/test_serve_reliability.py": "",
    "tests/traces/test_recorder.py": "killed",
    "tests/serve/test_description.py": "makes_the_server_fail",
    "tests/api/test_description.py": "",
    "tests/api/test_fine_tuning.py": "survive",
}


def main() -> int:
    """Run them one after another, and print what they print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="as every commit runs them")
    parser.add_argument("--only", choices=sorted(TESTS), help="one file of tests")
    asked = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} cores, python {platform.python_version()}", flush=True)
    marks = "not slow" if asked.quick else "slow or not slow"
    failed = 0
    for file, which in TESTS.items():
        if asked.only in (None, file):
            words = [
                "-m",
                marks,
                "-k",
                which,
                "-n",
                "0",
                "-p",
                "no:randomly",
                "-s",
                "-v",
                "--durations=0",
                "--tb=short",
            ]
            command = [sys.executable, "-m", "pytest", file, *words]
            done = subprocess.run(command, cwd=HOME, check=False, stdout=subprocess.PIPE, text=True)
            print("\n".join(_told(done.stdout, done.returncode)), flush=True)
            failed += done.returncode != 0
    return failed


def _told(said: str, code: int) -> list[str]:
    """The figures, how long each test took, and the outcome; all of it when a test failed."""
    lines = said.splitlines()
    if code:
        return lines
    return [line[line.find("{") :] for line in lines if '{"figure"' in line] + [
        line for line in lines if " call " in line or " passed" in line
    ]


if __name__ == "__main__":
    sys.exit(main())
