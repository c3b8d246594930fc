"""Which code this process runs: version, commit, and a hash of the sources that decide."""

import sys
from hashlib import blake2b
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import msgspec

from tokenreel.messages.journal_meta import Meta, describe_vocabulary, encode_meta

_ROOT = Path(__file__).resolve().parents[2]
DECIDING_PACKAGES = ("actors/core", "messages")


def describe_run(
    configuration: msgspec.Struct,
    logic_version: int,
    facts: dict[str, Any] | None = None,
    seeds: dict[str, int] | None = None,
) -> bytes:
    """The META payload of a run whose core has this configuration (a flat struct)."""
    return encode_meta(
        Meta(
            version=package_version(),
            commit=commit(),
            source_hash=source_hash(),
            python=sys.version.split()[0],
            logic_version=logic_version,
            configuration=msgspec.structs.asdict(configuration),
            facts=facts or {},
            seeds=seeds or {},
            vocabulary=describe_vocabulary(),
        )
    )


def source_hash(root: Path = _ROOT) -> bytes:
    """16 bytes over the core's and the messages' source files, in the order of their names.

    Two processes with the same hash make the same decisions from the same events.
    """
    digest = blake2b(digest_size=16, person=b"tokenreel-source")
    for package in DECIDING_PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            name = path.relative_to(root).as_posix().encode()
            source = path.read_bytes()
            digest.update(b"%d %s %d\n" % (len(name), name, len(source)))
            digest.update(source)
    return digest.digest()


def package_version() -> str:
    try:
        return version("tokenreel")
    except PackageNotFoundError:
        return "unknown"


def commit(root: Path = _ROOT) -> str:
    """The commit of the git checkout that this code lies in; empty for an installed package."""
    git = root / ".git"
    try:
        head = (git / "HEAD").read_text().strip()
        if not head.startswith("ref: "):
            return head
        reference = head.removeprefix("ref: ")
        loose = git / reference
        if loose.exists():
            return loose.read_text().strip()
        for line in (git / "packed-refs").read_text().splitlines():
            if line.endswith(f" {reference}"):
                return line.split()[0]
    except (OSError, UnicodeDecodeError):
        pass
    return ""
