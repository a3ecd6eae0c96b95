"""Apache Kafka of the local stack: a real KRaft broker of one node, started from its jars without Docker."""

import asyncio
import hashlib
import shutil
from pathlib import Path
from typing import Any

import mode

from streams.local import spawn
from streams.local.errors import LocalError
from streams.local.home import Home
from streams.local.kafka.config import identity, properties
from streams.local.kafka.jars import HERE, default_cache, ensure_jars
from streams.local.kafka.java import Java, find_java
from streams.local.ports import HOST
from streams.local.probe import until
from streams.local.process import ServerProcess

JVM = ("-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xlog:disable")
"""Half the start-up and half the CPU of the defaults (measured); 512 MB serve 60,000 messages/s."""


class LocalKafka(ServerProcess):
    """Ready when a client sees our cluster with its controller; an open port could be somebody else's."""

    archive_delay = 30.0
    """Seconds after the start before the class archive is made, so that nobody's first run waits for it."""

    def __init__(self, home: Home, port: int, controller: int, cache: Path | None = None) -> None:
        super().__init__(home, "kafka")
        self.port, self.controller = port, controller
        self.cache = cache or default_cache()

    @property
    def bootstrap(self) -> str:
        return f"{HOST}:{self.port}"

    async def prepare(self) -> None:
        self._java, self._jars = await asyncio.gather(asyncio.to_thread(find_java), ensure_jars(self.cache, self.home.say))
        self._folder = self.home.folder("kafka")
        data = self._folder / "data"
        data.mkdir(exist_ok=True)
        self._cluster = identity(data)
        (self._folder / "server.properties").write_text(properties(data, self.port, self.controller))

    @property
    def _class_path(self) -> str:
        return ":".join(map(str, sorted(self._jars.glob("*.jar"))))

    @property
    def _classes(self) -> Path:
        return self._folder / "classes.list"

    def argv(self) -> list[str]:
        archive = archive_of(self._jars, self._java)
        shared = f"-XX:SharedArchiveFile={archive}" if archive.exists() else f"-XX:DumpLoadedClassList={self._classes}"
        system = (f"-Dkafka.logs.dir={self.home.logs}", f"-Dlog4j2.configurationFile={HERE / 'log4j2.properties'}")
        return [self._java.path, *JVM, shared, *system, "-cp", self._class_path, "kafka.Kafka", str(self._folder / "server.properties")]

    async def until_ready(self) -> None:
        await until(self._answers)

    async def _answers(self) -> bool:
        """Whether our broker is registered; the port alone is asked first, since an admin client costs more than a refused connect."""
        try:
            _, writer = await asyncio.open_connection(HOST, self.port)
        except OSError:
            return False
        writer.close()
        cluster = await self._describe()
        if cluster.get("cluster_id", self._cluster) != self._cluster:
            raise LocalError(f"Port {self.port} belongs to another Kafka cluster; stop it, or start again to move to other ports.")
        return cluster.get("controller_id", -1) >= 0 and any(broker["node_id"] == 1 for broker in cluster["brokers"])

    async def _describe(self) -> dict[str, Any]:
        from aiokafka.admin import AIOKafkaAdminClient  # imported while the broker boots: 0.2 s
        from aiokafka.errors import KafkaError

        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap, request_timeout_ms=5000)
        try:
            await admin.start()
            cluster: dict[str, Any] = await admin.describe_cluster()
        except (KafkaError, OSError, TimeoutError):
            return {}
        finally:
            await admin.close()
        return cluster

    @mode.Service.task
    async def make_archive(self) -> None:
        """Once per Java: put the broker's classes into an archive that halves the next start; in the background, at the lowest priority."""
        archive = archive_of(self._jars, self._java)
        if archive.exists():
            return
        await self.sleep(self.archive_delay)
        if self.should_stop:
            return
        draft = self._folder / "classes.jsa"
        flags = ("-Xshare:dump", "-XX:+UseSerialGC", f"-XX:SharedClassListFile={self._classes}", f"-XX:SharedArchiveFile={draft}")
        command = [self._java.path, *flags, "-cp", self._class_path]
        if await spawn.run(command, self.home.logs / "kafka-archive.log", life=spawn.Life(nice=19)) == 0:
            install(draft, archive)


def archive_of(jars: Path, java: Java) -> Path:
    """Where the class archive of one Java build lies, beside the jars it was made from; Java itself refuses one that does not fit."""
    build = hashlib.sha256(f"{java.path}\n{java.version}".encode()).hexdigest()[:12]
    return jars / f"classes-{build}.jsa"


def install(draft: Path, archive: Path) -> None:
    """Home and cache may be different file systems, so the last step is a rename within the cache."""
    near = archive.with_name(f".{archive.name}.{draft.stat().st_ino}")
    shutil.move(draft, near)
    near.replace(archive)
