"""deploy/helm/tcc: what it renders is valid, and all that it configures exists. No cluster runs it here.

Where `helm` is on the PATH, it renders the chart again; elsewhere the tests read what it rendered before
(CONTRIBUTING.md says where to get it, and how to render).
"""

import hashlib
import json
import math
import re
import shutil
import subprocess
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from coordinator.config.configuration import read
from coordinator.config.settings import Settings
from coordinator.config.variables import unknown_variables, variables
from coordinator.observability.metrics import GAUGES
from coordinator.process.worker import STOP_GRACE_S
from tests.support.golden import GoldenFiles
from tests.support.identities import SERVER_NAME, Authority
from tests.support.tls_site import Site

ROOT = Path(__file__).parents[1]
CHART = ROOT / "deploy" / "helm" / "tcc"
RENDERED = Path(__file__).parent / "golden" / "helm"
SETS = sorted(path.stem.removesuffix("-values") for path in (CHART / "ci").iterdir())
KUBERNETES = "1.34"
# The oldest that Chart.yaml allows, and the newest that can be checked.
OLDEST, NEWEST = "1.30", kubernetes_validate.latest_version()
# Not of Kubernetes itself.
FOREIGN = {"ServiceMonitor"}
HELM = shutil.which("helm")

needs_helm = pytest.mark.skipif(HELM is None, reason="helm is not on the PATH")


def helm(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    assert HELM is not None
    return subprocess.run([HELM, *arguments], capture_output=True, text=True, check=False)


def chart_digest() -> str:
    """Return the SHA-256 of all files of the chart."""
    digest = hashlib.sha256()
    for path in sorted(path for path in CHART.rglob("*") if path.is_file()):
        digest.update(str(path.relative_to(CHART)).encode() + path.read_bytes())
    return digest.hexdigest()


@cache
def rendered(name: str) -> dict[tuple[str, str], dict[str, Any]]:
    """Return what the chart made of a set of values, by kind and name."""
    documents = yaml.safe_load_all((RENDERED / f"{name}.yaml").read_text())
    return {(document["kind"], document["metadata"]["name"]): document for document in documents}


def pod(name: str, kind: str = "Deployment") -> dict[str, Any]:
    [document] = [document for (its, _), document in rendered(name).items() if its == kind]
    spec: dict[str, Any] = document["spec"]["template"]["spec"]
    return spec


def container(name: str, kind: str = "Deployment") -> dict[str, Any]:
    [only] = pod(name, kind)["containers"]
    assert isinstance(only, dict)
    return only


def environment(name: str, kind: str = "Deployment") -> dict[str, str]:
    """Return the variables; one from a Secret is a URL of the log, or its other servers."""
    url = "postgresql://tccd:secret@db:5432/tcc"
    servers = json.dumps([{"url": "postgresql://tccd:secret@db2:5432/tcc", "cells": "2-3"}])
    return {
        one["name"]: one.get("value", servers if one["name"] == "TCC_LOG__SERVERS" else url)
        for one in container(name, kind)["env"]
    }


def ports(name: str) -> dict[str, int]:
    return {one["name"]: one["containerPort"] for one in container(name)["ports"]}


@needs_helm
@pytest.mark.parametrize("name", SETS)
def test_helm_renders_what_is_kept(name: str, golden: GoldenFiles) -> None:
    values = CHART / "ci" / f"{name}-values.yaml"
    linted = helm("lint", "--strict", CHART, "--values", values)
    assert linted.returncode == 0, linted.stdout
    made = helm(
        *("template", "tcc", CHART, "--namespace", "shop"),
        *("--kube-version", KUBERNETES, "--values", values),
    )
    assert made.returncode == 0, made.stderr
    golden.check(RENDERED / f"{name}.yaml", f"# The chart's SHA-256: {chart_digest()}\n{made.stdout}")


@needs_helm
@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ("", "/log/secretName"),
        ("log.secretName=tcc-log", "/tls/secretName"),
        ("log.secretName=tcc-log,insecure=true,replica=3", "'replica' not allowed"),
        ("log.secretName=tcc-log,insecure=true,image.digest=sha256:1", "/image/digest"),
        ("log.secretName=tcc-log,insecure=true,tls.secretName=tls", "exclude each other"),
        ("log.secretName=tcc-log,insecure=true,podDisruptionBudget.maxUnavailable=0", "/maxUnavailable"),
        ("log.secretName=tcc-log,insecure=true,podDisruptionBudget.maxUnavailable=0%", "/maxUnavailable"),
        (
            "log.secretName=tcc-log,insecure=true,autoscaling.enabled=true,autoscaling.minReplicas=9",
            "more than autoscaling.maxReplicas",
        ),
    ],
)
def test_helm_refuses_values_that_cannot_work(values: str, problem: str) -> None:
    made = helm("template", "tcc", CHART, "--kube-version", KUBERNETES, "--set", values)
    assert made.returncode != 0
    assert problem in made.stderr


