"""What a run did, as its observers saw it, and the one judge of it."""
