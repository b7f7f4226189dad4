"""Garbage collection in a process that serves calls by the thousand."""

import gc


def relax_garbage_collection() -> None:
    """Collect cycles less often: what flows through a server is freed by reference counts.

    What is alive now (modules, mostly) stays for good and is not looked at again.
    To be called once, by the program, when it is ready to serve.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
