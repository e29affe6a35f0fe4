"""Images, Compose and the Helm chart, by the parsers of their owners: what they say is safe and complete.

Nothing is built or started here. The Containerfile is read by `dockerfile-parse`, the Compose file by `compose-spec`
(the types of Compose's own JSON schema), the chart is rendered by Helm's own engine (`helm-python-sdk`), and the
manifests are held to Kubernetes' schemas by `kubernetes-validate`.
"""

from __future__ import annotations

import io
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

DEPLOY = Path(__file__).parents[1] / "deploy"
CHART = DEPLOY / "helm" / "luthier"
VERSIONS = ("1.28", "1.31", "1.35")
VALUES: dict[str, dict[str, Any]] = {
    "small": {"database": {"existingSecret": "database"}},
    "whole": {
        "database": {"existingSecret": "database", "storageClass": "fast"},
        "data": {"existingClaim": "recipes"},
        "store": "s3://bucket/prefix",
        "secrets": ["s3-keys", "providers"],
        "imagePullSecrets": [{"name": "registry"}],
        "gateway": {"models": ["support:tune"], "args": ["--no-jobs"], "nodeSelector": {"gpu": "yes"}},
        "jobs": [
            {"name": "key", "args": ["keys", "add", "my-app"]},
            {
                "name": "nightly", "args": ["retrain"], "schedule": "0 3 * * *",
                "resources": {"limits": {"nvidia.com/gpu": 1}}, "tolerations": [{"operator": "Exists"}],
            },
        ],
    },
    "outside": {
        "database": {
            "enabled": False, "externalUrl": "postgresql://luthier@db.example.org/luthier", "existingSecret": "pw",
        },
    },
    "alone": {"database": {"enabled": False}, "networkPolicy": {"enabled": False}},
}  # fmt: skip


def render(values: dict[str, Any]) -> list[dict[str, Any]]:
    """The manifests that Helm makes of the chart."""
    helm = pytest.importorskip("helm_python", reason="Helm's engine is not installed")
    with helm.Chart.load(CHART) as chart:
        found = chart.render(values, name="tuned", namespace="models")
    texts = (text for path, text in found.items() if path.endswith(".yaml"))
    return [manifest for text in texts for manifest in yaml.safe_load_all(text) if manifest]


