"""The container image has the coordinator and the operators' command, from the tree that it copies."""

import re
import tomllib
from pathlib import Path

import pytest

from tests.support.dockerfile import command, instructions, only, stages

ROOT = Path(__file__).parents[1]
DOCKERFILE = ROOT / "deploy" / "Dockerfile"
BASE, BUILD, FINAL = stages(DOCKERFILE)


def copied() -> set[Path]:
    copies = [one.words for one in instructions(DOCKERFILE) if one.name == "COPY"]
    return {ROOT / source for *sources, _ in copies for source in sources if not sources[0].startswith("--")}


def installs() -> list[list[str]]:
    """Return the arguments of each `pip install`."""
    runs = [one.words for one in BUILD if one.name == "RUN" and "install" in one.words]
    return [words[words.index("install") + 1 :] for words in runs]


def installed() -> list[Path]:
    """Return the directories that pip installs."""
    *_, from_tree = installs()
    return [ROOT / word.partition("[")[0] for word in from_tree if not word.startswith("-")]


def scripts(directory: Path) -> set[str]:
    return set(tomllib.loads((directory / "pyproject.toml").read_text())["project"].get("scripts", {}))


def test_the_image_contains_tccd_and_tccctl() -> None:
    found = {script for directory in installed() for script in scripts(directory)}
    assert {"tccd", "tccctl"} <= found
    assert command(FINAL, "ENTRYPOINT") == ["tccd"]


def test_the_image_runs_as_a_user_of_its_own_and_ends_with_a_drain() -> None:
    """As a number: Kubernetes cannot know whether a name is that of root."""
    assert int(only(FINAL, "USER").text) > 0
    assert only(FINAL, "STOPSIGNAL").text == "SIGTERM"


def test_the_image_has_nothing_that_builds_but_the_result() -> None:
    """The last stage begins with the base image again."""
    assert [only(stage, "FROM").text.partition(" AS ")[::2] for stage in (BUILD, FINAL)] == [
        ("base", "build"),
        ("base", ""),
    ]
    assert [one.words for one in FINAL if one.name == "COPY"] == [
        ["--from=build", "/opt/tcc", "/opt/tcc"],
        ["deploy/tcc.toml", "/etc/tcc/tcc.toml"],
    ]


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
    base, _, name = only(BASE, "FROM").text.partition(" AS ")
    assert (base_problem(base, version), name) == ("", "base")


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
    from_index, from_tree = installs()
    assert {"--require-hashes", "-r", "requirements.lock"} <= set(from_index)
    assert {"--no-deps", "--no-build-isolation"} <= set(from_tree)


@pytest.mark.parametrize("name", ["requirements.lock", "requirements.lowest", "deploy/requirements.lock"])
def test_every_pinned_package_has_a_hash(name: str) -> None:
    lines = [line for line in (ROOT / name).read_text().splitlines() if not line.lstrip().startswith("#")]
    packages = [number for number, line in enumerate(lines) if re.match(r"[a-z].*==", line)]
    assert len(packages) > 40
    assert all(lines[number + 1].startswith("    --hash=sha256:") for number in packages)
