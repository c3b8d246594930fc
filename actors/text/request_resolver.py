"""A submitted request to one the engine core can admit: prompt tokenized, every default filled.

Everything that needs the model's text side or its limits is checked here, cheapest first. No state
is kept between requests.
"""

from collections.abc import Callable, Iterable
from typing import TypeVar

from tokenreel.actors.text.chat_template import ChatError, ChatTemplate
from tokenreel.actors.text.sampling_defaults import SamplingDefaults
from tokenreel.actors.text.tokenizer import ModelTokenizer, TextTooLong
from tokenreel.messages.block_hash import cache_root, chain
from tokenreel.messages.lifecycle import EngineFacts
from tokenreel.messages.requests import AdmitRequest, RequestOptions, SubmitRequest
from tokenreel.messages.sampling import MASK_64, SamplingParams, StoppingParams, TextParams

Value = TypeVar("Value")

NUM_TAIL_TOKENS = 8
"""Enough of the prompt to know whether its end is inside a character, or a word goes on."""


class InvalidRequest(Exception):
    """What the client should change. The fields are those of `RequestRejected`."""

    def __init__(self, code: str, message: str, param: str | None, status: int = 400) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param
        self.status = status


class RequestResolver:
    """`draw_seed` gives a u64 for a request that names no seed."""

    def __init__(
        self,
        *,
        tokenizer: ModelTokenizer,
        chat_template: ChatTemplate | None,
        defaults: SamplingDefaults,
        facts: EngineFacts,
        draw_seed: Callable[[], int],
        hashes_blocks: bool = True,
    ) -> None:
        self._tokenizer = tokenizer
        self._chat_template = chat_template
        self._defaults = defaults
        self._facts = facts
        self._draw_seed = draw_seed
        self._hashes_blocks = hashes_blocks
        # A model may know fewer ids than its tokenizer; such an end can never come.
        self._eos_token_ids = {each for each in tokenizer.eos_token_ids if each < facts.vocab_size}

    def resolve(self, request: SubmitRequest) -> AdmitRequest:
        """Raises `InvalidRequest`."""
        options = request.options
        self._check_options(options)
        prompt, param = self._prompt(request)
        self._check_token_ids(prompt, param)
        max_tokens = self._max_tokens(options, len(prompt), param)
        root = cache_root(
            self._facts.model_hash, self._tokenizer.tokenizer_hash, options.cache_salt
        )
        return AdmitRequest(
            key=request.key,
            prompt_token_ids=prompt,
            sampling=self._sampling(options),
            stopping=StoppingParams(max_tokens, options.min_tokens, self._stop_ids(options)),
            text=TextParams(
                stop=options.stop,
                include_stop_str_in_output=options.include_stop_str_in_output,
                skip_special_tokens=options.skip_special_tokens,
                min_tokens=options.min_tokens,
                prompt_tail=tuple(prompt[-NUM_TAIL_TOKENS:]),
            ),
            n=options.n,
            priority=options.priority,
            cache_root=root,
            block_hashes=chain(root, prompt, self._facts.block_size) if self._hashes_blocks else [],
        )

    def _check_options(self, options: RequestOptions) -> None:
        facts = self._facts
        if not 1 <= options.n <= facts.max_num_seqs:
            raise InvalidRequest(
                "invalid_value",
                f"n is {options.n}; it must be between 1 and {facts.max_num_seqs} (max_num_seqs)",
                "n",
            )
        if options.max_tokens is not None and options.max_tokens < 1:
            raise InvalidRequest("invalid_value", "max_tokens must be at least 1", "max_tokens")
        if options.num_logprobs > facts.vocab_size:
            raise InvalidRequest(
                "invalid_value",
                f"logprobs: {options.num_logprobs} of {facts.vocab_size} tokens were asked for",
                "logprobs",
            )
        if not all(options.stop):
            raise InvalidRequest("invalid_value", "a stop string is empty", "stop")
        self._check_token_ids(options.stop_token_ids, "stop_token_ids")
        self._check_token_ids((token_id for token_id, _ in options.logit_bias), "logit_bias")

    def _prompt(self, request: SubmitRequest) -> tuple[list[int], str]:
        """The prompt, and the field of the request that it came from."""
        options = request.options
        if request.token_ids is not None:
            self._check_room(len(request.token_ids), "prompt")
            return list(request.token_ids), "prompt"
        if request.messages is not None:
            text, param = self._render(request), "messages"
            adds_special = options.add_special_tokens is True
        else:
            text, param = request.text or "", "prompt"
            adds_special = options.add_special_tokens is not False
        if not text:
            raise InvalidRequest("empty_prompt", "the prompt is empty", param)
        try:
            prompt = self._tokenizer.encode(
                text, add_special_tokens=adds_special, max_tokens=self._facts.max_model_len
            )
        except TextTooLong as error:
            raise self._too_long(str(error), param) from error
        self._check_room(len(prompt), param)
        return prompt, param

    def _render(self, request: SubmitRequest) -> str:
        if self._chat_template is None:
            raise InvalidRequest(
                "no_chat_template",
                "this model has no chat template: use /v1/completions, or start the server with "
                "--chat-template",
                "messages",
            )
        messages, most = request.messages or (), self._facts.max_model_len
        # Every message is a token at least, so nobody can make the template walk over more.
        if len(messages) > most:
            raise self._too_long(
                f"{len(messages)} messages are more than {most} tokens", "messages"
            )
        try:
            return self._chat_template.render(
                messages,
                add_generation_prompt=request.options.add_generation_prompt,
                max_chars=self._tokenizer.max_chars(most),
            )
        except ChatError as error:
            raise InvalidRequest("invalid_messages", str(error), "messages") from error

    def _check_room(self, num_prompt_tokens: int, param: str) -> None:
        """There must be a prompt, and room for one token after it."""
        if num_prompt_tokens == 0:
            raise InvalidRequest("empty_prompt", "the prompt has no tokens", param)
        if num_prompt_tokens >= self._facts.max_model_len:
            raise self._too_long(f"the prompt has {num_prompt_tokens} tokens", param)

    def _too_long(self, what: str, param: str) -> InvalidRequest:
        most = self._facts.max_model_len
        message = f"{what}; prompt and output together have room for {most} tokens (max_model_len)"
        return InvalidRequest("context_length_exceeded", message, param)

    def _check_token_ids(self, token_ids: Iterable[int], param: str) -> None:
        size = self._facts.vocab_size
        wrong = next((token_id for token_id in token_ids if not 0 <= token_id < size), None)
        if wrong is not None:
            message = f"{param}: token id {wrong} is outside the vocabulary [0, {size})"
            raise InvalidRequest("invalid_token_id", message, param)

    def _max_tokens(self, options: RequestOptions, num_prompt_tokens: int, param: str) -> int:
        """What was asked for, never clipped; or what there is room for."""
        room = self._facts.max_model_len - num_prompt_tokens
        max_tokens = room if options.max_tokens is None else options.max_tokens
        if max_tokens > room:
            what = f"the prompt has {num_prompt_tokens} tokens and max_tokens is {max_tokens}"
            raise self._too_long(what, "max_tokens")
        if options.min_tokens > max_tokens:
            message = f"min_tokens is {options.min_tokens}, and at most {max_tokens} can come"
            raise InvalidRequest("invalid_value", message, "min_tokens")
        return max_tokens

    def _stop_ids(self, options: RequestOptions) -> tuple[int, ...]:
        ends = set() if options.ignore_eos else self._eos_token_ids
        return tuple(sorted(ends.union(options.stop_token_ids)))

    def _sampling(self, options: RequestOptions) -> SamplingParams:
        defaults, seed = self._defaults, options.seed
        return SamplingParams(
            temperature=_first(options.temperature, defaults.temperature),
            top_k=max(0, _first(options.top_k, defaults.top_k)),
            top_p=_first(options.top_p, defaults.top_p),
            min_p=_first(options.min_p, defaults.min_p),
            presence_penalty=options.presence_penalty,
            frequency_penalty=options.frequency_penalty,
            repetition_penalty=_first(options.repetition_penalty, defaults.repetition_penalty),
            seed=(self._draw_seed() if seed is None else seed) & MASK_64,
            logit_bias=options.logit_bias,
            num_logprobs=options.num_logprobs,
            min_tokens=options.min_tokens,
            stop_token_ids=self._stop_ids(options) if options.min_tokens else (),
        )


def _first(given: Value | None, default: Value) -> Value:
    return default if given is None else given
