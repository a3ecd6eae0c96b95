"""What lies in a tenant's folder of training data, for training when data arrives: the same files and fingerprint that `validate` sees."""

import asyncio
import hashlib

from agents.data import data_files, fingerprint, folder
from streams.arrivals import Listing
from streams.services import Services


async def look(tenant_id: str, use: Services) -> Listing:
    """One listing; nothing is read."""
    files = await data_files(use, *folder(use.settings, tenant_id))
    return Listing(await asyncio.to_thread(fingerprint, files), {_digest(file.key, file.etag): file.size for file in files})


def _digest(key: str, etag: str) -> str:
    return hashlib.blake2b(f"{key}\0{etag}".encode(), digest_size=8).hexdigest()
