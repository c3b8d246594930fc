"""A journal that strangers may see."""
