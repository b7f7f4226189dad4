"""Stock that is reserved, then sold or given back: the three-tier flash sale."""
