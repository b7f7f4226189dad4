"""The barrier: decision table, plans, and their execution in the participant's own database."""
