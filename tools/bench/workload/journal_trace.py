"""Arrivals, prompts and lengths of a captured run, from its journal. Nothing is re-executed."""

from pathlib import Path

from tokenreel.messages.ids import RequestKey, SeqId
from tokenreel.messages.journal import JournalDamaged
from tokenreel.messages.outputs import TokensEmitted
from tokenreel.messages.requests import AdmitRequest, RequestAdmitted
from tokenreel.tools.bench.workload.lines import BadWorkload
from tokenreel.tools.bench.workload.prompts import FIRST_TOKEN_ID, Prompt
from tokenreel.tools.replay.reading.events import recorded_events
from tokenreel.tools.replay.reading.journal import JournalMissing, open_journal


def read_journal(
    path: Path, vocab_size: int | None, max_prompts: int | None, slowness: float = 1.0
) -> list[Prompt]:
    """The requests that the core admitted, due as they reached it, from the first one on, with
    `slowness` times the recorded gaps.

    Prompts are the recorded tokens, so that what shared a prefix shares it again; ids that a
    vocabulary of `vocab_size` does not have are mapped into it. Each is to put out as many tokens
    as its first sequence did, at least one: whoever was aborted asks for what it got.
    Raises BadWorkload.
    """
    admits: list[tuple[int, AdmitRequest]] = []
    first_sequences: dict[RequestKey, SeqId] = {}
    num_outputs: dict[SeqId, int] = {}
    try:
        for event in recorded_events(open_journal(path)):
            if isinstance(event.event, AdmitRequest):
                admits.append((event.t_ns, event.event))
            for effect in event.effects:
                if isinstance(effect, RequestAdmitted):
                    first_sequences[effect.key] = effect.seq_ids[0]
                elif isinstance(effect, TokensEmitted):
                    for tokens in effect.sequences:
                        end = tokens.first_output_index + len(tokens.token_ids)
                        num_outputs[tokens.seq_id] = end
    except (JournalDamaged, JournalMissing) as problem:
        raise BadWorkload(str(problem)) from None
    admitted = [(t_ns, admit) for t_ns, admit in admits if admit.key in first_sequences]
    if not admitted:
        raise BadWorkload(f"{path} holds no request that was admitted")
    start_ns = admitted[0][0]
    return [
        Prompt(
            _mapped(admit.prompt_token_ids, vocab_size),
            max(1, num_outputs.get(first_sequences[admit.key], 0)),
            slowness * (t_ns - start_ns) / 1e9,
        )
        for t_ns, admit in admitted[:max_prompts]
    ]


def _mapped(token_ids: list[int], vocab_size: int | None) -> list[int]:
    if vocab_size is None or max(token_ids) < vocab_size:
        return list(token_ids)
    room = max(1, vocab_size - FIRST_TOKEN_ID)
    return [token if token < vocab_size else FIRST_TOKEN_ID + token % room for token in token_ids]