def pods(manifests: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The pods of all workloads, by name."""
    for manifest in manifests:
        spec = manifest.get("spec", {})
        spec = spec.get("jobTemplate", {}).get("spec", spec)
        if "template" in spec:
            yield manifest["metadata"]["name"], spec["template"]["spec"]


@pytest.mark.parametrize("values", VALUES)
@pytest.mark.parametrize("version", VERSIONS)
def test_manifests_are_what_kubernetes_takes(values: str, version: str) -> None:
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    manifests = render(VALUES[values])
    assert manifests
    for manifest in manifests:
        kubernetes_validate.validate(manifest, version, strict=True)
    names = [(one["kind"], one["metadata"]["name"]) for one in manifests]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("values", VALUES)
def test_pods_run_without_rights_on_a_read_only_root(values: str) -> None:
    found = dict(pods(render(VALUES[values])))
    assert found
    for name, pod in found.items():
        assert pod["automountServiceAccountToken"] is False, name
        security = pod["securityContext"]
        assert security["runAsNonRoot"] is True
        assert security["runAsUser"] > 0
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
            }  # fmt: skip
            mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
            assert "/tmp" in mounted  # a path in a container
            assert {mount["name"] for mount in container["volumeMounts"]} == {one["name"] for one in pod["volumes"]} | (
                {"cluster"} if name.endswith("database") else set()
            )


def test_secrets_are_named_and_never_written() -> None:
    manifests = render(VALUES["whole"])
    assert not [one for one in manifests if one["kind"] == "Secret"]
    for _, pod in pods(manifests):
        for container in pod["containers"]:
            env = {one["name"]: one for one in container["env"]}
            assert env["PGPASSWORD"]["valueFrom"]["secretKeyRef"] == {"name": "database", "key": "password"}
            if container["name"] != "database":
                assert env["LUTHIER_LEDGER"]["value"] == "postgresql://luthier@tuned-database/luthier"
                assert [one["secretRef"]["name"] for one in container["envFrom"]] == ["s3-keys", "providers"]


def test_the_gateway_and_the_database_are_probed() -> None:
    found = dict(pods(render(VALUES["small"])))
    assert set(found) == {"tuned-gateway", "tuned-database"}
    for pod in found.values():
        (container,) = pod["containers"]
        assert {"startupProbe", "livenessProbe", "readinessProbe", "resources"} <= container.keys()
    (gateway,) = found["tuned-gateway"]["containers"]
    assert gateway["readinessProbe"]["httpGet"]["path"] == "/ready"
    assert gateway["args"] == ["serve", "--host", "0.0.0.0", "--port", "8000"]  # behind a Service


def test_only_the_gateway_and_jobs_reach_the_database() -> None:
    policies = {
        one["metadata"]["name"]: one["spec"] for one in render(VALUES["whole"]) if one["kind"] == "NetworkPolicy"
    }
    assert set(policies) == {"tuned-luthier", "tuned-gateway", "tuned-jobs", "tuned-database"}
    (rule,) = policies["tuned-database"]["ingress"]
    (who,) = rule["from"]
    assert who["podSelector"]["matchExpressions"][0]["values"] == ["gateway", "jobs"]
    assert "egress" not in policies["tuned-database"]
    assert "ingress" not in policies["tuned-jobs"]


def test_jobs_run_once_or_on_a_schedule() -> None:
    found = {one["kind"]: one["metadata"]["name"] for one in render(VALUES["whole"]) if "Job" in one["kind"]}
    assert found == {"Job": "tuned-key-1", "CronJob": "tuned-nightly"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "database.existingSecret names a secret with the key password"),
        ({"database": {"existingSecret": "x", "password": "word"}}, "password"),
        ({"database": {"enabled": False, "externalUrl": "postgresql://me:word@host/db"}}, "externalUrl"),
        ({"jobs": [{"name": "No Name", "args": ["run"]}]}, "name"),
    ],
)
def test_wrong_values_are_refused(values: dict[str, Any], message: str) -> None:
    helm = pytest.importorskip("helm_python", reason="Helm's engine is not installed")
    with pytest.raises(helm.HelmError, match=message):
        render(values)


def test_helm_finds_nothing_to_mend() -> None:
    helm = pytest.importorskip("helm_python", reason="Helm's engine is not installed")
    report = helm.lint(CHART, VALUES["whole"], strict=True, kube_version="v1.31.0")
    assert report["errors"] == []
    assert all(message["severity"] < 2 for message in report["messages"])  # 2 is a warning


def interpolated(text: str) -> str:
    """A Compose file as it is with the environment of an operator who sets the password alone."""
    text = text.replace("${LUTHIER_DATABASE_PASSWORD:?write it into .env}", "word")
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)
    assert "${" not in text
    return text


def test_the_compose_file_is_one_and_its_services_are_hardened() -> None:
    compose_spec = pytest.importorskip("compose_spec", reason="Compose's schema is not installed")
    text = interpolated((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
    merged = yaml.safe_dump(yaml.safe_load(text))
    read = compose_spec.PyCompose.from_yaml(merged).to_spec()
    assert set(read.services) == {"gateway", "jobs", "database"}
    for name, service in yaml.safe_load(text)["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["deploy"]["resources"]["limits"]["memory"]
        assert "privileged" not in service
    services = yaml.safe_load(text)["services"]
    assert services["gateway"]["ports"] == ["127.0.0.1:8000:8000"]
    assert services["database"]["networks"] == ["inside"]
    assert "ports" not in services["database"]
    assert services["gateway"]["environment"]["LUTHIER_LEDGER"] == "postgresql://luthier@database/luthier"


def stages() -> dict[str, list[dict[str, Any]]]:
    """The instructions of the Containerfile by stage."""
    dockerfile_parse = pytest.importorskip("dockerfile_parse", reason="the parser of Dockerfiles is not installed")
    parser = dockerfile_parse.DockerfileParser(fileobj=io.BytesIO((DEPLOY / "Containerfile").read_bytes()))
    found: dict[str, list[dict[str, Any]]] = {}
    name = ""
    for step in parser.structure:
        if step["instruction"] == "FROM":
            name = step["value"].split()[-1]
        found.setdefault(name, []).append(step)
    return found


def test_images_are_of_debian_packages_and_wheels_alone() -> None:
    found = stages()
    assert set(found) == {"", "base", "build", "luthier", "database"}
    froms = {name: steps[0]["value"].split()[0] for name, steps in found.items() if name}
    assert froms == {"base": "${DEBIAN}", "build": "base", "luthier": "base", "database": "${DEBIAN}"}
    runs = [step["value"] for steps in found.values() for step in steps if step["instruction"] == "RUN"]
    text = "\n".join(runs)
    assert not re.search(r"curl|wget|git |http|ADD", text)
    assert "ADD" not in {step["instruction"] for steps in found.values() for step in steps}
    (install,) = [run for run in runs if "pip install" in run]
    assert "--only-binary=:all:" in install
    assert "--constraint constraints.txt" in install
    assert "--no-install-recommends" in text


@pytest.mark.parametrize(("stage", "user"), [("luthier", "1000:1000"), ("database", "999:999")])
def test_images_run_without_root(stage: str, user: str) -> None:
    last = {step["instruction"]: step["value"] for step in stages()[stage]}
    assert last["USER"] == user
    assert {"ENTRYPOINT", "HEALTHCHECK", "VOLUME"} <= last.keys()
    assert json.loads(last["VOLUME"])
    assert json.loads(last["ENTRYPOINT"])


def test_what_the_containerfile_copies_is_there() -> None:
    for steps in stages().values():
        for step in steps:
            if step["instruction"] == "COPY" and "--from=" not in step["value"]:
                *sources, _ = [word for word in step["value"].split() if not word.startswith("--")]
                for source in sources:
                    assert (DEPLOY.parent / source).exists(), source
    subprocess.run(["sh", "-n", DEPLOY / "database.sh"], check=True)  # the shell of this machine
