"""Named points before and after every durable step: a write, a send, a local commit, a reply.

A failpoint does nothing in a normal run. The fault tests start the processes with a hook
that ends the process at one of them. A failpoint costs one check of an empty list. It is
passed once per batch, never once per transaction.
"""

from collections.abc import Callable

hooks: list[Callable[[str], None]] = []


def failpoint(name: str) -> None:
    """Call the hooks. Only tests install any."""
    for hook in hooks:
        hook(name)
