"""A worker that will not come back leaves its consumer group as it stops, so that nobody waits for its session to run out.

A worker's slot is a static member of the group, whose partitions Kafka keeps for it over a restart, and aiokafka says nothing when such a
member stops. The LeaveGroup it sends for others names a member by its id, which Kafka takes from a static one too.
"""

from typing import Any

import faust


def at_stop(app: faust.App) -> None:
    """Let the transport app's consumer leave the group once it has committed all that it will."""
    thread: Any = app.consumer._thread  # type: ignore[attr-defined]  # neither Faust nor aiokafka has a way in
    close = thread.on_thread_stop

    async def leave() -> None:
        thread._consumer._coordinator._group_instance_id = None
        await close()

    thread.on_thread_stop = leave
