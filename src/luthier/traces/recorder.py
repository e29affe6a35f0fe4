"""Recording from within a process that serves: a record is appended to a segment before its call returns.

One call of the system appends a whole line, so that a kill of the process loses no record. A request does not wait for
its redaction: its trace stands in its segment without its words at first, and they follow (see `segment`). A thread
redacts them, flushes to the disk, writes what a full disk refused, and begins new segments. Segments become Parquet in
a process of its own, which ends when that is done.
"""

from __future__ import annotations

import atexit
import logging
import os
import secrets
import subprocess
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, NamedTuple

import xxhash
from pydantic_core import PydanticSerializationError, to_json, to_jsonable_python

from luthier.chat.messages import Media
from luthier.core.errors import InputError, LuthierError
from luthier.core.system.process import python_command
from luthier.traces.media import touch_trace_media, write_trace_media
from luthier.traces.record import END_FIELDS, Feedback, Trace, TraceEnd, TraceStart, strip_trace_defaults
from luthier.traces.redact import Redactor
from luthier.traces.retention import RetentionPolicy
from luthier.traces.segment import (
    Segment,
    SegmentLine,
    create_traffic_folder,
    dumps,
    encode_line,
    join_trace_line,
    list_segments,
    loads,
)

if TYPE_CHECKING:
    from luthier.chat.media_codec import KeptMedia

MOST_QUEUED = 32
"""Traces whose words wait for the thread, at most, where no model looks for names: some milliseconds of its work."""
_TICK_S = 1.0
_WORDS = frozenset(("messages", "answer", "error", "user", "meta", "parameters", "by", "correction", "comment"))
_FRUGAL = {"ARROW_DEFAULT_MEMORY_POOL": "system", "MALLOC_ARENA_MAX": "2", "POLARS_MAX_THREADS": "1"}
"""Compaction has small tables at a time: memory goes back to the system, and no thread waits for each processor."""
_LOG = logging.getLogger("luthier.traces")


def is_sampled(id: str, share: float) -> bool:
    """Whether a trace is kept; its id decides."""
    return share >= 1 or xxhash.xxh3_64_intdigest(id.encode()) < share * 2**64


class _Start(NamedTuple):
    """The beginning of a request."""

    id: bytes
    """`{"id": …}` as JSON."""
    wordless: bytes
    """What holds no personal data, as JSON."""
    words: dict[str, Any]
    """All else."""


class _Entry:
    """A line, and the segment that it stands in once it is written: that of the pending line which it follows."""

    __slots__ = ("follows", "line", "segment")

    def __init__(self, line: bytes, follows: _Entry | None = None) -> None:
        self.line, self.follows = line, follows
        self.segment: Segment | None = None


class _PendingEntry(_Entry):
    """The line of a trace whose words are to follow."""

    __slots__ = ("id", "redact", "size")

    def __init__(self, line: bytes, id: bytes, redact: Callable[[], bytes], size: int) -> None:
        super().__init__(line)
        self.id, self.redact, self.size = id, redact, size
        """`redact` makes the words as JSON; `size` is the room that is reserved for them."""

    def words(self) -> _Entry:
        """What follows."""
        return _Entry(join_trace_line(self.id, self.redact()), self)


