"""What the tests of `engine-bench` share."""

import sys
from collections.abc import Iterator

import pytest
from benching import PATIENCE_S, STUB

from tokenreel.tools.bench.processes.child_process import ChildProcess


@pytest.fixture(scope="module")
def engine() -> Iterator[str]:
    """The URL of one engine without a model, for all that need not start their own."""
    command = [sys.executable, "-P", "-m", "tokenreel.tools.up", "--port", "0", "--no-journal"]
    with ChildProcess("engine-up", [*command, *STUB[1:]]) as child:
        line = child.wait_for(
            lambda lines: next((x.text for x in lines if " is ready at " in x.text), None),
            PATIENCE_S,
        )
        yield line.split(" is ready at ")[1].split()[0]
