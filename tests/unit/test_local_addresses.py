"""Where the local stack listens, and how everybody learns of it."""

import json
from pathlib import Path

import pytest

from streams.local.addresses import Addresses, S3Address
from streams.local.ports import FIRST, LAST, SIZE, Port, Ports, choose
from streams.local.stack import quiet
from streams.local.up import HURRY, Platform
from streams.settings import RuntimeSettings, Settings, from_stack

ADDRESSES = Addresses(
    kafka="127.0.0.1:20001",
    postgres="postgresql://tidemill:hush@127.0.0.1:20003/tidemill",
    warehouse="postgresql://tidemill:hush@127.0.0.1:20003/warehouse",
    redis="redis://127.0.0.1:20004/0",
    s3=S3Address(endpoint="http://127.0.0.1:20005", access_key="hush-key", secret_key="hush-secret"),
    ml_engine="http://127.0.0.1:20015",
    inference="http://127.0.0.1:20016",
    monitoring="http://127.0.0.1:20017",
    web="http://127.0.0.1:8081",
)


def test_the_block_of_the_last_start_is_taken_again() -> None:
    assert next(choose({"base": 20_400, "web": 8090}, lambda port: True)) == Ports(20_400, 8090)


def test_one_taken_port_moves_the_whole_block() -> None:
    taken = FIRST + Port.VALKEY
    assert next(choose({}, lambda port: port != taken)).base == FIRST + SIZE


def test_the_pages_move_below_when_8080_is_taken() -> None:
    ports = next(choose({}, lambda port: port != 8080))
    assert ports[Port.WEB] == FIRST + Port.WEB


def test_all_ports_lie_below_those_that_outgoing_connections_use() -> None:
    blocks = list(choose({"base": 60_000}, lambda port: True))
    assert len(blocks) == (LAST - FIRST) // SIZE
    assert max(ports[port] for ports in blocks for port in Port) < 32_768


def test_stack_json_and_the_environment_give_the_same_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TIDEMILL_HOME", str(tmp_path))
    by_file = Settings(**from_stack(json.loads(ADDRESSES.model_dump_json())))
    for name, value in ADDRESSES.environment().items():
        monkeypatch.setenv(name, value)
    by_environment = Settings(runtime=RuntimeSettings(unknown_tenants="create"))
    assert by_file == by_environment


def test_addresses_show_no_secrets() -> None:
    assert "hush" not in repr(ADDRESSES)


def environment_of(platform: Platform) -> dict[str, str]:
    platform.addresses = ADDRESSES
    return dict(platform._environment())


def test_our_processes_learn_all_addresses_and_create_tenants(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TIDEMILL_RUNTIME__UNKNOWN_TENANTS", raising=False)
    environment = environment_of(Platform(tmp_path, say=quiet))
    assert environment["TIDEMILL_KAFKA__BOOTSTRAP"] == "127.0.0.1:20001"
    assert environment["TIDEMILL_RUNTIME__UNKNOWN_TENANTS"] == "create"
    assert environment["TIDEMILL_HOME"] == str(tmp_path)
    assert not environment.keys() & HURRY.keys()


def test_what_the_caller_set_wins_over_the_hurry_of_a_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEMILL_RETRY__EVERY", "PT9S")
    environment = environment_of(Platform(tmp_path, say=quiet, quick=True))
    assert "TIDEMILL_RETRY__EVERY" not in environment
    assert environment["TIDEMILL_ML_ENGINE__POLL_EVERY"] == "PT2S"
