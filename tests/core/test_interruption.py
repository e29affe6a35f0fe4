"""A wish to stop that somebody swallows is raised again by what a step says next."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest

from luthier.core.events import RunEvent, RunEventEmitter
from luthier.core.system.process import clear_stop_requests_at_end, handle_stop_signal, raise_pending_stop


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    with clear_stop_requests_at_end():
        yield


def _swallowed() -> None:
    with suppress(KeyboardInterrupt):
        handle_stop_signal(signal.SIGINT)


def test_nothing_was_wished() -> None:
    raise_pending_stop()


def test_what_was_swallowed_is_raised_by_what_a_step_says_next() -> None:
    heard: list[RunEvent] = []
    saying = RunEventEmitter(heard.append).of("tune")
    _swallowed()
    for say in (lambda: saying.progress(1, 2, "steps"), lambda: saying.note("a note"), lambda: saying.warning("look")):
        with pytest.raises(KeyboardInterrupt):
            say()
    assert [event.kind for event in heard] == ["progress", "note", "warning"]  # said all the same


def test_what_is_on_its_way_is_not_raised_twice() -> None:
    try:
        handle_stop_signal(signal.SIGINT)
    except KeyboardInterrupt as error:
        raise_pending_stop()
        with suppress(RuntimeError):
            raise RuntimeError from error
        try:
            raise RuntimeError
        except RuntimeError:
            raise_pending_stop()
    with pytest.raises(KeyboardInterrupt):
        raise_pending_stop()


def test_other_threads_go_on() -> None:
    _swallowed()
    raised: list[BaseException] = []

    def work() -> None:
        try:
            raise_pending_stop()
        except BaseException as error:  # noqa: BLE001  # whatever it is
            raised.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert raised == []


def test_a_wish_ends_with_its_command() -> None:
    with clear_stop_requests_at_end():
        _swallowed()
    raise_pending_stop()


def test_where_ctrl_c_is_ignored_it_stays_ignored() -> None:
    """As for what a script starts with `&`."""
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); from luthier.cli.app import run_command; "
        "run_command(['--version']); raise SystemExit(signal.getsignal(signal.SIGINT) is not signal.SIG_IGN)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, stdout=subprocess.DEVNULL).returncode == 0
