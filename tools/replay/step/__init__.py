"""What the scheduler knew at one step."""
