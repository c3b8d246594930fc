"""Scenarios played before eyes that see more than the core: who answers its steps, who objects."""
