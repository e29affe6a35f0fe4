"""Disk full, read-only, no memory: one clear error, and nothing half-written that counts as done."""

from __future__ import annotations

import errno
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from luthier.commands.new import write_recipe
from luthier.core.errors import CorruptArtifact, SystemResourceError
from luthier.core.files import translate_write_errors, write_atomically
from luthier.core.store import Store
from luthier.recipe.workspace import Workspace
from toy_chain import run_chain

Chain = Callable[..., subprocess.Popen[bytes]]


def test_a_full_disk_is_one_clear_error(small_disk: Path, tmp_path: Path) -> None:
    store = Store(small_disk / "store")
    with pytest.raises(SystemResourceError, match="disk is full") as caught:
        run_chain(store, tmp_path / "log", size=2_000_000)
    assert "LUTHIER_STORE" in caught.value.hint
    assert store.digests() == []
    assert store.verify() == []
    run_chain(store, tmp_path / "log")
    assert len(store.digests()) == 3


@pytest.mark.parametrize("free", [0, 1, 4096, 9000, 20_000, 60_000])
def test_a_disk_that_fills_at_any_moment_leaves_nothing_that_counts(
    small_disk: Path, tmp_path: Path, free: int
) -> None:
    ballast = small_disk / "ballast"
    room = os.statvfs(small_disk)
    ballast.write_bytes(bytes(max(0, room.f_bavail * room.f_frsize - free)))
    store = Store(small_disk / "store")
    with pytest.raises(SystemResourceError, match="disk is full"):
        run_chain(store, tmp_path / "log", size=70_000)
    assert store.verify() == []
    ballast.unlink()
    assert len(run_chain(store, tmp_path / "log", size=70_000)) == 3
    assert store.verify() == []


def test_a_read_only_disk_is_one_clear_error_and_what_is_made_is_still_found(small_disk: Path, tmp_path: Path) -> None:
    store = Store(small_disk / "store")
    total = run_chain(store, tmp_path / "log")[-1]
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert [artifact.check().digest for artifact in run_chain(store, tmp_path / "log")][-1] == total.digest
    for refused in (lambda: store.begin("a" * 32), lambda: store.remove(total.digest), lambda: _locked(store)):
        with pytest.raises(SystemResourceError, match="read-only"):
            refused()
    assert store.verify() == []


def _locked(store: Store) -> None:
    with store.lock("a" * 32):
        pass


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere; the read-only disk above stands for it")
def test_a_folder_of_somebody_else_is_one_clear_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(SystemResourceError, match="not yours"):
        run_chain(Store(tmp_path / "store"), tmp_path / "log")


def test_a_store_whose_place_is_a_file_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("")
    with pytest.raises(SystemResourceError, match="in the way"):
        run_chain(Store(tmp_path / "store"), tmp_path / "log")


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        (("--limit", "AS=1000000000", "--memory", "4000000000"), "OutOfMemory", "the machine has no memory left"),
        (
            ("--limit", "FSIZE=100000", "--bytes", "1000000"),
            "SystemResourceError",
            "the file is larger than this machine allows",
        ),
    ],
)
def test_a_limit_of_the_machine_is_one_clear_error(
    chain: Chain, tmp_path: Path, options: tuple[str, ...], kind: str, message: str
) -> None:
    process = chain(tmp_path / "store", *options)
    told, _ = process.communicate()
    assert process.returncode == 2
    assert json.loads(told)["error"]["kind"] == kind
    assert json.loads(told)["error"]["message"] == message
    store = Store(tmp_path / "store")
    assert store.digests() == []
    assert store.verify() == []
    assert len(run_chain(store, tmp_path / "log")) == 3


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MemoryError(), "no memory"),
        (OSError(errno.ENOMEM, "x"), "no memory"),
        (OSError(errno.EDQUOT, "x"), "disk is full"),
        (OSError(errno.EIO, "x"), "answers with an error"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), "no memory"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "no memory"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "disk is full"),
    ],
)
def test_refusals_are_told_apart(error: Exception, message: str) -> None:
    with pytest.raises(SystemResourceError, match=message) as caught, translate_write_errors("here"):
        raise error
    assert caught.value.__cause__ is error
    assert caught.value.where.file == "here"


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES, errno.ENOSPC, errno.EDQUOT])
def test_the_remedy_is_of_what_is_written(code: int) -> None:
    """The store's variable leads elsewhere what the store holds, and nothing else."""
    for told, wanted in (((), "set LUTHIER_STORE to"), (("name another file",), "name another file")):
        with pytest.raises(SystemResourceError) as caught, translate_write_errors("here", *told):
            raise OSError(code, "x")
        assert caught.value.hint.count(", or ") == 1
        assert wanted in caught.value.hint


def test_a_new_recipe_that_cannot_be_written_is_named_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*told: object, **more: object) -> None:
        raise PermissionError(errno.EACCES, "x")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(SystemResourceError) as caught:
        write_recipe(Workspace.open_current(), str(tmp_path / "support"), None, template="labels", model=None)
    assert "luthier new PATH/NAME" in caught.value.hint
    assert "LUTHIER_STORE" not in caught.value.hint


@pytest.mark.parametrize("error", [OSError("odd"), RuntimeError("shapes differ"), CorruptArtifact("x"), KeyError("k")])
def test_other_errors_pass_unchanged(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, translate_write_errors("here"):
        raise error
    assert caught.value is error


def test_what_compiled_libraries_say_of_a_full_disk_is_understood(small_disk: Path) -> None:
    import numpy as np
    import polars as pl
    from safetensors.numpy import save_file

    table = pl.DataFrame({"number": np.random.default_rng(0).random(1_000_000)})
    writers: list[Callable[[Path], object]] = [
        table.write_parquet,
        table.write_csv,
        lambda path: save_file({"weight": table["number"].to_numpy()}, path),
        lambda path: path.write_bytes(bytes(4_000_000)),
    ]
    for write in writers:
        with pytest.raises(SystemResourceError, match="disk is full"), translate_write_errors("here"):
            write(small_disk / "file")
        (small_disk / "file").unlink(missing_ok=True)


def test_a_file_is_written_whole_or_not_at_all(small_disk: Path) -> None:
    path = small_disk / "state.json"
    write_atomically(path, b"first")
    with pytest.raises(SystemResourceError):
        write_atomically(path, bytes(4_000_000))
    assert path.read_bytes() == b"first"
    assert [found.name for found in small_disk.iterdir()] == ["state.json"]
