"""The demo: a flash sale with real processes, some of which are killed while it runs.

    python -m participants.demo --orders 2000        (or: tccd demo, make demo)

It starts an embedded PostgreSQL, the three participants and a coordinator with two
workers, places orders from concurrent initiators, kills a worker and a participant
with SIGKILL and has them started again, waits until every transaction has ended,
and lets the audit compare the books. Then everything is taken away again.

- `plan`: what will happen, all of it from one seed; pure.
- `children`, `cluster`: the processes.
- `initiator`: how one order is placed, in each manner.
- `load`: all orders, and the kills between them.
- `summary`: what came of it; pure.
- `display`: what a person sees.
"""
