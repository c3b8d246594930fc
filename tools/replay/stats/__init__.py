"""A run in figures."""
