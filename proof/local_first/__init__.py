"""The kill matrix of local first: an initiator is killed at each step, and comes back, late or never.

    python -m proof.local_first

Real processes, real SIGKILL, one coordinator and one PostgreSQL for all cells, which run
concurrently. It prints the table of what was decided and whether the local row is there.

- `matrix`: the steps, what must come of each, and the table; pure.
- `initiator`: the processes that are killed.
"""
