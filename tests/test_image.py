"""The container image has the coordinator and the operators' command, from the tree that it copies."""

import json
import shlex
import tomllib
from pathlib import Path

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
    (install,) = [words for words in instructions("RUN") if words[:2] == ["pip", "install"]]
    install = install[: install.index("&&")]
    constraints = install[install.index("-c") + 1]
    return [
        ROOT / word.partition("[")[0]
        for word in install[2:]
        if not word.startswith("-") and word != constraints
    ]


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
