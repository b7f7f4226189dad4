"""Seeded simulation: a whole cluster in one process, under a clock, a network and faults made from one seed.

What runs is the product itself, put together as it is in life: `coordinator.process.worker.Worker`
with its engine, log code, gRPC services and recovery jobs; `tcc.Participant` with its
barrier and handlers; `tcc.Client`. What is simulated is the world below them, at the
points where they leave Python (`seams`):

| in life | here |
|---|---|
| event loop, clocks | `virtual_loop`: time jumps to the next timer; processes freeze and die at any step |
| randomness | one generator, from the seed |
| gRPC's channels and servers | `network`: messages are lost, doubled, late, cut off; streams break, stall |
| psycopg and the log's PostgreSQL | `log_database`: its statements; a test holds it to the real one |
| a participant's database | `participant_database`: real SQLite in memory with the SDK's own statements |
| APScheduler | `jobs`: one loop a job |
"""
