"""Where the time goes while steps of a sequence are open that nobody saw complete."""

from tokenreel.tools.replay.why.latency import DECODE, PREFILL, Share, on_one_clock, spend


def test_an_open_step_computes_only_once_the_worker_is_done_with_the_one_before() -> None:
    shares = [
        Share(1, PREFILL, composed_ns=10, began_ns=20, ended_ns=60, completed_ns=65),
        Share(2, DECODE, composed_ns=15),
        Share(3, DECODE, composed_ns=66),
    ]
    assert on_one_clock(shares, now_ns=80)
    spent = spend(0, 80, 80, shares, waits=[])
    assert (spent[PREFILL], spent[DECODE]) == (40, 20)
    assert sum(spent.values()) == 80
