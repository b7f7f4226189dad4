"""Keeping a history: in a list, or in files that many processes append to."""

import os
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from proof.history.events import AnyEvent, History, decode, encode


class Recorder(Protocol):
    """Where observers put what they see."""

    def record(self, event: AnyEvent) -> None: ...


class ListRecorder:
    """A history in memory. The order of recording is the order of events."""

    def __init__(self) -> None:
        self.history: History = []

    def record(self, event: AnyEvent) -> None:
        self.history.append(event)


class FileRecorder:
    """Appends to a file, one write a line, so that what was recorded survives a SIGKILL.

    Several processes may share a file; the kernel keeps their lines apart.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def record(self, event: AnyEvent) -> None:
        line = encode(event)
        written = os.write(self._file, line)
        if written != len(line):
            raise OSError(f"only {written} of {len(line)} bytes could be recorded")

    def close(self) -> None:
        os.close(self._file)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read(paths: Iterable[Path]) -> History:
    """The history in these files, in order of time; equal times keep the order of files and lines.

    A last line without its end is what a killed process did not get to say; it is left out.

    Raises:
        msgspec.DecodeError: some other line is no event.
    """
    history = [decode(line) for path in paths for line in path.read_bytes().split(b"\n")[:-1]]
    return sorted(history, key=lambda event: event.at)


def write(path: Path, history: Iterable[AnyEvent]) -> None:
    """Write a whole history, for example of a failed run."""
    path.write_bytes(b"".join(map(encode, history)))