class TraceRecorder:
    """Takes traces and feedback; safe to call from any thread, and quick enough for an event loop."""

    def __init__(self, folder: Path, keeping: RetentionPolicy | None = None) -> None:
        self.folder = folder
        self.keeping = keeping or RetentionPolicy()
        self.redact_media: Callable[[Media, bytes], KeptMedia | None] | None = None
        """Takes out of a medium what `media_ops` find; None for one that is not kept."""
        self.recorded = self.left_out = self.lost = 0
        """How many records were taken, were not in the sample, and were lost (of a trace, perhaps its words alone)."""
        create_traffic_folder(folder)
        self.keeping.remember(folder)
        self._begin()
        if list_segments(folder) or any(folder.glob("traces/*/*")):
            self._compact()
        os.register_at_fork(after_in_child=partial(_begin_in_fork, weakref.ref(self)))
        atexit.register(self.close)

    def _begin(self) -> None:
        """Begin a stream of this process's own, with nothing in it."""
        self._stream, self._redactor = secrets.token_hex(6), Redactor(self.keeping)
        self._lock, self._closed = threading.Lock(), False
        self._segment: Segment | None = None
        self._finished = list[Path]()
        self._compaction: subprocess.Popen[bytes] | None = None
        self._refused, self._jobs = deque[_Entry](), SimpleQueue[Callable[[], object]]()
        self._queued, self._waiting_bytes, self._reported = 0, 0, ""
        self._thread: threading.Thread | None = None
        self._media_thread: ThreadPoolExecutor | None = None

    def change(self, keeping: RetentionPolicy) -> None:
        """Keep what is recorded from now on in another way; what was recorded before is kept as it would have been."""
        with self._lock:
            if self._closed or keeping == self.keeping:
                return
            keeping.remember(self.folder)
            self.keeping, self._redactor = keeping, Redactor(keeping)

    def ready(self, start: TraceStart) -> _Start | None:
        """Take the beginning of a request while the model is at work, so that `end` has less to do while a client
        waits. None where the request is not in the sample."""
        if not is_sampled(start["id"], self.keeping.sample):
            return None
        return _begin_trace(start)

    def end(self, ready: _Start | None, end: TraceEnd) -> None:
        """Keep a request whose beginning was made ready; it neither raises nor waits, for the disk apart.

        A line without words is written at once, and the thread lets the words follow. Where as many wait for that as
        may, the caller redacts, so that requests come no faster than they are written. Models that find names take too
        long for that: words that find no room are lost.
        """
        if ready is None:
            self.left_out += 1
            return
        redactor, wordless = self._redactor, (ready.wordless, _encode(_pick_wordless(end)))
        if redactor.names:
            words = dumps(strip_trace_defaults(_to_json_value(_words(ready, end))))
            has_room = self._waiting_bytes + len(words) <= self.keeping.waiting_bytes
            redact, size = partial(_redact_json, redactor, words), len(words)
        else:
            has_room = self._queued < MOST_QUEUED and not self._refused
            redact, size = partial(_redact_words, redactor, ready, end), 0
        if has_room:
            self._write(_PendingEntry(join_trace_line(*wordless, pending=True), ready.id, redact, size))
        elif redactor.names:
            self._write(_Entry(join_trace_line(*wordless)))
            self._lose()
        else:
            self._write(_Entry(join_trace_line(*wordless, redact())))

    def keep_media(self, media: Mapping[Media, bytes]) -> None:
        """Keep the bytes of pictures and sounds that may be kept, where that is asked for; a thread of their own looks
        through them and writes them.

        Like `end`, it neither raises nor waits. What finds no room is lost: its trace names it, and no row shows it.
        """
        if self.keeping.media != "bytes":
            return
        for medium, content in media.items():
            with self._lock:
                if self._closed or self._waiting_bytes + len(content) > self.keeping.waiting_bytes:
                    self._lose()
                    continue
                self._waiting_bytes += len(content)
                self._media_thread = self._media_thread or ThreadPoolExecutor(1, "media of traces")
                self._media_thread.submit(self._write_medium, medium, content)

    def _write_medium(self, medium: Media, content: bytes) -> None:
        try:
            if touch_trace_media(self.folder, medium):
                return
            if not self.keeping.media_ops:
                write_trace_media(self.folder, medium, content)
            elif self.redact_media is None:
                raise InputError("nothing here takes personal data out of pictures, so that none are kept")
            elif (kept := self.redact_media(medium, content)) is not None:
                changed = kept.media.digest != medium.digest
                write_trace_media(self.folder, medium, kept.content, kept.media.format if changed else None)
        except Exception as error:  # noqa: BLE001  # one picture must not end all recording, nor be kept in clear
            self._report(f"a picture or a sound is not kept: {error}")
            with self._lock:
                self._lose()
        finally:
            with self._lock:
                self._waiting_bytes -= len(content)

    def record(self, record: Trace | Feedback) -> None:
        """Keep a record. Feedback is redacted at once; a trace, by the recorder's thread."""
        if isinstance(record, Feedback):
            fields = {name: getattr(record, name) for name in record.model_fields_set}
            self._write(_Entry(encode_line(SegmentLine("feedback", _redact(self._redactor, _to_json_value(fields))))))
        elif not is_sampled(record.id, self.keeping.sample):
            self.left_out += 1
        else:
            fields = record.__dict__
            start = {name: value for name, value in fields.items() if name not in END_FIELDS}
            self.end(_begin_trace(start), tuple(fields[name] for name in END_FIELDS))

    def _write(self, entry: _Entry) -> None:
        """Append a line now, or once the disk takes it again, and let the thread write what is to follow it."""
        with self._lock:
            if self._closed or (self._refused and self._waiting_bytes + len(entry.line) > self.keeping.waiting_bytes):
                self._lose()
                return
            self._append(entry)
            self.recorded += 1
            if isinstance(entry, _PendingEntry):
                if entry.segment is None and not entry.size:  # the disk refuses, and nothing else bounds what waits
                    self._append(entry.words())
                else:
                    self._queued += 1
                    self._waiting_bytes += entry.size
                    self._jobs.put(partial(self._follow, entry))
            if self._segment is not None and self._segment.size >= self.keeping.segment_bytes:
                self._finish_segment()
            self._start_thread()

    def _follow(self, pending: _PendingEntry) -> None:
        """Write the words of a trace, behind its pending line in the same segment."""
        entry = pending.words()
        with self._lock:
            self._append(entry)
            self._queued -= 1
            self._waiting_bytes -= pending.size

    def _append(self, entry: _Entry) -> None:
        """Append a line behind those that were refused."""
        if self._refused or not self._is_written(entry):
            self._refused.append(entry)
            self._waiting_bytes += len(entry.line)

    def _is_written(self, entry: _Entry) -> bool:
        try:
            if entry.follows is not None:
                entry.segment = entry.follows.segment
            else:
                self._segment = entry.segment = self._segment or Segment(self.folder, self._stream)
            assert entry.segment is not None, "a line follows one that is written"
            entry.segment.write(entry.line)
        except (LuthierError, OSError) as error:
            self._report(str(error))
            return False
        return True

    def _finish_segment(self) -> None:
        """Let the next record begin a segment; the thread closes this one behind all that is still to follow in it."""
        if self._segment is not None:
            self._jobs.put(partial(self._close_segment, self._segment))
            self._segment = None

    def _close_segment(self, segment: Segment) -> None:
        if self._refused and not self._closed:  # by the disk, and perhaps of this segment
            time.sleep(_TICK_S)
            self._jobs.put(partial(self._close_segment, segment))
            return
        self._tried(segment.close)
        self._finished.append(segment.path)
        self._compact()

    def _lose(self) -> None:
        self.lost += 1
        if self.lost & (self.lost - 1) == 0:  # the first, the second, the fourth, …
            _LOG.warning("%s: %d records found no room and are lost", self.folder, self.lost)

    def _start_thread(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, daemon=True)
            self._thread.start()

    def _work(self) -> None:
        tended = time.monotonic()
        while not self._closed or not self._jobs.empty():
            with suppress(Empty):
                self._jobs.get(timeout=_TICK_S)()
            if time.monotonic() - tended >= _TICK_S:
                self._tend()
                tended = time.monotonic()

    def _tend(self) -> None:
        """Write what was refused, flush to the disk, and end a segment that is old."""
        with self._lock:
            while self._refused and self._is_written(self._refused[0]):
                self._waiting_bytes -= len(self._refused.popleft().line)
                self._reported = ""
            segment = self._segment
            if segment is not None and (
                segment.age_s >= self.keeping.segment_s or segment.size >= self.keeping.segment_bytes
            ):
                self._finish_segment()
        if segment is not None:
            self._tried(segment.sync)
        if self._finished:
            self._compact()

    def _tried(self, work: Callable[[], None]) -> None:
        try:
            work()
        except (LuthierError, OSError) as error:
            self._report(str(error))

    def _compact(self) -> None:
        """Start a process that makes Parquet of finished segments, unless the last one is still at it."""
        if self._compaction is not None and self._compaction.poll() is None:
            return
        words = [str(self.folder), self.keeping.model_dump_json(), *map(str, self._finished)]
        self._finished.clear()
        try:
            self._compaction = subprocess.Popen(  # noqa: S603  # this very program
                python_command("-m", "luthier.traces.compact", *words),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env={**_FRUGAL, **os.environ},
                start_new_session=True,
            )
        except OSError as error:  # what is finished is found by the next one
            self._report(str(error))

    def _report(self, text: str) -> None:
        """Log once each thing that is wrong."""
        if text != self._reported:
            self._reported = text
            _LOG.warning("%s", text)

    @property
    def waiting_bytes(self) -> int:
        """How much was recorded that is not written: words in which names are looked for, and what the disk refused."""
        return self._waiting_bytes

    def flush(self, timeout_s: float = 30.0) -> bool:
        """Wait until all that was recorded can be read in the folder; False when that takes longer."""
        end = time.monotonic() + timeout_s
        if self._waiting_bytes:
            self._jobs.put(self._tend)
        while (is_left := bool(self._queued or self._waiting_bytes)) and time.monotonic() < end:
            time.sleep(0.002)
        return not is_left

    def close(self) -> None:
        """Write what waits, and end."""
        if self._closed:
            return
        atexit.unregister(self.close)
        self.flush()
        with self._lock:
            self._closed = True
        if self._media_thread is not None:
            self._media_thread.shutdown()
        if self._thread is not None:
            self._jobs.put(_nothing)
            self._thread.join()
        self.lost += len(self._refused)
        if self._segment is not None:
            self._tried(self._segment.close)
        if self._compaction is not None:
            self._compaction.wait()

    def __enter__(self) -> TraceRecorder:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _nothing() -> None:
    """Wake the thread."""


