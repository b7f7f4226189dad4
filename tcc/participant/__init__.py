"""Participants: the gRPC service, the actions and the execution of calls."""
