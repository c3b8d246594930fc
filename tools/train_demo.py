"""Trains the demo model from text it makes up itself; it reads no data and no other model.

    python -m tokenreel.tools.train_demo --out tools/demo_model

The same seed on the same kind of machine gives the same weights, unless `--minutes` ends the run.
"""

import argparse
import copy
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from tokenreel.tools import demo_corpus as corpus
from tokenreel.tools import evaluate_demo

MAX_POSITION_EMBEDDINGS = 2048
# Steps take turns among these, so that short chats are frequent and long ones are not strange.
ROW_LENGTHS = (256, 256, 512, 256, 256, 1024)
IGNORED = -100  # the label that cross entropy leaves out
CHAT_TEMPLATE = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)


@dataclass(frozen=True)
class Plan:
    """How large, how long and from which seed."""

    seed: int = 0
    num_steps: int = 5000
    max_minutes: float = math.inf
    tokens_per_step: int = 2048
    peak_learning_rate: float = 5e-3
    vocab_size: int = 1536
    hidden_size: int = 192
    num_layers: int = 5
    num_tokenizer_samples: int = 20_000
    num_checkpoint_steps: int = 500
    num_threads: int = 2


def train(plan: Plan, out: Path, resume: Path | None = None) -> tuple[LlamaForCausalLM, int]:
    """Train, writing to `out` now and then and at the end; the model in bfloat16 and its steps.

    With `resume`, tokenizer and weights are those of that directory; the optimizers start anew.
    """
    torch.set_num_threads(plan.num_threads)
    torch.manual_seed(plan.seed)
    if resume is None:
        tokenizer = train_tokenizer(plan)
        model = LlamaForCausalLM(model_config(plan, tokenizer))
    else:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(resume)
        model = LlamaForCausalLM.from_pretrained(resume, dtype=torch.float32)
    optimizers = make_optimizers(model)
    start, loss_sum, num_steps = time.monotonic(), 0.0, 0
    for inputs, labels in batches(plan, tokenizer):
        num_steps += 1
        progress = max(num_steps / plan.num_steps, _minutes_since(start) / plan.max_minutes)
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = plan.peak_learning_rate * learning_rate_factor(num_steps, progress)
        loss_sum += train_step(model, optimizers, inputs, labels)
        if num_steps % 100 == 0:
            minutes = _minutes_since(start)
            print(f"step {num_steps}  loss {loss_sum / 100:.4f}  {minutes:.1f} min", flush=True)
            loss_sum = 0.0
        if progress >= 1.0:
            break
        if num_steps % plan.num_checkpoint_steps == 0:
            save(model, tokenizer, out)
    return save(model, tokenizer, out), num_steps


def train_tokenizer(plan: Plan) -> PreTrainedTokenizerFast:
    """Byte-level BPE with every digit a token of its own, so that sums can be learned."""
    rng = Random(plan.seed)
    samples = (corpus.sample(rng) for _ in range(plan.num_tokenizer_samples))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=plan.vocab_size,
        special_tokens=list(corpus.SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(("".join(s.text for s in sample) for sample in samples), trainer)
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        bos_token=corpus.END_OF_TEXT,
        eos_token=corpus.END_OF_TURN,
        pad_token=corpus.END_OF_TEXT,
        additional_special_tokens=[corpus.START_OF_TURN],
        add_bos_token=False,
        add_eos_token=False,
        clean_up_tokenization_spaces=False,
        model_max_length=MAX_POSITION_EMBEDDINGS,
        chat_template=CHAT_TEMPLATE,
    )


