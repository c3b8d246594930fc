"""The frontend as the process that it is in production."""

import asyncio
import subprocess
import sys
from typing import Any

from tokenreel.messages.lifecycle import Shutdown

PATIENCE_S = 60.0

PROGRAM = """
import sys
from tokenreel.actors.runtime.actor import run_actor
from tokenreel.frontend.process import FrontendActor

code = run_actor(FrontendActor)
heavy = {"torch", "transformers", "tokenizers", "numpy"} & set(sys.modules)
resident_kib = next(
    int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")
)
print(sorted(heavy), resident_kib, flush=True)
raise SystemExit(code)
"""


async def test_it_serves_and_leaves_on_request(remote: Any) -> None:
    engine, listener = remote.engine, remote.listener
    fd = listener.fileno()
    child = subprocess.Popen(
        [sys.executable, "-P", "-c", PROGRAM, remote.run_dir, "--listen-fd", str(fd)],
        pass_fds=[fd],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        await remote.announce()
        ready = await asyncio.wait_for(engine.ready.get(), PATIENCE_S)
        assert (ready.role, ready.pid) == ("frontend", child.pid)
        while (await remote.get("/health")).status_code != 200:
            await asyncio.sleep(0)
        client = await remote.open("/v1/completions", {"prompt": "a", "stream": True})
        await client.read_until(b"data: [DONE]\n\n")
        engine.send("supervisor", Shutdown())
        output, _ = await asyncio.to_thread(child.communicate, timeout=PATIENCE_S)
    finally:
        child.kill()
        child.communicate()
    assert child.returncode == 0
    heavy_modules, resident_kib = output.rsplit(" ", 1)
    assert heavy_modules == "[]"
    assert int(resident_kib) < 150 << 10


async def test_without_a_socket_it_says_so(remote: Any) -> None:
    command = [sys.executable, "-P", "-m", "tokenreel.frontend.process", remote.run_dir]
    child = await asyncio.to_thread(subprocess.run, command, timeout=PATIENCE_S)
    assert child.returncode == 1
    failed = await asyncio.wait_for(remote.engine.failed.get(), PATIENCE_S)
    assert "--listen-fd" in failed.message
