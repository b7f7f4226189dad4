"""When simulations take place."""

# 2030-01-01T00:00:00Z: when every simulation begins, by the database's clock.
EPOCH_S = 1_893_456_000.0
