"""The store: what is finished is whole, what is changed is named, what is made at once is made once."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from luthier.core.artifact import MANIFEST, TIMING
from luthier.core.errors import CorruptArtifact, InputError, UnknownName
from luthier.core.store import Store
from toy_chain import Numbers, Total, manifest, run_chain

Chain = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def contents(store: Store) -> dict[str, bytes]:
    """Every byte of every artifact, without what differs by nature."""
    files = (path for path in sorted(store.artifacts.rglob("*")) if path.is_file() and path.name != TIMING)
    return {path.relative_to(store.artifacts).as_posix(): path.read_bytes() for path in files}


def test_a_finished_artifact_is_found_opened_and_whole(store: Store, tmp_path: Path) -> None:
    numbers, squares, total = run_chain(store, tmp_path / "log")
    assert store.digests() == sorted(artifact.digest for artifact in (numbers, squares, total))
    assert store.has(total.digest)
    assert store.open(total.digest).manifest == total.manifest
    assert total.parent("data").parent("data").digest == numbers.digest
    assert store.find(total.digest[:8]).digest == total.digest
    assert total.timing()["host"]
    assert store.verify() == []
    assert not list(store.work.iterdir())


def test_what_is_made_is_not_made_again(store: Store, tmp_path: Path) -> None:
    for _ in range(3):
        run_chain(store, tmp_path / "log")
    assert (tmp_path / "log").read_text().split() == ["toy_numbers", "toy_squares", "toy_total"]


def test_two_stores_hold_the_same_bytes(tmp_path: Path) -> None:
    one, other = Store(tmp_path / "one"), Store(tmp_path / "other")
    run_chain(one, tmp_path / "log")
    run_chain(other, tmp_path / "log")
    assert contents(one) == contents(other)


def test_unknown_digests_say_so(store: Store) -> None:
    with pytest.raises(UnknownName, match="no artifact"):
        store.open("0" * 32)
    with pytest.raises(UnknownName, match="beginning with"):
        store.find("0" * 8)
    assert store.digests() == []
    assert store.verify() == []


@pytest.mark.parametrize("digest", ["", ".", "..", "../artifacts", "a/b", "/etc"])
def test_nothing_outside_the_store_is_opened(store: Store, tmp_path: Path, digest: str) -> None:
    run_chain(store, tmp_path / "log")
    assert not store.has(digest)
    with pytest.raises(UnknownName):
        store.open(digest)


def test_too_short_a_beginning_finds_nothing(store: Store, tmp_path: Path) -> None:
    total = run_chain(store, tmp_path / "log")[-1]
    with pytest.raises(UnknownName):
        store.find(total.digest[:5])


def test_the_shared_store_is_looked_in_too(store: Store, tmp_path: Path) -> None:
    total = run_chain(store, tmp_path / "log")[-1]
    mine = Store(tmp_path / "mine", shared=store)
    assert mine.has(total.digest)
    assert mine.open(total.digest).folder == total.folder
    assert mine.find(total.digest[:8]).digest == total.digest
    assert mine.digests() == []


def test_every_flipped_byte_is_found_and_named(store: Store, tmp_path: Path) -> None:
    chance = random.Random(3)
    numbers = run_chain(store, tmp_path / "log", size=300)[0]
    files = sorted(path for path in numbers.folder.rglob("*") if path.is_file())
    assert {MANIFEST, TIMING, "more.bin"} <= {path.name for path in files}
    for path in files:
        whole = path.read_bytes()
        for position in chance.sample(range(len(whole)), min(len(whole), 40)):
            flipped = bytearray(whole)
            flipped[position] ^= 1 << chance.randrange(8)
            path.write_bytes(flipped)
            assert [fault for fault in store.verify() if fault.startswith(str(path))], position
            with pytest.raises(CorruptArtifact) as caught:
                store.open(numbers.digest).check()
            assert caught.value.where.file == str(path)
            assert caught.value.hint
        path.write_bytes(whole)
    assert store.verify() == []


@pytest.mark.parametrize("name", [MANIFEST, TIMING, "more.bin"])
def test_a_missing_file_is_found(store: Store, tmp_path: Path, name: str) -> None:
    numbers = run_chain(store, tmp_path / "log")[0]
    (numbers.folder / name).unlink()
    assert store.verify() == [f"{numbers.folder / name}: is missing"]


def test_a_file_too_many_a_longer_file_and_a_swapped_folder_are_found(store: Store, tmp_path: Path) -> None:
    numbers, squares, _ = run_chain(store, tmp_path / "log")
    (numbers.folder / "rows" / MANIFEST).write_text("{}")
    with (squares.folder / "squares.jsonl").open("a") as file:
        file.write("1\n")
    shutil.copytree(squares.folder, store.artifacts / "other")
    told = "\n".join(store.verify())
    assert f"{numbers.folder / 'rows' / MANIFEST}: is not in the manifest" in told
    assert f"{squares.folder / 'squares.jsonl'}: has" in told
    assert f"its manifest is of {squares.digest}" in told


def test_a_nested_file_may_bear_the_name_of_a_manifest(store: Store) -> None:
    step, digest = Numbers(), "c" * 32
    folder, _ = store.begin(digest)
    (folder / "inner").mkdir()
    (folder / "inner" / MANIFEST).write_text("{}")
    artifact = store.finish(manifest(step, digest, {}), {})
    assert [entry.path for entry in artifact.manifest.files] == [f"inner/{MANIFEST}"]
    assert store.verify() == []


def test_an_unknown_file_of_an_artifact_is_refused_with_a_suggestion(store: Store, tmp_path: Path) -> None:
    total = run_chain(store, tmp_path / "log")[-1]
    with pytest.raises(UnknownName, match=r"total\.json"):
        total.path("totals.json")


def test_a_manifest_of_another_format_is_refused(store: Store, tmp_path: Path) -> None:
    from luthier.core.files import dump_json_with_checksum

    total = run_chain(store, tmp_path / "log")[-1]
    (total.folder / MANIFEST).write_bytes(dump_json_with_checksum({"format": 9}))
    with pytest.raises(CorruptArtifact, match="format 9"):
        store.open(total.digest)


def test_a_damaged_artifact_is_made_anew_over_what_stood_there(store: Store, tmp_path: Path) -> None:
    numbers, *_ = run_chain(store, tmp_path / "log")
    (numbers.folder / MANIFEST).unlink()
    assert not store.has(numbers.digest)
    run_chain(store, tmp_path / "log")
    assert store.verify() == []


def test_begin_empties_the_folder_and_keeps_the_scratch(store: Store) -> None:
    folder, scratch = store.begin("d" * 32)
    (folder / "half").write_text("x")
    (scratch / "checkpoint").write_text("y")
    folder, scratch = store.begin("d" * 32)
    assert not list(folder.iterdir())
    assert (scratch / "checkpoint").read_text() == "y"


def test_removing_frees_what_it_says(store: Store, tmp_path: Path) -> None:
    numbers, *_ = run_chain(store, tmp_path / "log", size=5000)
    size = sum(path.stat().st_size for path in numbers.folder.rglob("*") if path.is_file())
    assert store.remove(numbers.digest) == size
    assert not store.has(numbers.digest)
    assert store.remove(numbers.digest) == 0
    assert store.verify() == []


def test_usage_lists_what_there_is(store: Store, tmp_path: Path) -> None:
    numbers, _, total = run_chain(store, tmp_path / "log", size=5000)
    listed = {holding.digest: holding for holding in store.usage()}
    assert len(listed) == 3
    assert listed[numbers.digest].bytes >= 5000
    assert listed[total.digest].makes == "evaluation"
    assert listed[total.digest].finished_at > 0
    (total.folder / MANIFEST).write_text("{")
    assert next(holding.kind for holding in store.usage() if holding.digest == total.digest) == ""


def test_collection_keeps_the_lineage(store: Store, tmp_path: Path) -> None:
    numbers, squares, total = run_chain(store, tmp_path / "log")
    store.begin("e" * 32)
    store.begin("f" * 32)
    tried = store.gc({squares.digest, "f" * 32}, dry_run=True)
    assert store.has(total.digest)
    done = store.gc({squares.digest, "f" * 32})
    assert tried == done
    assert done.artifacts == (total.digest,)
    assert done.works == ("e" * 32,)
    assert done.bytes > 0
    assert store.digests() == sorted([numbers.digest, squares.digest])
    assert [path.name for path in store.work.iterdir()] == ["f" * 32]


def test_collection_takes_what_no_manifest_speaks_for(store: Store, tmp_path: Path) -> None:
    numbers, _, total = run_chain(store, tmp_path / "log")
    (numbers.folder / MANIFEST).unlink()
    assert store.gc({total.digest}).artifacts == (numbers.digest,)
    assert store.verify() == []


def test_collection_takes_what_finished_and_old_jobs_said(store: Store, tmp_path: Path) -> None:
    total = run_chain(store, tmp_path / "log")[-1]
    days = {total.digest: 2, "a" * 32: 2, "b" * 32: 2, "c" * 32: 40, "d" * 32: 0}
    for digest, age in days.items():
        path = store.root / "tasks" / digest / "events.jsonl"
        path.parent.mkdir(parents=True)
        path.write_text("{}\n")
        for one in (path, path.parent):
            os.utime(one, (time.time() - age * 24 * 3600,) * 2)
    keep = {total.digest, "a" * 32, "c" * 32, "d" * 32}
    assert (
        store.gc(keep, dry_run=True).tasks == store.gc(keep).tasks == tuple(sorted([total.digest, "b" * 32, "c" * 32]))
    )
    assert sorted(path.name for path in (store.root / "tasks").iterdir()) == ["a" * 32, "d" * 32]
    assert len(store.digests()) == 3


def test_collection_without_knowledge_of_what_is_needed_takes_only_what_is_over(store: Store, tmp_path: Path) -> None:
    made = run_chain(store, tmp_path / "log")
    store.begin("e" * 32)
    store.begin(made[0].digest)
    assert store.gc(None).works == (made[0].digest,)
    assert len(store.digests()) == 3


def test_nothing_is_collected_while_a_run_makes_something(store: Store, chain: Chain) -> None:
    process = chain(store.root, "--pause", "0.2")
    digest = Numbers().recipe_digest({}, {}, 7)
    while not (store.work / digest).exists():
        assert process.poll() is None
    with pytest.raises(InputError, match="another run is making"):
        store.gc(set())
    process.kill()
    process.communicate()
    assert store.gc(set()).works == (digest,)


def test_a_lock_is_held_by_one_process_and_freed_by_its_death(store: Store, chain: Chain) -> None:
    process = chain(store.root, "--pause", "0.2")
    digest = Numbers().recipe_digest({}, {}, 7)
    while not (store.work / digest).exists():
        assert process.poll() is None
    with store.lock(digest, wait=False) as held:
        assert not held
    process.kill()
    process.communicate()
    with store.lock(digest, wait=False) as held:
        assert held


def test_processes_at_once_share_the_work(store: Store, chain: Chain, tmp_path: Path) -> None:
    processes = [chain(store.root, "--pause", "0.01") for _ in range(3)]
    for process in processes:
        process.communicate()
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert sorted((tmp_path / "log").read_text().split()) == ["toy_numbers", "toy_squares", "toy_total"]
    assert store.verify() == []
    assert not list(store.work.iterdir())


def test_a_kill_at_any_moment_costs_nothing_but_time(tmp_path: Path, chain: Chain) -> None:
    undisturbed = Store(tmp_path / "undisturbed")
    run_chain(undisturbed, tmp_path / "log")
    wanted, chance, met = contents(undisturbed), random.Random(11), 0
    for moment in range(30):
        store = Store(tmp_path / f"killed{moment}")
        process = chain(store.root, "--pause", "0.004")
        try:
            process.wait(timeout=chance.uniform(0, 0.16))
        except subprocess.TimeoutExpired:
            met += 1
            process.kill()
        process.communicate()
        assert store.verify() == []
        run_chain(store, tmp_path / "log")
        assert contents(store) == wanted
        assert store.verify() == []
    assert met >= 15, "most kills must have met the run at work"


def test_a_run_goes_on_from_its_checkpoint(store: Store, tmp_path: Path) -> None:
    step = Numbers()
    digest = step.recipe_digest({}, {}, 7)
    _, scratch = store.begin(digest)
    (scratch / "state.json").write_text(str([1] * 12))
    assert run_chain(store, tmp_path / "log")[0].read_json("rows/3.json") == 1


def test_the_toy_steps_say_what_they_read() -> None:
    assert Total.reads()["data"].makes == "dataset"
