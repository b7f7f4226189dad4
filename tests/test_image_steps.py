"""The steps of deploy/Dockerfile, each stage in a root of its own: there is no Docker here.

What differs from Docker: this machine's Python and its /usr are the base image, and uv, which has a cache,
installs what pip would.
"""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.dockerfile import Instruction, command, only, stages
from tests.support.processes import TIMEOUT_S

ROOT = Path(__file__).parents[1]
_, BUILD, FINAL = stages(ROOT / "deploy" / "Dockerfile")
UV = Path(sys.executable).with_name("uv")
PYTHON = sys.base_prefix
ENVIRONMENT = {"PATH": f"/opt/tcc/bin:{PYTHON}/bin:/usr/sbin:/usr/bin", "LANG": "C.UTF-8"}
TOOLS = ("unshare", "nsenter", "setpriv", "ip", "useradd")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        os.geteuid() != 0 or not all(map(shutil.which, TOOLS)), reason=f"it takes root and {TOOLS}"
    ),
]


class Image:
    """A directory that is the root of processes. What is mounted in it, only they see."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._mounts = ["mount --make-rprivate /", f"mount --bind {root} {root}"]
        for name in ("bin", "sbin", "lib", "lib64"):
            (root / name).symlink_to(f"usr/{name}")
        for name in ("usr", "proc", "dev"):
            self.bind(Path("/", name), f"/{name}")
        self.bind(Path(PYTHON), PYTHON)
        self._writable: list[str] = []

    def path(self, inside: str) -> Path:
        return self._root / inside.lstrip("/")

    def bind(self, source: Path, target: str) -> None:
        self.path(target).mkdir(parents=True, exist_ok=True)
        self._mounts.append(f"mount --rbind {source} {self.path(target)}")

    def protect(self, *writable: str) -> None:
        """Make everything read-only, as `docker run --read-only` does, but for these directories."""
        for mounted in ("", "/usr", "/opt/tcc", PYTHON):
            self._mounts.append(f"mount -o remount,bind,ro {self.path(mounted)}")
        for directory in writable:
            owner = self.path(directory).stat()
            options = f"mode={owner.st_mode & 0o7777:o},uid={owner.st_uid},gid={owner.st_gid}"
            self._mounts.append(f"mount -t tmpfs -o {options} tmpfs {self.path(directory)}")

    def run(self, words: list[str], directory: str = "/") -> None:
        """Run a command as root."""
        inside = ["sh", "-ec", f"cd {directory}; exec {shlex.join(words)}"]
        script = "\n".join([*self._mounts, f"exec chroot {self._root} {shlex.join(inside)}"])
        environment = ENVIRONMENT | {
            name: value for name, value in os.environ.items() if name.startswith(("SSL_", "UV_"))
        }
        subprocess.run(
            ["unshare", "--mount", "sh", "-ec", script], check=True, env=environment, timeout=TIMEOUT_S
        )

    def start(self, words: list[str], user: str) -> subprocess.Popen[str]:
        """Start a command as this user, without capabilities, on a network of its own."""
        inside = f"exec chroot {self._root} {shlex.join(as_user(user, words))}"
        script = "\n".join(["ip link set lo up", *self._mounts, inside])
        return subprocess.Popen(
            ["unshare", "--mount", "--net", "sh", "-ec", script],
            env=ENVIRONMENT | {"HOME": "/var/lib/tcc"},
            stdout=subprocess.PIPE,
            text=True,
        )


def as_user(user: str, words: list[str]) -> list[str]:
    limits = ("--clear-groups", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all")
    return ["setpriv", f"--reuid={user}", f"--regid={user}", *limits, *words]


def copy(instruction: Instruction, directory: Path) -> None:
    """Carry out a COPY from the tree."""
    *sources, target = instruction.words
    to = directory / target.lstrip("/")
    to.parent.mkdir(parents=True, exist_ok=True)
    for path in (ROOT / source for source in sources):
        if path.is_dir():
            shutil.copytree(path, to, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            shutil.copy(path, to)


def with_uv(words: list[str]) -> list[str]:
    """Return a command with uv in place of pip."""
    if words[0] != "pip":
        return words
    _, option, python, action, *rest = words
    options = [word for word in rest if word not in {"--no-cache-dir", "--yes"}]
    return [str(UV), "pip", action, "--quiet", option, python, *options]


def built(directory: Path) -> Path:
    """Carry out the first stage, and return what the second one copies."""
    directory.mkdir()
    image = Image(directory)
    for path in (Path("/etc"), Path.home(), UV.parent):
        image.bind(path, str(path))
    image.path("/tmp").mkdir(exist_ok=True)
    workdir = only(BUILD, "WORKDIR").text
    image.path(workdir).mkdir()
    for instruction in BUILD:
        if instruction.name == "COPY":
            copy(instruction, image.path(workdir))
        elif instruction.name == "RUN":
            image.run(with_uv(instruction.words), workdir)
    return image.path("/opt/tcc")


def final(directory: Path, copied: Path) -> Image:
    """Carry out the second stage."""
    directory.mkdir()
    image = Image(directory)
    image.bind(copied, "/opt/tcc")
    for name in ("etc", "tmp", "var/lib"):
        image.path(name).mkdir(parents=True)
    image.path("/tmp").chmod(0o1777)
    image.path("/etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    image.path("/etc/group").write_text("root:x:0:\n")
    shutil.copy("/etc/login.defs", image.path("/etc"))
    for instruction in FINAL:
        if instruction.name == "COPY" and not instruction.text.startswith("--from"):
            copy(instruction, directory)
        elif instruction.name == "RUN":
            image.run(instruction.words)
    return image


def test_a_container_serves_is_healthy_and_drains(tmp_path: Path) -> None:
    """With its default command, so the embedded PostgreSQL, and a root that is read-only."""
    image = final(tmp_path / "final", built(tmp_path / "build"))
    image.protect("/tmp", only(FINAL, "VOLUME").text)
    user = only(FINAL, "USER").text
    container = image.start([*command(FINAL, "ENTRYPOINT"), *command(FINAL, "CMD")], user)
    try:
        assert container.stdout is not None
        assert any("listening on 127.0.0.1:50050" in line for line in container.stdout)
        inside = ["nsenter", f"--target={container.pid}", "--mount", "--net", "--root", "--wd"]
        for check in (command(FINAL, "HEALTHCHECK"), ["tccctl", "coordinator", "list"]):
            subprocess.run(
                [*inside, *as_user(user, check)],
                check=True,
                env=ENVIRONMENT | {"HOME": "/var/lib/tcc"},
                capture_output=True,
                timeout=TIMEOUT_S,
            )
        written = subprocess.run(
            [*inside, "touch", "/opt/tcc/x"], capture_output=True, text=True, check=False
        )
        assert "Read-only file system" in written.stderr
    finally:
        container.terminate()
        status = container.wait(TIMEOUT_S)
    assert status == 0
