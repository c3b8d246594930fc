"""Captured runs as tests."""
