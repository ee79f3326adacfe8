"""Atomic writes and deletes, locks, and errors of a full disk."""

import errno
import shutil
from pathlib import Path

import pytest
from safetensors import SafetensorError

from edge_grpo.base.errors import CheckpointError
from edge_grpo.runs.durable import flush_tree, is_open_as, remove_tree, saving, take_lock, write_whole


def test_a_file_is_replaced_atomically(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    write_whole(file, "old")
    write_whole(file, "new ü")
    assert file.read_text(encoding="utf-8") == "new ü"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    (tmp_path / ".a.txt").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space"):
        write_whole(file, "half")
    assert file.read_text(encoding="utf-8") == "new ü"


def test_a_folder_is_renamed_before_it_is_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "step"
    for _ in range(2):  # the second time, with leftovers of the first
        (folder / "deep").mkdir(parents=True)
        (folder / "deep/file").write_text("x")
        flush_tree(folder)

        def killed(path: Path, **_: object) -> None:
            if path.exists():
                assert not folder.exists()
                raise KeyboardInterrupt

        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(shutil, "rmtree", killed)
            remove_tree(folder)
        remove_tree(folder)
    (folder / "deep").mkdir(parents=True)
    remove_tree(folder)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "reason", "advice"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device", "free some space"),
        (ConnectionError(errno.ECONNREFUSED, "Connection refused"), "Connection refused", "fix that"),
        (OSError("from a library,\nwithout errno"), "from a library, without errno", "fix that"),
        (SafetensorError("I/O error: File too large"), "I/O error: File too large", "fix that"),
    ],
)
def test_a_failed_write_is_one_line_that_says_how_to_resume(
    tmp_path: Path, error: Exception, reason: str, advice: str
) -> None:
    with pytest.raises(CheckpointError) as caught, saving(tmp_path / "x", tmp_path):
        raise error
    assert str(caught.value) == (
        f"{tmp_path / 'x'}: could not be written ({reason}); {advice}, then resume with: "
        f"edge-grpo train --resume {tmp_path}"
    )


def test_a_file_stays_locked_until_it_is_closed(tmp_path: Path) -> None:
    name = tmp_path / ".lock"
    first, locked = take_lock(name)
    assert locked
    with pytest.raises(BlockingIOError):
        take_lock(name)
    name.unlink()
    assert not is_open_as(first, name)
    second, _ = take_lock(name)  # another file with the same name
    assert is_open_as(second, name)
    first.close()
    with pytest.raises(BlockingIOError):
        take_lock(name)
    second.close()
    take_lock(name)[0].close()
