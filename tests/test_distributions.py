"""The distributions of this repository: one version, complete dependencies, the licence in each."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
# Each distribution with the folder of its pyproject.toml and its package.
DISTRIBUTIONS = {
    "tcc": (".", "tcc"),
    "tcc-coordinator": ("coordinator", "coordinator"),
    "tcc-demo": ("participants", "participants"),
    "tccctl": ("tccctl", "tccctl"),
}
# Modules whose distribution has another name.
_NAMES = {
    "annotated_types": "annotated-types",
    "google.protobuf": "protobuf",
    "google.rpc": "googleapis-common-protos",
    "grpc": "grpcio",
    "grpc_health": "grpcio-health-checking",
    "grpc_reflection": "grpcio-reflection",
    "grpc_status": "grpcio-status",
    "opentelemetry": "opentelemetry-api",
    "opentelemetry.exporter": "opentelemetry-exporter-otlp-proto-grpc",
    "opentelemetry.sdk": "opentelemetry-sdk",
    "prometheus_client": "prometheus-client",
    "pydantic_core": "pydantic",
    "pydantic_settings": "pydantic-settings",
    "yaml": "pyyaml",
}
# Used where the application has it, without an extra: a payload may be a model of pydantic.
_APPLICATION = {"tcc": {"pydantic", "psycopg"}}


def project(distribution: str) -> dict[str, Any]:
    folder, _ = DISTRIBUTIONS[distribution]
    text = (ROOT / folder / "pyproject.toml").read_text()
    return tomllib.loads(text)["project"]


def requirements(distribution: str) -> list[str]:
    """Return all requirements, those of the extras included."""
    metadata = project(distribution)
    extras = metadata.get("optional-dependencies", {}).values()
    return [*metadata["dependencies"], *(line for extra in extras for line in extra)]


def name_of(requirement: str) -> str:
    found = re.match(r"[\w-]+", requirement)
    assert found
    return found.group()


def imported(package: str) -> Iterator[str]:
    """Return the names of the modules that a package imports from elsewhere."""
    for path in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                yield node.module
            elif isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)


def distribution_of(module: str) -> str:
    top, *rest = module.split(".")
    return _NAMES.get(f"{top}.{rest[0]}" if rest else "", _NAMES.get(top, top))


def test_all_distributions_have_one_version() -> None:
    assert {name: project(name)["version"] for name in DISTRIBUTIONS} == dict.fromkeys(
        DISTRIBUTIONS, project("tcc")["version"]
    )


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_a_distribution_takes_the_others_in_its_own_version(distribution: str) -> None:
    version = project(distribution)["version"]
    for requirement in requirements(distribution):
        name = name_of(requirement)
        if name in DISTRIBUTIONS and name != distribution:
            assert requirement.endswith(f"=={version}")


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_every_import_of_a_distribution_is_declared(distribution: str) -> None:
    _, package = DISTRIBUTIONS[distribution]
    outside = {
        module
        for module in imported(package)
        if (top := module.partition(".")[0]) not in sys.stdlib_module_names and top != package
    }
    found = {distribution_of(module) for module in outside}
    assert found - _APPLICATION.get(distribution, set()) <= set(map(name_of, requirements(distribution)))


def test_only_the_coordinators_extra_brings_the_demo() -> None:
    takers = {
        name
        for name in DISTRIBUTIONS
        for requirement in project(name)["dependencies"]
        if name_of(requirement) == "tcc-demo"
    }
    assert takers == set()
    extras = project("tcc-coordinator")["optional-dependencies"]
    assert [name for name, lines in extras.items() if "tcc-demo" in map(name_of, lines)] == ["demo"]


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_links_come_from_one_place_alone(distribution: str) -> None:
    """`.ci/dist` makes them from `.ci/repository-url`. A link that was never set would be published."""
    assert "urls" not in project(distribution)


def test_the_address_of_the_repository_is_missing_or_complete() -> None:
    lines = (ROOT / ".ci" / "repository-url").read_text().splitlines()
    addresses = [line for line in lines if not line.startswith("#")]
    assert addresses == [] or re.fullmatch(r"https://github\.com/[\w-]+/[\w.-]+", *addresses)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_a_distribution_has_the_licence_and_is_marked_as_typed(distribution: str) -> None:
    folder, package = DISTRIBUTIONS[distribution]
    assert (ROOT / folder / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    assert (ROOT / package / "py.typed").exists()


def test_the_generated_code_runs_with_the_oldest_allowed_protobuf_and_grpc() -> None:
    """Generated code refuses a library that is older than its generator. `make protos` uses an old one."""
    code = "".join(path.read_text() for path in sorted((ROOT / "tcc").glob("*/v1/*_pb2*.py")))
    oldest = dict(line.split(">=") for line in project("tcc")["dependencies"])
    generators = {
        "protobuf": set(re.findall(r"# Protobuf Python Version: (\S+)", code)),
        "grpcio": set(re.findall(r"GRPC_GENERATED_VERSION = '(\S+)'", code)),
    }
    for name, versions in generators.items():
        assert versions
        assert max(map(numbers, versions)) <= numbers(oldest[name])


def numbers(version: str) -> list[int]:
    """Return the three numbers of a version, of which the last ones may be left out."""
    found = [int(number) for number in version.split(".")]
    return [*found, 0, 0][:3]
