"""The stack's home folder: its lock, its secrets, and what it remembers."""

import stat
from pathlib import Path

import pytest

from streams.local.errors import LocalError
from streams.local.home import Home, write_private
from streams.local.stack import quiet


async def test_a_home_that_is_taken_is_refused_until_it_is_released(tmp_path: Path) -> None:
    first, second = Home(tmp_path / "home", quiet), Home(tmp_path / "home", quiet)
    await first.take()
    with pytest.raises(LocalError, match="in use by another stack"):
        await second.take()
    first.release()
    await second.take()
    second.release()


def test_secrets_are_made_once_and_are_private(tmp_path: Path) -> None:
    home = Home(tmp_path, quiet)
    assert home.secrets() == home.secrets()
    assert stat.S_IMODE((tmp_path / "secrets.json").stat().st_mode) == 0o600


def test_two_homes_have_different_secrets(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert Home(tmp_path / "a", quiet).secrets().tidemill != Home(tmp_path / "b", quiet).secrets().tidemill


def test_a_private_file_is_replaced_whole(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("a much longer text that was there before")
    write_private(file, "new")
    assert file.read_text() == "new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_damaged_memory_of_ports_is_forgotten(tmp_path: Path) -> None:
    (tmp_path / "ports.json").write_text("[1, 2")
    assert Home(tmp_path, quiet).remembered("ports.json") == {}
