"""What `engine-replay shrink` says of what it found: lines for a person, JSON for a program."""

import re
from pathlib import Path
from typing import Any

from tokenreel.messages.ids import RequestKey
from tokenreel.tools.replay.reading.request_name import show_key
from tokenreel.tools.replay.shrink.shrink import Found, Shrunk
from tokenreel.tools.replay.text_layout import count


def in_keys(found: Found, keys: list[RequestKey]) -> str:
    """What was seen in the captured run, with its requests named as the other verbs name them."""

    def name(match: re.Match[str]) -> str:
        number = int(match[1])
        return f"request {show_key(keys[number])}" if number < len(keys) else match[0]

    return re.sub(r"request (\d+)", name, found.sighting.text)


def as_text(found: Found, shrunk: Shrunk, path: Path, text: str) -> str:
    before, after = found.scenario.requests, shrunk.scenario.requests
    effort = f"{shrunk.num_tries:,} tries, {shrunk.duration_s:.1f} s"
    tail = "each is needed" if shrunk.is_minimal else "time was up: --seconds may find fewer"
    lines = [
        f"symptom  {found.symptom.name}",
        f"seen     {found.sighting.text}",
        f"         in the run of {len(before):,} requests, {found.timing}",
        f"shrunk   to {count(len(after), 'request')} in {effort}; {tail}",
        f"seen     {shrunk.sighting.text}",
        f"wrote    {path}, {text.count(chr(10))} lines; it fails until the bug is fixed:",
        "",
        *(f"    {line}".rstrip() for line in text.splitlines()),
    ]
    return "\n".join(lines)


def as_json(found: Found, shrunk: Shrunk, path: Path) -> dict[str, Any]:
    return {
        "symptom": shrunk.symptom.name,
        "seen": shrunk.sighting.text,
        "timing": found.timing,
        "num_requests": len(found.scenario.requests),
        "num_requests_left": len(shrunk.scenario.requests),
        "num_tries": shrunk.num_tries,
        "duration_s": round(shrunk.duration_s, 3),
        "is_minimal": shrunk.is_minimal,
        "test": str(path),
    }
