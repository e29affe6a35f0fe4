"""Providers of fine-tuning on this machine: real HTTP after their published schemas, and faults to order."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from endpoint import completion

Record = dict[str, Any]
KEY = "sk-very-secret-4711"


@dataclass
class Answer:
    """What is sent back; no status: the connection is closed without a word."""

    body: Any = None
    status: int | None = 200
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Provider:
    """A provider's state, what it was asked, and what goes wrong: by `METHOD /path`, one answer after another."""

    root: str = ""
    files: list[Record] = field(default_factory=list)
    contents: dict[str, bytes] = field(default_factory=dict)
    jobs: list[Record] = field(default_factory=list)
    events: list[Record] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)
    faults: dict[str, list[Answer]] = field(default_factory=dict)
    after: dict[str, list[Answer]] = field(default_factory=dict)
    """The same, but sent when the request was obeyed."""
    looks: int = 1
    """How often a job is seen at work before it is done."""
    outcome: Record = field(default_factory=dict)
    """What a finished job has beside the usual."""

    def count(self, request: str) -> int:
        """How often it was asked."""
        return self.asked.count(request)

    def answer(self, method: str, path: str, query: Record, body: bytes) -> Answer:
        """What a request gets."""
        name = f"{method} {path}"
        self.asked.append(name)
        if self.faults.get(name):
            return self.faults[name].pop(0)
        found = self._obey(method, path, query, body)
        return self.after[name].pop(0) if self.after.get(name) else found

    def _download(self, path: str, query: Record) -> Answer | None:
        """A file, an adapter, where one is, or Google's token; None for anything else."""
        if path == "/token":
            return Answer({"access_token": KEY, "expires_in": 3600, "token_type": "Bearer"})
        if path.startswith("/signed/"):
            content = self.contents[path.removeprefix("/signed/")]
            told = base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()
            return Answer(content, headers={"x-goog-hash": f"crc32c=AAAAAA==, md5={told}"})
        if path == "/v1/finetune/download":
            found = self.contents.get("adapter") if query["checkpoint"] == ["adapter"] else None
            return Answer({"error": {"message": "no adapter"}}, 404) if found is None else Answer(found)
        if path.endswith(":getDownloadEndpoint") and "/models/" in path:
            names = [name for name in self.contents if name.startswith("adapter_")]
            return Answer({"filenameToSignedUrls": {f"m/{name}": f"{self.root}/signed/{name}" for name in names}})
        return None

    def _obey(self, method: str, path: str, query: Record, body: bytes) -> Answer:
        if (found := self._download(path, query)) is not None:
            return found
        if path.endswith("/chat/completions"):
            asked = json.loads(body)
            known = [
                job.get("fine_tuned_model")
                or job.get("model_output_name")
                or job.get("trainingConfig", job).get("outputModel")
                or job.get("tunedModel", {}).get("endpoint")
                for job in self.jobs
            ]
            if asked["model"] not in known:
                return Answer({"error": {"message": "no such model"}}, 404)
            return _streamed(asked) if asked.get("stream") else Answer(completion("billing", asked))
        for prefix, obey in (
            ("/v1/accounts/", self._fireworks),
            ("/v1/fine-tunes", self._together),
            ("/v1/projects/", self._vertex),
            ("/storage/v1/", self._storage),
            ("/upload/storage/v1/", self._storage),
        ):
            if path.startswith(prefix):
                return obey(method, path, query, body)
        if path.startswith("/v1/files"):
            return self._files(method, path, body)
        return self._openai(method, path, query, body)

    def _files(self, method: str, path: str, body: bytes) -> Answer:
        if path.endswith("/content"):
            found = self.contents.get(path.split("/")[-2])
            return Answer({"error": {"message": "no such file"}}, 404) if found is None else Answer(found)
        if method == "GET":
            return Answer({"object": "list", "data": self.files})
        filename, content = _read_part(body)
        record: Record = {
            "id": f"file-{len(self.files)}", "object": "file", "filename": filename, "purpose": "fine-tune",
            "bytes": len(content), "status": "processed",
        }  # fmt: skip
        self.files.append(record)
        self.contents[record["id"]] = content
        return Answer(record)

    def _openai(self, method: str, path: str, query: Record, body: bytes) -> Answer:
        parts = path.removeprefix("/v1/fine_tuning/jobs").strip("/").split("/")
        if parts == [""]:
            if method == "GET":
                newest = self.jobs[::-1]
                ids = [job["id"] for job in newest]
                first = ids.index(query["after"][0]) + 1 if "after" in query else 0
                page = newest[first : first + 2]  # small pages, whatever is asked
                return Answer({"object": "list", "data": page, "has_more": first + 2 < len(newest)})
            asked = json.loads(body)
            if asked["model"] == "unknown":
                return Answer(
                    {"error": {"message": "The model unknown does not exist", "code": "model_not_found"}}, 404
                )
            job = {
                **asked, "id": f"ftjob-{len(self.jobs)}", "object": "fine_tuning.job", "status": "queued", "looks": 0,
                "fine_tuned_model": None, "error": {}, "trained_tokens": None,
            }  # fmt: skip
            del job["suffix"]
            self.jobs.append(job)
            return Answer(job)
        job = next((one for one in self.jobs if one["id"] == parts[0]), {})
        if not job:
            return Answer({"error": {"message": "no such job"}}, 404)
        if parts[1:] == ["events"]:
            return Answer({"object": "list", "data": self.events[::-1], "has_more": False})
        if parts[1:] == ["cancel"]:
            job["status"] = "cancelled"
        elif job["status"] in ("queued", "running"):
            job["looks"] += 1
            usual = {"status": "succeeded", "fine_tuned_model": f"ft:{job['model']}:{job['id']}", "trained_tokens": 9}
            job |= {"status": "running"} if job["looks"] <= self.looks else {**usual, **self.outcome}
        return Answer(job)

    def _together(self, method: str, path: str, query: Record, body: bytes) -> Answer:
        parts = path.removeprefix("/v1/fine-tunes").strip("/").split("/")
        if parts == [""]:
            if method == "GET":
                return Answer({"data": self.jobs})
            asked = json.loads(body)
            job = {
                **asked, "id": f"ft-{len(self.jobs)}", "status": "pending", "looks": 0,
                "created_at": str(len(self.jobs)),
                "model_output_name": f"me/{asked['model']}-{asked['suffix']}-1f2e",
            }  # fmt: skip
            del job["suffix"]
            self.jobs.append(job)
            return Answer(job)
        job = next((one for one in self.jobs if one["id"] == parts[0]), {})
        if not job:
            return Answer({"error": {"message": "no such job"}}, 404)
        if parts[1:] == ["events"]:
            return Answer({"data": self.events})
        if parts[1:] == ["cancel"]:
            job["status"] = "cancelled"
        elif job["status"] in ("pending", "running"):
            job["looks"] += 1
            job |= {"status": "running"} if job["looks"] <= self.looks else {"status": "completed", **self.outcome}
        return Answer(job)

    def _vertex(self, method: str, path: str, query: Record, body: bytes) -> Answer:
        parent, _, name = path.removeprefix("/v1/").rpartition("/")
        if path.endswith("/tuningJobs"):
            if method == "GET":
                first = int(query.get("pageToken", ["0"])[0])
                more = {"nextPageToken": str(first + 1)} if first + 1 < len(self.jobs) else {}
                return Answer({"tuningJobs": self.jobs[first : first + 1], **more})
            asked = json.loads(body)
            full = f"{path.removeprefix('/v1/')}/{len(self.jobs) + 70}"
            self.jobs.append({**asked, "name": full, "state": "JOB_STATE_PENDING", "looks": 0})
            return Answer(self.jobs[-1])
        job = next((one for one in self.jobs if one["name"] == f"{parent}/{name.removesuffix(':cancel')}"), {})
        if not job:
            return Answer({"error": {"code": 404, "message": "not found"}}, 404)
        if name.endswith(":cancel"):
            job["state"] = "JOB_STATE_CANCELLED"
        elif job["state"] in ("JOB_STATE_PENDING", "JOB_STATE_RUNNING"):
            job["looks"] += 1
            tuned = {"model": f"{parent}/../models/1@1", "endpoint": "projects/7/locations/here/endpoints/9"}
            stats = {"supervisedTuningDataStats": {"totalBillableTokenCount": "9"}}
            done = {"state": "JOB_STATE_SUCCEEDED", "tunedModel": tuned, "tuningDataStats": stats, **self.outcome}
            job |= {"state": "JOB_STATE_RUNNING"} if job["looks"] <= self.looks else done
        return Answer(job)

    def _storage(self, method: str, path: str, query: Record, body: bytes) -> Answer:
        """Cloud Storage's JSON API."""
        name = unquote(path.rpartition("/o/")[2]) if method == "GET" else query["name"][0]
        if method == "POST":
            self.contents[name] = body
            self.files.append({"name": name})
        return Answer({"name": name}) if name in self.contents else Answer({"error": {"message": "no object"}}, 404)

    def _fireworks(self, method: str, path: str, query: Record, body: bytes) -> Answer:
        home, _, name = path.removeprefix("/v1/").rpartition("/")
        if "/datasets" in path:
            return self._fireworks_data(path, name, body)
        if path.endswith(("/supervisedFineTuningJobs", "/dpoJobs")):
            job_id = query["dpoJobId" if path.endswith("/dpoJobs") else "supervisedFineTuningJobId"][0]
            full = f"{path.removeprefix('/v1/')}/{job_id}"
            if any(one["name"] == full for one in self.jobs):
                return Answer({"message": "already exists"}, 409)
            self.jobs.append({**json.loads(body), "name": full, "state": "JOB_STATE_CREATING", "looks": 0})
            return Answer(self.jobs[-1])
        job = next((one for one in self.jobs if one["name"] == f"{home}/{name.removesuffix(':cancel')}"), {})
        if not job:
            return Answer({"message": "not found"}, 404)
        if name.endswith(":cancel"):
            job["state"] = "JOB_STATE_CANCELLED"
        elif job["state"] in ("JOB_STATE_CREATING", "JOB_STATE_RUNNING"):
            job["looks"] += 1
            running = {"state": "JOB_STATE_RUNNING", "jobProgress": {"percent": 50}}
            job |= running if job["looks"] <= self.looks else {"state": "JOB_STATE_COMPLETED", **self.outcome}
        return Answer(job)

    def _fireworks_data(self, path: str, name: str, body: bytes) -> Answer:
        if path.endswith("/datasets"):
            asked = json.loads(body)
            if any(one["id"] == asked["datasetId"] for one in self.files):
                return Answer({"message": "already exists"}, 409)
            self.files.append({"id": asked["datasetId"], "state": "UPLOADING", **asked["dataset"]})
            return Answer(self.files[-1])
        if name.endswith(":getDownloadEndpoint"):
            known = name.removesuffix(":getDownloadEndpoint")
            if known not in self.contents:
                return Answer({"message": "not found"}, 404)
            return Answer({"filenameToSignedUrls": {f"{known}.jsonl": f"{self.root}/signed/{known}"}})
        found = [one for one in self.files if one["id"] == name.removesuffix(":upload")]
        if found and name.endswith(":upload"):
            found[0]["state"] = "READY"
            self.contents[found[0]["id"]] = _read_part(body)[1]
        return Answer(found[0]) if found else Answer({"message": "not found"}, 404)