def _begin_in_fork(recorder: weakref.ref[TraceRecorder]) -> None:
    """In a fork: the segment belongs to the process that began it."""
    trace_recorder = recorder()
    if trace_recorder is not None and not trace_recorder._closed:
        if trace_recorder._segment is not None:
            trace_recorder._segment.abandon()
        trace_recorder._begin()


def _to_json_value(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a record as JSON has them; one that it cannot say, because it is nested too deep, is left out."""
    try:
        found: dict[str, Any] = to_jsonable_python(fields, serialize_unknown=True, inf_nan_mode="null")
    except (PydanticSerializationError, ValueError, RecursionError):
        found = {}
        for name, value in fields.items():
            with suppress(PydanticSerializationError, ValueError, RecursionError):
                found[name] = to_jsonable_python(value, serialize_unknown=True, inf_nan_mode="null")
    return found


def _begin_trace(start: TraceStart) -> _Start:
    wordless = strip_trace_defaults({name: value for name, value in start.items() if name not in _WORDS})
    words = {name: value for name, value in start.items() if name in _WORDS}
    return _Start(_encode({"id": start["id"]}), _encode(wordless), words)


def _pick_wordless(end: TraceEnd) -> dict[str, Any]:
    """What holds no personal data of the end of a request."""
    _, finish, status, _, prompt, cached, completion, latency_s, first_token_s, scores, label_set = end
    kept = {"finish_reason": finish, "status": status, "prompt_tokens": prompt, "completion_tokens": completion}
    kept |= {"cached_tokens": cached, "latency_s": latency_s, "first_token_s": first_token_s}
    kept |= {} if scores is None else {"scores": scores}
    return kept if label_set is None else {**kept, "label_set": label_set}


def _words(start: _Start, end: TraceEnd) -> dict[str, Any]:
    return {**start.words, **{name: value for name, value in zip(END_FIELDS, end, strict=True) if name in _WORDS}}


def _encode(fields: dict[str, Any]) -> bytes:
    """Fields of a trace as JSON."""
    try:
        return to_json(fields, inf_nan_mode="null")
    except (PydanticSerializationError, ValueError):
        return dumps(_to_json_value(fields))


def _redact_words(redactor: Redactor, start: _Start, end: TraceEnd) -> bytes:
    """The words of a trace as JSON."""
    return dumps(_redact(redactor, _to_json_value(_words(start, end))))


def _redact_json(redactor: Redactor, words: bytes) -> bytes:
    """Words that waited as JSON."""
    return dumps(_redact(redactor, loads(words)))


def _redact(redactor: Redactor, record: dict[str, Any]) -> dict[str, Any]:
    """A record without personal data and without defaults; one that cannot be looked through keeps no words."""
    try:
        return redactor.record(strip_trace_defaults(record) if "trace" not in record else record)
    except Exception as error:  # noqa: BLE001  # one record must not end all recording
        _LOG.warning("a record could not be redacted (%s); its words are not kept", type(error).__name__)
        return {name: value for name, value in record.items() if name not in _WORDS}
