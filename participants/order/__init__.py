"""Orders that are opened pending, then confirmed or cancelled."""
