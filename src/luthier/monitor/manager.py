"""A monitor that survives a kill: its states and pending notifications are in one atomically written file.

A notification is written before it is sent, and removed afterwards. A kill between the two sends it again, with the
same id, by which the receiver can drop it; none is lost.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from luthier.core.context import RunContext
from luthier.core.files import dump_json_with_checksum, load_json_with_checksum, write_atomically
from luthier.monitor.alerts import AlertMessage, AlertState
from luthier.monitor.channel import Channel, DeliveryError
from luthier.monitor.evaluator import AlertEvaluator
from luthier.traces.record import Feedback, Trace

Say = Callable[[str], None]
KEPT_FAILING = 1000
"""Number of messages kept for a failing channel; older ones are dropped, which is reported."""


@dataclass
class AlertManager:
    """Evaluates alerts, sends their messages to the channels, and saves its state in a file."""

    evaluator: AlertEvaluator
    channels: Sequence[Channel]
    post: RunContext
    file: Path
    say: Say
    _waiting: list[tuple[int, AlertMessage]] = field(default_factory=list)
    """Messages not sent yet, each with the channel's place."""
    looked: float | None = None
    """Time of the last evaluation."""

    def recall(self) -> None:
        """Resume from the file; changed alerts start anew."""
        if not self.file.exists():
            return
        saved = load_json_with_checksum(self.file.read_bytes(), self.file)
        for name, state in saved["states"].items():
            if name in self.evaluator.states:
                self.evaluator.states[name] = AlertState(*state)
        self.looked = saved["looked"]
        waiting = [(channel_index, AlertMessage.model_validate(message)) for channel_index, message in saved["waiting"]]
        self._waiting = [
            (channel_index, message) for channel_index, message in waiting if channel_index < len(self.channels)
        ]
        if self.looked is not None:
            self.evaluator.begin_after(self.looked)

    def take(self, events: Iterable[Trace | Feedback]) -> list[AlertMessage]:
        """Process events in order of time; those before the last evaluation only update signals. Returns the
        notifications.
        """
        messages: list[AlertMessage] = []
        for event in events:
            messages += self.advance(event.timestamp.timestamp())
            self.evaluator.add(event)
        return messages

    def advance(self, until: float) -> list[AlertMessage]:
        """Evaluate at every due time, and send the notifications."""
        all_messages: list[AlertMessage] = []
        for at in self.evaluator.looks(until):
            messages = self.evaluator.look(at)
            self.looked = at
            all_messages += messages
            if messages:
                self._waiting += [
                    (channel_index, message)
                    for message in messages
                    for channel_index, channel in enumerate(self.channels)
                    if channel.wants(message)
                ]
                self.remember()
                self.send()
        return all_messages

    def send(self) -> None:
        """Send what waits; what cannot be sent waits on."""
        failed: list[tuple[int, AlertMessage]] = []
        while self._waiting:
            channel_index, message = self._waiting[0]
            try:
                self.channels[channel_index].send(message, self.post)
            except DeliveryError as error:
                self.say(f"{self.channels[channel_index].kind}: {message.title}: not sent: {error}; it is tried again")
                failed.append((channel_index, message))
            self._waiting.pop(0)
            self._write([*failed, *self._waiting])
        for _, message in failed[:-KEPT_FAILING]:
            self.say(f"given up after too many failures: {message.title}")
        self._waiting = failed[-KEPT_FAILING:]

    def remember(self) -> None:
        """Write down where the monitor stands."""
        self._write(self._waiting)

    def _write(self, waiting: Sequence[tuple[int, AlertMessage]]) -> None:
        record: dict[str, Any] = {
            "looked": self.looked,
            "states": {name: list(state) for name, state in self.evaluator.states.items()},
            "waiting": [[channel_index, json.loads(message.model_dump_json())] for channel_index, message in waiting],
        }
        write_atomically(self.file, dump_json_with_checksum(record))
