"""Seeking in a journal: tables of what happened, snapshots to start from, walks with the core."""
