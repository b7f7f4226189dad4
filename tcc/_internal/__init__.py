"""Helpers that the SDK and the coordinator share. Private: they may change at any time."""
