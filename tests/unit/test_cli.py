"""What a user meets who types something wrong, or asks for help, before any server is asked."""

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import structlog
from typer.main import get_command

from streams.cli import app as cli
from streams.cli import frame, out
from streams.cli.config import redacted
from streams.cli.moves import moment
from streams.settings import Settings


class Said(NamedTuple):
    status: int
    out: str
    err: str


Tidemill = Callable[..., Said]


@pytest.fixture
def tidemill(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Tidemill]:
    """The command, in this process and in an empty folder."""
    monkeypatch.chdir(tmp_path)
    before = logging.getLogger().handlers[:], logging.getLogger().level

    def run(*words: str) -> Said:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main(words)
        assert isinstance(ended.value.code, int)
        return Said(ended.value.code, *capsys.readouterr())

    yield run
    logging.getLogger().handlers[:], level = before
    logging.getLogger().setLevel(level)
    structlog.reset_defaults()


def verbs() -> Iterator[tuple[str, ...]]:
    for name, verb in get_command(cli.app).commands.items():  # type: ignore[attr-defined]
        inner = getattr(verb, "commands", {})
        yield from [(name, each) for each in inner] if inner else [(name,)]


@pytest.mark.parametrize("verb", list(verbs()), ids=" ".join)
def test_every_verb_explains_itself_with_an_example(tidemill: Tidemill, verb: tuple[str, ...]) -> None:
    said = tidemill(*verb, "--help")
    assert said.status == 0
    assert f"Example: tidemill {' '.join(verb)}" in said.out


def test_no_option_is_called_like_one_that_faust_takes_from_the_command_line() -> None:
    taken = {"-L", "--loop", "--datadir", "-W", "--workdir", "--debug"}
    options = {word for verb in get_command(cli.app).commands.values() for option in verb.params for word in option.opts}  # type: ignore[attr-defined]
    assert not options & taken


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("fly",), "wrong_usage"),
        (("runs", "--limit", "many"), "wrong_usage"),
        (("runs", "--colour"), "wrong_usage"),
        (("show",), "wrong_usage"),
        (("runs", "--state", "flying"), "bad_state"),
        (("trigger",), "no_tenant"),
        (("trigger", "acme", "--all"), "no_tenant"),
        (("trigger", "acme", "--config", "{"), "bad_json"),
        (("trigger", "acme", "--config", "[1]"), "not_an_object"),
        (("trigger", "acme", "--config", '{"a": NaN}'), "bad_number"),
        (("trigger", "acme", "--config", '{"a": 1, "a": 2}'), "duplicate_keys"),
        (("retry",), "wrong_usage"),
        (("retry", "--all", "--code", "x"), "wrong_usage"),
        (("retry", "--all", "--code", "x", "--since", "yesterday"), "bad_time"),
        (("dead", "list", "--state", "x"), "bad_state"),
        (("worker", "--crash-at", "nowhere"), "bad_crash_point"),
        (("worker", "--crash-at", "step.committed:soon"), "bad_crash_point"),
        (("worker", "--slot", "0"), "wrong_usage"),
        (("pipelines", "graph", "nope"), "unknown_pipeline"),
    ],
)
def test_wrong_usage_is_one_sentence_with_a_code_and_status_2(tidemill: Tidemill, words: tuple[str, ...], code: str) -> None:
    said = tidemill(*words)
    assert (said.status, said.out) == (2, "")
    assert said.err.startswith(f"{code}: ")
    assert said.err.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "value", "named"),
    [
        ("TIDEMILL_LEGDER__DSN", "x", "TIDEMILL_LEGDER__DSN"),
        ("TIDEMILL_KAFKA__BOOTSRAP", "x", "kafka.bootsrap"),
        ("TIDEMILL_KAFKA__PARTITIONS", "s3cret-many", "kafka.partitions"),
        ("TIDEMILL_KAFKA", "s3cret{", "TIDEMILL_KAFKA"),
        ("TIDEMILL_LOG_LEVEL", "s3cret-loud", "log_level"),
        ("TIDEMILL_CONFIG", "/nowhere/x.toml", "TIDEMILL_CONFIG"),
    ],
)
def test_a_wrong_setting_is_named_and_its_value_is_not_repeated(
    tidemill: Tidemill, monkeypatch: pytest.MonkeyPatch, name: str, value: str, named: str
) -> None:
    monkeypatch.setenv(name, value)
    said = tidemill("runs")
    assert said.status == 2
    assert said.err.startswith("bad_setting: ")
    assert named in said.err
    assert "s3cret" not in said.err


