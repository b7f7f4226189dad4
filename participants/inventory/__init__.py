"""Stock that is reserved, then sold or released: the three-tier flash sale."""
