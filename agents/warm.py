"""Last stage of training, and not a critical one: the tenant's most wanted items go into the cache before anybody asks."""

from datetime import timedelta

from schemas.training import CacheWarmed, ModelDeployed
from streams.faultpoints import point
from streams.services import Services
from streams.stage import Retry, stage


@stage(critical=False, retry=Retry(attempts=3, every=timedelta(seconds=2)), timeout=timedelta(minutes=2))
async def warm(event: ModelDeployed, use: Services) -> CacheWarmed:
    """Let the inference service put the tenant's top items of this version into Redis. Keys carry the version, so doing twice is harmless."""
    point("cache.warming")
    items = await use.inference.warm(event.tenant_id, event.version, use.settings.inference.warm_top_k)
    return event.then(CacheWarmed, items=items, version=event.version)