def test_a_wrong_key_in_the_file_is_named(tidemill: Tidemill, tmp_path: Path) -> None:
    (tmp_path / "tidemill.toml").write_text('[kafka]\nbootstap = "x"\n')
    assert "kafka.bootstap" in tidemill("runs").err
    (tmp_path / "tidemill.toml").write_text("kafka = = 1")
    assert "tidemill.toml is not valid TOML" in tidemill("runs").err


def test_the_setup_scripts_variable_is_no_wrong_setting(tidemill: Tidemill, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEMILL_PYTHON", "python3")
    assert tidemill("config").status == 0


def test_pipelines_that_cannot_be_imported_are_named(tidemill: Tidemill, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEMILL_PIPELINES", "no_such_module:PIPELINES")
    said = tidemill("pipelines", "graph")
    assert said.status == 1
    assert said.err.startswith("agents_broken: the pipelines no_such_module:PIPELINES cannot be loaded")


def test_config_shows_every_setting_and_no_secret(tidemill: Tidemill, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEMILL_LEDGER__DSN", "postgresql://ada:hunter2@db.example:5433/ledger?sslpassword=hunter2")
    monkeypatch.setenv("TIDEMILL_REDIS__URL", "redis://:hunter2@cache.example:6379/0")
    monkeypatch.setenv("TIDEMILL_S3__SECRET_KEY", "hunter2")
    monkeypatch.setenv("TIDEMILL_ML_ENGINE__URL", "http://ada:hunter2@engine.example:8000")
    said = tidemill("config", "--json")
    found = json.loads(said.out)
    assert found["ledger"]["dsn"] == "postgresql://ada:***@db.example:5433/ledger"
    assert found["redis"]["url"] == "redis://***@cache.example:6379/0"
    assert found["s3"]["secret_key"] == "***"
    assert found["ml_engine"]["url"] == "http://ada:***@engine.example:8000"
    assert found["kafka"]["bootstrap"] == "127.0.0.1:20092"
    assert set(found) == set(Settings.model_fields)
    assert "hunter2" not in said.out + said.err + tidemill("config").out


def test_an_address_that_is_none_is_hidden_altogether() -> None:
    assert redacted(Settings.model_validate({"ledger": {"dsn": "hunter2"}}))["ledger"]["dsn"] == "***"
    assert redacted(Settings.model_validate({"ledger": {"dsn": "postgresql://a:b@[::1"}}))["ledger"]["dsn"] == "***"


def test_the_graph_is_drawn_as_text_as_dot_and_as_json(tidemill: Tidemill) -> None:
    assert "training.requested → validate" in tidemill("pipelines", "graph").out
    dot = tidemill("pipelines", "graph", "--dot").out
    assert dot.startswith('digraph "training" {')
    assert '"deploy" -> "model.deployed";' in dot
    assert [row["stage"] for row in json.loads(tidemill("pipelines", "graph", "--json").out)["training"]][:2] == ["validate", "train"]


def test_topics_lists_what_is_declared(tidemill: Tidemill) -> None:
    found = {topic["name"]: topic for topic in json.loads(tidemill("topics", "--json").out)}
    assert {topic["partitions"] for topic in found.values()} == {8}
    assert found["training.requested"]["written_by"] == "anybody"
    assert found["run.state"]["config"]["cleanup.policy"] == "compact"


def test_ctrl_c_ends_with_130_and_no_traceback(tidemill: Tidemill, monkeypatch: pytest.MonkeyPatch) -> None:
    def pressed() -> Settings:
        raise KeyboardInterrupt

    monkeypatch.setattr(frame, "settings", pressed)
    assert tidemill("runs") == (130, "", "")


def test_what_nobody_foresaw_is_a_sentence_too(tidemill: Tidemill, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Settings:
        raise RuntimeError("it broke\nTraceback of somebody")

    monkeypatch.setattr(frame, "settings", broken)
    said = tidemill("runs")
    assert said.status == 1
    assert said.err == "unexpected: RuntimeError: it broke; TIDEMILL_LOG_LEVEL=debug shows where\n"


def test_text_of_others_cannot_move_the_cursor() -> None:
    assert out.harmless("a\x1b[2Jb\u202ec") == "a\ufffd[2Jb\ufffdc"


@pytest.mark.parametrize(("value", "shown"), [(None, ""), (0.123, "0.12 s"), (12.34, "12.3 s"), (125, "2:05 min"), (12_000, "3:20 h")])
def test_durations_are_shown_as_people_say_them(value: float | None, shown: str) -> None:
    assert out.seconds(value) == shown


def test_since_is_a_time_or_how_long_ago() -> None:
    assert moment("2026-01-31T02:00:00Z") == moment("2026-01-31T02:00:00")
    assert 7190 < (moment("0s") - moment("2h")).total_seconds() < 7210
