"""Contestants in processes of their own that are told what to do: one JSON a line in, one JSON a line out."""

import asyncio
import json
from typing import Any

from bench.world import World


class Talker:
    """The benchmark's end of the pipes."""

    def __init__(self, world: World, name: str, child: asyncio.subprocess.Process) -> None:
        self._world, self._name, self._child = world, name, child

    async def ask(self, **command: Any) -> Any:
        """Have it done and get the answer."""
        assert self._child.stdin is not None
        self._child.stdin.write(json.dumps(command).encode() + b"\n")
        await self._child.stdin.drain()
        return await self.answer()

    async def answer(self) -> Any:
        """The next answer; lines that are no JSON are a library's chatter."""
        assert self._child.stdout is not None
        while line := await self._child.stdout.readline():
            if line.startswith(b"> "):
                return json.loads(line[2:])
        raise RuntimeError(f"{self._name} ended; see {self._world.logs / self._name}.log")
