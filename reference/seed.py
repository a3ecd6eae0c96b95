"""`python -m reference.seed --keep FOLDER TENANT:USERS:ITEMS:INTERACTIONS:FORMAT …`: made-up tenants' training data into S3.

FOLDER keeps the files, so that they are generated once, and the interactions held out of them, for `reference.score`.
"""

import argparse
import asyncio
import shutil
from pathlib import Path
from typing import NamedTuple, get_args

import pyarrow.parquet as pq

from reference.settings import TRAINING_BUCKET, ReferenceSettings
from reference.store import S3Store
from reference.synthetic import Format, generate, write
from schemas.tenant import is_tenant_id

SEED = 7


class Made(NamedTuple):
    """A tenant to be made up."""

    tenant: str
    users: int
    items: int
    interactions: int
    form: Format


def made(text: str) -> Made:
    """`acme:300:200:6000:jsonl` as a tenant."""
    tenant, *numbers, form = text.split(":")
    users, items, interactions = map(int, numbers)
    if not is_tenant_id(tenant) or form not in get_args(Format) or min(users, items, interactions) < 1:
        raise ValueError(text)
    return Made(tenant, users, items, interactions, form)  # type: ignore[arg-type]  # checked above


def prepare(one: Made, folder: Path) -> Path:
    """The folder with the tenant's files, made once: the same numbers give the same data."""
    mark = folder / "made"
    if mark.exists() and mark.read_text() == repr(one):
        return folder / "files"
    shutil.rmtree(folder, ignore_errors=True)
    data = generate(one.tenant, one.users, one.items, one.interactions, SEED)
    write(data.train, folder / "files", one.form)
    pq.write_table(data.train, folder / "train.parquet")
    pq.write_table(data.heldout, folder / "heldout.parquet")
    mark.write_text(repr(one))
    return folder / "files"


async def seed(tenants: list[Made], keep: Path, settings: ReferenceSettings) -> None:
    """All tenants' data in the training bucket, the `_SUCCESS` markers last."""
    async with S3Store(settings) as store:
        for one in tenants:
            files = await asyncio.to_thread(prepare, one, keep / one.tenant)
            for file in sorted(files.iterdir(), key=lambda file: (file.name == "_SUCCESS", file.name)):
                await store.put(TRAINING_BUCKET, f"training-data/{one.tenant}/latest/{file.name}", file)


def main() -> None:
    parser = argparse.ArgumentParser(prog="reference.seed", description="Put generated training data of tenants into S3.")
    parser.add_argument("--keep", type=Path, required=True, help="folder for the generated files and the interactions held out of them")
    parser.add_argument("tenants", type=made, nargs="+", metavar="TENANT:USERS:ITEMS:INTERACTIONS:FORMAT")
    given = parser.parse_args()
    asyncio.run(seed(given.tenants, given.keep, ReferenceSettings()))


if __name__ == "__main__":
    main()
