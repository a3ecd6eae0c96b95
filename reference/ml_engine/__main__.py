"""`python -m reference.ml_engine`: the ML Engine as a process."""

from reference import children
from reference.ml_engine.service import Engine
from reference.service import run
from reference.settings import ReferenceSettings
from reference.store import S3Store

if __name__ == "__main__":
    settings = ReferenceSettings()
    children.prepare("reference.ml_engine.training", "reference.ml_engine.indexing")
    run(Engine(settings, S3Store(settings)).app(), settings)
