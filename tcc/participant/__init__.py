"""The participant: its gRPC service, its actions and its work."""
