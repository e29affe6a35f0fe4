"""Data-parallel training over ranks: the first rank leads, the others follow its orders.

The leader draws each step's rows, divides them, and sends each rank those of its parts. Each rank updates the weights
that it owns, and keeps a copy of those of the rank before it (masters and optimizer state). The leader alone measures
held-out rows, samples completions, and writes checkpoints, events and the artifact. When a rank ends, the others
reconnect, reassemble the state from what they hold, and compute the step again, with other shares and to the same
bytes.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext, suppress
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import torch
import xxhash
from torch import Tensor
from torch._C._distributed_c10d import PrefixStore, TCPStore

from luthier.core.errors import InputError, LuthierError, SourceLocation
from luthier.core.system.process import python_command
from luthier.models.attention.select import read_attention_choices
from luthier.models.kernels.calls import disable_kernels, get_kernel_names
from luthier.models.packing.logprobs import detect_forward_mode
from luthier.models.packing.pack import TokenRow
from luthier.tune.cost import PackWorkload
from luthier.tune.training.group import (
    WAIT_S,
    RankGroup,
    RankLost,
    SingleRank,
    TorchRankGroup,
    build_rank_lost_error,
    connect_job_ranks,
)
from luthier.tune.training.mixed_precision import MixedPrecisionOptimizer
from luthier.tune.training.pack_gradient import StepGradient
from luthier.tune.training.parts import (
    PartReader,
    assign_spans,
    assign_weights,
    deal_rows,
    reduce_over_ranks,
    share_weights,
    sum_tree,
    use_threads,
)

SILENT_S, SILENT_TIMES = 60.0, 20.0
"""A rank counts as frozen when it sends nothing for this long after the leader's own share is done, and for this many
times as long as that share took."""
_MEET_S = 600.0
"""Seconds in which started ranks must connect: they load libraries first."""
_POLL_S = 0.02
_TAIL = 20
"""Lines of a rank's output in a warning about it."""
Result = TypeVar("Result")


class RankHost(ABC):
    """Connects the ranks of a training, as seen from the leader."""

    group: RankGroup
    """The ranks of the latest group."""

    @abstractmethod
    def connect(self) -> None:
        """Connect to the others for the first time."""

    @abstractmethod
    def connect_again(self, error: RankLost, wait_s: float) -> None:
        """Connect to the remaining ranks after one was lost, within `wait_s`; raises the error where that is
        impossible.
        """

    @abstractmethod
    def close(self) -> None:
        """End all started processes."""


