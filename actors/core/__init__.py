"""The pure core: `Engine.apply(event) -> list[Effect]`, and nothing that acts.

No I/O, clock, randomness, threads, logging or torch; no iteration over sets; no floats. Whatever
reaches it is an event in the journal, so the same journal gives the same decisions anywhere.
"""
