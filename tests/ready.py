"""Processes that begin where the imports have ended: children of one that has torch and its kin loaded, as commands do.

A `Popen` from here is subprocess's own, with a process id, pipes, an exit code and a death of its own. Only what it
does first is saved: importing torch, transformers, PEFT and the door of `serve` takes longer than most of what these
tests ask of it. What a command imports, and that it starts from nothing, is proven where subprocess itself is used.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
_LOADED = (
    "torch", "torch.fx.experimental.symbolic_shapes", "transformers", "transformers.models.llama.modeling_llama",
    "transformers.models.auto.modeling_auto", "transformers.models.auto.tokenization_auto", "transformers.generation",
    "transformers.models.bert.modeling_bert", "peft", "fastapi", "uvicorn", "sqlalchemy", "jinja2", "luthier.cli.app",
    "scipy.stats", "luthier.recipe.step_process", "luthier.federated.sites.process", "luthier.tune.run",
)  # fmt: skip
"""What commands that tune, evaluate and serve import; not polars, pyarrow and scikit-learn, which start threads."""


def _load() -> None:
    """Import all that commands import, with every part of the program, and make what they make first."""
    import importlib
    import tempfile

    for one in _LOADED:
        importlib.import_module(one)

    from luthier.core import component
    from luthier.core.db.runs import Ledger
    from luthier.core.step import Step
    from luthier.eval.report import html
    from tests.remembered_migrations import remember_migrations

    known, homes = set[str](), {Step.home}
    while homes - known:
        for home in homes - known:
            component._discover(home)
        known |= homes
        homes = {role.home for role in component.roles_by_name().values()}
    remember_migrations()
    with tempfile.TemporaryDirectory() as folder, Ledger(Path(folder) / "ledger.db"):
        pass
    templates = html._environment(html.ENGLISH)
    for template in templates.list_templates(["jinja"]):
        templates.get_template(template)
    component._plugins.cache_clear()  # those that a process finds installed are its own


class Popen(subprocess.Popen[Any]):
    """`python -m MODULE …` or `python -c CODE …` in a process of its own that has imported already."""

    has_family = False
    """Whether the commands of this program that it starts are forked as well."""

    def _execute_child(self, args: list[str], executable: Any, preexec_fn: Any, *more: Any) -> None:
        """Have it forked, with our ends of the pipes closed as subprocess does it."""
        _, pass_fds, cwd, env, _, _, shell, *pipes = more
        assert args[0] == sys.executable
        assert args[1] in ("-m", "-c", "-P"), "say what to run by -m or -c"
        assert (executable, preexec_fn, tuple(pass_fds), shell) == (None, None, (), False)
        theirs = [end if end != -1 else at for at, end in enumerate((pipes[0], pipes[3], pipes[5]))]
        told = {"args": args[1:], "cwd": str(cwd or Path.cwd()), "env": dict(os.environ if env is None else env)}
        told |= {"session": pipes[11], "family": self.has_family}
        self._status, end = os.pipe()
        try:
            socket.send_fds(keeper := _keeper(), [json.dumps(told).encode()], [*theirs, end, keeper.fileno()])
        finally:
            os.close(end)
            self._close_pipe_fds(*pipes[:6])
        self.pid = _number(self._status)
        self._child_created = True  # else nobody waits for it

    def _try_wait(self, wait_flags: int) -> tuple[int, int]:
        """How it ended, as the process tells that is its parent."""
        if wait_flags & os.WNOHANG and not select.select([self._status], [], [], 0)[0] and not _has_ended(self.pid):
            return 0, 0
        how = _number(self._status)
        os.close(self._status)
        return self.pid, how

    def _internal_poll(self, *_: Any, **__: Any) -> int | None:
        lock = self._waitpid_lock  # type: ignore[attr-defined]  # subprocess's own
        if self.returncode is None and lock.acquire(blocking=False):  # else another thread waits, and will tell
            try:
                number, how = self._try_wait(os.WNOHANG)
                if number == self.pid:
                    self._handle_exitstatus(how)
            finally:
                lock.release()
        return self.returncode


class Family(Popen):
    """One that starts commands of this program itself, which begin where the imports have ended, too."""

    has_family = True


def run(command: list[str], **more: Any) -> subprocess.CompletedProcess[str]:
    """What a command said and how it ended, as subprocess's own `run` gives it; what it starts is forked as well."""
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with Family(command, **pipes, **more) as process:
        out, err = process.communicate()
    return subprocess.CompletedProcess(command, process.returncode, out, err)


