"""What lies beside a model and an index in S3, the manifest, and whether it may be believed."""

from typing import Annotated, TypeVar
from uuid import UUID

from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt, StringConstraints, ValidationError

from schemas.training import IndexBuilt
from streams.services import Services
from streams.stage import GiveUp

MANIFEST = "manifest.json"
LARGEST_MANIFEST = 1 << 20
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class Manifest(BaseModel):
    """What models and indices have in common; other facts in it are for people."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=())

    tenant_id: str
    run_id: UUID | None = None
    dim: PositiveInt
    metric: str = "ip"
    sha256: dict[str, Sha256]


class IndexManifest(Manifest):
    """Written last into an index's folder: who sees it sees a whole index."""

    model_path: str
    vectors: PositiveInt
    kind: str
    nlist: NonNegativeInt
    nprobe: NonNegativeInt
    recall: float | None


M = TypeVar("M", bound=Manifest)


async def read_manifest(kind: type[M], bucket: str, folder: str, tenant_id: str, run_id: UUID | None, use: Services) -> M:
    """The manifest of a folder, if it is the tenant's and the run's."""
    where = f"s3://{bucket}/{folder}/{MANIFEST}"
    try:
        manifest = kind.model_validate_json(await use.objects.get(bucket, f"{folder}/{MANIFEST}", limit=LARGEST_MANIFEST))
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        what = ".".join(str(part) for part in first["loc"]) or "the file"
        raise GiveUp(f"{where} is no good ({what}: {first['msg']}); find out what wrote it, then `tidemill retry`", code="bad_manifest") from None
    if manifest.tenant_id != tenant_id or (manifest.run_id is not None and manifest.run_id != run_id):
        raise GiveUp(f"{where} is not of {tenant_id}, run {run_id}; nothing of it was used; find out who handed it over", code="foreign_manifest")
    return manifest


async def check_engine_index(event: IndexBuilt, folder: str, use: Services) -> None:
    """An index that the ML Engine built must be the tenant's, the one announced, and good enough."""
    found = await read_manifest(IndexManifest, use.settings.s3.indices_bucket, folder, event.tenant_id, event.run_id, use)
    if found.sha256.get("index.faiss") != event.sha256 or (found.vectors, found.dim) != (event.vectors, event.dim):
        raise GiveUp(f"the index at {folder} is not the one that was announced; build it again with `tidemill retry`", code="checksum_mismatch")
    check_recall(event.tenant_id, event.recall, use)


def check_recall(tenant_id: str, recall: float | None, use: Services) -> None:
    floor = use.settings.index.recall_floor
    if recall is not None and recall < floor:
        raise GiveUp(
            f"the index of {tenant_id} finds {recall:.0%} of the true neighbours, the floor is {floor:.0%}, so the old index stays live; "
            "look at the model's vectors, raise TIDEMILL_INDEX__FLAT_BELOW (an exact index), or lower TIDEMILL_INDEX__RECALL_FLOOR",
            code="recall_too_low",
        )
