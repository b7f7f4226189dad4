"""A history as people read it."""

from collections.abc import Container, Iterator, Sequence

import msgspec

from proof.history.events import AnyEvent, Fault, Settled, StockTotals


def story(history: Sequence[AnyEvent], gids: Container[str] | None = None) -> Iterator[str]:
    """A line for each event: its position, its time, what it is. Of other `gids` than these, nothing.

    Events of no transaction are always included.
    """
    for i, event in enumerate(history):
        if isinstance(event, Fault | Settled | StockTotals) or gids is None or event.gid in gids:
            yield f"{i:6} {event.at:14.6f} {_line(event)}"


def _line(event: AnyEvent) -> str:
    fields = msgspec.to_builtins(event)
    name, _ = fields.pop("event"), fields.pop("at")
    return " ".join([f"{name:10}", *(f"{key}={value}" for key, value in fields.items())])
