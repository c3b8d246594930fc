"""The run directory: private options, addresses that fit a socket."""

import stat
from pathlib import Path

import pytest

from tokenreel.actors.runtime.topology import (
    ROLES,
    STUB_WORKER_MODULE,
    AddressTooLong,
    Topology,
    entry_module,
    identity,
    role_of,
)
from tokenreel.messages.options import EngineOptions

OPTIONS = EngineOptions(model="/model", served_model_name="name", api_key="secret", port=0)


def test_options_come_back_as_they_were_written(tmp_path: Path) -> None:
    Topology(tmp_path).write_options(OPTIONS)
    assert Topology(tmp_path).read_options() == OPTIONS


def test_only_the_owner_can_read_the_options(tmp_path: Path) -> None:
    topology = Topology(tmp_path)
    topology.write_options(OPTIONS)
    assert stat.S_IMODE(topology.options_path.stat().st_mode) == 0o600


def test_options_are_written_once(tmp_path: Path) -> None:
    topology = Topology(tmp_path)
    topology.write_options(OPTIONS)
    with pytest.raises(FileExistsError):
        topology.write_options(OPTIONS)


def test_every_role_has_an_address_of_its_own() -> None:
    topology = Topology(Path("/run/x"))
    assert topology.address("worker", 3) == "ipc:///run/x/worker.3"
    assert len({topology.address(role) for role in ROLES}) == len(ROLES)


def test_a_directory_too_long_for_a_socket_is_refused_with_advice() -> None:
    with pytest.raises(AddressTooLong, match="TMPDIR"):
        Topology(Path("/" + "d" * 120)).address("worker")


def test_the_stub_takes_the_place_of_the_worker_alone() -> None:
    stubbed = EngineOptions(model="/m", served_model_name="m", stub_worker=True)
    assert entry_module("worker", stubbed) == STUB_WORKER_MODULE
    for role in ROLES:
        if role != "worker":
            assert entry_module(role, stubbed) == entry_module(role, OPTIONS)


def test_an_identity_names_its_role() -> None:
    assert identity("engine_core", 0, 7) == "engine_core.0.7"
    assert role_of("engine_core.0.7") == "engine_core"
