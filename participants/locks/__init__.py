"""Named locks that a transaction holds until it is confirmed or cancelled. They need no time to live."""
