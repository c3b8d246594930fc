"""The recorded clients under other settings, in simulated time."""
