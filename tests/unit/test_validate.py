"""The validate stage: which data is good enough to train on, and what it is called if not."""

import pytest

from agents import validate
from agents.arrivals import look
from schemas.training import TrainingConfig
from streams.stage import GiveUp
from tests.fakes import FakeObjects
from tests.unit.stages import TRAINING, a_house, requested

PREFIX = "training-data/acme/latest/"
ROWS = b'{"user_id": "u", "item_id": "i", "interaction_type": "view", "timestamp": 1}\n' * 2


@pytest.fixture
def use():
    return a_house()


def put(use, **files: bytes) -> None:
    for name, data in files.items():
        use.objects.files[TRAINING, PREFIX + name] = data


async def code_of(use, **fields) -> str:
    with pytest.raises(GiveUp) as said:
        await validate(requested(**fields), use)
    assert said.value.sentence.isprintable()
    return said.value.code


async def test_good_data_is_counted_and_fingerprinted(use):
    put(use, **{"a.jsonl": ROWS, "b.json": b'[{"user_id": "u"}]', "c.parquet": b"PAR1" + b"x" * 90 + b"PAR1"})
    found = await validate(requested(training_config=TrainingConfig(epochs=3)), use)
    assert (found.files, found.bytes, found.prefix, found.bucket) == (3, len(ROWS) + 18 + 98, PREFIX, TRAINING)
    assert found.run_id == requested().run_id
    assert found.training_config.epochs == 3
    assert len(found.fingerprint) == 64


async def test_equal_data_has_an_equal_fingerprint_and_other_data_another(use):
    put(use, **{"a.jsonl": ROWS, "b.jsonl": ROWS})
    one, two = await validate(requested(), use), await validate(requested(), use)
    put(use, **{"b.jsonl": ROWS.replace(b"view", b"like")})
    three = await validate(requested(), use)
    assert one.fingerprint == two.fingerprint != three.fingerprint


async def test_the_look_for_data_that_arrived_sees_just_what_validate_sees(use):
    put(use, **{"a.jsonl": ROWS, "b.json": b'[{"user_id": "u"}]', "_SUCCESS": b""})
    seen = await look("acme", use)
    assert seen.fingerprint == (await validate(requested(), use)).fingerprint
    assert sorted(seen.files.values()) == sorted([len(ROWS), 18])


async def test_markers_hidden_and_temporary_files_are_not_data(use):
    put(use, **{"a.jsonl": ROWS})
    put(
        use,
        _SUCCESS=b"",
        **{".a.jsonl.crc": b"x", "_temporary/0/b.jsonl": b"", ".staging/c.parquet": b"", "d.jsonl.tmp": b"x", "readme.txt": b"x", "dir/": b""},
    )
    assert (await validate(requested(), use)).files == 1


async def test_another_tenants_data_is_not_ours(use):
    use.objects.files[TRAINING, "training-data/acme-2/latest/a.jsonl"] = ROWS
    assert await code_of(use) == "no_data"


async def test_a_missing_bucket_is_permanent():
    assert await code_of(a_house(objects=FakeObjects(buckets=()))) == "bucket_missing"


async def test_an_empty_folder_is_no_data(use):
    put(use, _SUCCESS=b"")
    assert await code_of(use) == "no_data"


async def test_an_empty_file_is_named(use):
    put(use, **{"a.jsonl": ROWS, "b.jsonl": b""})
    with pytest.raises(GiveUp, match=r"b\.jsonl") as said:
        await validate(requested(), use)
    assert said.value.code == "empty_file"


async def test_one_byte_is_too_little_and_too_many_are_too_much(use):
    put(use, **{"a.jsonl": b"{"})
    assert await code_of(use) == "too_little_data"
    put(use, **{"a.jsonl": ROWS * 1000})
    assert await code_of(use) == "too_much_data"


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("cut.parquet", b"PAR1" + b"x" * 90),
        ("page.parquet", b"<html>" + b"x" * 90 + b"PAR1"),
        ("tiny.parquet", b"PAR1" * 2 + b" " * 0),
        ("page.jsonl", b"<!doctype html>" + b" " * 90),
        ("blank.json", b" " * 100),
        ("table.jsonl", b"user_id,item_id\n" + b"u,i\n" * 20),
    ],
)
async def test_a_file_that_is_not_what_its_name_says_is_broken(use, name, data):
    put(use, **{"a.jsonl": ROWS, name: data})
    with pytest.raises(GiveUp, match=name) as said:
        await validate(requested(), use)
    assert said.value.code == "broken_file"


async def test_json_may_begin_with_a_mark_and_blanks(use):
    put(use, **{"a.json": b"\xef\xbb\xbf\n  [" + ROWS + b"]"})
    assert (await validate(requested(), use)).files == 1


async def test_only_some_of_many_files_are_looked_into(use, monkeypatch):
    put(use, **{f"{n:05}.jsonl": ROWS for n in range(500)})
    peeks = []
    peek = use.objects.peek

    async def counted(*args):
        peeks.append(args)
        return await peek(*args)

    monkeypatch.setattr(use.objects, "peek", counted)
    assert (await validate(requested(), use)).files == 500
    assert 32 <= len(peeks) <= 64