@pytest.mark.parametrize("name", SETS)
def test_what_is_kept_is_of_the_present_chart(name: str) -> None:
    first, _, _ = (RENDERED / f"{name}.yaml").read_text().partition("\n")
    assert first == f"# The chart's SHA-256: {chart_digest()}", "render it again: CONTRIBUTING.md"


@pytest.mark.parametrize("name", SETS)
def test_the_values_fit_their_schema(name: str) -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())
    assert schema["properties"].keys() - {"global"} == defaults.keys()
    changes = yaml.safe_load((CHART / "ci" / f"{name}-values.yaml").read_text())
    jsonschema.validate(defaults | changes | {"log": defaults["log"] | changes["log"]}, schema)


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("full", NEWEST),
        *(pytest.param(name, OLDEST, marks=pytest.mark.slow) for name in SETS),
        pytest.param("least", NEWEST, marks=pytest.mark.slow),
    ],
)
def test_kubernetes_accepts_what_is_rendered(name: str, version: str) -> None:
    for (kind, _), document in rendered(name).items():
        if kind not in FOREIGN:
            kubernetes_validate.validate(document, version, strict=True)


def test_everything_optional_is_rendered_or_absent() -> None:
    optional = {"Job", "HorizontalPodAutoscaler", "NetworkPolicy", "ServiceMonitor"}
    always = {"ConfigMap", "Deployment", "PodDisruptionBudget", "Service", "ServiceAccount"}
    assert {kind for kind, _ in rendered("least")} == always
    assert {kind for kind, _ in rendered("full")} == always | optional


def test_the_chart_has_the_version_of_the_project() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert (chart["appVersion"], chart["version"]) == (version, version.replace(".dev", "-dev."))


@pytest.mark.parametrize(("name", "kind"), [*((name, "Deployment") for name in SETS), ("full", "Job")])
def test_every_variable_is_a_setting(name: str, kind: str) -> None:
    set_here = environment(name, kind)
    assert set_here.keys() <= set(variables(Settings))
    assert list(unknown_variables(Settings, set_here)) == []


