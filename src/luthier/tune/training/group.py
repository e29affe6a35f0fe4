"""A group of ranks: the processes that train one model together, and how they exchange messages and tensors.

Ranks send JSON messages and parts of vectors to one another; nothing is reduced on the way. The receiver adds them up
(`luthier.tune.training.parts`), in an order that does not depend on the number of ranks. Transport is torch's gloo
between processors, shared memory for large tensors between ranks on one machine, and NCCL between GPUs (not yet run
over several GPUs).
"""

from __future__ import annotations

import json
import os
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch._C._distributed_c10d import PrefixStore, ProcessGroupGloo, Store

from luthier.core.errors import SystemResourceError
from luthier.tune.training.shared_memory import Mailbox, MailboxLost

PIECE_BYTES = 1 << 18
"""Bytes of a tensor sent at once: over loopback, half of the time of a tensor sent whole."""
SHARED_BYTES = 1 << 16
"""Minimum bytes of a tensor that goes through shared memory, where ranks have some."""
WAIT_S = 3600.0 * 24
"""Default seconds that a rank waits for another: the first one samples and measures while the others wait. A rank that
ends closes its connections, which is noticed at once."""


class RankLost(SystemResourceError):
    """A rank of the group ended, or did not respond in time; training can resume from its newest checkpoint."""

    rank: int | None = None
    """The rank, where it is known."""


def build_rank_lost_error(rank: int | None, why: str) -> RankLost:
    """Build the error for a lost rank."""
    which = f"rank {rank}" if rank is not None else "a rank"
    error = RankLost(
        f"{which} of the training is gone: {why}", hint="run it again: it goes on from its newest checkpoint"
    )
    error.rank = rank
    return error


class RankGroup(ABC):
    """Ranks 0 to `size` - 1 of one training, seen from one of them."""

    rank: int
    size: int

    @property
    def others(self) -> list[int]:
        """All ranks but this one."""
        return [rank for rank in range(self.size) if rank != self.rank]

    @abstractmethod
    def send(self, to: int, message: Any) -> None:
        """Send a JSON value (non-finite numbers included)."""

    @abstractmethod
    def receive(self, source: int, wait_s: float = WAIT_S) -> Any:
        """Return the next message of a rank; `RankLost` when it ended or sends nothing for `wait_s`."""

    @abstractmethod
    def exchange(self, outgoing: Mapping[int, Tensor], incoming: Mapping[int, Tensor], wait_s: float = WAIT_S) -> None:
        """Send a contiguous tensor to each of some ranks, and receive one from each of some ranks, all at once."""

    @abstractmethod
    def close(self) -> None:
        """Close all connections."""

    def leave(self, error: RankLost) -> None:
        """Close all connections, so that the others learn of the error."""
        error.__traceback__ = error.__cause__ = error.__context__ = None  # its frames would hold connections open
        self.close()

    def broadcast(self, message: Any) -> None:
        """Send a message to all others."""
        for rank in self.others:
            self.send(rank, message)

    def send_tensors(self, to: int, tensors: Mapping[str, Tensor]) -> None:
        """Send tensors by name."""
        self.send(to, {name: [str(value.dtype), list(value.shape)] for name, value in tensors.items()})
        for value in tensors.values():
            if value.numel():
                self.exchange({to: _bytes_of(value.detach().cpu().contiguous())}, {})

    def receive_tensors(self, source: int) -> dict[str, Tensor]:
        """Receive the tensors that a rank sends by `send_tensors`."""
        tensors = {}
        for name, (dtype, shape) in self.receive(source).items():
            tensors[name] = torch.empty(shape, dtype=getattr(torch, dtype.removeprefix("torch.")))
            if tensors[name].numel():
                self.exchange({}, {source: _bytes_of(tensors[name])})
        return tensors


def _bytes_of(value: Tensor) -> Tensor:
    return value.view(-1).view(torch.uint8)


class SingleRank(RankGroup):
    """The group of a single process."""

    rank = 0
    size = 1

    def close(self) -> None:
        """There are no connections."""

    def send(self, to: int, message: Any) -> None:
        """There is no other rank."""
        raise ValueError("a single rank sends nothing")

    def receive(self, source: int, wait_s: float = WAIT_S) -> Any:
        """There is no other rank."""
        raise ValueError("a single rank receives nothing")

    def exchange(self, outgoing: Mapping[int, Tensor], incoming: Mapping[int, Tensor], wait_s: float = WAIT_S) -> None:
        """There is no other rank."""
        if outgoing or incoming:
            raise ValueError("a single rank exchanges nothing")


