"""The named locks beside locks in Redis: speed under one load, and a holder that is paused.

    python -m proof.locks [--seconds 10] [--rounds 3] [--workers 100] [--json]

It needs `redis-server` on the PATH and the package `redis`. docs/LOCKS.md has its figures.
"""
