"""What can go wrong for a reason that a person can do something about: one line each."""


class Problem(Exception):
    """Something cannot be read, written or drawn."""


class UsageError(Problem):
    """A wrong command line, found out after parsing; the message says what to do."""


class Unavailable(Problem):
    """The server is not there, or ended."""
