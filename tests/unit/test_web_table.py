"""What the Faust table keeps of the topic run.state: the newest state of each pipeline, and nothing it cannot read."""

from typing import Any
from uuid import uuid4

import orjson
import pytest

from streams.settings import Settings
from streams.table import State, TenantTable, Unusable, fold, make_view_app, read
from streams.topics import declared, table_changelog


def a_state(**changes: Any) -> State:
    return {"tenant_id": "acme", "run_id": str(uuid4()), "pipeline": "training", "state": "running", "stage": "train", "version": 7, **changes}


def test_a_newer_state_replaces_an_older_one_whole() -> None:
    held = fold(None, a_state(version=7, code="x"))
    newer = a_state(version=8)
    assert fold(held, newer) == {"training": newer}


@pytest.mark.parametrize("version", [7, 6, 0])
def test_an_older_version_never_overwrites(version: int) -> None:
    assert fold({"training": a_state(version=7)}, a_state(version=version)) is None


def test_another_pipelines_state_stays_beside_and_what_was_held_is_not_changed_in_place() -> None:
    held = {"training": a_state(version=7)}
    folded = fold(held, a_state(pipeline="quality", version=3))
    assert folded is not None
    assert set(folded) == {"training", "quality"}
    assert set(held) == {"training"}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (b"acme", None),
        (b"acme", b"not json"),
        (b"acme", b"[]"),
        (b"acme", orjson.dumps({"tenant_id": "acme"})),
        (b"acme", orjson.dumps(a_state(version="new"))),
        (b"acme", orjson.dumps(a_state(state="dreaming"))),
        (b"acme", orjson.dumps(a_state(tenant_id="globex"))),
        (b"Not A Tenant", orjson.dumps(a_state())),
        (b"\xff\xfe", orjson.dumps(a_state())),
        (None, orjson.dumps(a_state())),
    ],
)
def test_what_is_no_state_of_the_keys_tenant_is_unusable(key: bytes | None, value: bytes | None) -> None:
    with pytest.raises(Unusable):
        read(key, value)


def test_fields_of_a_newer_schema_are_kept() -> None:
    assert read(b"acme", orjson.dumps(a_state(shiny=1)))[1]["shiny"] == 1


def test_fausts_changelog_topic_is_one_that_init_creates() -> None:
    settings = Settings()
    app = make_view_app(settings)
    table = TenantTable(app, settings.kafka.partitions).table
    assert table.changelog_topic.get_topic_name() == table_changelog(settings.kafka.app_id)
    assert table_changelog(settings.kafka.app_id) in {topic.name for topic in declared(settings.kafka)}
    assert table.partitions == settings.kafka.partitions
