"""First stage of training: is the tenant's data there, whole, and worth training on?"""

import asyncio

from agents.data import FORMATS, data_files, fingerprint, folder
from agents.gate import pass_gate
from schemas.training import TrainingRequested, TrainingValidated
from streams.clients.objects import Object
from streams.services import Services
from streams.stage import GiveUp, stage

LOOKED_INTO = 64
"""Files whose ends are read; evenly spread over the listing. The ML Engine reads them all anyway."""


@stage()
async def validate(event: TrainingRequested, use: Services) -> TrainingValidated:
    """Make sure that the tenant's training data is there and worth training on. Only reads, so doing twice is like doing once."""
    await pass_gate(event, use)
    bucket, prefix = folder(use.settings, event.tenant_id)
    if not await use.objects.bucket_exists(bucket):
        raise GiveUp(f"the bucket {bucket} does not exist; create it or set TIDEMILL_S3__TRAINING_BUCKET", code="bucket_missing")
    files = await data_files(use, bucket, prefix)
    size = sum(file.size for file in files)
    _check_amount(f"s3://{bucket}/{prefix}", files, size, use)
    await _look_into(files, bucket, use)
    return event.then(
        TrainingValidated,
        bucket=bucket,
        prefix=prefix,
        files=len(files),
        bytes=size,
        fingerprint=await asyncio.to_thread(fingerprint, files),
        training_config=event.training_config,
    )


def _check_amount(where: str, files: list[Object], size: int, use: Services) -> None:
    limits = use.settings.validation
    if not files:
        raise GiveUp(f"{where} holds no {', '.join(FORMATS)} file; publish interactions there, then `tidemill retry` the run", code="no_data")
    if empty := [file.key for file in files if file.size == 0]:
        raise GiveUp(f"{len(empty)} files are empty, the first is {empty[0]}; write or delete them, then `tidemill retry`", code="empty_file")
    if len(files) < limits.min_files:
        raise GiveUp(f"{where} has {len(files)} files, at least {limits.min_files} are needed; is the upload complete?", code="too_few_files")
    if size < limits.min_bytes:
        raise GiveUp(f"{where} has {size} bytes, at least {limits.min_bytes} are needed; upload more interactions", code="too_little_data")
    if size > limits.max_bytes:
        raise GiveUp(
            f"{where} has {size} bytes, at most {limits.max_bytes} are taken; raise TIDEMILL_VALIDATION__MAX_BYTES or upload less",
            code="too_much_data",
        )


async def _look_into(files: list[Object], bucket: str, use: Services) -> None:
    """Read the ends of some files: cheap, and finds what was cut off in the upload."""
    some = files[:: -(-len(files) // LOOKED_INTO)]
    slots = asyncio.Semaphore(8)

    async def look(file: Object) -> str | None:
        async with slots:
            return file.key if await _broken(file, bucket, use) else None

    found = await asyncio.gather(*(look(file) for file in some))
    if broken := [key for key in found if key]:
        raise GiveUp(f"{len(broken)} files are cut off or not what their name says, the first is {broken[0]}; upload them again", code="broken_file")


async def _broken(file: Object, bucket: str, use: Services) -> bool:
    if file.key.endswith(".parquet"):
        ends = {await use.objects.peek(bucket, file.key, count) for count in (4, -4)}
        return ends != {b"PAR1"} or file.size < 12
    first = (await use.objects.peek(bucket, file.key, 64)).removeprefix(b"\xef\xbb\xbf").lstrip()
    return not first.startswith((b"{", b"["))
