"""An API server of Kubernetes on loopback for tests: it keeps Jobs, TrainJobs, RayJobs, Secrets and pods as the real
one does, and runs the command of a pod as a process of this machine, with the pod's own variables and the Secret as
files. A RayJob's command runs in its head's pod alone, without Ray."""

from __future__ import annotations

import base64
import copy
import json
import os
import re
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

import yaml

from luthier.core.system.packages import is_installed

Body = dict[str, Any]
_ROUTE = re.compile(
    r"/(?:api/v1|apis/batch/v1|apis/trainer.kubeflow.org/v1alpha1|apis/ray.io/v1)"
    r"/namespaces/([^/]+)/(jobs|trainjobs|rayjobs|secrets|pods|services)(?:/([^/]+))?(?:/(log))?"
)
_JOBS = ("jobs", "trainjobs", "rayjobs")
_REFERENCE = re.compile(r"\$(\$|\(([A-Za-z_][A-Za-z0-9_.-]*)\))")


def why_no_kubernetes() -> str:
    """Why the executor cannot be tried here; empty where it can."""
    return "" if is_installed("kubernetes") else "the client of Kubernetes is not installed: pip install kubernetes"


def expand(text: str, variables: dict[str, str]) -> str:
    """What Kubernetes makes of `$(NAME)` and `$$` in commands and variables."""
    return _REFERENCE.sub(lambda found: "$" if found[1] == "$" else variables.get(found[2], found[0]), text)


