"""A tenant's folder of training data: where it is, which of its objects are data, and what tells one state of it from another."""

import hashlib

from streams.clients.objects import Object
from streams.services import Services
from streams.settings import Settings
from streams.stage import GiveUp

FORMATS = (".json", ".jsonl", ".parquet")
MOST_FILES = 200_000


def folder(settings: Settings, tenant_id: str) -> tuple[str, str]:
    """Bucket and prefix."""
    return settings.s3.training_bucket, f"training-data/{tenant_id}/latest/"


async def data_files(use: Services, bucket: str, prefix: str) -> list[Object]:
    """The data among the folder's objects."""
    files = []
    async for each in use.objects.list(bucket, prefix):
        if is_data(each.key.removeprefix(prefix)):
            files.append(each)
        if len(files) > MOST_FILES:
            raise GiveUp(f"s3://{bucket}/{prefix} has more than {MOST_FILES} files; write fewer, larger ones", code="too_many_files")
    return files


def is_data(name: str) -> bool:
    """Markers (`_SUCCESS`), hidden and temporary files, also in folders of that kind, are not data."""
    return name.endswith(FORMATS) and not any(part.startswith(("_", ".")) for part in name.split("/"))


def fingerprint(files: list[Object]) -> str:
    """sha256 over the sorted (key, size, etag): equal data, equal fingerprint."""
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(f"{file.key}\0{file.size}\0{file.etag}\n".encode())
    return digest.hexdigest()
