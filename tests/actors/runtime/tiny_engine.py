"""An engine of three tiny actors under the real supervisor, each of which can misbehave.

`tiny_engine.py PARENT_DIR LIMITS BEHAVIOURS` supervises; `tiny_engine.py child ...` is an actor,
`tiny_engine.py companion ...` none. They append what they are told
to PARENT_DIR/heard.
"""

import asyncio
import json
import os
import signal
import sys
import time
from pathlib import Path

from tokenreel.actors.runtime import own_processor
from tokenreel.actors.runtime.actor import Actor, StartError, run_actor
from tokenreel.actors.runtime.channels import Frame
from tokenreel.actors.runtime.child import ChildPlan
from tokenreel.actors.runtime.console import Console
from tokenreel.actors.runtime.parent import leave_with_parent
from tokenreel.actors.runtime.run_directory import RunDirectory
from tokenreel.actors.runtime.supervisor import Supervisor, SupervisorLimits
from tokenreel.actors.runtime.topology import Topology
from tokenreel.messages.codec import decode, encode
from tokenreel.messages.lifecycle import (
    ActorDied,
    Drained,
    DrainRequested,
    Serving,
    SystemReady,
)
from tokenreel.messages.options import EngineOptions

TINY_ROLES = ("frontend", "engine_core", "worker")
FOREVER_S = 600


class TinyActor(Actor):
    DESTINATIONS = ()
    behaviour = ""

    def start(self) -> None:
        match self.behaviour:
            case "start error":
                raise StartError("there is no model: fetch one")
            case "crash":
                os._exit(3)
            case "hang":
                time.sleep(FOREVER_S)
            case "hang on":
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                print("hanging on", file=sys.stderr, flush=True)
                time.sleep(FOREVER_S)
            case "never ready":
                return
            case "talk":
                print("hello from the inside", file=sys.stderr)
        num_threads = 1 if self.behaviour in ("one thread", "one free thread") else 2
        self.runtime.ready(f"behaviour: {self.behaviour or 'good'}", num_threads)

    def on_frames(self, frames: list[Frame]) -> None:
        for frame in frames:
            message = decode(frame.payload)
            self._note(type(message).__name__)
            if self.behaviour == "fail later":
                raise ValueError("broke on a message")
            if isinstance(message, SystemReady):
                self.runtime.outboxes["supervisor"].send(encode(Serving()))
            if isinstance(message, DrainRequested | ActorDied) and self.behaviour != "deaf":
                num_cut_short = 2 if self.behaviour == "cut short" else 0
                self.runtime.outboxes["supervisor"].send(encode(Drained(num_cut_short)))

    def close(self) -> None:
        self._note("close")
        if self.behaviour == "slow to leave":
            time.sleep(FOREVER_S)
        if self.behaviour == "fail at the end":
            raise SystemExit(1)

    def _note(self, what: str) -> None:
        with (self.runtime.run_dir.parent / "heard").open("a") as file:
            file.write(f"{self.ROLE} {what}\n")


def run_child(role: str, behaviour: str, arguments: list[str]) -> int:
    tiny = type("Tiny", (TinyActor,), {"ROLE": role, "behaviour": behaviour})
    return run_actor(tiny, arguments)


async def supervise(parent: Path, limits: SupervisorLimits, behaviours: dict[str, str]) -> int:
    with RunDirectory(parent) as run:
        topology = Topology(run.path)
        topology.write_options(EngineOptions(model="none", served_model_name="none"))
        python = "/nonexistent" if "nobody" in behaviours else sys.executable
        command = (python, "-P", __file__, "child")
        # Whoever runs an engine beside the tests may hold processors.
        own_processor.CLAIM = f"{parent}/processor"
        supervisor = Supervisor(
            topology=topology,
            plans=[
                *(
                    ChildPlan(role, (*command, role, behaviours.get(role, "")))
                    for role in TINY_ROLES
                ),
                *_companions(parent, behaviours),
            ],
            listener=None,
            console=Console(),
            announcement=["everybody is here"],
            limits=limits,
            pins_worker=behaviours.get("worker") != "one free thread",
        )
        return await supervisor.run()


def _companions(parent: Path, behaviours: dict[str, str]) -> list[ChildPlan]:
    if "companion" not in behaviours:
        return []
    command = (sys.executable, "-P", __file__, "companion", behaviours["companion"], str(parent))
    return [ChildPlan("companion", command, is_companion=True)]


def run_companion(behaviour: str, parent: Path, arguments: list[str]) -> None:
    """A program that is no actor."""
    leave_with_parent(int(arguments[-1]))
    with (parent / "heard").open("a") as file:
        file.write(f"companion {' '.join(arguments[:-1])}\n")
    match behaviour:
        case "stay":
            signal.pause()
        case "crash":
            raise ValueError("broke")
        case "end":
            pass


if __name__ == "__main__":
    if sys.argv[1] == "companion":
        raise SystemExit(run_companion(sys.argv[2], Path(sys.argv[3]), sys.argv[4:]))
    if sys.argv[1] == "child":
        raise SystemExit(run_child(sys.argv[2], sys.argv[3], sys.argv[4:]))
    tiny_limits = SupervisorLimits(**json.loads(sys.argv[2]))
    raise SystemExit(
        asyncio.run(supervise(Path(sys.argv[1]), tiny_limits, json.loads(sys.argv[3])))
    )
