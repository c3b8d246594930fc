"""Requests come out complete, or with one clear reason why not."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tokenreel.actors.text.chat_template import load_chat_template
from tokenreel.actors.text.request_resolver import InvalidRequest, RequestResolver
from tokenreel.actors.text.sampling_defaults import SamplingDefaults
from tokenreel.actors.text.tokenizer import ModelTokenizer
from tokenreel.messages.block_hash import cache_root, chain
from tokenreel.messages.ids import RequestKey
from tokenreel.messages.lifecycle import EngineFacts
from tokenreel.messages.requests import AdmitRequest, RequestOptions, SubmitRequest
from tokenreel.messages.sampling import SamplingParams, StoppingParams, TextParams

KEY = RequestKey(3, 7)
MakeModelDir = Callable[..., Path]
FACTS = EngineFacts(
    max_model_len=64,
    max_num_seqs=8,
    max_in_flight=16,
    num_blocks=100,
    block_size=4,
    vocab_size=440,
    model_hash=b"model",
)
EOS = 2


class Door:
    """A resolver, and the two ways through it."""

    def __init__(self, model_dir: Path, **facts: Any) -> None:
        self.tokenizer = ModelTokenizer.load(model_dir)
        self.seeds = list(range(11, 30))
        self.resolver = RequestResolver(
            tokenizer=self.tokenizer,
            chat_template=load_chat_template(model_dir),
            defaults=SamplingDefaults.load(model_dir),
            facts=msgspec.structs.replace(FACTS, **facts),
            draw_seed=lambda: self.seeds.pop(0),
        )

    def resolve(self, prompt: Any = "the cat", **options: Any) -> AdmitRequest:
        request = SubmitRequest(
            KEY,
            RequestOptions(**options),
            text=prompt if isinstance(prompt, str) else None,
            token_ids=prompt if isinstance(prompt, tuple) else None,
            messages=tuple(prompt) if isinstance(prompt, list) else None,
        )
        return self.resolver.resolve(request)

    def refusal(self, prompt: Any = "the cat", **options: Any) -> tuple[str, str | None, str]:
        with pytest.raises(InvalidRequest) as error:
            self.resolve(prompt, **options)
        assert error.value.status == 400
        return error.value.code, error.value.param, error.value.message

    def ids(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False, max_tokens=1000)


@pytest.fixture
def door(make_model_dir: MakeModelDir) -> Door:
    return Door(make_model_dir())


def test_a_plain_request_gets_every_default(door: Door) -> None:
    prompt = door.ids("the cat sat on the mat")
    root = cache_root(b"model", door.tokenizer.tokenizer_hash, "")
    assert door.resolve("the cat sat on the mat") == AdmitRequest(
        key=KEY,
        prompt_token_ids=prompt,
        sampling=SamplingParams(seed=11),
        stopping=StoppingParams(max_tokens=64 - len(prompt), stop_token_ids=(EOS,)),
        text=TextParams(prompt_tail=tuple(prompt[-8:])),
        n=1,
        priority=0,
        cache_root=root,
        block_hashes=chain(root, prompt, 4),
    )


def test_what_a_client_says_counts_more_than_the_model(make_model_dir: MakeModelDir) -> None:
    config = {
        "temperature": 0.5,
        "top_k": 20,
        "top_p": 0.5,
        "min_p": 0.5,
        "repetition_penalty": 1.5,
    }
    door = Door(make_model_dir(generation_config=config))
    models = door.resolve(seed=1).sampling
    assert models == SamplingParams(0.5, 20, 0.5, 0.5, repetition_penalty=1.5, seed=1)
    zeros = {"temperature": 0.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0}
    assert door.resolve(seed=1, **zeros).sampling == SamplingParams(temperature=0.0, seed=1)


def test_everything_else_a_client_says_is_passed_on(door: Door) -> None:
    admit = door.resolve(
        n=2,
        max_tokens=9,
        presence_penalty=0.5,
        frequency_penalty=-0.5,
        seed=-1,
        stop=("x", "yz"),
        include_stop_str_in_output=True,
        skip_special_tokens=False,
        logit_bias=((7, 2.5),),
        num_logprobs=4,
        priority=-3,
    )
    assert admit.sampling == SamplingParams(
        presence_penalty=0.5,
        frequency_penalty=-0.5,
        seed=(1 << 64) - 1,
        logit_bias=((7, 2.5),),
        num_logprobs=4,
    )
    assert admit.stopping.max_tokens == 9
    text = admit.text
    assert (text.stop, text.include_stop_str_in_output) == (("x", "yz"), True)
    assert not text.skip_special_tokens
    assert (admit.n, admit.priority) == (2, -3)


def test_requests_without_a_seed_draw_one_each(door: Door) -> None:
    assert [door.resolve().sampling.seed for _ in range(2)] == [11, 12]
    assert door.resolve(seed=0).sampling.seed == 0
    assert door.resolve().sampling.seed == 13


def test_stop_tokens_are_sorted_and_include_the_models(make_model_dir: MakeModelDir) -> None:
    door = Door(make_model_dir(generation_config={"eos_token_id": [9, 100_000]}))
    assert door.resolve().stopping.stop_token_ids == (EOS, 9)
    assert door.resolve(stop_token_ids=(5, 3, 5)).stopping.stop_token_ids == (EOS, 3, 5, 9)
    assert door.resolve(ignore_eos=True).stopping.stop_token_ids == ()
    assert door.resolve(ignore_eos=True, stop_token_ids=(5,)).stopping.stop_token_ids == (5,)


def test_the_sampler_learns_of_stop_tokens_only_if_it_must_mask_them(door: Door) -> None:
    assert door.resolve(stop_token_ids=(5,)).sampling.stop_token_ids == ()
    admit = door.resolve(stop_token_ids=(5,), min_tokens=3)
    assert (admit.sampling.min_tokens, admit.sampling.stop_token_ids) == (3, (EOS, 5))
    assert (admit.stopping.min_tokens, admit.text.min_tokens) == (3, 3)


def test_token_ids_are_taken_as_they_are(door: Door) -> None:
    admit = door.resolve((5, 6, 7, 8, 9))
    assert admit.prompt_token_ids == [5, 6, 7, 8, 9]
    assert len(admit.block_hashes) == 1


def test_special_tokens_are_added_to_texts_and_not_to_chats(make_model_dir: MakeModelDir) -> None:
    template = {"chat_template": "{{ messages[0].content }}", "eos_token": "</s>"}
    door = Door(make_model_dir("sentencepiece", tokenizer_config=template), vocab_size=1000)
    chat = [{"role": "user", "content": "the cat"}]
    bare = door.ids("the cat")
    assert door.resolve("the cat").prompt_token_ids == [1, *bare]
    assert door.resolve("the cat", add_special_tokens=False).prompt_token_ids == bare
    assert door.resolve(chat).prompt_token_ids == bare
    assert door.resolve(chat, add_special_tokens=True).prompt_token_ids == [1, *bare]


def test_a_chat_is_rendered_by_the_models_template(door: Door) -> None:
    chat = [{"role": "user", "content": "hi"}]
    text = "<|im_start|>user\nhi<|im_end|>\n"
    admit = door.resolve(chat)
    assert admit.prompt_token_ids == door.ids(text + "<|im_start|>assistant\n")
    admit = door.resolve(chat, add_generation_prompt=False)
    assert admit.prompt_token_ids == door.ids(text)


def test_different_salts_and_models_share_no_blocks(door: Door) -> None:
    plain, salted = door.resolve((1, 2, 3, 4)), door.resolve((1, 2, 3, 4), cache_salt="mine")
    assert plain.block_hashes != salted.block_hashes
    assert door.resolve((1, 2, 3, 4)).block_hashes == plain.block_hashes


def test_no_blocks_are_hashed_without_prefix_caching(make_model_dir: MakeModelDir) -> None:
    tokenizer = ModelTokenizer.load(make_model_dir())
    resolver = RequestResolver(
        tokenizer=tokenizer,
        chat_template=None,
        defaults=SamplingDefaults(),
        facts=FACTS,
        draw_seed=lambda: 1,
        hashes_blocks=False,
    )
    request = SubmitRequest(KEY, RequestOptions(), token_ids=(1, 2, 3, 4))
    assert resolver.resolve(request).block_hashes == []


@pytest.mark.parametrize("prompt", ["", ()])
def test_an_empty_prompt_is_refused(door: Door, prompt: Any) -> None:
    code, param, message = door.refusal(prompt)
    assert (code, param) == ("empty_prompt", "prompt")
    assert "prompt" in message


def test_a_request_without_any_prompt_is_refused(door: Door) -> None:
    with pytest.raises(InvalidRequest, match="the prompt is empty"):
        door.resolver.resolve(SubmitRequest(KEY, RequestOptions()))


@pytest.mark.parametrize("token_id", [-1, 440, 1 << 40])
@pytest.mark.parametrize(
    ("param", "options"),
    [("prompt", None), ("stop_token_ids", "stop_token_ids"), ("logit_bias", "logit_bias")],
)
def test_ids_outside_the_vocabulary_are_refused(
    door: Door, token_id: int, param: str, options: str | None
) -> None:
    if options is None:
        refusal = door.refusal((5, token_id))
    else:
        value = ((token_id, 1.0),) if options == "logit_bias" else (token_id,)
        refusal = door.refusal(**{options: value})
    assert refusal[:2] == ("invalid_token_id", param)
    assert f"token id {token_id} is outside the vocabulary [0, 440)" in refusal[2]


def test_a_tokenizer_that_knows_more_ids_than_the_model_cannot_harm_it(
    make_model_dir: MakeModelDir,
) -> None:
    door = Door(make_model_dir(), vocab_size=300)
    assert door.refusal("the <think>")[:2] == ("invalid_token_id", "prompt")


@pytest.mark.parametrize(
    ("prompt", "param"),
    [
        ((5,) * 64, "prompt"),
        ("a b " * 32, "prompt"),
        ("a" * 100_000, "prompt"),
        ([{"role": "user", "content": "a b " * 32}], "messages"),
        ([{"role": "user", "content": ""}] * 65, "messages"),
    ],
)
def test_a_prompt_without_room_for_output_is_refused(door: Door, prompt: Any, param: str) -> None:
    code, at, message = door.refusal(prompt, max_tokens=1)
    assert (code, at) == ("context_length_exceeded", param)
    assert message.endswith("have room for 64 tokens (max_model_len)")


def test_the_longest_prompt_leaves_room_for_one_token(door: Door) -> None:
    assert door.resolve((5,) * 63).stopping.max_tokens == 1


def test_more_output_than_there_is_room_for_is_refused_and_not_clipped(door: Door) -> None:
    assert door.resolve((5,) * 60, max_tokens=4).stopping.max_tokens == 4
    code, param, message = door.refusal((5,) * 60, max_tokens=5)
    assert (code, param) == ("context_length_exceeded", "max_tokens")
    assert "the prompt has 60 tokens and max_tokens is 5" in message


@pytest.mark.parametrize(
    ("options", "param", "complaint"),
    [
        ({"n": 9}, "n", "between 1 and 8 (max_num_seqs)"),
        ({"n": 0}, "n", "n is 0"),
        ({"max_tokens": 0}, "max_tokens", "at least 1"),
        ({"max_tokens": 3, "min_tokens": 4}, "min_tokens", "at most 3 can come"),
        ({"min_tokens": 64}, "min_tokens", "min_tokens is 64"),
        ({"num_logprobs": 441}, "logprobs", "441 of 440"),
        ({"stop": ("a", "")}, "stop", "a stop string is empty"),
    ],
)
def test_options_that_cannot_be_met_are_refused(
    door: Door, options: dict[str, Any], param: str, complaint: str
) -> None:
    code, at, message = door.refusal(**options)
    assert (code, at) == ("invalid_value", param)
    assert complaint in message


def test_messages_that_make_no_prompt_are_refused(door: Door) -> None:
    code, param, message = door.refusal([{"content": "hi"}])
    assert (code, param) == ("invalid_messages", "messages")
    assert "message 0 has no role" in message


def test_a_chat_needs_a_template(make_model_dir: MakeModelDir) -> None:
    door = Door(make_model_dir(tokenizer_config={}))
    code, param, message = door.refusal([{"role": "user", "content": "hi"}])
    assert (code, param) == ("no_chat_template", "messages")
    assert "--chat-template" in message
