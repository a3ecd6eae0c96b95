"""What the ML Engine learns, from generated data whose tastes are known."""

import json
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from reference.artifacts import MODEL_FILES, check, read_ids
from reference.errors import Failed
from reference.inference.model import load
from reference.inference.unpack import unpack
from reference.ml_engine.indexing import build
from reference.ml_engine.training import train
from reference.synthetic import generate, hit_rate, popularity, write

FACTS = {"tenant_id": "acme"}


def upload(folder: Path, *files: Path) -> Path:
    """The files as the engine lays them out for its child: numbered, without the marker."""
    folder.mkdir()
    for number, file in enumerate(files):
        if file.name != "_SUCCESS":
            (folder / f"{number:06d}-{file.name}").write_bytes(file.read_bytes())
    return folder


def test_generated_data_is_the_same_for_the_same_seed_and_holds_out_each_users_last_interaction() -> None:
    data = generate("acme", 50, 40, 600, 3)
    assert data.train.equals(generate("acme", 50, 40, 600, 3).train)
    assert not data.train.equals(generate("bolt", 50, 40, 600, 3).train)
    last = dict(zip(data.heldout["user_id"].to_pylist(), data.heldout["timestamp"].to_pylist(), strict=True))
    assert len(last) == 50
    rows = data.train.to_pylist()
    assert all(row["timestamp"] <= last[row["user_id"]] for row in rows)
    held = set(zip(data.heldout["user_id"].to_pylist(), data.heldout["item_id"].to_pylist(), strict=True))
    assert held.isdisjoint((row["user_id"], row["item_id"]) for row in rows)


@pytest.mark.parametrize("form", ["jsonl", "json", "parquet"])
def test_every_format_teaches_the_same(tmp_path: Path, form: str) -> None:
    data = generate("acme", 60, 40, 800, 1)
    metrics = train(upload(tmp_path / "in", *write(data.train, tmp_path / "raw", form)), tmp_path / "out", 8, 3, FACTS)  # type: ignore[arg-type]
    assert (metrics["users"], metrics["items"], metrics["interactions"]) == (60, 40, len(data.train))
    manifest = check(tmp_path / "out", MODEL_FILES, "acme")
    assert (manifest["dim"], manifest["metric"], manifest["counts"]["users"]) == (8, "ip", 60)
    assert np.load(tmp_path / "out" / "items.npy").dtype == np.float32


def test_what_was_learned_beats_popularity_through_index_and_service(tmp_path: Path) -> None:
    data = generate("acme", 600, 300, 15_000, 1)
    train(upload(tmp_path / "in", *write(data.train, tmp_path / "raw")), tmp_path / "m", 32, 10, FACTS)
    build(tmp_path / "m", "Flat", None, FACTS)
    (tmp_path / "m" / "index").mkdir()
    unpack(tmp_path / "m", tmp_path / "m", 32)
    model = load(1, tmp_path / "m", tmp_path / "m", 1)
    learned = hit_rate(lambda user: [item.item_id for item in model.recommend(user, 10)[0]], data.heldout)
    assert learned > 1.5 * hit_rate(popularity(data.train), data.heldout)
    had = {row["item_id"] for row in data.train.to_pylist() if row["user_id"] == "acme-u000000"}
    assert had.isdisjoint(item.item_id for item in model.recommend("acme-u000000", 20)[0])
    assert model.recommend("nobody", 5) == (model.top(5), True)


def test_a_user_who_has_nearly_everything_gets_the_rest_whatever_cells_are_probed(tmp_path: Path) -> None:
    data = generate("acme", 80, 1200, 3000, 1)
    train(upload(tmp_path / "in", *write(data.train, tmp_path / "raw")), tmp_path / "m", 8, 2, FACTS)
    manifest = build(tmp_path / "m", "IVF", 16, FACTS)
    unpack(tmp_path / "m", tmp_path / "m", 8)
    model = load(1, tmp_path / "m", tmp_path / "m", 1)
    items = len(read_ids(tmp_path / "m" / "items.ids"))
    assert manifest["kind"] == ("IVF" if items >= 1000 else "Flat")
    had = {row["item_id"] for row in data.train.to_pylist() if row["user_id"] == "acme-u000003"}
    assert len(model.recommend("acme-u000003", items)[0]) == items - len(had)


def test_an_ivf_index_reaches_its_recall_with_the_probes_it_names(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    for name, rows in (("items", 4000), ("users", 500)):
        np.save(tmp_path / f"{name}.npy", random.normal(size=(rows, 16)).astype(np.float32))
    (tmp_path / "items.ids").write_text("".join(f"i{n}\n" for n in range(4000)))
    manifest = build(tmp_path, "IVF", None, FACTS)
    assert manifest["kind"] == "IVF"
    assert manifest["recall"] >= 0.95
    assert 1 <= manifest["nprobe"] <= manifest["nlist"]
    assert faiss.read_index(str(tmp_path / "index.faiss")).ntotal == 4000


def test_bad_data_fails_with_a_name(tmp_path: Path) -> None:
    good = {"user_id": "u", "item_id": "i", "interaction_type": "view", "timestamp": 1}
    cases = {
        "one.jsonl": (json.dumps(good).encode(), "too_little_data"),
        "broken.parquet": (b"PAR1 this is no parquet PAR1", "unreadable_file"),
        "broken.json": (b'[{"user_id": ', "unreadable_file"),
        "nobody.jsonl": (b'{"item_id": "i"}\n{"user_id": null, "item_id": "a\\nb"}\n7\n', "no_interactions"),
    }
    for name, (content, code) in cases.items():
        file = tmp_path / name
        file.write_bytes(content)
        with pytest.raises(Failed, match=code):
            train(upload(tmp_path / f"in-{name}", file), tmp_path / f"out-{name}", 8, 2, FACTS)


def test_numbers_as_ids_and_further_columns_are_fine_and_bad_rows_are_counted(tmp_path: Path) -> None:
    table = pa.table({"user_id": [1, 1, 2, 2, None], "item_id": [7, 8, 7, 9, 9], "price": [1.0] * 5})
    pq.write_table(table, tmp_path / "x.parquet")
    metrics = train(upload(tmp_path / "in", tmp_path / "x.parquet"), tmp_path / "out", 4, 2, FACTS)
    assert (metrics["users"], metrics["items"], metrics["interactions"], metrics["skipped_rows"]) == (2, 3, 4, 1)
    assert read_ids(tmp_path / "out" / "users.ids") == ["1", "2"]


def test_files_that_do_not_fit_together_are_refused_before_they_are_served(tmp_path: Path) -> None:
    data = generate("acme", 60, 40, 800, 1)
    train(upload(tmp_path / "in", *write(data.train, tmp_path / "raw")), tmp_path / "m", 8, 2, FACTS)
    build(tmp_path / "m", "IVF", 4, FACTS)
    with pytest.raises(Failed, match="bad_users"):
        unpack(tmp_path / "m", tmp_path / "m", 9)
    (tmp_path / "m" / "index.faiss").write_bytes(b"IxFI" + b"\xff" * 60)
    with pytest.raises(Failed, match=r"unreadable_artifact|index_mismatch"):
        unpack(tmp_path / "m", tmp_path / "m", 8)
    with pytest.raises(Failed, match="checksum_mismatch"):
        check(tmp_path / "m", ("index.faiss",), "acme")
    with pytest.raises(Failed, match="foreign_artifact"):
        check(tmp_path / "m", MODEL_FILES, "bolt")
