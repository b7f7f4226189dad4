"""Named points before and after every durable step: a write, a send, a local commit, a reply.

Nothing happens at a failpoint. The suite of faults starts the product with a hook that ends
the process at one of them. A failpoint costs one look at an empty list; it is placed once a
batch, never once a transaction.
"""

from collections.abc import Callable

hooks: list[Callable[[str], None]] = []


def failpoint(name: str) -> None:
    """Call the hooks. There are none but in a test."""
    for hook in hooks:
        hook(name)
