"""Does this code decide as it did then? And if not: where, since when, and why."""
