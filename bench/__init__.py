"""The benchmark.

    python -m bench coordinator --json
    python -m bench all --save docs/bench
    python -m bench plot docs/bench

Everything is real: PostgreSQL with fsync on, the coordinator as `tccd serve`, participants and
initiators in separate processes, gRPC between them. This process only starts them, reads the
counters and sleeps.

- A *configuration* is one way of offering load, for example 256 transactions in flight in
  batches. Load is a closed loop: each answer is followed by the next request.
- Each configuration is warmed up and then measured in several *rounds*. The printed figures are
  the median of the rounds and their range.
- The *baseline* (`baseline`) does the least that any correct coordinator must do. Its rounds
  alternate with those of the coordinator, so that both see the same machine.

With `--save DIR` the figures are kept (`results`), drawn (`plots`) and listed (`page`).

`scenarios` has one file for each scenario, which decides what is compared with what. Compare ratios
to the baseline of the same run, not figures of different machines or runs.
"""
