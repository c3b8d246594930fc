"""What a client may ask of a completion, through the unmodified openai client and a real model."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest
from openai.types import Completion
from running_engine import RunningEngine

MODEL = "tokenreel-demo"
PROMPTS = [
    "Once upon a time",
    "1, 2, 3, 4,",
    "The capital of France is",
    "\N{GRINNING FACE} caf\N{LATIN SMALL LETTER E WITH ACUTE} \N{HIRAGANA LETTER A}",
]


def complete(client: openai.OpenAI, prompt: Any, **options: Any) -> Completion:
    options = {"max_tokens": 40, "temperature": 0} | options
    answer: Completion = client.completions.create(model=MODEL, prompt=prompt, **options)
    return answer


def text_of(client: openai.OpenAI, prompt: Any, **options: Any) -> str:
    return complete(client, prompt, **options).choices[0].text


def streamed(client: openai.OpenAI, prompt: Any, **options: Any) -> list[Completion]:
    options = {"max_tokens": 40, "temperature": 0} | options
    return list(client.completions.create(model=MODEL, prompt=prompt, stream=True, **options))


def texts_by_choice(chunks: list[Completion]) -> dict[int, str]:
    texts: dict[int, str] = {}
    for chunk in chunks:
        for choice in chunk.choices:
            texts[choice.index] = texts.get(choice.index, "") + choice.text
    return texts


@pytest.mark.parametrize("temperature", [0, 1, 2])
@pytest.mark.parametrize("prompt", PROMPTS)
def test_the_stream_in_one_piece_is_the_answer_that_is_not_streamed(
    client: openai.OpenAI, prompt: str, temperature: float
) -> None:
    options: Any = {"temperature": temperature, "seed": 11, "extra_body": {"ignore_eos": True}}
    whole = complete(client, prompt, **options).choices[0]
    chunks = streamed(client, prompt, **options)
    assert texts_by_choice(chunks) == {0: whole.text}
    assert chunks[-1].choices[0].finish_reason == whole.finish_reason == "length"


def test_a_seed_gives_the_same_text_whatever_else_runs(client: openai.OpenAI) -> None:
    """Alone, and in a batch with others that come and go."""

    def ask(seed: int) -> str:
        return text_of(client, PROMPTS[0], temperature=1, seed=seed, max_tokens=20 + 3 * seed)

    seeds = range(12)
    alone = [ask(seed) for seed in seeds]
    with ThreadPoolExecutor(len(seeds)) as threads:
        together = list(threads.map(ask, seeds))
    assert together == alone
    assert len(set(alone)) == len(seeds)


def test_without_a_seed_texts_differ(client: openai.OpenAI) -> None:
    assert len({text_of(client, PROMPTS[0], temperature=1) for _ in range(3)}) == 3


@pytest.mark.parametrize("stream", [False, True])
def test_n_gives_so_many_different_continuations(client: openai.OpenAI, stream: bool) -> None:
    options: Any = {"n": 3, "temperature": 1, "seed": 5}
    whole = complete(client, PROMPTS[0], **options)
    texts = {choice.index: choice.text for choice in whole.choices}
    if stream:
        assert texts_by_choice(streamed(client, PROMPTS[0], **options)) == texts
    assert list(texts) == [0, 1, 2] and len(set(texts.values())) == 3
    # The first continuation is the one that the request alone would get.
    assert texts[0] == text_of(client, PROMPTS[0], temperature=1, seed=5)
    assert whole.usage is not None
    single = complete(client, PROMPTS[0], temperature=1, seed=5).usage
    assert single is not None and whole.usage.prompt_tokens == single.prompt_tokens


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_string_cuts_the_text_wherever_the_tokens_end(
    client: openai.OpenAI, stream: bool
) -> None:
    whole = text_of(client, PROMPTS[0], max_tokens=60)
    # Every three characters of the text, and some of them lie across tokens.
    for start in range(5, 29):
        stop = whole[start : start + 3]
        expected = whole[: whole.index(stop)]
        if stream:
            chunks = streamed(client, PROMPTS[0], max_tokens=60, stop=stop)
            text, last = texts_by_choice(chunks)[0], chunks[-1].choices[0]
        else:
            last = complete(client, PROMPTS[0], max_tokens=60, stop=["\0", stop]).choices[0]
            text = last.text
        assert (text, last.finish_reason) == (expected, "stop"), f"stop string {stop!r}"


def test_usage_counts_the_tokens_up_to_the_stop_string(client: openai.OpenAI) -> None:
    free = complete(client, PROMPTS[0], logprobs=0)
    assert free.choices[0].logprobs is not None
    tokens = free.choices[0].logprobs.tokens or []
    stop = "".join(tokens[6:8])
    num_tokens = next(n for n in range(len(tokens) + 1) if stop in "".join(tokens[:n]))
    stopped = complete(client, PROMPTS[0], stop=stop)
    assert stopped.usage is not None and stopped.usage.completion_tokens == num_tokens


def test_a_stop_token_ends_the_text_without_being_shown(client: openai.OpenAI) -> None:
    always = {"logit_bias": {"70": 100}, "max_tokens": 4}
    assert text_of(client, PROMPTS[0], **always) != ""
    stopped = complete(client, PROMPTS[0], **always, extra_body={"stop_token_ids": [70]})
    (choice,) = stopped.choices
    assert (choice.text, choice.finish_reason) == ("", "stop")
    assert choice.model_extra is not None and choice.model_extra["stop_reason"] == 70
    assert stopped.usage is not None and stopped.usage.completion_tokens == 1


def test_usage_adds_up_and_comes_last_in_a_stream_that_asks(client: openai.OpenAI) -> None:
    whole = complete(client, PROMPTS[0], max_tokens=7).usage
    chunks = streamed(client, PROMPTS[0], max_tokens=7, stream_options={"include_usage": True})
    assert whole is not None and chunks[-1].usage is not None
    assert (whole.completion_tokens, chunks[-1].choices) == (7, [])
    assert whole.total_tokens == whole.prompt_tokens + whole.completion_tokens
    assert chunks[-1].usage.total_tokens == whole.total_tokens
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_a_prompt_seen_before_comes_from_the_prefix_cache(client: openai.OpenAI) -> None:
    prompt = "Nobody has said this before: " + ", ".join(map(str, range(500, 560)))
    cached = []
    for _ in range(2):
        usage = complete(client, prompt, max_tokens=1).usage
        assert usage is not None and usage.prompt_tokens_details is not None
        cached.append(usage.prompt_tokens_details.cached_tokens or 0)
        num_prompt_tokens = usage.prompt_tokens
    assert cached[0] == 0
    assert cached[1] > num_prompt_tokens - 32 and cached[1] % 16 == 0


def test_a_list_of_prompts_is_answered_in_order(client: openai.OpenAI) -> None:
    each = [text_of(client, prompt) for prompt in PROMPTS]
    answer = complete(client, PROMPTS)
    assert [choice.text for choice in answer.choices] == each
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert texts_by_choice(streamed(client, PROMPTS)) == dict(enumerate(each))


def test_prompts_of_token_ids_are_taken_alone_and_in_lists(client: openai.OpenAI) -> None:
    one, two = [5, 6, 7, 8], [9, 10, 11]
    texts = [text_of(client, one), text_of(client, two)]
    assert [choice.text for choice in complete(client, [one, two]).choices] == texts
    usage = complete(client, one, max_tokens=1).usage
    assert usage is not None and usage.prompt_tokens == len(one)


def test_completion_logprobs_have_openais_four_lists(client: openai.OpenAI) -> None:
    answer = complete(client, PROMPTS[0], max_tokens=5, logprobs=3)
    (choice,) = answer.choices
    found = choice.logprobs
    assert found is not None and found.tokens and found.token_logprobs and found.top_logprobs
    assert "".join(found.tokens) == choice.text
    assert len(found.tokens) == len(found.token_logprobs) == len(found.top_logprobs) == 5
    assert found.text_offset == [sum(map(len, found.tokens[:i])) for i in range(5)]
    for token, logprob, top in zip(
        found.tokens, found.token_logprobs, found.top_logprobs, strict=True
    ):
        assert len(top) == 3 and max(top.values()) == logprob <= 0  # greedy: the likeliest
        assert top[token] == logprob


@pytest.mark.parametrize("stream", [False, True])
def test_chat_logprobs_list_every_token_with_its_rivals(
    client: openai.OpenAI, stream: bool
) -> None:
    options: Any = {
        "model": MODEL, "messages": [{"role": "user", "content": "Hello!"}], "temperature": 0,
        "max_tokens": 5, "logprobs": True, "top_logprobs": 2, "stream": stream,
    }  # fmt: skip
    if stream:
        pieces = [chunk.choices[0] for chunk in client.chat.completions.create(**options)]
        text = "".join(piece.delta.content or "" for piece in pieces)
        content = [entry for piece in pieces if piece.logprobs for entry in piece.logprobs.content]
    else:
        (choice,) = client.chat.completions.create(**options).choices
        text, content = choice.message.content, choice.logprobs.content
    assert b"".join(bytes(entry.bytes) for entry in content).decode() == text
    assert all(len(entry.top_logprobs) == 2 for entry in content)
    assert all(entry.logprob == entry.top_logprobs[0].logprob <= 0 for entry in content)


def test_min_tokens_and_ignore_eos_keep_it_talking(client: openai.OpenAI) -> None:
    messages: Any = [{"role": "user", "content": "What is 2 + 2?"}]

    def ask(**extra_body: Any) -> Any:
        return client.chat.completions.create(
            model=MODEL, messages=messages, temperature=0, max_tokens=50, extra_body=extra_body
        )

    short = ask().usage.completion_tokens
    assert short < 30
    assert ask(min_tokens=40).usage.completion_tokens >= 40
    forced = ask(ignore_eos=True)
    assert (forced.usage.completion_tokens, forced.choices[0].finish_reason) == (50, "length")


def test_a_bias_forbids_and_forces_tokens(client: openai.OpenAI) -> None:
    forced = complete(client, PROMPTS[0], max_tokens=4, logit_bias={"70": 100}, logprobs=0)
    assert forced.choices[0].logprobs is not None and forced.choices[0].logprobs.tokens
    assert len(set(forced.choices[0].logprobs.tokens)) == 1
    plain = text_of(client, PROMPTS[0], max_tokens=4)
    assert forced.choices[0].text != plain


def test_several_clients_share_one_server(engine: RunningEngine) -> None:
    with engine.client() as one, engine.client("another key") as other:
        assert text_of(one, PROMPTS[1]) == text_of(other, PROMPTS[1])
