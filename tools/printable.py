"""Lines that a terminal shows, and does not obey."""


def printable(line: str) -> str:
    """`line` with escapes for whatever is no sign: a journal's texts are anybody's, and so are a
    server's."""
    if line.isprintable():
        return line
    return "".join(
        sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in line
    )


def printable_lines(text: str) -> str:
    """`printable` line by line."""
    return "\n".join(map(printable, text.split("\n")))
