"""What the local stack needs of Java and of Kafka's jars, without running either."""

import hashlib
import os
from pathlib import Path

import pytest

from streams.local.errors import LocalError, Missing
from streams.local.kafka.config import LARGEST_RECORD, identity, properties
from streams.local.kafka.jars import check, ensure_jars, read_lock
from streams.local.kafka.java import Java, find_java


@pytest.mark.parametrize(
    ("text", "major"),
    [('openjdk version "17.0.15" 2025-04-15', 17), ('openjdk version "25.0.2" 2026-01-20', 25), ('java version "1.8.0_392"', 8), ("not found", 0)],
)
def test_the_major_version_of_java_is_read_from_what_it_says(text: str, major: int) -> None:
    assert Java("java", text).major == major


def fake_java(folder: Path, version: str) -> Path:
    program = folder / "bin" / "java"
    program.parent.mkdir(parents=True)
    program.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\"' >&2\n")
    program.chmod(0o755)
    return program


def only_java(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.delenv("KAFKA_JAVA", raising=False)
    monkeypatch.setenv("JAVA_HOME", str(home))
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)


def test_a_java_that_is_new_enough_is_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = fake_java(tmp_path, "21.0.1")
    only_java(monkeypatch, tmp_path)
    assert find_java().path == str(program)


def test_an_old_java_is_named_together_with_the_way_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_java(tmp_path, "11.0.2")
    only_java(monkeypatch, tmp_path)
    with pytest.raises(Missing, match=r"is Java 11\. .*pip install --require-hashes -r deploy/java\.lock"):
        find_java()


def test_a_named_java_is_not_silently_replaced_by_another(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_java(tmp_path, "21.0.1")
    only_java(monkeypatch, tmp_path)
    monkeypatch.setenv("KAFKA_JAVA", "/nowhere/java")
    with pytest.raises(Missing, match="KAFKA_JAVA names /nowhere/java"):
        find_java()


def test_the_lock_names_45_jars_of_kafka_4_4_0_by_sha256() -> None:
    lock = read_lock()
    assert len(lock) == 45
    assert all(len(checksum) == 64 for checksum in lock.values())
    assert "org/apache/kafka/kafka_2.13/4.4.0/kafka_2.13-4.4.0.jar" in lock


def repository(folder: Path, contents: dict[str, bytes]) -> dict[str, str]:
    """A Maven repository as files, and the lock that fits it."""
    for path, content in contents.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    return {path: hashlib.sha256(content).hexdigest() for path, content in contents.items()}


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    lock = repository(tmp_path / "mirror", {"org/a/1/a-1.jar": b"first", "org/b/2/b-2.jar": b"second"})
    monkeypatch.setattr("streams.local.kafka.jars.read_lock", lambda: lock)
    monkeypatch.setenv("KAFKA_JARS_URL", (tmp_path / "mirror").as_uri())
    return tmp_path / "mirror"


async def test_jars_are_fetched_once_and_then_found(mirror: Path, tmp_path: Path) -> None:
    said: list[str] = []
    first = await ensure_jars(tmp_path / "cache", said.append)
    second = await ensure_jars(tmp_path / "cache", said.append)
    assert first == second
    assert sorted(jar.name for jar in first.glob("*.jar")) == ["a-1.jar", "b-2.jar"]
    assert len(said) == 1


async def test_a_jar_with_another_checksum_is_refused_by_name_and_nothing_stays(mirror: Path, tmp_path: Path) -> None:
    (mirror / "org/b/2/b-2.jar").write_bytes(b"tampered")
    with pytest.raises(LocalError, match=r"kafka_jars_differ: .*: b-2\.jar\. "):
        await ensure_jars(tmp_path / "cache", lambda line: None)
    assert not list((tmp_path / "cache").glob("**/*.jar"))


def test_a_jar_too_many_is_refused(tmp_path: Path) -> None:
    (tmp_path / "extra.jar").write_bytes(b"")
    with pytest.raises(LocalError, match=r"extra\.jar"):
        check(tmp_path, {})


async def test_without_maven_and_mirror_the_sentence_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("KAFKA_JARS_URL", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Missing, match="Install Maven, or set KAFKA_JARS_URL"):
        await ensure_jars(tmp_path / "cache", lambda line: None)


def test_a_data_folder_keeps_its_cluster_id(tmp_path: Path) -> None:
    assert identity(tmp_path) == identity(tmp_path)


def test_the_broker_listens_on_loopback_only_and_creates_no_topics_by_itself(tmp_path: Path) -> None:
    values = dict(line.split("=", 1) for line in properties(tmp_path, 20001, 20002).splitlines())
    assert values["listeners"] == "PLAINTEXT://127.0.0.1:20001,CONTROLLER://127.0.0.1:20002"
    assert values["auto.create.topics.enable"] == "false"
    assert int(values["message.max.bytes"]) == LARGEST_RECORD > 2 << 20


def test_two_java_builds_never_share_a_class_archive() -> None:
    from streams.local.kafka import archive_of

    jars = Path(os.sep)
    assert archive_of(jars, Java("java", "17.0.1")) != archive_of(jars, Java("java", "17.0.2"))
