"""The vocabulary: every message that passes between actors, and the bytes of a journal.

Nothing here acts. Modules of this package import msgspec and pure parts of the standard library.
"""
