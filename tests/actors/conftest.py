"""Small tokenizers of the kinds that language models have, trained in a moment; a model directory
around one of them; and an actor among peers with real sockets."""

import asyncio
import contextlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from tokenreel.actors.runtime.actor import Actor, ActorRuntime
from tokenreel.actors.runtime.channels import Frame, Inbox, Outbox, new_context
from tokenreel.actors.runtime.clock import SystemClock
from tokenreel.actors.runtime.topology import ROLES, SUPERVISOR, Topology, identity
from tokenreel.messages.codec import Message, decode, encode
from tokenreel.messages.options import EngineOptions

PATIENCE_S = 60.0

CORPUS = [
    "the cat sat on the mat and the dog ate the cake ",
    "counting one two three four five six seven eight nine ten ",
    "naïve café über straße Ελλάδα Москва 日本語の文章 你好世界 😀😁🙂 👩‍👩‍👧 ",
] * 4
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content']"
    " + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def byte_level() -> Tokenizer:
    """As GPT-2, Llama 3 and Qwen have it: BPE over bytes, characters split where it likes."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_tokens(["<think>", "plain added", "é"])
    return tokenizer


def sentencepiece() -> Tokenizer:
    """As Llama 2 and Mistral have it: words begin with ▁, unknown characters become bytes."""
    return _with_byte_tokens(
        decoders.Sequence(
            [
                decoders.Replace("▁", " "),
                decoders.ByteFallback(),
                decoders.Fuse(),
                decoders.Strip(" ", 1, 0),
            ]
        ),
        normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]),
    )


def gemma_like() -> Tokenizer:
    """Byte fallback without the prepended space."""
    return _with_byte_tokens(
        decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]),
        normalizers.Replace(" ", "▁"),
    )


def metaspace() -> Tokenizer:
    """Spaces only, without bytes: unknown characters are lost."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    special = ["<unk>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def wordpiece() -> Tokenizer:
    """Not a language model's kind: its decoder is left to the library."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.WordPiece(cleanup=False)
    special = ["[UNK]", "[CLS]", "[SEP]"]
    trainer = trainers.WordPieceTrainer(vocab_size=250, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def _with_byte_tokens(decoder: decoders.Decoder, normalizer: normalizers.Normalizer) -> Tokenizer:
    special = ["<unk>", "<s>", "</s>"]
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizer
    trained.train_from_iterator(
        [text.replace("日本語", "").replace("😀", "") for text in CORPUS],
        trainers.BpeTrainer(vocab_size=250, show_progress=False),
    )
    learned = json.loads(trained.to_str())["model"]
    words = sorted(learned["vocab"], key=learned["vocab"].__getitem__)
    vocab = {token: index for index, token in enumerate(special + byte_tokens + words)}
    merges = [tuple(merge) for merge in learned["merges"]]
    tokenizer = Tokenizer(
        models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    tokenizer.normalizer = normalizer
    tokenizer.decoder = decoder
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in special])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    return tokenizer


TOKENIZERS: dict[str, Callable[[], Tokenizer]] = {
    "byte_level": byte_level,
    "sentencepiece": sentencepiece,
    "gemma_like": gemma_like,
    "metaspace": metaspace,
    "wordpiece": wordpiece,
}


@pytest.fixture(scope="session")
def tokenizers_by_kind() -> dict[str, Tokenizer]:
    return {kind: make() for kind, make in TOKENIZERS.items()}


@pytest.fixture
def make_model_dir(tmp_path: Path, tokenizers_by_kind: dict[str, Tokenizer]) -> Callable[..., Path]:
    """Writes the text side of a model directory; keywords are files to add or replace."""

    def make(kind: str = "byte_level", **files: dict[str, Any]) -> Path:
        tokenizers_by_kind[kind].save(str(tmp_path / "tokenizer.json"))
        eos = "<|im_end|>" if kind == "byte_level" else "</s>"
        contents: dict[str, dict[str, Any]] = {
            "tokenizer_config": {"eos_token": eos, "chat_template": CHATML},
            "config": {},
        }
        for name, content in (contents | files).items():
            (tmp_path / f"{name}.json").write_text(json.dumps(content))
        return tmp_path

    return make


class Peers:
    """One actor in this process, and real sockets for everybody it talks with."""

    def __init__(
        self, make: Callable[[ActorRuntime], Actor], role: str, options: EngineOptions
    ) -> None:
        self._run_dir = Path(tempfile.mkdtemp(prefix="peers-"))
        topology = Topology(self._run_dir)
        self._context = new_context()
        peers = [peer for peer in (*ROLES, SUPERVISOR) if peer != role]
        self._inboxes = {peer: Inbox(self._context, topology.address(peer)) for peer in peers}
        self._inbox = Inbox(self._context, topology.address(role))
        self._outboxes = {
            peer: Outbox(self._context, topology.address(role), identity(peer, 0, 1))
            for peer in peers
        }
        self._actors_outboxes = {
            peer: Outbox(self._context, topology.address(peer), identity(role, 0, 1))
            for peer in peers
        }
        self._loop = asyncio.new_event_loop()
        runtime = ActorRuntime(
            role=role,
            options=options,
            topology=topology,
            clock=SystemClock(),
            inbox=self._inbox,
            outboxes=self._actors_outboxes,
            loop=self._loop,
        )
        self.actor = make(runtime)

    def send(self, sender: str, *messages: Message | bytes, attachment: bytes = b"") -> None:
        """Send them to the actor, and let it handle them as they come; it may look for more."""
        num_expected = self._inbox.statistics().num_frames + len(messages)
        for message in messages:
            payload = message if isinstance(message, bytes) else encode(message)
            self._outboxes[sender].send(payload, attachment)
        while self._inbox.statistics().num_frames < num_expected:
            assert self._inbox.poll(PATIENCE_S)
            if frames := self._inbox.drain():
                self.actor.on_frames(frames)

    def receive(self, peer: str) -> Message:
        """The next message from the actor to `peer`."""
        (frame,) = self.frames(peer, 1)
        return decode(frame.payload)

    def frames(self, peer: str, count: int) -> list[Frame]:
        """The next `count` frames from the actor to `peer`."""
        found: list[Frame] = []
        while len(found) < count:
            assert self._inboxes[peer].poll(PATIENCE_S), f"nothing came for {peer}"
            found += self._inboxes[peer].drain(count - len(found))
        return found

    def close(self) -> None:
        self.actor.close()
        self._inbox.close()
        for inbox in self._inboxes.values():
            inbox.close()
        for outbox in (*self._outboxes.values(), *self._actors_outboxes.values()):
            outbox.close()
        self._context.term()
        self._loop.close()
        shutil.rmtree(self._run_dir)


@pytest.fixture
def connect() -> Iterator[Callable[[Callable[[ActorRuntime], Actor], str, EngineOptions], Peers]]:
    """Makes an actor with its peers; `start` is the test's to call."""
    with contextlib.ExitStack() as stack:

        def make(
            actor: Callable[[ActorRuntime], Actor], role: str, options: EngineOptions
        ) -> Peers:
            peers = Peers(actor, role, options)
            stack.callback(peers.close)
            return peers

        yield make
