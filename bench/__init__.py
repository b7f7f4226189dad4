"""How fast it is, measured honestly.

    python -m bench coordinator --json
    python -m bench all --save docs/bench
    python -m bench plot docs/bench

Everything is real: PostgreSQL with fsync on, the coordinator as `tccd serve`,
participants and initiators in processes of their own, gRPC between them. This
process only starts them, reads the counters and sleeps.

- A *configuration* is one way of offering load, for example 256 initiators that
  share batches. Load is a closed loop: each initiator asks again as soon as it
  is answered.
- Each configuration is warmed up and then measured in several *rounds*; what is
  printed is the median of the rounds and how far they spread.
- The *baseline* does the least that any correct implementation must do (`baseline`,
  `floor_participant`). Its rounds alternate with those of the real thing, so that
  both see the same machine.

`all` runs every scenario (`suite`) and says how the targets fared (`targets`); with
`--save DIR` the figures are kept (`results`), drawn (`plots`) and told (`page`).

`scenarios` has one file for each scenario, and a scenario decides what is
compared with what. Numbers of different machines, or of different runs, are not
comparable; ratios to the baseline of the same run are.
"""
