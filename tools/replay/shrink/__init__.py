"""The smallest scenario that still shows what is wrong, as a test."""
