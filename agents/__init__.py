"""What we do about events, in the order an event travels: the table of contents of this platform's pipelines.

To change what a stage does, open its file. To add a stage, write one and name it here. To change how stages are retried,
recorded or handed over, open `streams/`.
"""

from agents.deploy import deploy
from agents.index import index
from agents.quality import alert, measure
from agents.train import train
from agents.validate import validate
from agents.warm import warm
from streams.stage import Pipeline

TRAINING = Pipeline("training", (validate, train, index, deploy, warm), version="1")
"""From a tenant's interactions in S3 to recommendations that are served from their index."""

QUALITY = Pipeline("quality", (measure, alert), version="1")
"""From a tick to a verdict on a tenant's data, and to the incidents that somebody is told of."""

PIPELINES = (TRAINING, QUALITY)

__all__ = ["PIPELINES", "QUALITY", "TRAINING", "alert", "deploy", "index", "measure", "train", "validate", "warm"]
