"""The vocabulary in slabs is the vocabulary."""

import math

import pytest
import torch

from tokenreel.actors.worker.largest import largest
from tokenreel.actors.worker.models import vocabulary_head
from tokenreel.actors.worker.models.vocabulary_head import VocabularyHead


@pytest.fixture(autouse=True)
def small_slabs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocabulary_head, "CPU_SLAB_TOKENS", 16)


@pytest.mark.parametrize("max_whole_logits", [0, 1 << 18], ids=["slabs", "whole"])
def test_the_best_of_the_slabs_is_the_best(
    max_whole_logits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vocabulary_head, "MAX_WHOLE_LOGITS", max_whole_logits)
    generator = torch.Generator().manual_seed(0)
    weight, hidden = (torch.randn(n, 8, generator=generator) for n in (70, 33))
    # Equal rows in different slabs, which win for some hidden states: the lowest is to be taken.
    weight[40] = weight[20] = weight[3] = 3 * weight[3]
    head = VocabularyHead(weight)
    logits = head.logits(hidden)
    torch.testing.assert_close(logits, hidden @ weight.T)
    token_ids, peaks = head.greedy(hidden)
    expected_ids, expected_peaks = largest(logits)
    assert 3 in expected_ids
    assert torch.equal(token_ids, expected_ids)
    assert torch.equal(peaks, expected_peaks)


@pytest.mark.parametrize("place", [2, 20, 69])
def test_a_nan_in_any_slab_spoils_the_peak(place: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocabulary_head, "MAX_WHOLE_LOGITS", 0)
    weight = torch.ones(70, 8)
    weight[place] = math.nan
    _, peaks = VocabularyHead(weight).greedy(torch.ones(2, 8))
    assert peaks.isnan().all()
