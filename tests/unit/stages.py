"""What the tests of the training stages share: services made of fakes, and events as a run meets them."""

import hashlib
import json
from datetime import timedelta
from typing import Any
from uuid import UUID

from schemas.training import IndexBuilt, ModelDeployed, TrainingCompleted, TrainingRequested, TrainingValidated
from streams.services import Services
from streams.settings import IndexSettings, InferenceSettings, Settings, ValidationSettings
from tests.fakes import FakeInference, FakeMLEngine, FakeMonitoring, FakeObjects, FakeQuality, FakeVersions, InlineCpu

RUN = UUID("00000000-0000-0000-0000-0000000000aa")
TRAINING, MODELS, INDICES = "embeddings-training-data", "embeddings-models", "embeddings-indices"
MODEL_PATH, INDEX_PATH = f"models/acme/{RUN}/1", f"indices/acme/{RUN}/1-7"
SHA = "a" * 64


def a_house(**changes: Any) -> Services:
    """Services without a network; `changes` replace a neighbour."""
    settings = Settings(
        validation=ValidationSettings(max_bytes=100_000),
        inference=InferenceSettings(health_deadline=timedelta(seconds=60)),
        index=IndexSettings(builder=changes.pop("builder", "local")),
    )
    parts: dict[str, Any] = {
        "settings": settings,
        "ml_engine": FakeMLEngine(),
        "inference": FakeInference(),
        "monitoring": FakeMonitoring(),
        "objects": FakeObjects(),
        "versions": FakeVersions(),
        "quality": FakeQuality(),
        "cpu": InlineCpu(),
        "judge": InlineCpu(),
    }
    return Services(**parts | changes)


def requested(**changes: Any) -> TrainingRequested:
    return TrainingRequested(**{"tenant_id": "acme", "run_id": RUN} | changes)


def validated(**changes: Any) -> TrainingValidated:
    known = {
        "tenant_id": "acme",
        "run_id": RUN,
        "bucket": TRAINING,
        "prefix": "training-data/acme/latest/",
        "files": 1,
        "bytes": 100,
        "fingerprint": SHA,
    }
    return TrainingValidated(**known | changes)


def completed(**changes: Any) -> TrainingCompleted:
    return TrainingCompleted(**{"tenant_id": "acme", "run_id": RUN, "job_id": "job-1", "status": "completed", "model_path": MODEL_PATH} | changes)


def index_built(**changes: Any) -> IndexBuilt:
    known = {
        "tenant_id": "acme",
        "run_id": RUN,
        "index_path": INDEX_PATH,
        "model_path": MODEL_PATH,
        "vectors": 10,
        "dim": 4,
        "kind": "Flat",
        "sha256": SHA,
    }
    return IndexBuilt(**known | changes)


def deployed(**changes: Any) -> ModelDeployed:
    return ModelDeployed(**{"tenant_id": "acme", "run_id": RUN, "version": 3} | changes)


def put_model(objects: FakeObjects, path: str = MODEL_PATH, **facts: Any) -> None:
    """The files of a model with four items and its manifest; the vectors are real."""
    import io

    import numpy as np

    buffer = io.BytesIO()
    np.save(buffer, np.eye(4, dtype=np.float32))
    files = {"items.npy": buffer.getvalue(), "users.npy": buffer.getvalue(), "items.ids": b"a\nb\nc\nd\n"}
    manifest = {"tenant_id": "acme", "dim": 4, "metric": "ip", "sha256": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}}
    for name, data in files.items():
        objects.files[MODELS, f"{path}/{name}"] = data
    objects.files[MODELS, f"{path}/manifest.json"] = json.dumps(manifest | facts).encode()