def model_config(plan: Plan, tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    """Llama with heads of 32, three query heads for each key-value head, and tied embeddings."""
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=plan.hidden_size,
        intermediate_size=plan.hidden_size * 8 // 3,
        num_hidden_layers=plan.num_layers,
        num_attention_heads=plan.hidden_size // 32,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=MAX_POSITION_EMBEDDINGS,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def batches(plan: Plan, tokenizer: PreTrainedTokenizerFast) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless inputs and labels, both [num_rows, row_length] with a constant product."""
    rng = Random(plan.seed + 1)
    stream = encoded_samples(rng, tokenizer)
    while True:
        for length in ROW_LENGTHS:
            length = min(length, plan.tokens_per_step)
            rows = [row(stream, length + 1) for _ in range(plan.tokens_per_step // length)]
            tokens = torch.tensor([tokens for tokens, _ in rows])
            is_learned = torch.tensor([is_learned for _, is_learned in rows])
            labels = torch.where(is_learned, tokens, IGNORED)
            yield tokens[:, :-1], labels[:, 1:]


def row(
    stream: Iterator[tuple[list[int], list[bool]]], length: int
) -> tuple[list[int], list[bool]]:
    """Samples end to end, the last one cut off; a row begins where a sample begins."""
    tokens: list[int] = []
    is_learned: list[bool] = []
    while len(tokens) < length:
        more_tokens, more_learned = next(stream)
        tokens += more_tokens
        is_learned += more_learned
    return tokens[:length], is_learned[:length]


def encoded_samples(
    rng: Random, tokenizer: PreTrainedTokenizerFast, num_at_once: int = 256
) -> Iterator[tuple[list[int], list[bool]]]:
    """Endless samples as token ids, and for each token whether the loss looks at it."""
    backend = tokenizer.backend_tokenizer
    while True:
        samples = [corpus.sample(rng) for _ in range(num_at_once)]
        texts = [segment.text for sample in samples for segment in sample]
        ids = iter(backend.encode_batch_fast(texts, add_special_tokens=False))
        for sample in samples:
            tokens: list[int] = []
            is_learned: list[bool] = []
            for segment in sample:
                segment_ids = next(ids).ids
                tokens += segment_ids
                is_learned += [segment.is_learned] * len(segment_ids)
            yield tokens, is_learned


def make_optimizers(model: nn.Module) -> list[torch.optim.Optimizer]:
    """Muon, which needs fewer steps, for the matrices within the layers; AdamW elsewhere."""
    named = dict(model.named_parameters())
    matrices = [w for name, w in named.items() if w.ndim == 2 and "embed" not in name]
    others = [w for name, w in named.items() if w.ndim != 2 or "embed" in name]
    return [
        torch.optim.Muon(matrices, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
    ]


def learning_rate_factor(num_steps: int, progress: float, num_warmup_steps: int = 100) -> float:
    """Linear warm-up, then a cosine down to a hundredth; `progress` runs from 0 to 1."""
    cosine = 0.5 * (1.0 + math.cos(math.pi * min(progress, 1.0)))
    return min(1.0, num_steps / num_warmup_steps) * (0.01 + 0.99 * cosine)


def train_step(
    model: LlamaForCausalLM,
    optimizers: list[torch.optim.Optimizer],
    inputs: Tensor,
    labels: Tensor,
) -> float:
    """One update; returns the mean loss over the learned tokens."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = model.model(input_ids=inputs, use_cache=False).last_hidden_state
        # Only learned positions pay for the product with the vocabulary.
        is_learned = labels != IGNORED
        logits = model.lm_head(hidden[is_learned])  # [num_learned, vocab_size]
    loss = nn.functional.cross_entropy(logits.float(), labels[is_learned])
    model.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()
    return loss.item()


def save(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path
) -> LlamaForCausalLM:
    """Write a Hugging Face model directory in bfloat16; returns what was written."""
    half: LlamaForCausalLM = copy.deepcopy(model).to(torch.bfloat16).eval()  # type: ignore[arg-type]
    half.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.convert_tokens_to_ids([corpus.END_OF_TURN, corpus.END_OF_TEXT]),
        pad_token_id=tokenizer.pad_token_id,
    )
    half.save_pretrained(out)
    (out / "model.safetensors").chmod(0o644)  # safetensors writes for its owner alone
    tokenizer.save_pretrained(out, save_jinja_files=False)
    return half


def write_model_card(
    out: Path, plan: Plan, num_parameters: int, num_steps: int, minutes: float, table: list[str]
) -> None:
    """README.md: what the model is, how it was made and what was measured."""
    card = MODEL_CARD.format(
        num_parameters=num_parameters,
        layers=plan.num_layers,
        hidden=plan.hidden_size,
        vocab=plan.vocab_size,
        steps=num_steps,
        tokens=plan.tokens_per_step,
        seed=plan.seed,
        minutes=minutes,
        table="\n".join(table),
    )
    (out / "README.md").write_text(card, encoding="utf-8")


MODEL_CARD = """\
# tokenreel demo model

A Llama-architecture model with {num_parameters:,} parameters ({layers} layers of width {hidden},
6 query and 2 key-value heads of 32, tied embeddings, a vocabulary of {vocab}) that exists so that
the quick start and the end-to-end tests have something meaningful to say. **It is a toy.** It was
trained from nothing on text that its training script makes up: arithmetic with small numbers,
counting, a small table of facts, template stories and short chats. It has read nothing else and
knows nothing else. It says so for most other questions; where it does not, do not believe it.

- Addition and subtraction of whole numbers from 0 to 99, products up to 12 * 12, and division
  of two-digit numbers by numbers up to 12.
- Counting, about forty capitals, some colours, animals, days, months and opposites.
- Short stories from seven plots, small talk, repeating a few words; copied names may come out
  misspelt.
- Chats of up to some 1,000 tokens; `<|im_end|>` ends every turn.

## Made by

    python -m tokenreel.tools.train_demo --out tools/demo_model --seed {seed} --steps {steps}

{steps:,} steps of {tokens:,} tokens took {minutes:.0f} minutes on two CPU cores shared with other
work. No data and no other model went into it; the licence of the repository applies.

## Measured

`python -m tokenreel.tools.evaluate_demo tools/demo_model`: exact answers, the turn ended by the
model itself. Held-out sums and differences (one pair of numbers in twenty, the larger above 12)
were never trained on; the other tasks are small tables that it has seen whole.

{table}
"""


def _minutes_since(start: float) -> float:
    return (time.monotonic() - start) / 60


def parse_options() -> argparse.Namespace:
    """The command line."""
    plan = Plan()
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="the model directory to write")
    parser.add_argument("--seed", type=int, default=plan.seed)
    parser.add_argument("--steps", type=int, default=plan.num_steps)
    parser.add_argument("--minutes", type=float, default=math.inf, help="end after this long")
    parser.add_argument("--learning-rate", type=float, default=plan.peak_learning_rate)
    parser.add_argument("--resume", type=Path, help="go on from this model directory")
    parser.add_argument("--threads", type=int, default=plan.num_threads)
    parser.add_argument("--num-cases", type=int, default=300, help="questions per measured task")
    return parser.parse_args()


def main() -> None:
    """Train, measure, write the model card."""
    options = parse_options()
    plan = Plan(
        seed=options.seed,
        num_steps=options.steps,
        max_minutes=options.minutes,
        num_threads=options.threads,
        peak_learning_rate=options.learning_rate,
    )
    start = time.monotonic()
    model, num_steps = train(plan, options.out, options.resume)
    minutes = _minutes_since(start)
    tokenizer: Any = PreTrainedTokenizerFast.from_pretrained(options.out)
    table = [evaluate_demo.TABLE_HEAD]
    if options.num_cases:
        accuracies = evaluate_demo.evaluate(model, tokenizer, options.num_cases, options.seed)
        table += [accuracy.row() for accuracy in accuracies]
    print("\n".join(table))
    write_model_card(options.out, plan, model.num_parameters(), num_steps, minutes, table)


if __name__ == "__main__":
    main()
