"""The API and the status pages: a FastAPI application over the ledger's typed reads, the Faust table and the neighbours' health."""

from streams.web.app import make_web
from streams.web.parts import Parts

__all__ = ["Parts", "make_web"]
