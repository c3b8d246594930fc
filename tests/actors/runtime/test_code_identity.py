"""META names the code that decided, by its content."""

from pathlib import Path

import msgspec

from tokenreel.actors.runtime.code_identity import commit, describe_run, source_hash
from tokenreel.messages.journal_meta import decode_meta


def tree(root: Path) -> Path:
    for name in ("actors/core/engine.py", "actors/core/queues.py", "messages/ids.py"):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"# {name}\n")
    (root / "actors/engine_core.py").write_text("the shell decides nothing")
    return root


def test_the_source_hash_follows_what_decides_and_nothing_else(tmp_path: Path) -> None:
    root = tree(tmp_path / "one")
    original = source_hash(root)
    assert source_hash(tree(tmp_path / "elsewhere")) == original
    (root / "actors/engine_core.py").write_text("changed")
    (root / "actors/core/notes.txt").write_text("no code")
    assert source_hash(root) == original
    (root / "messages/ids.py").write_text("# messages/ids.py \n")
    changed = source_hash(root)
    (root / "messages/ids.py").rename(root / "messages/id.py")
    assert len({original, changed, source_hash(root)}) == 3


def test_the_commit_of_a_checkout_is_found_loose_packed_or_detached(tmp_path: Path) -> None:
    git = tmp_path / ".git"
    assert commit(tmp_path) == ""
    (git / "refs/heads").mkdir(parents=True)
    (git / "HEAD").write_text("ref: refs/heads/main\n")
    assert commit(tmp_path) == ""
    (git / "packed-refs").write_text("# pack-refs\n111 refs/heads/other\n222 refs/heads/main\n")
    assert commit(tmp_path) == "222"
    (git / "refs/heads/main").write_text("333\n")
    assert commit(tmp_path) == "333"
    (git / "HEAD").write_text("444\n")
    assert commit(tmp_path) == "444"


class Configuration(msgspec.Struct, frozen=True):
    num_blocks: int
    policy: str = "fcfs"


def test_a_run_is_described_by_configuration_and_code() -> None:
    meta = decode_meta(describe_run(Configuration(8), 3, {"model_hash": b"\x01"}, {"engine": 5}))
    assert meta.configuration == {"num_blocks": 8, "policy": "fcfs"}
    assert (meta.logic_version, meta.facts, meta.seeds) == (
        3,
        {"model_hash": b"\x01"},
        {"engine": 5},
    )
    assert meta.source_hash == source_hash()
    assert meta.vocabulary["structs"]["StepBegan"]["tag"] == 4
