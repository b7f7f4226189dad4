"""The engine: live transactions in one dictionary, batches of events in, batches of effects out."""
