"""The names by which a person may know a request: the id in its answer, its key, its sequence."""

import re
from typing import NamedTuple

from tokenreel.messages.ids import RequestKey, SeqId
from tokenreel.tools.command import UsageError

FORMS = "1.57 (a request's key), s63 (a sequence) or cmpl-1.57-9f0c... (the id in its answer)"
_KEY = re.compile(r"(?:(?:chat)?cmpl-)?(\d{1,10})\.(\d{1,20})(?:-[0-9a-f]+)?")
_SEQUENCE = re.compile(r"(?:s|seq)?(\d{1,20})")


class RequestName(NamedTuple):
    """Exactly one of the two is given."""

    key: RequestKey | None
    seq_id: SeqId | None

    def __str__(self) -> str:
        return show_key(self.key) if self.key is not None else f"s{self.seq_id}"


def parse_request_name(text: str) -> RequestName:
    """Raises UsageError, which names the forms."""
    if match := _KEY.fullmatch(text):
        return RequestName(RequestKey(int(match[1]), int(match[2])), None)
    if match := _SEQUENCE.fullmatch(text):
        return RequestName(None, SeqId(int(match[1])))
    raise UsageError(f"{text!r} names no request; say {FORMS}")


def show_key(key: RequestKey) -> str:
    """A request as people read and write it: frontend epoch and number."""
    return f"{key.frontend_epoch}.{key.number}"
