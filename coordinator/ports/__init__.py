"""The ports of the coordinator: the log, the participants, the clock."""
