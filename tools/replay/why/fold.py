"""Makes a page of a long life: waits of one kind within one spell of waiting become one."""

from tokenreel.tools.replay.why.life import Happening, Wait

MAX_WAITS_PER_SPELL = 2
"""So many are told in the order in which they came, and stay apart."""

Bounds = tuple[int, int] | None


def folded(happenings: list[Happening]) -> list[Happening]:
    """A spell is what lies between two happenings that are no waits."""
    found: list[Happening] = []
    spell: list[Wait] = []
    for happening in happenings:
        if isinstance(happening, Wait):
            spell.append(happening)
        else:
            found += [*_merged(spell), happening]
            spell = []
    return found + _merged(spell)


def _merged(spell: list[Wait]) -> list[Happening]:
    if len(spell) <= MAX_WAITS_PER_SPELL:
        return list(spell)
    kinds: dict[object, list[Wait]] = {}
    for wait in spell:
        kinds.setdefault((wait.group, wait.why, wait.reason), []).append(wait)
    return [_one(waits) for waits in kinds.values()]


def _one(waits: list[Wait]) -> Wait:
    first, last = waits[0], waits[-1]
    blockers: dict[str, int] = {}
    for wait in waits:
        for name, count in wait.blockers.items():
            blockers[name] = blockers.get(name, 0) + count
    places = (first.places[0], last.places[1]) if first.places and last.places else None
    return Wait(
        first.group,
        first.why,
        first.reason,
        first.from_ns,
        sum(wait.spent_ns for wait in waits),
        first.first_step,
        last.last_step,
        sum(wait.num_steps for wait in waits),
        places,
        blockers,
        _around([wait.needed for wait in waits]),
        _around([wait.reserved for wait in waits]),
        _around([wait.free for wait in waits]),
    )


def _around(bounds: list[Bounds]) -> Bounds:
    told = [each for each in bounds if each is not None]
    return (min(low for low, _ in told), max(high for _, high in told)) if told else None
