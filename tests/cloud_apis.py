"""SageMaker, Vertex AI and Azure Machine Learning for tests: one server that answers as their APIs do, and runs the
containers of jobs as processes of this machine."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

Body = dict[str, Any]
SUBSCRIPTION = "00000000-0000-0000-0000-000000000000"
TOKEN = "token-of-the-cloud"
SETTINGS: dict[str, Body] = {
    "sagemaker": {"image": "luthier:1", "role_arn": "arn:aws:iam::123456789012:role/tuner", "instance": "ml.m5.large"},
    "vertex": {"image": "luthier:1", "project": "proj", "region": "europe-west4", "machine_type": "n1-standard-4"},
    "azureml": {"environment": "luthier:3", "subscription": SUBSCRIPTION, "resource_group": "group", "workspace": "w"},
}
"""The least that each executor is told."""
_VERTEX = re.compile(r"/v1/(projects/[^/]+/locations/[^/]+/customJobs)(?:/([0-9]+))?(:cancel)?")
_AZURE = re.compile(r"/subscriptions/.+/jobs/([\w-]+)(/cancel)?")


@dataclass
class CloudJob:
    """One job: what was ordered, and its process."""

    order: Body
    words: list[str]
    variables: dict[str, str]
    name: str
    number: int
    process: subprocess.Popen[bytes] | None = None
    cancelled: bool = False
    output: Path = Path()

    @property
    def state(self) -> str:
        """Whether it runs, or how it ended."""
        code = self.process.poll() if self.process else None
        if code is None:
            return "running"
        return "cancelled" if self.cancelled else "succeeded" if code == 0 else "failed"


@dataclass
class CloudApis:
    """What the server keeps."""

    folder: Path
    rights: dict[str, str] = field(default_factory=dict)
    """What every container is given by the identity of its job: variables that lead to the store."""
    jobs: list[CloudJob] = field(default_factory=list)
    lock: threading.RLock = field(default_factory=threading.RLock)
    fails: int = 0
    """How many requests that only read are answered 503."""
    loses: int = 0
    """How many requests that make a job are not answered, though they make it."""

    def start(self, name: str, order: Body, words: list[str], variables: dict[str, str]) -> CloudJob:
        """Begin a job; its process sees its own variables and the rights of its identity, and nothing else."""
        with self.lock:
            job = CloudJob(order, words, variables, name, len(self.jobs) + 1)
            job.output = self.folder / f"{job.number}.log"
            surroundings = {"PATH": os.environ["PATH"], **self.rights}
            with job.output.open("wb") as log:
                job.process = subprocess.Popen(
                    words, env={**surroundings, **variables}, cwd="/", stdout=log, stderr=log, start_new_session=True
                )
            self.jobs.append(job)
            return job

    def cancel(self, job: CloudJob) -> None:
        """Tell a job to stop."""
        job.cancelled = True
        assert job.process is not None
        job.process.send_signal(signal.SIGTERM)

    def end(self) -> None:
        """End all jobs."""
        for job in self.jobs:
            assert job.process is not None
            if job.process.poll() is None:
                job.process.kill()
            job.process.wait()


class _Handler(BaseHTTPRequestHandler):
    apis: ClassVar[CloudApis]
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._serve("GET")

    def do_POST(self) -> None:
        self._serve("POST")

    def do_PUT(self) -> None:
        self._serve("PUT")

    def _serve(self, method: str) -> None:
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        target, url = self.headers.get("X-Amz-Target", ""), urlsplit(self.path)
        if url.path in ("/token", "/identity"):
            expires = {"expires_in": 3600, "expires_on": str(int(time.time()) + 3600)}
            return self._answer(200, {"access_token": TOKEN, "token_type": "Bearer", "resource": "x", **expires})
        if method == "GET" and self.apis.fails:
            self.apis.fails -= 1
            return self._answer(503, {"error": {"message": "try again"}})
        body = json.loads(data or b"null")
        with self.apis.lock:
            if target:
                return self._answer(*self._amazon(target.rpartition(".")[2], body))
            assert self.headers["Authorization"] == f"Bearer {TOKEN}", "no token"
            if found := _VERTEX.fullmatch(url.path):
                return self._answer(*self._google(method, found, body, parse_qs(url.query)))
            found = _AZURE.fullmatch(url.path)
            assert found is not None, self.path
            assert parse_qs(url.query) == {"api-version": ["2024-04-01"]}
            return self._answer(*self._azure(method, found, body))

    def _amazon(self, action: str, body: Body) -> tuple[int, Any]:
        if action in ("DescribeLogStreams", "GetLogEvents"):
            return self._cloudwatch(action, body)
        states = {"running": "InProgress", "succeeded": "Completed", "failed": "Failed", "cancelled": "Stopped"}
        named = [job for job in self.apis.jobs if job.name == body.get("TrainingJobName")]
        if action == "CreateTrainingJob":
            if named:
                return 400, {"__type": "ResourceInUse", "message": "Training job names must be unique"}
            algorithm = body["AlgorithmSpecification"]
            words = [*algorithm["ContainerEntrypoint"], *algorithm["ContainerArguments"]]
            self.apis.start(body["TrainingJobName"], body, words, body.get("Environment", {}))
            return 200, {"TrainingJobArn": f"arn:aws:sagemaker:us-east-1:1:training-job/{body['TrainingJobName']}"}
        if action == "ListTrainingJobs":
            found = [job for job in reversed(self.apis.jobs) if body["NameContains"] in job.name]
            fixed = {"TrainingJobArn": "arn:x", "CreationTime": 1.0}
            rows = [{"TrainingJobName": job.name, "TrainingJobStatus": states[job.state], **fixed} for job in found]
            return 200, {"TrainingJobSummaries": rows}
        if action == "DescribeTrainingJob":
            (job,) = named
            stage = {"running": "Training", "succeeded": "Completed", "failed": "Failed", "cancelled": "Stopped"}
            why = {"FailureReason": "AlgorithmError: ExecuteUserScriptError"} if job.state == "failed" else {}
            state = {"TrainingJobStatus": states[job.state], "SecondaryStatus": stage[job.state]}
            return 200, {"TrainingJobName": job.name, **state, **why}
        assert action == "StopTrainingJob", action
        self.apis.cancel(*named)
        return 200, {}

    def _cloudwatch(self, action: str, body: Body) -> tuple[int, Any]:
        if action == "DescribeLogStreams":
            name = body["logStreamNamePrefix"].rstrip("/")
            found = [job for job in self.apis.jobs if job.name == name]
            return 200, {"logStreams": [{"logStreamName": f"{name}/algo-1-123"}] if found else []}
        (job,) = [job for job in self.apis.jobs if job.name == body["logStreamName"].partition("/")[0]]
        lines = job.output.read_text().splitlines()[-body["limit"] :]
        return 200, {"events": [{"timestamp": 1, "ingestionTime": 1, "message": line} for line in lines]}

    def _google(self, method: str, path: re.Match[str], body: Any, query: dict[str, list[str]]) -> tuple[int, Any]:
        states = {"running": "RUNNING", "succeeded": "SUCCEEDED", "failed": "FAILED", "cancelled": "CANCELLED"}

        def shown(job: CloudJob) -> Body:
            error = {"error": {"code": 3, "message": "The replica exited"}} if job.state == "failed" else {}
            own = {"name": f"{path[1]}/{job.number}", "createTime": f"2026-01-01T00:00:{job.number:02}Z"}
            return {**job.order, **own, "state": f"JOB_STATE_{states[job.state]}", **error}

        if path[3]:
            self.apis.cancel(self.apis.jobs[int(path[2]) - 1])
            return 200, {}
        if method == "GET":
            name = re.fullmatch(r'display_name="([\w-]+)"', query["filter"][0])
            assert name is not None
            found = [shown(job) for job in self.apis.jobs if job.name == name[1]]
            return 200, {"customJobs": found} if found else {}
        container = body["jobSpec"]["workerPoolSpecs"][0]["containerSpec"]
        variables = {one["name"]: one["value"] for one in container["env"]}
        job = self.apis.start(body["displayName"], body, [*container["command"], *container["args"]], variables)
        return 200, shown(job)

    def _azure(self, method: str, path: re.Match[str], body: Any) -> tuple[int, Any]:
        states = {"running": "Running", "succeeded": "Completed", "failed": "Failed", "cancelled": "Canceled"}
        found = next((job for job in self.apis.jobs if job.name == path[1]), None)
        if method == "PUT":
            if found is not None:
                return 409, {"error": {"code": "Conflict", "message": "A job with this name already exists"}}
            properties = body["properties"]
            words = ["/bin/bash", "-c", properties["command"].replace("${{", "")]
            assert shlex.split(properties["command"])
            found = self.apis.start(path[1], body, words, properties["environmentVariables"])
            return 201, body
        if found is None:
            return 404, {"error": {"code": "UserError", "message": f"Job {path[1]} not found"}}
        if path[2]:
            self.apis.cancel(found)
            return 202, {}
        return 200, {"properties": {**found.order["properties"], "status": states[found.state]}}

    def _answer(self, code: int, body: Any) -> None:
        makes = self.command == "PUT" or "CreateTrainingJob" in self.headers.get("X-Amz-Target", "")
        makes = makes or self.path.endswith("/customJobs")
        if makes and self.apis.loses:
            self.apis.loses -= 1
            self.close_connection = True
            return
        data = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *words: object) -> None:
        """Nothing."""


@contextmanager
def cloud_apis(folder: Path, rights: dict[str, str] | None = None) -> Iterator[tuple[CloudApis, str, dict[str, str]]]:
    """The server, its address, and the environment in which clients find it with credentials."""
    folder.mkdir(parents=True)
    apis = CloudApis(folder, rights or {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"apis": apis}))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}"
    (folder / "google.json").write_text(json.dumps(_make_account(url)))
    (folder / "google.json").chmod(0o600)
    try:
        yield apis, url, {
            "AWS_ENDPOINT_URL_SAGEMAKER": url, "AWS_ENDPOINT_URL_CLOUDWATCH_LOGS": url, "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "word", "AWS_DEFAULT_REGION": "us-east-1",
            "GOOGLE_APPLICATION_CREDENTIALS": str(folder / "google.json"),
            "IDENTITY_ENDPOINT": f"{url}/identity", "IDENTITY_HEADER": "header",
            "AZURE_TOKEN_CREDENTIALS": "ManagedIdentityCredential",
            "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1",
        }  # fmt: skip
    finally:
        apis.end()
        server.shutdown()
        server.server_close()
        thread.join()


def _make_account(url: str) -> Body:
    """A service account of Google that gets its token here."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    return {
        "type": "service_account",
        "project_id": "proj",
        "private_key_id": "1",
        "private_key": pem,
        "client_email": "tuner@proj.iam.gserviceaccount.com",
        "client_id": "1",
        "token_uri": f"{url}/token",
    }
