"""What happened, one line per event."""
