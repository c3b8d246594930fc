"""What of every message may leave the house: the list of all types and fields that do.

What is not listed is left out. Whoever adds a field or a message decides here what becomes of it;
a test walks the vocabulary and names what has no place yet.
"""

from enum import Enum
from functools import cache
from typing import Any, TypeVar

import msgspec


class Treatment(Enum):
    KEPT = "kept"
    """As it is. Only for plain values: numbers, words of our own, and lists of them."""
    MAPPED = "mapped"
    """A stand-in takes its place."""
    INNER = "inner"
    """Structs, whose own fields are listed."""
    DROPPED = "dropped"
    """The field's default takes its place, or the empty value of its type."""


def _listed(
    kept: str = "", mapped: str = "", inner: str = "", dropped: str = ""
) -> dict[str, Treatment]:
    return {
        **dict.fromkeys(kept.split(), Treatment.KEPT),
        **dict.fromkeys(mapped.split(), Treatment.MAPPED),
        **dict.fromkeys(inner.split(), Treatment.INNER),
        **dict.fromkeys(dropped.split(), Treatment.DROPPED),
    }


FIELDS: dict[str, dict[str, Treatment]] = {
    # Inputs: copied field by field.
    "RequestKey": _listed(mapped="frontend_epoch number"),
    "AdmitRequest": _listed(
        kept="n",
        mapped="key prompt_token_ids priority cache_root block_hashes",
        inner="sampling stopping text",
    ),
    "SamplingParams": _listed(
        dropped="temperature top_k top_p min_p presence_penalty frequency_penalty "
        "repetition_penalty seed logit_bias num_logprobs min_tokens stop_token_ids"
    ),
    "StoppingParams": _listed(kept="max_tokens", mapped="stop_token_ids", dropped="min_tokens"),
    "TextParams": _listed(
        dropped="stop include_stop_str_in_output skip_special_tokens min_tokens prompt_tail"
    ),
    "AbortRequest": _listed(mapped="key"),
    "StepBegan": _listed(kept="step_id"),
    "StepCompleted": _listed(kept="step_id", mapped="began_ns ended_ns", inner="outputs failures"),
    "SampledTokens": _listed(kept="seq_id", mapped="token_ids"),
    "SequenceFailure": _listed(kept="seq_id", mapped="message"),
    "StopStringMatched": _listed(kept="seq_id num_output_tokens"),
    "OutputDelivered": _listed(kept="seq_ids"),
    # Effects: never copied, they follow from redacted inputs. What is kept must come out equal.
    "RequestAdmitted": _listed(kept="seq_ids num_prompt_tokens", mapped="key", inner="text"),
    "RequestRejected": _listed(kept="status code param", mapped="key message"),
    "RequestFinished": _listed(mapped="key"),
    "StepScheduled": _listed(kept="step_id removed_rows", inner="added scheduled"),
    "AddedSequence": _listed(
        kept="seq_id row num_prompt_tokens block_ids", mapped="token_ids", inner="sampling"
    ),
    "ScheduledSequence": _listed(kept="seq_id row start num_tokens num_logits new_block_ids"),
    "StepDecided": _listed(
        kept="step_id num_batched_tokens num_running num_waiting num_free_blocks unscheduled "
        "seq_id num_blocks_needed",
        mapped="digest",
    ),
    "SequencePreempted": _listed(kept="seq_id for_seq_id num_computed_tokens"),
    "TokensEmitted": _listed(inner="sequences"),
    "SequenceTokens": _listed(
        kept="seq_id first_output_index finish_reason num_cached_tokens", mapped="token_ids error"
    ),
    "SequenceFinished": _listed(kept="seq_id reason num_output_tokens"),
    # The core's state, with which a segment starts.
    "Snapshot": _listed(
        kept="freed_rows free_blocks evictable_blocks fenced_blocks stamps next_stamp next_seq_id "
        "next_arrival next_step_id num_ignored settled",
        mapped="cache tombstones last_numbers digest",
        inner="config requests sequences open_steps",
    ),
    "CoreConfig": _listed(
        kept="num_blocks block_size max_model_len max_num_seqs max_num_batched_tokens "
        "max_in_flight vocab_size enable_prefix_caching scheduling_policy pipeline_depth"
    ),
    "Request": _listed(kept="seq_ids num_undelivered", mapped="key"),
    "Sequence": _listed(
        kept="seq_id num_prompt_tokens status row block_table num_computed num_scheduled "
        "num_open_samples num_open_steps last_step_id epoch num_registered num_cached_tokens "
        "finish_reason num_final_outputs table_term queue_term",
        mapped="key order token_ids cache_root hashes token_hash sequence_term",
        inner="sampling stopping",
    ),
    "OpenStep": _listed(kept="step_id", inner="shares"),
    "StepShare": _listed(kept="seq_id end samples epoch"),
    # META, as the running code writes it.
    "Meta": _listed(
        kept="version source_hash logic_version vocabulary",
        mapped="configuration",
        dropped="commit python facts seeds",
    ),
}

AStruct = TypeVar("AStruct", bound=msgspec.Struct)


class Unlisted(Exception):
    """A message that is not on the list."""


def redacted(message: AStruct, /, **stand_ins: Any) -> AStruct:
    """A copy of `message` that holds what the list says. `stand_ins` has the mapped fields, and
    those inner ones that are not simply redacted themselves. Raises Unlisted."""
    values: dict[str, Any] = {}
    for name, treatment, is_required in plan_of(type(message)):
        if treatment is Treatment.MAPPED or name in stand_ins:
            values[name] = stand_ins[name]
        elif treatment is Treatment.KEPT:
            values[name] = getattr(message, name)
        elif treatment is Treatment.INNER:
            values[name] = _redacted_inside(getattr(message, name))
        elif is_required:
            values[name] = type(getattr(message, name))()
    return type(message)(**values)


def _redacted_inside(value: Any) -> Any:
    return [redacted(item) for item in value] if isinstance(value, list) else redacted(value)


@cache
def plan_of(kind: type[msgspec.Struct]) -> tuple[tuple[str, Treatment, bool], ...]:
    """What becomes of each field, and whether it must be given."""
    if kind.__name__ not in FIELDS:
        raise Unlisted(kind.__name__)
    listed = FIELDS[kind.__name__]
    return tuple(
        (field.name, listed.get(field.name, Treatment.DROPPED), field.required)
        for field in msgspec.structs.fields(kind)
    )
