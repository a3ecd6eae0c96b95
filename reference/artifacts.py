"""How models and indices lie in S3: plain files, and a manifest, written last, that vouches for them."""

import asyncio
import hashlib
import json
from pathlib import Path
from typing import Any

from reference.errors import Failed
from reference.store import Store

MANIFEST = "manifest.json"
MODEL_FILES = ("items.npy", "users.npy", "items.ids", "users.ids", "seen.parquet")
INDEX_FILES = ("index.faiss", "items.ids")


def sha256(file: Path) -> str:
    with file.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()


def write_manifest(folder: Path, files: tuple[str, ...], **facts: Any) -> dict[str, Any]:
    """Write the manifest of `files`; facts that are None are left out."""
    manifest = {name: value for name, value in facts.items() if value is not None}
    manifest["sha256"] = {name: sha256(folder / name) for name in files}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True))
    return manifest


def write_ids(file: Path, ids: list[str]) -> None:
    file.write_text("".join(f"{one}\n" for one in ids), encoding="utf-8")


def read_ids(file: Path) -> list[str]:
    """The ids of an `.ids` file, one a line; only `\\n` ends a line, whatever else Unicode takes for one."""
    return file.read_text(encoding="utf-8").removesuffix("\n").split("\n")


async def upload(store: Store, bucket: str, prefix: str, folder: Path, files: tuple[str, ...]) -> None:
    """Put the files, then the manifest: who sees a manifest sees everything it names."""
    for name in (*files, MANIFEST):
        await store.put(bucket, f"{prefix}/{name}", folder / name)


async def download(store: Store, bucket: str, prefix: str, folder: Path, files: tuple[str, ...], tenant_id: str) -> dict[str, Any]:
    """Fetch the files, and make sure that they are the ones their manifest names, and the tenant's."""
    await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
    for name in (MANIFEST, *files):
        await store.fetch(bucket, f"{prefix}/{name}", folder / name)
    return await asyncio.to_thread(check, folder, files, tenant_id)


def check(folder: Path, files: tuple[str, ...], tenant_id: str) -> dict[str, Any]:
    """The manifest of `folder`, if its files are the ones it names and it is the tenant's."""
    manifest = _read_manifest(folder / MANIFEST)
    if manifest.get("tenant_id") != tenant_id:
        raise Failed("foreign_artifact", f"the manifest is not of {tenant_id}; nothing was changed")
    digests = manifest.get("sha256")
    for name in files:
        if not isinstance(digests, dict) or digests.get(name) != sha256(folder / name):
            raise Failed("checksum_mismatch", f"{name} of {tenant_id} is not the file its manifest names; build or upload it again")
    return manifest


def _read_manifest(file: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(file.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise Failed("bad_manifest", "manifest.json is missing or not JSON") from error
    if not isinstance(manifest, dict):
        raise Failed("bad_manifest", "manifest.json is not an object")
    return manifest
