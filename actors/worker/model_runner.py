"""Carries out steps: from a step message to sampled tokens. It never decides what runs.

A step is launched, then collected. On a CPU launching does all the work. On CUDA it only queues it,
and the tokens that a step samples stay on the device for the next one, which can thus be launched
before they are known here.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from tokenreel.actors.worker.input_batch import InputBatch
from tokenreel.actors.worker.models.model import Model
from tokenreel.actors.worker.sampled import RowLogprobs, Sampled, Values
from tokenreel.actors.worker.sampler import sample
from tokenreel.actors.worker.sampling_table import SamplingBatch
from tokenreel.actors.worker.step_input import StepInput
from tokenreel.actors.worker.step_tensors import StepTensors, step_tensors
from tokenreel.kernels.cpu.sampling import NOT_FINITE
from tokenreel.messages.ids import SeqId
from tokenreel.messages.logprobs import SequenceLogprobs
from tokenreel.messages.steps import SampledTokens, SequenceFailure, StepScheduled

MAX_CPU_LOGITS_BYTES = 64 << 20
"""On a CPU, more logits than that are computed and sampled in parts, for a large vocabulary's take
much memory. Each part reads the weights again."""


class StepOutput:
    """What a step yielded, as the engine core wants it."""

    def __init__(self, failures: list[SequenceFailure]) -> None:
        self.outputs: list[SampledTokens] = []
        self.failures = failures
        self.logprobs: list[SequenceLogprobs] = []


class PendingStep:
    """A launched step. `is_done` never waits, `collect` does."""

    def __init__(
        self,
        batch: InputBatch,
        step_input: StepInput | None,
        failures: list[SequenceFailure],
        sampled: Sampled | None = None,
        event: torch.cuda.Event | None = None,
        previous: "PendingStep | None" = None,
    ) -> None:
        self._batch = batch
        self._input = step_input
        self._sampled = sampled
        self._event = event
        self._previous = previous
        self._failures = failures
        self._output: StepOutput | None = None

    def is_done(self) -> bool:
        return self._event is None or bool(self._event.query())

    def collect(self) -> StepOutput:
        """The step's results, which are also put where the next step finds them; steps before it
        are collected first."""
        if self._output is None:
            if self._previous is not None:
                self._previous.collect()
                self._previous = None
            if self._event is not None:
                self._event.synchronize()
            self._output = StepOutput(self._failures)
            if self._input is not None and self._sampled is not None:
                self._read(self._input, self._sampled, self._output)
        return self._output

    def _read(self, step_input: StepInput, sampled: Sampled, output: StepOutput) -> None:
        seq_ids = step_input.sampled_seq_ids.tolist()
        token_ids = sampled.token_ids
        self._batch.write_sampled(step_input, token_ids)
        for seq_id, token_id in zip(seq_ids, token_ids.tolist(), strict=True):
            if token_id == NOT_FINITE:
                message = "the model's logits are not finite"
                output.failures.append(SequenceFailure(SeqId(seq_id), message))
            else:
                output.outputs.append(SampledTokens(SeqId(seq_id), [token_id]))
        for logprobs in sampled.logprobs:
            is_finite = [token_ids[row] != NOT_FINITE for row in logprobs.rows]
            entries = _sequence_logprobs(logprobs, seq_ids)
            output.logprobs += [e for e, kept in zip(entries, is_finite, strict=True) if kept]


class ModelRunner:
    """Owns the model, the cache and the batch. Steps are launched in the order of their ids."""

    def __init__(self, model: Model, cache: Any, batch: InputBatch) -> None:
        """`cache`: of the model's `new_cache`.

        Raises ValueError for an async batch and a compiled model, which needs each token known.
        """
        if batch.is_async and model.team is not None:
            raise ValueError("a compiled model cannot begin a step before the last one's end")
        self._model = model
        self._cache = cache
        self._batch = batch
        self._last: PendingStep | None = None
        self._last_sampled = torch.zeros(batch.max_num_seqs, dtype=torch.int32, device=model.device)
        row_bytes = 4 * model.config.vocab_size
        self._is_cuda = model.device.type == "cuda"
        self._part_size = batch.max_num_seqs
        if model.team is not None:
            self._part_size = max(1, MAX_CPU_LOGITS_BYTES // row_bytes)

    @property
    def num_threads(self) -> int:
        """That compute on the host; 0: PyTorch's business."""
        return 0 if self._model.team is None else self._model.team.num_threads

    def launch(self, step: StepScheduled) -> PendingStep:
        """Raises `ImpossibleStep` if the message makes no sense; then nothing has happened."""
        if self._model.team is not None:
            return self._launch(step)
        with torch.inference_mode():
            return self._launch(step)

    def _launch(self, step: StepScheduled) -> PendingStep:
        step_input, failures = self._batch.apply(step)
        if step_input is None:
            return PendingStep(self._batch, None, failures)
        self._wait_for_history(step_input)
        inputs: StepInput | StepTensors = step_input
        if self._model.team is None:
            inputs = step_tensors(step_input, self._last_sampled)
        hidden = self._model.forward(inputs, self._cache)
        sampled, event = None, None
        if len(hidden):
            sampled = self._sample(hidden, self._batch.select_sampling(step_input))
            if isinstance(inputs, StepTensors):
                known = sampled.token_ids.clamp(min=0).to(torch.int32)
                self._last_sampled.index_copy_(0, inputs.sampled_rows, known)
                sampled = _copy_to_host(sampled)
        if self._is_cuda:
            event = torch.cuda.Event()
            event.record()
        pending = PendingStep(self._batch, step_input, failures, sampled, event, self._last)
        if not self._batch.is_async:
            pending.collect()
        self._last = pending
        return pending

    def _wait_for_history(self, step_input: StepInput) -> None:
        """Where a choice depends on tokens that are still to come from the device."""
        last = self._last if self._batch.is_async else None
        if last is not None and self._batch.sampling.needs_history(step_input.sampled_rows):
            last.collect()

    def _sample(self, hidden: Any, batch: SamplingBatch) -> Sampled:
        if batch.is_plain:
            return Sampled(self._model.greedy(hidden))
        size = self._part_size
        if len(batch) <= size:
            return sample(self._model.logits(hidden), batch, self._model.team)
        token_ids: list[Values] = []
        logprobs: list[RowLogprobs] = []
        for start in range(0, len(batch), size):
            logits = self._model.logits(hidden[start : start + size])
            part = sample(logits, batch.part(start, start + size), self._model.team)
            token_ids.append(part.token_ids)
            for entry in part.logprobs:
                logprobs.append(replace(entry, rows=[start + row for row in entry.rows]))
        return Sampled(np.concatenate(token_ids), logprobs)


def _copy_to_host(sampled: Sampled) -> Sampled:
    """Queues the copies; on CUDA they are done when an event recorded afterwards is."""

    def to_host(tensor: Any) -> Values:
        host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
        return host.copy_(tensor, non_blocking=True).numpy()

    return Sampled(
        to_host(sampled.token_ids),
        [
            replace(
                entry,
                sampled=to_host(entry.sampled),
                top_ids=to_host(entry.top_ids),
                top=to_host(entry.top),
            )
            for entry in sampled.logprobs
        ],
    )


def _sequence_logprobs(logprobs: RowLogprobs, seq_ids: list[int]) -> list[SequenceLogprobs]:
    columns = zip(
        logprobs.rows,
        logprobs.num_top,
        logprobs.sampled.tolist(),
        logprobs.top_ids.tolist(),
        logprobs.top.tolist(),
        strict=True,
    )
    return [
        SequenceLogprobs(SeqId(seq_ids[row]), [own], [ids[:num_top]], [values[:num_top]])
        for row, num_top, own, ids, values in columns
    ]
