"""`python -m reference.score --inference URL --keep FOLDER --out FILE TENANT …`: how often the served recommendations hold what a user took next.

Compared with what most others took; FOLDER is the one that `reference.seed` kept, FILE gets {tenant: {hit_rate, popularity, users, user, items}}.
"""

import argparse
import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from reference.synthetic import hit_rate, popularity

K = 10
USERS = 600
"""Users of a tenant that are asked after; the same ones each time."""
AT_ONCE = 8


async def score(client: httpx.AsyncClient, tenant: str, folder: Path) -> dict[str, Any]:
    """The share of users whose held-out item is among the ten that are recommended, by the service and by popularity alone."""
    heldout = await asyncio.to_thread(pq.read_table, folder / "heldout.parquet")
    chosen = np.random.default_rng(1).permutation(len(heldout))[:USERS]
    sample = heldout.take(pa.array(chosen))
    served = await _recommended(client, tenant, sample["user_id"].to_pylist())
    baseline = popularity(await asyncio.to_thread(pq.read_table, folder / "train.parquet"), K)
    user, items = next(iter(served.items()))
    return {
        "hit_rate": hit_rate(served.__getitem__, sample, K),
        "popularity": hit_rate(baseline, sample, K),
        "users": len(sample),
        "user": user,
        "items": items,
    }


async def _recommended(client: httpx.AsyncClient, tenant: str, users: list[str]) -> dict[str, list[str]]:
    room = asyncio.Semaphore(AT_ONCE)

    async def ask(user: str) -> list[str]:
        async with room:
            answer = await client.get(f"/api/v1/recommend/{tenant}/{user}", params={"k": K})
        answer.raise_for_status()
        return [item["item_id"] for item in answer.json()["items"]]

    return dict(zip(users, await asyncio.gather(*map(ask, users)), strict=True))


async def scores(inference: str, keep: Path, tenants: list[str]) -> dict[str, dict[str, Any]]:
    async with httpx.AsyncClient(base_url=inference, timeout=10) as client:
        return {tenant: await score(client, tenant, keep / tenant) for tenant in tenants}


def main() -> None:
    parser = argparse.ArgumentParser(prog="reference.score", description="Score the recommendations that are served.")
    parser.add_argument("--inference", required=True, metavar="URL")
    parser.add_argument("--keep", type=Path, required=True, help="the folder that reference.seed kept")
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("tenants", nargs="+")
    given = parser.parse_args()
    given.out.write_text(json.dumps(asyncio.run(scores(given.inference, given.keep, given.tenants))))


if __name__ == "__main__":
    main()
