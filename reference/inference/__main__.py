"""`python -m reference.inference`: the inference service as a process."""

from reference import children
from reference.inference.service import Inference
from reference.service import run
from reference.settings import ReferenceSettings
from reference.store import S3Store

if __name__ == "__main__":
    settings = ReferenceSettings()
    children.prepare("reference.inference.unpack")
    run(Inference(settings, S3Store(settings)).app(), settings)