def _read_part(body: bytes) -> tuple[str, bytes]:
    """Name and content of the file in a form."""
    found = re.search(rb'filename="([^"]+)".*?\r\n\r\n(.*?)\r\n--', body, re.DOTALL)
    assert found is not None
    return found[1].decode(), found[2]


def _streamed(asked: Record) -> Answer:
    """The answer as events of a stream."""
    chunk = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": asked["model"]}
    deltas = [({"role": "assistant", "content": "billing"}, None), ({}, "stop")]
    lines = [
        json.dumps({**chunk, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]})
        for delta, reason in deltas
    ]
    body = "".join(f"data: {line}\n\n" for line in [*lines, "[DONE]"])
    return Answer(body.encode(), headers={"Content-Type": "text/event-stream"})


@contextmanager
def providing() -> Iterator[Provider]:
    """A provider on a free port."""
    provider = Provider()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            address = urlsplit(self.path)
            key = self.headers.get("Authorization") or f"api-key {self.headers.get('api-key')}"
            assert not (KEY in key and address.path.startswith("/signed/")), "a signed address needs no key"
            provider.keys.add(key)
            answer = provider.answer(self.command, address.path, parse_qs(address.query), body)
            if answer.status is None:
                self.close_connection = True
                return
            data = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
            self.send_response(answer.status)
            for name, value in {"Content-Length": str(len(data)), **answer.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def do_GET(self) -> None:
            self._serve()

        def do_POST(self) -> None:
            self._serve()

        def log_message(self, *args: Any) -> None:
            """Say nothing."""

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    listening.daemon_threads = True
    provider.root = f"http://127.0.0.1:{listening.server_address[1]}"
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield provider
    finally:
        listening.shutdown()
        listening.server_close()
        thread.join()
