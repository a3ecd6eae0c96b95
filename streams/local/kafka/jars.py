"""Kafka's jars in the user's cache: fetched once, by Maven or from a mirror, and never used unless their checksums are the locked ones."""

import asyncio
import fcntl
import hashlib
import os
import shutil
import tempfile
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from streams.local import spawn
from streams.local.errors import LocalError, Missing

VERSION = "4.4.0"
HERE = Path(__file__).parent
COMPLETE = ".complete"

Lock = dict[str, str]
"""Path below a Maven repository → sha256."""


def default_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tidemill"


def read_lock(file: Path = HERE / "jars.lock") -> Lock:
    lines = (line.split() for line in file.read_text().splitlines())
    return {path: checksum for checksum, path in lines}


async def ensure_jars(cache: Path, say: Callable[[str], None]) -> Path:
    """The folder with all jars of the lock; a second caller waits for the first instead of fetching too."""
    folder = cache / f"kafka-{VERSION}"
    if (folder / COMPLETE).exists():
        return folder
    async with _alone(cache / f".kafka-{VERSION}.lock"):
        if not (folder / COMPLETE).exists():
            await _fill(folder, say)
    return folder


async def _fill(folder: Path, say: Callable[[str], None]) -> None:
    lock = read_lock()
    draft = Path(tempfile.mkdtemp(prefix=".tmp-", dir=folder.parent))
    try:
        await fetch(draft, lock, say)
        check(draft, lock)
        _publish(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _publish(draft: Path, folder: Path) -> None:
    """In one step, so that nobody ever sees half a folder."""
    (draft / COMPLETE).touch()
    draft.chmod(0o755)
    shutil.rmtree(folder, ignore_errors=True)  # one without the mark is not to be trusted
    draft.rename(folder)


async def fetch(draft: Path, lock: Lock, say: Callable[[str], None]) -> None:
    """From the mirror that was named, else by Maven, which knows its own mirrors and proxies."""
    if mirror := os.environ.get("KAFKA_JARS_URL"):
        say(f"fetching Kafka {VERSION} from KAFKA_JARS_URL (43 MB, once)")
        await asyncio.gather(*(asyncio.to_thread(_download, f"{mirror.rstrip('/')}/{path}", draft) for path in lock))
    elif maven := shutil.which("mvn"):
        say(f"fetching Kafka {VERSION} with Maven (43 MB, once)")
        await _by_maven(maven, draft)
    else:
        raise Missing(
            f"kafka_jars_missing: the jars of Kafka {VERSION} are not in {draft.parent} and there is no `mvn` to fetch them. "
            "Install Maven, or set KAFKA_JARS_URL to the address of a Maven repository."
        )


def _download(url: str, folder: Path) -> None:
    try:
        with urllib.request.urlopen(url, timeout=60) as answer, (folder / url.rsplit("/", 1)[1]).open("wb") as out:
            shutil.copyfileobj(answer, out)
    except OSError as error:
        raise LocalError(f"kafka_jars_unreachable: {url.rsplit('/', 1)[1]} could not be fetched from KAFKA_JARS_URL: {error}") from None


async def _by_maven(maven: str, draft: Path) -> None:
    log = draft.with_suffix(".log")
    command = [maven, "-q", "-B", "-C", "-Dstyle.color=never", "-f", str(HERE / "pom.xml"), "dependency:copy-dependencies"]
    try:
        status = await spawn.run([*command, f"-DoutputDirectory={draft}", "-DincludeScope=runtime"], log)
        if status:
            raise LocalError(f"kafka_jars_unreachable: Maven could not fetch Kafka {VERSION}. Its last lines:\n{spawn.tail(log)}")
    finally:
        log.unlink(missing_ok=True)


def check(folder: Path, lock: Lock) -> None:
    """Exactly the locked jars with exactly the locked contents."""
    wanted = {path.rsplit("/", 1)[1]: checksum for path, checksum in lock.items()}
    found = {jar.name: hashlib.sha256(jar.read_bytes()).hexdigest() for jar in folder.glob("*.jar")}
    if found != wanted:
        wrong = sorted({name for name, _ in wanted.items() ^ found.items()})
        raise LocalError(
            f"kafka_jars_differ: not the jars of {HERE / 'jars.lock'}: {', '.join(wrong)}. Nothing was kept; fetch them from a source you trust."
        )


@asynccontextmanager
async def _alone(file: Path) -> AsyncIterator[None]:
    """An flock that is waited for without a thread, so that Ctrl-C ends the wait."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as held:
        while True:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                await asyncio.sleep(0.1)
        yield