class LocalRanks(RankHost):
    """Ranks that this process starts on this machine."""

    def __init__(self, count: int, task: Mapping[str, Any], folder: Path, warn: Callable[[str], None]) -> None:
        """Start the processes.

        `task`: what `luthier.tune.training.follower` reads; output goes to files in `folder`.
        """
        self.group: RankGroup = SingleRank()
        self._count, self._warn, self._generation = count, warn, 0
        self._store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        self._folder = folder
        self._children = {number: self._start(number, task) for number in range(1, count)}

    def _start(self, number: int, task: Mapping[str, Any]) -> subprocess.Popen[str]:
        with self._log(number).open("w", encoding="utf-8") as log:
            child = subprocess.Popen(  # noqa: S603  # this very program
                python_command("-m", "luthier.tune.training.follower"), stdin=subprocess.PIPE, stdout=log,
                stderr=log, encoding="utf-8", start_new_session=True,
            )  # fmt: skip
        assert child.stdin is not None
        with suppress(OSError):  # it ended already, which is seen when it does not come
            child.stdin.write(json.dumps({**task, "number": number, "port": self._store.port}))
            child.stdin.close()
        return child

    def _log(self, number: int) -> Path:
        return self._folder / f"rank-{number}.log"

    def connect(self) -> None:
        self.group = self._form_group(_MEET_S)

    def connect_again(self, error: RankLost, wait_s: float) -> None:
        self._generation += 1
        self.group = self._form_group(wait_s)
        self._warn(f"{error.message}; {self.group.size} of {self._count} processes go on, and compute the step anew")

    def _form_group(self, wait_s: float) -> RankGroup:
        """Wait until every child is ready or has ended, and form a group of those that are ready."""
        deadline = time.monotonic() + wait_s
        waiting, ready = dict(self._children), list[int]()
        while waiting:
            for number, child in list(waiting.items()):
                if self._store.check([f"{self._generation}/ready/{number}"]):
                    ready.append(number)
                    del waiting[number]
                elif child.poll() is not None or time.monotonic() > deadline:
                    self._remove_child(number)
                    del waiting[number]
            time.sleep(_POLL_S)
        ready.sort()
        self._store.set(f"{self._generation}/members", json.dumps(ready))
        if not ready:
            return SingleRank()
        store = PrefixStore(f"{self._generation}/gloo", self._store)
        return TorchRankGroup(store, 0, len(ready) + 1, loopback=True)

    def _remove_child(self, number: int) -> None:
        """Report how a child ended; kill one that does not respond."""
        child = self._children.pop(number)
        code = child.poll()
        _kill(child)
        outcome = "does not answer" if code is None else f"ended with code {code}"
        outcome = f"was ended by {signal.Signals(-code).name}" if code is not None and code < 0 else outcome
        lines = self._log(number).read_text(encoding="utf-8", errors="replace").splitlines()[-_TAIL:]
        self._warn("\n".join([f"process {number} of {self._count} {outcome}", *lines]))

    def close(self) -> None:
        self.group.close()
        deadline = time.monotonic() + _CLOSE_S
        for child in self._children.values():
            with suppress(subprocess.TimeoutExpired):
                child.wait(max(0.0, deadline - time.monotonic()))
            _kill(child)


_CLOSE_S = 5.0
"""Seconds in which ranks end by themselves after the last order."""


def _kill(child: subprocess.Popen[str]) -> None:
    if child.poll() is None:
        child.kill()
    child.wait()


class LocalMembership:
    """A rank that another process of this machine started: how it connects to the others."""

    def __init__(self, port: int, number: int) -> None:
        self._store = TCPStore("127.0.0.1", port, is_master=False, timeout=timedelta(seconds=WAIT_S))
        self._number, self._generation = number, 0

    def connect(self) -> RankGroup:
        """Connect to the others; `RankLost` when the leader has ended, or continues without this rank."""
        generation = self._generation
        self._generation += 1
        try:
            self._store.set(f"{generation}/ready/{self._number}", "1")
            members = json.loads(self._store.get(f"{generation}/members"))
        except RuntimeError as error:
            raise build_rank_lost_error(0, "it answers no more") from error
        if self._number not in members:
            raise build_rank_lost_error(0, "it goes on without this rank")
        store = PrefixStore(f"{generation}/gloo", self._store)
        return TorchRankGroup(store, members.index(self._number) + 1, len(members) + 1, loopback=True)

    def connect_again(self, error: RankLost) -> RankGroup:
        """Form the group again after a rank was lost."""
        return self.connect()


class JobRanks(RankHost):
    """Ranks that torchrun or an executor started, and restarts when one is lost."""

    def __init__(self) -> None:
        self.group: RankGroup = SingleRank()

    def connect(self) -> None:
        self.group = connect_job_ranks()

    def connect_again(self, error: RankLost, wait_s: float) -> None:
        raise error

    def close(self) -> None:
        """The launcher ends the others."""
        self.group.close()