class TorchRankGroup(RankGroup):
    """Ranks connected by torch: gloo for tensors on processors, NCCL for tensors on GPUs."""

    def __init__(self, store: Store, rank: int, size: int, *, loopback: bool) -> None:
        """Connect; `loopback`: all ranks are on this machine. `RankLost` when the others do not connect."""
        self.rank, self.size = rank, size
        options: Any = ProcessGroupGloo._Options()  # type: ignore[attr-defined]  # the stubs lack it
        options._timeout = timedelta(seconds=WAIT_S)
        if loopback:
            options._devices = [_open_loopback()]
        self._mailbox: Mailbox | None = None
        with _name_lost(None):
            self._gloo: Any = ProcessGroupGloo(store, rank, size, options)
            self._nccl: Any = None
            if torch.cuda.is_available():
                from torch._C._distributed_c10d import ProcessGroupNCCL

                torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", rank)) % torch.cuda.device_count())
                self._nccl = ProcessGroupNCCL(PrefixStore("nccl", store), rank, size, ProcessGroupNCCL.Options())
        if loopback:
            self._share_memory()

    def _share_memory(self) -> None:
        """Open the shared memory of all other ranks, and let them open this rank's; where one cannot, all use gloo."""
        mailbox: Mailbox | None = None
        with suppress(OSError, AttributeError):  # another system, or one that forbids it
            mailbox = Mailbox(self.rank, self.size)
        opened = mailbox is not None
        for rank, address in self._swap(mailbox.address if mailbox is not None else (0, 0)).items():
            try:
                if mailbox is not None and any(address):
                    mailbox.open(rank, address)
            except OSError:
                opened = False
            opened = opened and any(address)
        all_opened = opened and all(flag for (flag,) in self._swap((int(opened),)).values())
        if mailbox is not None and all_opened:
            self._mailbox = mailbox
        elif mailbox is not None:
            mailbox.close()

    def _swap(self, numbers: Sequence[int]) -> dict[int, list[int]]:
        """Send a few numbers to all others, and receive as many from each."""
        own = torch.tensor(numbers, dtype=torch.int64)
        received = {rank: torch.zeros_like(own) for rank in self.others}
        self.exchange(dict.fromkeys(self.others, own), received)
        return {rank: value.tolist() for rank, value in received.items()}

    def close(self) -> None:
        self._gloo = self._nccl = None
        if self._mailbox is not None:
            self._mailbox.close()
            self._mailbox = None

    def send(self, to: int, message: Any) -> None:
        data = zlib.compress(json.dumps(message).encode(), 1)
        self.exchange({to: torch.tensor([len(data)], dtype=torch.int64)}, {})
        self.exchange({to: torch.frombuffer(bytearray(data), dtype=torch.uint8)}, {})

    def receive(self, source: int, wait_s: float = WAIT_S) -> Any:
        length = torch.zeros(1, dtype=torch.int64)
        self.exchange({}, {source: length}, wait_s)
        data = torch.empty(int(length), dtype=torch.uint8)
        self.exchange({}, {source: data}, wait_s)
        return json.loads(zlib.decompress(data.numpy().tobytes()))

    def exchange(self, outgoing: Mapping[int, Tensor], incoming: Mapping[int, Tensor], wait_s: float = WAIT_S) -> None:
        shared = {rank: value for rank, value in incoming.items() if self._shares(value)}
        try:
            if self._mailbox is not None:
                self._mailbox.send({rank: value for rank, value in outgoing.items() if self._shares(value)}, wait_s)
                for rank, value in shared.items():
                    self._mailbox.receive(rank, value, wait_s)
        except MailboxLost as error:
            raise build_rank_lost_error(error.args[0], "it has ended or does not answer") from None
        incoming = {rank: value for rank, value in incoming.items() if rank not in shared}
        outgoing = {rank: value for rank, value in outgoing.items() if not self._shares(value)}
        posted: list[tuple[int, Any]] = []
        for rank, value in incoming.items():
            with _name_lost(rank):
                posted += [
                    (rank, self._get_process_group(value).recv([piece], rank, 0)) for piece in _split_chunks(value)
                ]
        for rank, value in outgoing.items():
            with _name_lost(rank):
                posted += [
                    (rank, self._get_process_group(value).send([piece], rank, 0)) for piece in _split_chunks(value)
                ]
        for rank, work in posted:
            with _name_lost(rank):
                work.wait(timedelta(seconds=wait_s))

    def _shares(self, value: Tensor) -> bool:
        """Return whether a tensor goes through shared memory: both sides decide alike."""
        return self._mailbox is not None and not value.is_cuda and value.nbytes >= SHARED_BYTES

    def _get_process_group(self, value: Tensor) -> Any:
        return self._nccl if value.is_cuda else self._gloo


@cache
def _open_loopback() -> Any:
    """Return gloo's device for this machine; it is kept, since its thread may still run when a group is closed."""
    return ProcessGroupGloo.create_device(hostname="127.0.0.1")


def _split_chunks(value: Tensor) -> Sequence[Tensor]:
    """Return chunks in flight at once: one is read while the next is written."""
    return torch.split(value.view(-1), max(1, PIECE_BYTES // value.element_size()))


@contextmanager
def _name_lost(rank: int | None) -> Iterator[None]:
    """Raise torch's errors about a broken connection as `RankLost`."""
    try:
        yield
    except RuntimeError as error:
        line = str(error).split("\n", 1)[0].rpartition("cc:")[2]
        raise build_rank_lost_error(rank, line.split(". ", 1)[0].partition("] ")[2] or line) from error


def connect_job_ranks() -> TorchRankGroup:
    """Connect to the other ranks of this job at torchrun's `MASTER_ADDR`; `RankLost` when they do not connect."""
    from torch.distributed.rendezvous import rendezvous

    with _name_lost(None):
        store, rank, size = next(rendezvous("env://", timeout=timedelta(hours=1)))
    loopback = os.environ.get("MASTER_ADDR") in ("127.0.0.1", "localhost")
    return TorchRankGroup(PrefixStore("luthier", store), rank, size, loopback=loopback)
