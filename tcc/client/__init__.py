"""The clients for initiators and the values that they return."""