class PartLeader:
    """Computes each step's gradient in parts, alone or with the ranks that follow."""

    def __init__(self, reader: PartReader, updater: MixedPrecisionOptimizer, host: RankHost | None) -> None:
        """Build the leader; `host` has connected the others; None: there are none."""
        self._reader, self._updater, self._host = reader, updater, host
        self._group = host.group if host is not None else SingleRank()
        self._lost: RankLost | None = None
        self._kernels = True
        self._wait_s = SILENT_S
        self._updates, self._last_update = 0, dict[str, Any]()

    @property
    def size(self) -> int:
        """Number of ranks that compute."""
        return self._group.size

    def start(self, *, kernels: bool) -> None:
        """Send the others the initial state, and whether compiled kernels are in use."""
        self._kernels = kernels
        self._run_with_ranks(lambda: self._hand_out(self._updater.state()))

    def _run_with_ranks(self, work: Callable[[], Result]) -> Result:
        """Run some work with all ranks; where one is lost meanwhile, with the remaining ones."""
        while True:
            try:
                if self._lost is not None:
                    self._connect_again(self._lost)
                return work()
            except RankLost as error:
                if error is self._lost:  # the host does not go on
                    raise
                self._group.leave(error)
                self._lost = error

    def _connect_again(self, error: RankLost) -> None:
        """Reconnect to the remaining ranks, and bring all to this rank's state, from what each of them holds."""
        assert self._host is not None, "one that is alone loses nobody"
        self._host.connect_again(error, self._wait_s)
        self._group = self._host.group
        reports = {}
        for rank in self._group.others:
            self._group.send(rank, {"order": "report"})
            reports[rank] = self._group.receive(rank)
            if reports[rank]["updates"] == self._updates - 1:  # the others hear of an update before it is made
                self._group.send(rank, self._last_update)
        missing = [name for name in self._updater.sizes if name not in self._updater.held]
        state = self._updater.state()
        for rank, report in reports.items():
            names = [name for name in missing if name in set(report["held"])]
            if names:
                state |= self._request_tensors(rank, "state", names)
                missing = [name for name in missing if name not in names]
        if missing:
            what = "a rank, and the one that keeps a copy of its weights, are gone"
            self._lost = RankLost(what, hint=error.hint)
            raise self._lost
        self._lost = None
        self._hand_out(state)

    def _hand_out(self, state: Mapping[str, Tensor]) -> None:
        """Send each rank its part of a whole state and the copy that it keeps; the model's weights to all."""
        if self._group.size == 1 and len(self._updater.held) == len(self._updater.sizes):
            return
        self._updater.hold(list(self._updater.sizes))
        self._updater.restore(state)
        owned = name_owned_weights(self._updater, self._group.size)
        for rank in self._group.others:
            held = {*owned[rank], *owned[rank - 1]}
            order = {"order": "state", "kernels": self._kernels, "updates": self._updates, "held": sorted(held),
                     "threads": self._reader.threads.count}  # fmt: skip
            self._group.send(rank, order)
            self._group.send_tensors(rank, self._updater.state(held))
            others = {name: value for name, value in self._updater.parameters.items() if name not in held}
            self._group.send_tensors(rank, others)
        self._updater.hold({*owned[0], *owned[-1]})

    def _request_tensors(self, rank: int, quantity: str, names: Sequence[str]) -> dict[str, Tensor]:
        self._group.send(rank, {"order": "give", "what": quantity, "names": names})
        return self._group.receive_tensors(rank)

    def state(self) -> dict[str, Tensor]:
        """Return everything that a resumed run needs, by name, from all ranks."""
        return self._run_with_ranks(lambda: self._collect("state", self._updater.state(), self._updater.held))

    def weights(self) -> dict[str, Tensor]:
        """Return the weights for evaluation and saving, from all ranks."""
        return self._run_with_ranks(
            lambda: self._collect(
                "weights", self._updater.weights(self._updater.shows_weights), self._updater.shows_weights
            )
        )

    def fingerprints(self) -> dict[str, float]:
        """Return a number for each parameter that changes when it is updated."""
        missing = [name for name in self._updater.sizes if name not in self._updater.held]
        state = self.state() if missing else {}
        others = {name: float(state[f"master/{name}"].double().square().sum()) for name in missing}
        return {**self._updater.fingerprints(self._updater.held), **others}

    def _collect(self, quantity: str, own: dict[str, Tensor], held: Collection[str]) -> dict[str, Tensor]:
        """Return a value of each weight, by name, in the order of one process: from here where it is held, else from
        its owner.
        """
        missing, collected = {name for name in self._updater.sizes if name not in held}, dict(own)
        for rank, names in enumerate(name_owned_weights(self._updater, self._group.size)):
            if missing_names := [name for name in names if name in missing]:
                collected |= self._request_tensors(rank, quantity, missing_names)
        return collected

    def gradient(self, rows: Sequence[TokenRow], denominator: float, *, tokens: int, step: int) -> StepGradient:
        """Compute the gradient of one step's rows; again where a rank is lost."""
        deals = deal_rows(rows, self._reader.parts)
        return self._run_with_ranks(lambda: self._gather(deals, denominator, tokens, step))

    def _gather(self, deals: Sequence[Sequence[TokenRow]], denominator: float, tokens: int, step: int) -> StepGradient:
        group, parts = self._group, self._reader.parts
        spans = assign_spans(parts, group.size)
        present = [any(deals[part] for part in span) for span in spans]
        about = {"order": "step", "step": step, "denominator": denominator, "tokens": tokens, "present": present}
        for rank in group.others:
            group.send(rank, {**about, "rows": [[_row_as_json(row) for row in deals[part]] for part in spans[rank]]})
        start = time.monotonic()
        with use_threads(1):
            step_gradients, total = self._reader.read(
                dict(enumerate(deals)), spans[0], denominator, tokens=tokens, step=step
            )
            self._wait_s = max(SILENT_S, SILENT_TIMES * (time.monotonic() - start))
            for rank in group.others:
                step_gradients += [value and _gradient_from_json(value) for value in group.receive(rank, self._wait_s)]
            total = reduce_over_ranks(group, spans, total, present, self._updater.build_sum, self._wait_s)
            if total is not None:
                self._updater.take(total)
            norms = self._updater.norms(name_owned_weights(self._updater, group.size)[0])
            for rank in group.others:
                norms += group.receive(rank, self._wait_s)
        self._norm = self._updater.norm(norms)
        singles = [range(part, part + 1) for part in range(parts)]
        whole = sum_tree(range(parts), singles, lambda entry: step_gradients[entry.start], StepGradient.and_of)
        return whole or StepGradient()

    def norm(self) -> float:
        """Return the norm of the whole gradient computed last."""
        return self._norm

    def update(self, rate: float, norm: float) -> None:
        """Let every rank update its weights by the gradient computed last."""
        self._last_update = {"order": "update", "rate": rate, "norm": norm}
        self._broadcast_order(self._last_update)
        with use_threads(1):
            self._updater.update(rate, norm)
        self._updates += 1
        if self._lost is None:
            try:
                share_weights(self._group, list(self._updater.parameters.values()), self._wait_s)
            except RankLost as error:
                self._handle_lost_rank(error)
        if self._lost is not None:
            self._run_with_ranks(lambda: None)  # who looks at the weights next finds them whole

    def drop(self) -> None:
        """Let the others drop the gradient."""
        self._updater.drop()
        self._broadcast_order({"order": "drop"})

    def end(self) -> None:
        """Let the others end."""
        self._broadcast_order({"order": "end"})

    def _broadcast_order(self, order: Mapping[str, Any]) -> None:
        if self._lost is not None:
            return
        try:
            self._group.broadcast(order)
        except RankLost as error:  # those that are left are brought to this rank's state before the next step
            self._handle_lost_rank(error)

    def _handle_lost_rank(self, error: RankLost) -> None:
        self._group.leave(error)
        self._lost = error