@pytest.mark.parametrize("name", SETS)
def test_a_coordinator_starts_with_the_configuration(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounted = {one["mountPath"]: one["name"] for one in container(name)["volumeMounts"]}
    assert set(mounted.values()) == {one["name"] for one in pod(name)["volumes"]}
    for directory in mounted:
        (tmp_path / directory.lstrip("/")).mkdir(parents=True, exist_ok=True)
    if "/etc/tcc/tls" in mounted:
        authority = Authority()
        Site(tmp_path / "etc/tcc/tls", authority, authority.issue(SERVER_NAME, client=None))
    for directory in (tmp_path / "etc/tcc/secrets").glob("*"):
        (directory / "inventory").write_text("a token")
    for variable, value in environment(name).items():
        monkeypatch.setenv(variable, value.replace("/etc/tcc/", f"{tmp_path}/etc/tcc/"))
    text = rendered(name)["ConfigMap", "tcc"]["data"]["tcc.toml"]
    *_, path = container(name)["args"]
    file = tmp_path / path.lstrip("/")
    file.write_text(text.replace("/etc/tcc/", f"{tmp_path}/etc/tcc/"))
    settings = read(file).settings
    listeners = {
        "grpc": settings.listen.address,
        "admin": settings.admin_address(),
        "metrics": settings.metrics_address(),
    }
    assert {port: f"0.0.0.0:{number}" for port, number in ports(name).items()} == listeners
    assert settings.workers == 1
    assert settings.log.cells == (4 if name == "full" else 1)
    assert [server.cells for server in settings.log.servers] == (["2-3"] if name == "full" else [])
    assert (settings.listen.tls is None) == settings.insecure == (name == "least")


@pytest.mark.parametrize("name", SETS)
def test_a_pod_ends_after_the_drain(name: str) -> None:
    paused = container(name)["lifecycle"]["preStop"]["sleep"]["seconds"]
    drained = math.ceil(float(environment(name)["TCC_DRAIN_S"]))
    # The operators' server and the export of traces follow the drain.
    assert pod(name)["terminationGracePeriodSeconds"] >= paused + drained + 2 * STOP_GRACE_S


@pytest.mark.parametrize("name", SETS)
def test_the_services_lead_to_the_listeners(name: str) -> None:
    labels = rendered(name)["Deployment", "tcc"]["spec"]["template"]["metadata"]["labels"]
    services = [document["spec"] for (kind, _), document in rendered(name).items() if kind == "Service"]
    assert len(services) == 3
    for service in services:
        assert service["selector"].items() <= labels.items()
        assert all(ports(name)[one["targetPort"]] == one["port"] for one in service["ports"])
    probes = [
        container(name)[f"{kind}Probe"]["httpGet"]["port"] for kind in ("startup", "readiness", "liveness")
    ]
    assert probes == ["metrics"] * 3


def test_only_the_named_peers_reach_a_listener() -> None:
    policy = rendered("full")["NetworkPolicy", "tcc"]["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    allowed = {port["port"] for rule in policy["ingress"] for port in rule["ports"]}
    assert allowed == set(ports("full").values())
    # A rule without peers would be for everyone.
    assert all(rule["from"] for rule in policy["ingress"])
    # The coordinators, and not the migration.
    selected = policy["podSelector"]["matchLabels"].items()
    for kind, name, is_selected in (("Deployment", "tcc", True), ("Job", "tcc-migrate", False)):
        labels = rendered("full")[kind, name]["spec"]["template"]["metadata"]["labels"]
        assert (selected <= labels.items()) is is_selected


def test_the_autoscaler_and_prometheus_use_metrics_that_exist() -> None:
    metrics = rendered("full")["HorizontalPodAutoscaler", "tcc"]["spec"]["metrics"]
    assert [one["type"] for one in metrics] == ["Resource", "Pods"]
    assert metrics[1]["pods"]["metric"]["name"] in {spec.name for spec in GAUGES}
    monitor = rendered("full")["ServiceMonitor", "tcc"]["spec"]
    [endpoint] = monitor["endpoints"]
    scraped = [
        [port["name"] for port in document["spec"]["ports"]]
        for (kind, _), document in rendered("full").items()
        if kind == "Service"
        and monitor["selector"]["matchLabels"].items() <= document["metadata"]["labels"].items()
    ]
    assert scraped == [["grpc", endpoint["port"]]]


@pytest.mark.parametrize(("name", "kind"), [*((name, "Deployment") for name in SETS), ("full", "Job")])
def test_a_container_may_do_no_more_than_it_needs(name: str, kind: str) -> None:
    """As the image and `restricted` of the Pod Security Standards demand."""
    security = pod(name, kind)["securityContext"]
    user = re.search(r"^USER (\d+)$", (ROOT / "deploy" / "Dockerfile").read_text(), re.MULTILINE)
    assert user
    assert (security["runAsNonRoot"], security["runAsUser"]) == (True, int(user[1]))
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container(name, kind)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod(name, kind)["automountServiceAccountToken"] is False


def test_the_migration_reads_the_configuration_of_the_coordinators() -> None:
    """The number of the log's cells is fixed by whichever process makes the log."""
    coordinator, migration = container("full"), container("full", "Job")
    assert migration["args"] == ["migrate", *coordinator["args"][1:]]
    assert migration["volumeMounts"] == coordinator["volumeMounts"]
    owner = [one for one in migration["env"] if one["name"] == "TCC_LOG__OWNER_URL"]
    assert migration["env"] == [*coordinator["env"], *owner]
    ours, theirs = (
        {one["name"]: one for one in pod("full", kind)["volumes"]} for kind in ("Deployment", "Job")
    )
    # The coordinators' own is made, or changed, after the migration.
    assert theirs.pop("config") == {"name": "config", "configMap": {"name": "tcc-migrate"}}
    assert ours.pop("config") == {"name": "config", "configMap": {"name": "tcc"}}
    assert theirs == ours
    before, after = (rendered("full")["ConfigMap", name] for name in ("tcc-migrate", "tcc"))
    assert before["data"] == after["data"]
    hooks, weights = zip(
        *(
            (each["helm.sh/hook"], int(each.get("helm.sh/hook-weight", "0")))
            for each in (
                before["metadata"]["annotations"],
                rendered("full")["Job", "tcc-migrate"]["metadata"]["annotations"],
            )
        ),
        strict=True,
    )
    assert hooks[0] == hooks[1]
    assert weights[0] < weights[1]


def test_only_the_migration_gets_the_owner_of_the_log() -> None:
    job = rendered("full")["Job", "tcc-migrate"]
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
    assert "TCC_LOG__OWNER_URL" in environment("full", "Job")
    assert "TCC_LOG__OWNER_URL" not in environment("full")


def test_a_roll_keeps_every_coordinator_until_its_successor_is_ready() -> None:
    for name in SETS:
        strategy = rendered(name)["Deployment", "tcc"]["spec"]["strategy"]
        assert strategy == {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
