"""Virtual environments beside the product's own: what the benchmark needs and Tidemill does not, pinned with hashes."""

import asyncio
import subprocess
import sys
from pathlib import Path

from bench.world import ROOT


async def environment(folder: Path, requirements: Path) -> Path:
    """Make it unless it is there; gives the folder of its commands."""
    await asyncio.to_thread(_install, folder, requirements)
    return folder / "bin"


def _install(folder: Path, requirements: Path) -> None:
    """Made beside and moved into place: one that exists is whole."""
    if folder.exists():
        return
    uv, draft = Path(sys.executable).with_name("uv"), folder.with_name(folder.name + ".draft")
    subprocess.run([uv, "venv", "-q", "--clear", "--relocatable", "--python", sys.executable, draft], check=True)
    install = [str(uv), "pip", "install", "-q", "--python", str(draft / "bin" / "python"), "--require-hashes", "-r", str(requirements)]
    subprocess.run(install, check=True, cwd=ROOT)
    draft.rename(folder)
