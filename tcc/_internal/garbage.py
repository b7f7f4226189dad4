"""Garbage collection for a process that serves thousands of calls."""

import gc


def relax_garbage_collection() -> None:
    """Collect cycles less often, because reference counting frees a server's requests.

    Objects that are alive now (mostly modules) are exempt from later collections.
    Call this once, when the process is ready to serve.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
