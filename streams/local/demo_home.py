"""`scripts/demo --fresh`: the home folder emptied before the start, if it is one, and nobody uses it."""

import asyncio
import shutil
from pathlib import Path

from streams.local.demo_screen import Screen
from streams.local.errors import LocalError
from streams.local.home import Home

MARK = "secrets.json"
"""What every stack makes first; a folder without it may be anybody's."""


async def begin_anew(path: Path, screen: Screen) -> None:
    """Remove everything in the home folder; refused if it does not look like one, or while a stack runs there."""
    if not path.is_dir() or not any(path.iterdir()):  # noqa: ASYNC240 - nothing else runs yet
        return
    if not (path / MARK).exists():
        raise LocalError(f"{path} is not a home folder of Tidemill, so it is left alone; set TIDEMILL_HOME to another folder, or remove it yourself.")
    if not screen.sure(f"remove everything in {path}?"):
        raise LocalError("nothing was removed; leave out --fresh to go on with what is there.")
    home = Home(path, screen.say)
    await home.take()
    try:
        await asyncio.to_thread(_empty, home.path)
    finally:
        home.release()


def _empty(folder: Path) -> None:
    """All but the lock, which is held, and the mark last, so that this can be begun again."""
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name == MARK):
        if entry.name == "lock":
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
