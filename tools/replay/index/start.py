"""Where a replay may begin within a segment: at a snapshot of the index beside it, if that is true.

It is if the code that made the index is the one that is asked, and agreed with the record up to
there. An index is only looked for, never made.
"""

from tokenreel.tools.replay.core_code import CoreCode, installed_core
from tokenreel.tools.replay.index.part import IndexDamaged
from tokenreel.tools.replay.index.place import IndexPlace
from tokenreel.tools.replay.index.walk import Start
from tokenreel.tools.replay.reading.journal import Journal


def start_before(journal: Journal, index: int, seq: int, code: CoreCode) -> Start | None:
    """The last place in segment `index` at or before `seq`; None if there is none but its start."""
    segment = journal.segments[index]
    place = IndexPlace(journal.directory, notify=lambda line: None)
    part = place.find(journal.directory / segment.name)
    if (
        part is None
        or part.summary != segment  # its last checksum covers all that is in the file
        or part.head.source_hash != code.source_hash
        or code != installed_core()
        or part.head.divergence is not None
    ):
        return None
    for stored in reversed(part.head.snapshots):
        if stored.position.seq <= seq:
            try:
                snapshot = part.snapshot(stored)
            except IndexDamaged:
                continue
            return Start(index, stored.position, snapshot, stored.last_step_id)
    return None