def name_owned_weights(updater: MixedPrecisionOptimizer, ranks: int) -> list[list[str]]:
    """Return the names of the weights that each rank owns."""
    names = list(updater.sizes)
    return [[names[at] for at in some] for some in assign_weights(list(updater.sizes.values()), ranks)]


class PartFollower:
    """Computes the parts that the leader sends, until it ends the training."""

    def __init__(
        self, reader: PartReader, updater: MixedPrecisionOptimizer, connect_again: Callable[[RankLost], RankGroup]
    ) -> None:
        self._reader, self._updater, self._connect_again = reader, updater, connect_again
        self._updates = 0

    def run(self, group: RankGroup) -> None:
        """Follow the leader; `RankLost` when it has ended."""
        order: dict[str, Any] = {"order": "", "kernels": True}
        while order["order"] != "end":
            with nullcontext() if order["kernels"] else disable_kernels():
                order, group = self._follow(group)
        self._reader.threads.close()
        group.close()

    def _follow(self, group: RankGroup) -> tuple[dict[str, Any], RankGroup]:
        """Execute orders until the last one, or one that changes how steps are computed; returns it."""
        met_again = False
        while True:
            try:
                order = group.receive(0)
                if order["order"] == "end":
                    return {**order, "kernels": True}, group
                if order["order"] == "state":
                    self._take_state(group, order)
                    return order, group
                met_again = met_again or order["order"] == "report"
                self._execute_order(group, order, alone=met_again)
            except RankLost as error:
                group.leave(error)
                group = self._connect_again(error)

    def _take_state(self, group: RankGroup, order: Mapping[str, Any]) -> None:
        self._updater.drop()
        self._updater.hold(order["held"])
        self._updater.restore(group.receive_tensors(0))
        for name, value in group.receive_tensors(0).items():
            self._updater.parameters[name].data.copy_(value)
        self._updates, self._reader.threads.count = order["updates"], order["threads"]

    def _execute_order(self, group: RankGroup, order: Mapping[str, Any], *, alone: bool) -> None:
        """Execute one order; `alone`: it is not yet part of what all ranks do together."""
        if order["order"] == "step":
            self._gather(group, order)
        elif order["order"] == "update":
            self._updater.update(order["rate"], order["norm"])
            self._updates += 1
            if not alone:
                share_weights(group, list(self._updater.parameters.values()), WAIT_S)
        elif order["order"] == "report":
            group.send(0, {"updates": self._updates, "held": sorted(self._updater.held)})
        elif order["order"] == "give":
            find = self._updater.state if order["what"] == "state" else self._updater.weights
            group.send_tensors(0, find(order["names"]))
        else:
            self._updater.drop()

    def _gather(self, group: RankGroup, order: Mapping[str, Any]) -> None:
        spans = assign_spans(self._reader.parts, group.size)
        span = spans[group.rank]
        rows = {part: [_row_from_json(row) for row in some] for part, some in zip(span, order["rows"], strict=True)}
        step_gradients, total = self._reader.read(
            rows, span, order["denominator"], tokens=order["tokens"], step=order["step"]
        )
        group.send(0, step_gradients)
        total = reduce_over_ranks(group, spans, total, order["present"], self._updater.build_sum, WAIT_S)
        if total is not None:
            self._updater.take(total)
        group.send(0, self._updater.norms(name_owned_weights(self._updater, group.size)[group.rank]))


