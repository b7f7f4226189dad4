"""Real processes, real kills: what is promised holds while everything dies that can.

    python -m proof.faults            (or: make faults)

- `failpoints`, `child`: what kills at a failpoint, and the programs of the product with it.
- `plan`: the failpoints of the source (`tcc._internal.failpoint`), who passes them, how; pure.
- `member`, `system`: processes that are started again whenever they end.
- `orders`, `load`, `initiator`: the demo's orders without an end, and who places them.
- `observers`: triggers in the databases that write down what becomes durable.
- `verifier`: after each round: settlement, the audit of the books, the checker of histories.
- `kills`: every failpoint kills, under load.
- `scenarios`: databases that crash, connections that break, processes that are paused,
  slow or restarted, a disk that is full.
"""
