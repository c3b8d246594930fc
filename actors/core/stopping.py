"""When a sequence ends by itself: a stop token, or its length."""

from tokenreel.messages.sampling import FinishReason, StoppingParams


def finish_reason(params: StoppingParams, num_outputs: int, last: int) -> FinishReason | None:
    """Why a sequence whose `num_outputs`-th output token is `last` ends, or None if it goes on."""
    if num_outputs > params.min_tokens and last in params.stop_token_ids:
        return FinishReason.STOP
    if num_outputs >= params.max_tokens:
        return FinishReason.LENGTH
    return None