def _row_as_json(row: TokenRow) -> list[Any]:
    values = {name: list(some) for name, some in row.token_values.items()}
    return [list(row.ids), list(row.loss_weights), row.key, row.group_size, row.choices, row.teacher, values]


def _row_from_json(value: Sequence[Any]) -> TokenRow:
    return TokenRow(*value)


def _gradient_from_json(value: Sequence[Any]) -> StepGradient:
    loss, computed, measures, example_losses = value
    return StepGradient(loss, PackWorkload(*computed), measures, example_losses)


def describe_rank(model: torch.nn.Module, code: str) -> dict[str, Any]:
    """Describe everything by which two processes could compute the same part to different bytes."""
    mode = detect_forward_mode(model)
    device = next(model.parameters()).device
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return {
        "code": code,
        **{f"version of {name}": version(name) for name in ("torch", "transformers", "peft")},
        "processor": gpu or torch.backends.cpu.get_cpu_capability(),
        "kernels": get_kernel_names(model),
        "way of reading": [mode.packed, mode.why, mode.short, mode.turn],
        "attention paths": read_attention_choices(),
    }


def agree_with_followers(group: RankGroup, model: torch.nn.Module, code: str) -> None:
    """Let the others continue when all compute alike; otherwise raise `InputError` with the difference,
    here and there.
    """
    own = describe_rank(model, code)
    descriptions = {rank: group.receive(rank) for rank in group.others}  # all of them: who sends waits until it is read
    try:
        for rank, description in descriptions.items():
            check_agreement(own, description, rank)
    except InputError as error:
        group.broadcast(error.as_json())
        raise
    group.broadcast({})


