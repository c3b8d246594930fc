"""What can go wrong for a reason that a person can do something about: one line each."""


class Problem(Exception):
    """Something cannot be read, written or measured."""


class Unavailable(Problem):
    """The server is not there, or ended."""
