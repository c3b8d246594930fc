"""What a journal says of itself, META and CORE_FAILED, decoded with their place."""

from typing import Any

import msgspec

from tokenreel.messages.journal import JournalDamaged, Record
from tokenreel.messages.journal_meta import (
    CoreFailed,
    MalformedRecord,
    Meta,
    decode_core_failed,
    decode_meta,
)


def read_meta(
    record: Record, segment: str, configuration: type[msgspec.Struct]
) -> tuple[Meta, Any]:
    """META, and its configuration as a value of that type. Raises JournalDamaged."""
    try:
        meta = decode_meta(record.payload)
        return meta, msgspec.convert(meta.configuration, configuration)
    except (MalformedRecord, msgspec.ValidationError) as error:
        reason = f"META does not fit this code: {error}"
        raise JournalDamaged(segment, record.offset, reason) from None


def read_failure(record: Record, segment: str) -> CoreFailed:
    """Raises JournalDamaged."""
    try:
        return decode_core_failed(record.payload)
    except MalformedRecord as error:
        raise JournalDamaged(segment, record.offset, str(error)) from None