class KubernetesApi:
    """What the server keeps, and the pods that run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lock = threading.RLock()
        self.kept: dict[tuple[str, str, str], Body] = {}
        self.jobs_made: list[Body] = []
        """Every Job that was made, as it was sent."""
        self.refuses = ""
        """A kind of which nothing may be made."""
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.is_over = False

    def create(self, namespace: str, kind: str, body: Body) -> tuple[int, Body]:
        """A new object; 403 and 409 as the real server."""
        with self.lock:
            key = (namespace, kind, body["metadata"]["name"])
            if kind == self.refuses:
                return 403, _status(403, "Forbidden", f'{kind} is forbidden: User "me" cannot create resource "{kind}"')
            if key in self.kept:
                return 409, _status(409, "AlreadyExists", f'{kind} "{key[2]}" already exists')
            made = copy.deepcopy(body)
            made["metadata"] |= {"uid": str(uuid.uuid4()), "creationTimestamp": _now(), "namespace": namespace}
            _encode(made)
            self.kept[key] = made
            if kind in _JOBS:
                self.jobs_made.append(copy.deepcopy(body))
                made["status"] = {}
                job = _PODS_OF[kind](made)
                threading.Thread(target=self._run_job, args=(key, job), daemon=True).start()
            return 201, made

    def change(self, key: tuple[str, str, str], body: Body, *, whole: bool) -> tuple[int, Body]:
        """A replaced or patched object."""
        with self.lock:
            kept = self.kept.get(key)
            if kept is None:
                return 404, _status(404, "NotFound", f'{key[1]} "{key[2]}" not found')
            metadata = {**kept["metadata"], **body.get("metadata", {})}
            kept = {**({} if whole else kept), **body, "metadata": metadata}
            _encode(kept)
            self.kept[key] = kept
            return 200, kept

    def delete(self, key: tuple[str, str, str]) -> tuple[int, Body]:
        """Delete at once, a Job after its pods were told to stop and have ended."""
        with self.lock:
            kept = self.kept.get(key)
            if kept is None:
                return 404, _status(404, "NotFound", f'{key[1]} "{key[2]}" not found')
            if key[1] not in _JOBS:
                del self.kept[key]
            elif "deletionTimestamp" not in kept["metadata"]:
                kept["metadata"]["deletionTimestamp"] = _now()
                threading.Thread(target=self._delete_job, args=(key,), daemon=True).start()
            return 200, _status(200, "", "")

    def _delete_job(self, key: tuple[str, str, str]) -> None:
        for pod in self.pods_of(key):
            process = self.processes.get(pod["metadata"]["name"])
            if process is not None and process.poll() is None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(pod["spec"]["terminationGracePeriodSeconds"])
                except subprocess.TimeoutExpired:
                    process.kill()
        time.sleep(0.3)
        with self.lock:
            uid = self.kept.pop(key)["metadata"]["uid"]
            for other, body in list(self.kept.items()):  # what belongs to it goes with it
                if any(owner["uid"] == uid for owner in body["metadata"].get("ownerReferences", ())):
                    del self.kept[other]

    def pods_of(self, key: tuple[str, str, str]) -> list[Body]:
        """The pods of a Job."""
        with self.lock:
            return [
                body
                for (namespace, kind, _), body in self.kept.items()
                if (namespace, kind) == (key[0], "pods") and body["metadata"]["ownerReferences"][0]["name"] == key[2]
            ]

    def disrupt(self, name: str) -> None:
        """Drain the node of the pod that a Job has: it gets the condition, and is told to stop."""
        for pod in self.pods_of(("default", "jobs", name)):
            process = self.processes[pod["metadata"]["name"]]
            if process.poll() is None:
                with self.lock:
                    pod["status"]["conditions"] = [{"type": "DisruptionTarget", "status": "True"}]
                process.send_signal(signal.SIGKILL)

    def _run_job(self, key: tuple[str, str, str], job: Body) -> None:
        failed = 0
        while "deletionTimestamp" not in job["metadata"] and not self.is_over:
            pod, *others = [self._make_pod(key, job) for _ in range(job["spec"].get("completions", 1))]
            more = [
                threading.Thread(target=self._run_pod, args=(key[0], job, one, index), daemon=True)
                for index, one in enumerate(others, 1)
            ]
            for thread in more:
                thread.start()
            code = self._run_pod(key[0], job, pod)
            for thread in more:
                thread.join()
            disrupted = bool(pod["status"].get("conditions"))
            failed += 0 if disrupted else 1
            ended = _judge(job["spec"], code, failed, disrupted)
            with self.lock:
                job["status"]["ready"] = 0
                if ended is not None:
                    job["status"]["conditions"] = [{"status": "True", **ended}]
                    return

    def _make_pod(self, key: tuple[str, str, str], job: Body) -> Body:
        name = f"{key[2]}-{uuid.uuid4().hex[:5]}"
        template = copy.deepcopy(job["spec"]["template"])
        labels = {"job-name": key[2], **template["metadata"].get("labels", {})}
        owner = {"apiVersion": "batch/v1", "kind": "Job", "name": key[2], "uid": job["metadata"]["uid"]}
        metadata = {"name": name, "labels": labels, "creationTimestamp": _now(), "ownerReferences": [owner]}
        status = {
            "name": template["spec"]["containers"][0]["name"],
            "image": "",
            "imageID": "",
            "ready": False,
            "restartCount": 0,
        }
        waiting = {"waiting": {"reason": "ContainerCreating"}}
        pod = {"metadata": metadata, "spec": template["spec"], "status": {"phase": "Pending"}}
        pod["status"]["containerStatuses"] = [{**status, "state": waiting}]
        with self.lock:
            self.kept[key[0], "pods", name] = pod
        return pod

    def _run_pod(self, namespace: str, job: Body, pod: Body, index: int = 0) -> int:
        name, spec = pod["metadata"]["name"], pod["spec"]
        (container,) = spec["containers"]
        if container["image"].endswith(":none"):  # an image that no registry has: the pod waits
            state = {"waiting": {"reason": "ImagePullBackOff", "message": "not found"}}
            pod["status"]["containerStatuses"][0]["state"] = state
            while "deletionTimestamp" not in job["metadata"] and not self.is_over:
                time.sleep(0.05)
            return 137
        places = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        moved = {}
        for volume in spec["volumes"]:
            if "secret" in volume:
                data = self._await_secret(namespace, volume["secret"]["secretName"])
                moved[places[volume["name"]]] = self.folder / name
                (self.folder / name).mkdir(parents=True)
                for file, text in data.items():
                    (self.folder / name / file).write_bytes(base64.b64decode(text))
        variables = {"PATH": os.environ["PATH"]}
        for source in container.get("envFrom", ()):
            data = self._await_secret(namespace, source["secretRef"]["name"])
            variables |= {key: base64.b64decode(text).decode() for key, text in data.items()}
        for variable in container.get("env", ()):
            variables[variable["name"]] = expand(variable.get("value", str(index)), variables)
        service = spec.get("subdomain")
        if service is not None:
            assert (namespace, "services", service) in self.kept or self._await_service(namespace, service)
            variables = {
                key: "127.0.0.1" if value == f"{service}-0.{service}" else value for key, value in variables.items()
            }
        command = [expand(word, variables) for word in container["command"]]
        for place, here in moved.items():
            command = [word.replace(place, str(here)) for word in command]
        with self.lock, (self.folder / f"{name}.log").open("wb") as log:
            if self.is_over:
                return 137
            process = subprocess.Popen(command, env=variables, cwd="/", stdout=log, stderr=log)
            self.processes[name] = process
            job["status"]["ready"] = 1
            pod["status"]["phase"] = "Running"
            pod["status"]["containerStatuses"][0]["state"] = {"running": {}}
        code = process.wait()
        return code if code >= 0 else 128 - code

    def _await_service(self, namespace: str, name: str) -> bool:
        while not self.is_over and (namespace, "services", name) not in self.kept:
            time.sleep(0.05)
        return True

    def _await_secret(self, namespace: str, name: str) -> dict[str, str]:
        while not self.is_over:
            with self.lock:
                if (found := self.kept.get((namespace, "secrets", name))) is not None:
                    return dict(found["data"])
            time.sleep(0.05)
        return {}

    def end(self) -> None:
        """End all pods, and start no more."""
        with self.lock:
            self.is_over, processes = True, list(self.processes.values())
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.wait()


def _pods_of_job(job: Body) -> Body:
    """A Job runs its own pods."""
    return job


def _pods_of_train_job(job: Body) -> Body:
    """The Job that Trainer makes of a TrainJob by the runtime `torch-distributed`: its variables are torchrun's."""
    spec, name = job["spec"], job["metadata"]["name"]
    assert spec["runtimeRef"]["name"] == "torch-distributed"
    trainer = spec["trainer"]
    (patch,) = spec["runtimePatches"]
    (replicated,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    pod = replicated["template"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert (replicated["name"], container["name"]) == ("node", "node")
    assert not any(variable["name"].startswith("PET_") for variable in trainer["env"])
    counts = {"PET_NNODES": trainer["numNodes"], "PET_NPROC_PER_NODE": trainer["numProcPerNode"]}
    counts |= {"PET_MASTER_ADDR": "127.0.0.1", "PET_MASTER_PORT": 29500}
    env = [*trainer["env"], *({"name": key, "value": str(value)} for key, value in counts.items())]
    env.append({"name": "PET_NODE_RANK"})
    container = {**container, "image": trainer["image"], "command": trainer["command"], "env": env}
    template: Body = {"metadata": {"labels": {"jobset.sigs.k8s.io/jobset-name": name, "job-name": f"{name}-node-0"}}}
    template["spec"] = {**pod, "containers": [container]}
    spec = {"backoffLimit": 0, "completions": trainer["numNodes"], "template": template}
    return {"metadata": job["metadata"], "spec": spec, "status": job["status"]}


def _pods_of_ray_job(job: Body) -> Body:
    """The head of a RayJob as one pod that runs the entrypoint, and prints what the submitter's pod would."""
    spec = job["spec"]
    (submitter,) = spec["submitterPodTemplate"]["spec"]["containers"]
    pod = spec["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    (container,) = pod["containers"]
    command = ["/bin/bash", "-c", spec["entrypoint"]]
    container = {**container, "name": submitter["name"], "command": command}
    template = {"metadata": {}, "spec": {**pod, "containers": [container]}}
    return {"metadata": job["metadata"], "spec": {"backoffLimit": 0, "template": template}, "status": job["status"]}


_PODS_OF = {"jobs": _pods_of_job, "trainjobs": _pods_of_train_job, "rayjobs": _pods_of_ray_job}


def _say(kind: str, body: Body) -> Body:
    """An object as its own controller says how it is."""
    status = body.get("status", {})
    ended = next(iter(status.get("conditions", ())), None)
    if kind == "trainjobs":
        return {**body, "status": {"jobsStatus": [{"name": "node", "ready": status.get("ready", 0)}],
                                   "conditions": [ended] if ended else []}}  # fmt: skip
    if kind == "rayjobs" and ended:
        good = ended["type"] == "Complete"
        found = {"jobDeploymentStatus": ended["type"], "jobStatus": "SUCCEEDED" if good else "FAILED"}
        return {**body, "status": found if good else {**found, "reason": "AppFailed", "message": ended["message"]}}
    if kind == "rayjobs":
        running = {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"}
        return {**body, "status": running if status.get("ready") else {"jobDeploymentStatus": "Initializing"}}
    return body


def _judge(spec: Body, code: int, failed: int, disrupted: bool) -> Body | None:
    """How a Job ends after a pod; None when the pod is made anew."""
    if code == 0:
        return {"type": "Complete"}
    for rule in spec.get("podFailurePolicy", {}).get("rules", ()):
        if disrupted and any(one["type"] == "DisruptionTarget" for one in rule.get("onPodConditions", ())):
            assert rule["action"] == "Ignore"
            return None
        if code in rule.get("onExitCodes", {}).get("values", ()):
            assert rule["action"] == "FailJob"
            message = f"Container luthier failed with exit code {code} matching FailJob rule"
            return {"type": "Failed", "reason": "PodFailurePolicy", "message": message}
    if failed > spec["backoffLimit"]:
        message = "Job has reached the specified backoff limit"
        return {"type": "Failed", "reason": "BackoffLimitExceeded", "message": message}
    return None


def _encode(body: Body) -> None:
    """Turn `stringData` into `data`, as the server does."""
    for name, text in body.pop("stringData", {}).items():
        body.setdefault("data", {})[name] = base64.b64encode(text.encode()).decode()


def _now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


def _status(code: int, reason: str, message: str) -> Body:
    state = "Success" if code < 400 else "Failure"
    return {"kind": "Status", "apiVersion": "v1", "status": state, "reason": reason, "message": message, "code": code}


class _Handler(BaseHTTPRequestHandler):
    api: ClassVar[KubernetesApi]
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        namespace, kind, name, log = self._route()
        with self.api.lock:
            if log:
                path = self.api.folder / f"{name}.log"
                lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
                self._answer(200 if path.exists() else 400, b"".join(lines[-int(self._query()["tailLines"]) :]))
            elif name:
                found = self.api.kept.get((namespace, kind, name))
                missing = _status(404, "NotFound", f'{kind} "{name}" not found')
                self._answer(200 if found else 404, _say(kind, found) if found else missing)
            else:
                label, _, value = self._query()["labelSelector"].partition("=")
                items = [
                    body
                    for (place, sort, _), body in self.api.kept.items()
                    if (place, sort) == (namespace, kind) and body["metadata"]["labels"].get(label) == value
                ]
                self._answer(200, {"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items})

    def do_POST(self) -> None:
        namespace, kind, _, _ = self._route()
        self._answer(*self.api.create(namespace, kind, self._body()))

    def do_PUT(self) -> None:
        namespace, kind, name, _ = self._route()
        self._answer(*self.api.change((namespace, kind, name), self._body(), whole=True))

    def do_PATCH(self) -> None:
        namespace, kind, name, _ = self._route()
        self._answer(*self.api.change((namespace, kind, name), self._body(), whole=False))

    def do_DELETE(self) -> None:
        namespace, kind, name, _ = self._route()
        self._body()
        self._answer(*self.api.delete((namespace, kind, name)))

    def _route(self) -> tuple[str, str, str, str]:
        found = _ROUTE.fullmatch(urlsplit(self.path).path)
        assert found is not None, self.path
        return found[1], found[2], found[3] or "", found[4] or ""

    def _query(self) -> dict[str, str]:
        return {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}

    def _body(self) -> Any:
        return json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"null")

    def _answer(self, code: int, body: Any) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", "text/plain" if isinstance(body, bytes) else "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *words: object) -> None:
        """Nothing."""


@contextmanager
def kubernetes_api(folder: Path) -> Iterator[tuple[KubernetesApi, dict[str, str]]]:
    """The server, and the environment in which clients find it."""
    folder.mkdir(parents=True)
    api = KubernetesApi(folder)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"api": api}))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "clusters": [{"name": "here", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
        "users": [{"name": "me", "user": {"token": "a-token"}}],
        "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me"}}],
    }
    (folder / "config").write_text(yaml.safe_dump(config))
    try:
        yield api, {"KUBECONFIG": str(folder / "config"), "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    finally:
        api.end()
        server.shutdown()
        server.server_close()
        thread.join()
