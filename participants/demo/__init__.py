"""The demo: a flash sale with real processes, some of which are killed while it runs.

    python -m participants.demo --orders 2000        (or: tccd demo, make demo)

It starts an embedded PostgreSQL, the five participants, a coordinator with two workers,
and two checkouts: processes of the order service that place orders, some of which they
commit locally first. It kills a worker, a checkout and a participant with SIGKILL and
waits for their restart, waits until every transaction has ended, and runs the audit.
Then it removes everything.

With `--redis` there are also Redis, the participant `events` and the service `shipping`: the
inventory has its stock gate in Redis, each confirmed order is an event, Redis and shipping are
killed, too, and the audit finds one shipment for each confirmed order.

- `plan`: the orders and the kills, derived from one seed; pure.
- `cluster`: the processes.
- `initiator`: one order, with each fault of an initiator; `checkout`: the process that places it.
- `load`: all orders, and the kills between them.
- `summary`: the result; pure.
- `display`: the output for people.
"""
