"""The container image has the coordinator and the operators' command, from the tree that it copies."""

import json
import re
import shlex
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text().replace("\\\n", " ")


def instructions(name: str) -> list[list[str]]:
    """Return the words of each instruction of this name."""
    lines = [line.partition(" ") for line in DOCKERFILE.splitlines()]
    return [shlex.split(rest) for word, _, rest in lines if word == name]


def copied() -> set[Path]:
    return {(ROOT / source) for *sources, _ in instructions("COPY") for source in sources}


def installed() -> list[Path]:
    """Return the directories that pip installs."""
    _, install = [words for words in instructions("RUN") if words[:2] == ["pip", "install"]]
    install = install[: install.index("&&")]
    return [ROOT / word.partition("[")[0] for word in install[2:] if not word.startswith("-")]


def scripts(directory: Path) -> set[str]:
    return set(tomllib.loads((directory / "pyproject.toml").read_text())["project"].get("scripts", {}))


def test_the_image_contains_tccd_and_tccctl() -> None:
    found = {script for directory in installed() for script in scripts(directory)}
    assert {"tccd", "tccctl"} <= found
    (entry_point,) = [
        json.loads(line.removeprefix("ENTRYPOINT "))
        for line in DOCKERFILE.splitlines()
        if line.startswith("ENTRYPOINT")
    ]
    assert entry_point == ["tccd"]


def test_everything_that_is_copied_and_installed_exists() -> None:
    assert all(source.exists() for source in copied())
    for directory in installed():
        assert directory in copied() or (directory / "pyproject.toml") in copied()


def test_the_builder_gets_what_is_copied_and_nothing_else() -> None:
    rules = (ROOT / ".dockerignore").read_text().splitlines()[1:]
    assert rules[0] == "*"
    assert {ROOT / rule[1:] for rule in rules if rule.startswith("!")} == copied()
    assert {"**/__pycache__", "**/*.egg-info"} <= set(rules)


def base_problem(base: str, version: str) -> str:
    """Return what is wrong with a base image, for this version of ours."""
    name, _, digest = base.partition("@")
    if not name.startswith("python:"):
        return "the base is another image"
    if not digest:
        return "" if ".dev" in version else "a release needs the digest of its base image"
    return "" if re.fullmatch(r"sha256:[0-9a-f]{64}", digest) else "the digest is malformed"


def test_the_base_image_of_a_release_is_pinned_by_its_digest() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    ((base,),) = instructions("FROM")
    assert base_problem(base, version) == ""


@pytest.mark.parametrize(
    ("base", "version", "problem"),
    [
        ("python:3.11-slim", "0.2.0.dev0", ""),
        ("python:3.11-slim", "0.2.0", "a release needs the digest of its base image"),
        (f"python:3.11-slim@sha256:{'a' * 64}", "0.2.0", ""),
        ("python:3.11-slim@sha256:abc", "0.2.0.dev0", "the digest is malformed"),
        ("alpine:3", "0.2.0.dev0", "the base is another image"),
    ],
)
def test_an_unpinned_base_image_is_found(base: str, version: str, problem: str) -> None:
    assert base_problem(base, version) == problem


def test_pip_takes_only_what_has_a_known_hash() -> None:
    """The first call installs all from the index; the second builds ours from the tree, with nothing else."""
    from_index, from_tree = [words for words in instructions("RUN") if words[:2] == ["pip", "install"]]
    assert {"--require-hashes", "-r", "requirements.lock"} <= set(from_index)
    assert {"--no-deps", "--no-build-isolation"} <= set(from_tree)


@pytest.mark.parametrize("name", ["requirements.lock", "requirements.lowest", "deploy/requirements.lock"])
def test_every_pinned_package_has_a_hash(name: str) -> None:
    lines = [line for line in (ROOT / name).read_text().splitlines() if not line.lstrip().startswith("#")]
    packages = [number for number, line in enumerate(lines) if re.match(r"[a-z].*==", line)]
    assert len(packages) > 40
    assert all(lines[number + 1].startswith("    --hash=sha256:") for number in packages)