class Relative(Popen):
    """What stands for subprocess's own in the tests, and in a process that has a family: processes of this program that
    the program starts itself are forked, other programs and what a test starts are started as ever."""

    _forked = False

    def _execute_child(self, args: Any, *more: Any) -> None:
        words = args[3:] if isinstance(args, list) and args[:2] == [shutil.which("nice"), "-n"] else args
        executable, preexec_fn, _, pass_fds, *_ = more
        self._forked = _is_own(words) and not (executable or preexec_fn or pass_fds)
        if self._forked:
            super()._execute_child(words, *more)
        else:
            super(Popen, self)._execute_child(args, *more)

    def _try_wait(self, wait_flags: int) -> tuple[int, int]:
        return (super() if self._forked else super(Popen, self))._try_wait(wait_flags)

    def _internal_poll(self, *how: Any, **more: Any) -> int | None:
        return (super() if self._forked else super(Popen, self))._internal_poll(*how, **more)


def _is_own(words: Any) -> bool:
    """Whether they start a process of this program as the program does it: a command without the current folder on the
    path, or a module of its own."""
    if not isinstance(words, list) or words[:1] != [sys.executable]:
        return False
    is_safe = words[1:2] == ["-P"]
    rest = words[2:] if is_safe else words[1:]
    return rest[:1] == ["-m"] and ((is_safe and rest[1:2] == ["luthier"]) or str(rest[1]).startswith("luthier."))


_keepers: dict[int, socket.socket] = {}
_beginning = threading.Lock()


def _keeper() -> socket.socket:
    """The way to the process that forks, which ends when we do."""
    with _beginning:
        return _keepers.get(os.getpid()) or _start_keeper()


def _start_keeper() -> socket.socket:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    environment = {**os.environ, **ONE_THREAD, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        [sys.executable, __file__, str(theirs.fileno())], env=environment, pass_fds=[theirs.fileno()]
    )
    theirs.close()
    _keepers[os.getpid()] = ours
    atexit.register(lambda: (ours.close(), process.wait()))
    return _keepers[os.getpid()]


def _has_ended(number: int) -> bool:
    """Whether a process is gone or nobody has waited for it yet: then its parent tells at once how it ended."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def _number(pipe: int) -> int:
    found = os.read(pipe, 4)
    assert len(found) == 4, "the process that forks is gone"
    return int.from_bytes(found)


def _asked(number: int) -> list[str]:
    """Fork a child for each message. Comes back in the children alone, with what each is to run."""
    gc.freeze()
    door = socket.socket(fileno=number)
    assert len(list(Path("/proc/self/task").iterdir())) == 1, "only a process without threads may fork"
    while True:
        told, ends, _, _ = socket.recv_fds(door, 1 << 20, 5)
        if not told:
            _reap()
            os._exit(0)
        if os.fork() == 0:
            door.close()
            return _begun(json.loads(told), ends)
        for end in ends:
            os.close(end)
        _reap()


def _reap() -> None:
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _begun(told: dict[str, Any], ends: list[int]) -> list[str]:
    """One process that waits and tells how the other ended; the other has the pipes."""
    *theirs, status, keeper = ends
    child = os.fork()
    if child:
        os.close(keeper)
        os.write(status, child.to_bytes(4))
        os.closerange(0, status)
        with suppress(BrokenPipeError):  # nobody is left who would know
            os.write(status, os.waitpid(child, 0)[1].to_bytes(4))
        os._exit(0)
    os.close(status)
    if told["session"]:
        os.setsid()
    if told["family"]:
        _keepers[os.getpid()] = socket.socket(fileno=keeper)
        subprocess.Popen = Relative  # type: ignore[misc]  # also for subprocess.run
    else:
        os.close(keeper)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where a script's `&` started the tests
    for place, end in enumerate(theirs):
        os.dup2(end, place)
    for end in theirs:
        os.close(end)
    os.chdir(told["cwd"])
    os.environ.clear()
    os.environ.update(told["env"])
    named = told["env"].get("PYTHONPATH", "").split(os.pathsep)
    sys.path[1:1] = [path for path in dict.fromkeys(named) if path and path not in sys.path]
    return list(told["args"])


def _run(how: str, what: str, *arguments: str) -> None:
    import runpy

    if how == "-P":
        del sys.path[0]
        how, what, *arguments = what, *arguments
    else:
        sys.path[0] = str(Path.cwd()) if how == "-m" else ""
    if how == "-m":
        sys.argv = [what, *arguments]
        sys.modules.pop(what, None)  # it runs once more as the main module: else runpy warns of that
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        sys.argv = ["-c", *arguments]
        exec(compile(what, "<string>", "exec"), {"__name__": "__main__"})  # as `python -c` does


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[1])
    _load()
    _run(*_asked(int(sys.argv[1])))