def agree_with_leader(group: RankGroup, model: torch.nn.Module, code: str) -> None:
    """Compare, as a follower, this rank with the leader's; raises the error that the leader returns."""
    group.send(0, describe_rank(model, code))
    if answer := group.receive(0):
        raise LuthierError.from_json(answer)


def check_agreement(own: Mapping[str, Any], other: Mapping[str, Any], rank: int) -> None:
    """Raise `InputError` with what a rank computes differently."""
    for name, value in own.items():
        mine, its = value, other.get(name)
        if name == "attention paths":
            paths = dict(its or {})
            mine, its = (
                {case: mine[case] for case in mine if case in paths},
                {case: paths[case] for case in paths if case in mine},
            )
        if mine != its:
            what = f"rank {rank} differs from rank 0 in {name}: {its!r} there, {mine!r} here"
            hint = "ranks need one Luthier, one set of libraries and one kind of machine; then the bytes are the same"
            raise InputError(what, where=SourceLocation(field="processes"), hint=hint)


def _tensors_of(model: torch.nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _digest(value: Tensor) -> str:
    flat = value.detach().cpu().contiguous().view(-1).view(torch.uint8)
    return xxhash.xxh3_128(f"{value.dtype} {tuple(value.shape)}".encode() + flat.numpy().tobytes()).hexdigest()


def send_weights(group: RankGroup, model: torch.nn.Module) -> None:
    """Send the others the weights that differ in their models: random initial values, or values that depend on the
    number of threads.
    """
    own = _tensors_of(model)
    digests = {name: _digest(value) for name, value in own.items()}
    for rank in group.others:
        its = group.receive(rank)
        if its.keys() != own.keys():
            name = min(its.keys() ^ own.keys())
            hint = "ranks need one Luthier, one set of libraries and the same files"
            raise InputError(f"rank {rank} has built another model: {name!r} is in one of both only", hint=hint)
        group.send_tensors(rank, {name: own[name] for name, digest in digests.items() if its[name] != digest})
        group.send(rank, [name for name, value in own.items() if value.requires_grad])


def receive_weights(group: RankGroup, model: torch.nn.Module) -> None:
    """Receive from the leader the weights that differ in its model."""
    own = _tensors_of(model)
    group.send(0, {name: _digest(value) for name, value in own.items()})
    for name, value in group.receive_tensors(0).items():
        own[name].data.copy_(value)
    moving = set(group.receive(0))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in moving)


def get_local_share(size: int) -> int:
    """Return the number of threads for each of the ranks on this machine."""
    local = int(os.environ.get("LOCAL_WORLD_SIZE", size))
    return max(1, torch.get_num_threads() // max(1, local))


def pin_to_cores(rank: int, size: int) -> None:
    """Pin this process to its share of this machine's cores, which are adjacent, so that its memory is close to them.

    Not where there are fewer cores than ranks, or where the process was already restricted to some cores.
    """
    if not hasattr(os, "sched_setaffinity") or len(os.sched_getaffinity(0)) < (os.cpu_count() or 1):
        return
    size = int(os.environ.get("LOCAL_WORLD_SIZE", size))
    rank = int(os.environ.get("LOCAL_RANK", rank))
    cores = sorted(os.sched_getaffinity(0), key=lambda core: (_find_memory_node(core), core))
    share = len(cores) // size
    if share:
        os.sched_setaffinity(0, cores[rank * share : (rank + 1) * share])


def _find_memory_node(core: int) -> int:
    """Return the memory node of a core; 0 where the system does not report it."""
    nodes = Path(f"/sys/devices/system/cpu/cpu{core}").glob("node[0-9]*")
    return min((int(node.name.removeprefix("node")) for node in nodes), default=0)
