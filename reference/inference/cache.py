"""The most wanted items in Redis, under a key that carries the version, so that no reader mixes two models."""

from redis.asyncio import Redis
from redis.exceptions import RedisError

from reference.errors import Refused
from reference.inference.model import Item

KEEP = 7 * 86_400
"""Seconds a warmed key lives: versions that are no longer served vanish by themselves."""


def key(tenant_id: str, version: int) -> str:
    return f"tidemill:top:{tenant_id}:{version}"


class Cache:
    """Redis, as far as warming needs it."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def warm(self, tenant_id: str, version: int, items: list[Item], *, refresh: bool) -> int:
        """Put the items as a sorted set, whole or not at all; how many lie there. What is there already stays, unless `refresh`."""
        name = key(tenant_id, version)
        try:
            if not refresh and await self._redis.zcard(name) == len(items):
                return len(items)
            async with self._redis.pipeline(transaction=True) as pipe:
                pipe.delete(name)
                pipe.zadd(name, {item.item_id: item.score for item in items})
                pipe.expire(name, KEEP)
                await pipe.execute()
        except (RedisError, OSError) as error:
            said = f"Redis does not answer ({type(error).__name__}), so version {version} of {tenant_id} is not warm; it is served all the same"
            raise Refused(503, "cache_unavailable", said) from error
        return len(items)

    async def close(self) -> None:
        await self._redis.aclose()


def connect(url: str) -> Cache:
    """A cache that connects when it is first used."""
    return Cache(Redis.from_url(url, socket_connect_timeout=2, socket_timeout=5))
