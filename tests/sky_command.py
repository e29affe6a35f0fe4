"""A program `sky` for tests: it reads the task file of SkyPilot, runs its `run` block as a process of this machine, and
prints the queue as SkyPilot 0.12 and newer do."""

from __future__ import annotations

import sys
from pathlib import Path

PROGRAM = """#!{python} -I
import json, os, signal, subprocess, sys, time
from pathlib import Path

import yaml

FOLDER = Path({folder!r})
KEYS = {{"name", "resources", "file_mounts", "envs", "setup", "run"}}


def records():
    return [json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))]


def write(record):
    path = FOLDER / f"{{record['job_id']:04}}.json"
    path.with_suffix(".new").write_text(json.dumps(record))
    path.with_suffix(".new").replace(path)


def main(words):
    group, verb, *rest = words
    assert group == "jobs", words
    named = rest[rest.index("--name") + 1] if "--name" in rest else None
    if verb == "launch":
        assert {{"--detach-run", "--yes"}} <= set(rest), rest
        text = Path(rest[-1]).read_text()
        task = yaml.safe_load(text)
        assert set(task) <= KEYS, task
        number = len(records()) + 1
        record = {{"job_id": number, "job_name": named, "status": "STARTING", "user_yaml": text, "pid": 0}}
        record["secrets"] = [name for flag, name in zip(rest, rest[1:]) if flag == "--secret"]
        write(record)
        subprocess.Popen([sys.executable, __file__, "jobs", "watch", str(number)], start_new_session=True,
                         stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    elif verb == "watch":
        (record,) = [one for one in records() if one["job_id"] == int(rest[0])]
        task = yaml.safe_load(record["user_yaml"])
        environment = {{**os.environ, **task.get("envs", {{}})}}
        with (FOLDER / f"{{record['job_id']}}.log").open("wb") as log:
            code = 0
            for block in ("setup", "run"):
                if code == 0 and block in task:
                    process = subprocess.Popen(["bash", "-c", task[block]], env=environment, stdout=log, stderr=log,
                                               start_new_session=True, cwd="/")
                    write({{**record, "status": "RUNNING", "pid": process.pid}})
                    code = process.wait()
        cancelled = (FOLDER / f"{{record['job_id']}}.cancelled").exists()
        write({{**record, "status": "CANCELLED" if cancelled else "FAILED" if code else "SUCCEEDED"}})
    elif verb == "queue":
        assert rest[-2:] == ["--output", "json"], rest
        if not records():
            sys.exit("sky.exceptions.ClusterNotUpError: No in-progress managed jobs.")
        print("A newer version of SkyPilot is available.")
        print(json.dumps(records(), indent=2))
    elif verb == "cancel":
        for record in records():
            if record["job_name"] == named and record["status"] in ("STARTING", "RUNNING"):
                (FOLDER / f"{{record['job_id']}}.cancelled").touch()
                if record["pid"]:
                    os.killpg(record["pid"], signal.SIGTERM)
    elif verb == "logs":
        (*_, newest) = [one for one in records() if one["job_name"] == named]
        print((FOLDER / f"{{newest['job_id']}}.log").read_text())
    else:
        sys.exit(f"no such command {{verb}}")


main(sys.argv[1:])
"""


def make_sky(folder: Path) -> Path:
    """The program, with its jobs in a folder beside it."""
    (folder / "jobs").mkdir(parents=True)
    program = folder / "sky"
    program.write_text(PROGRAM.format(python=sys.executable, folder=str(folder / "jobs")))
    program.chmod(0o755)
    return program
