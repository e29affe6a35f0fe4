"""Jobs of SkyPilot: what its file says, what never becomes structure or shell, and what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from luthier.core.errors import InputError, MissingExtra, SystemResourceError
from luthier.core.store import Store
from luthier.recipe.batch import BatchJob
from luthier.recipe.executors.sky import SkyExecutor
from sky_command import make_sky

NASTY = "x$(touch {0}) `touch {0}`\nLUTHIER_TASK\ntouch {0}\n'\"; touch {0}\n- a: {{b}}"


def job(folder: Path, **more: Any) -> BatchJob:
    """A job whose task is JSON in one line, as a task is."""
    return BatchJob("luthier-a", json.dumps({"folder": str(folder), **more}, ensure_ascii=False), folder / "output")


def wait_for_end(executor: SkyExecutor) -> str:
    """What is said of the job when it has ended."""
    for _ in range(300):
        status = executor.find("luthier-a")
        if status is not None and status.state == "ended":
            return status.reason
        time.sleep(0.1)
    raise AssertionError("it never ended")


def test_the_file_says_what_the_settings_say(tmp_path: Path) -> None:
    settings = {
        "infra": "aws/us-east-1", "accelerators": "A100:1", "cpus": "8+", "memory": "32+", "disk_gb": 100,
        "image": "docker:luthier:1", "setup": ["pip install 'luthier[s3]'"], "checkpoints": "s3://work",
    }  # fmt: skip
    task = yaml.safe_load(SkyExecutor.model_validate(settings).render_task(job(tmp_path)))
    assert task["resources"] == {
        "infra": "aws/us-east-1", "accelerators": "A100:1", "cpus": "8+", "memory": "32+", "disk_size": 100,
        "image_id": "docker:luthier:1", "use_spot": True,
    }  # fmt: skip
    assert task["file_mounts"] == {
        str(tmp_path): str(tmp_path),
        "/tmp/luthier-cache": {"source": "s3://work", "mode": "MOUNT_CACHED"},
    }
    assert task["envs"] == {"LUTHIER_CACHE": "/tmp/luthier-cache"}
    assert task["setup"] == "set -e\npip install 'luthier[s3]'\n"
    plain = yaml.safe_load(SkyExecutor(upload=False, spot=False).render_task(job(tmp_path)))
    assert set(plain) == {"name", "resources", "run"}
    assert plain["resources"] == {"use_spot": False}


def test_a_task_is_data_for_yaml_and_for_the_shell(tmp_path: Path) -> None:
    folder = tmp_path / "a folder: $(x)"
    folder.mkdir()
    sent = job(folder, text=NASTY.format(tmp_path / "harm"))
    show = tmp_path / "show $(x)"
    show.write_text("#!/bin/bash\nexec cat\n")
    show.chmod(0o755)
    executor = SkyExecutor(program=str(make_sky(tmp_path / "sky")), python=str(show), secrets=("HF_TOKEN",))
    executor.submit(sent)
    assert wait_for_end(executor) == "SUCCEEDED"
    assert executor.read_output("luthier-a").strip() == sent.task
    assert not (tmp_path / "harm").exists()
    (record,) = executor._read_queue()
    assert record["secrets"] == ["HF_TOKEN"]
    assert yaml.safe_load(record["user_yaml"])["file_mounts"] == {str(folder): str(folder)}


def test_a_job_is_cancelled_by_name_and_its_end_is_told(tmp_path: Path) -> None:
    slow = tmp_path / "slow"
    slow.write_text("#!/bin/bash\necho begun\nsleep 60\n")
    slow.chmod(0o755)
    executor = SkyExecutor(program=str(make_sky(tmp_path / "sky")), python=str(slow))
    assert executor.find("luthier-a") is None  # there is no controller yet
    executor.cancel_job("luthier-a")
    executor.submit(job(tmp_path))
    for _ in range(100):
        if (status := executor.find("luthier-a")) is not None and status.state == "running":
            break
        time.sleep(0.1)
    executor.cancel_job("luthier-a")
    assert wait_for_end(executor) == "CANCELLED"
    executor.submit(job(tmp_path))
    assert executor.find("luthier-a").state != "ended"  # type: ignore[union-attr]  # the newest counts
    executor.cancel_job("luthier-a")


def test_what_no_machine_reaches_or_all_would_see_is_refused(tmp_path: Path) -> None:
    executor = SkyExecutor(program=str(make_sky(tmp_path / "sky")))
    with pytest.raises(InputError, match="no machine of a cloud can reach the store") as error:
        executor.check_reach(tmp_path, Store(tmp_path / ".luthier"))
    assert "LUTHIER_STORE=s3://" in error.value.hint
    for address in ("postgresql://me:pass-word@db/x", "https://a:b@c/d"):
        with pytest.raises(InputError, match="address with a password") as error:
            executor.submit(job(tmp_path, database=address))
        assert "pass-word" not in str(error.value)
    executor.submit(job(tmp_path, text="s3://bucket/a:b and mail to me@example.org"))
    wait_for_end(executor)


def test_a_program_that_is_missing_fails_or_is_too_old_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(MissingExtra, match="is not installed"):
        SkyExecutor(program="sky-that-is-not-there").find("luthier-a")
    program = tmp_path / "sky"
    for text, said in {
        "echo 'Error: No such option: --output' >&2; exit 2": "No such option: --output",
        "echo nothing": "printed no list of jobs",
        "echo '[{'": "printed no list of jobs",
    }.items():
        program.write_text(f"#!/bin/bash\n{text}\n")
        program.chmod(0o755)
        with pytest.raises(SystemResourceError, match=said):
            SkyExecutor(program=str(program)).find("luthier-a")


@pytest.mark.parametrize(
    "settings",
    [{"infra": "aws\nrun: rm"}, {"image": "$(x)"}, {"accelerators": "A100 '"}, {"checkpoints": "s3://a b"},
     {"secrets": ["A=b"]}, {"memory": "`x`"}],
)  # fmt: skip
def test_a_setting_that_is_no_word_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        SkyExecutor.model_validate(settings)


def test_the_file_is_one_that_skypilot_reads(tmp_path: Path) -> None:
    """By its own parser, where `LUTHIER_SKYPILOT_PYTHON` names a Python that has it."""
    python = os.environ.get("LUTHIER_SKYPILOT_PYTHON")
    if python is None:
        pytest.skip("LUTHIER_SKYPILOT_PYTHON names no Python with SkyPilot")
    executor = SkyExecutor(infra="aws/us-east-1", accelerators="A100:1", cpus="8+", memory="32+", disk_gb=100,
                           image="docker:luthier:1", setup=("true",))  # fmt: skip
    (tmp_path / "task.yaml").write_text(executor.render_task(job(tmp_path, text=NASTY)))
    read = "import sky, sys; t = sky.Task.from_yaml(sys.argv[1]); print(t.name, t.file_mounts); sys.stdout.write(t.run)"
    done = subprocess.run(
        [python, "-c", read, str(tmp_path / "task.yaml")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("luthier-a")
    assert job(tmp_path, text=NASTY).task in done.stdout
