"""Log lines are sentences with fields: structlog for ours, the same shape for what Faust, aiokafka and uvicorn say."""

import logging
import sys
import time
from typing import Any

import structlog

from streams.settings import Settings

_QUIET = {
    "aiokafka": logging.WARNING,
    "faust": logging.WARNING,
    "mode": logging.WARNING,
    "asyncio": logging.WARNING,
    "httpx": logging.WARNING,
    "botocore": logging.WARNING,
}
_REPEAT_AFTER = 10.0


class RateLimit(logging.Filter):
    """Lets a library say the same thing once in ten seconds: aiokafka repeats itself a hundred times a second in an outage."""

    def __init__(self) -> None:
        super().__init__()
        self._said: dict[tuple[str, Any], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING or not record.name.startswith(("aiokafka", "faust", "mode")):
            return True
        key, now = (record.name, record.msg), time.monotonic()
        if now - self._said.get(key, -_REPEAT_AFTER) < _REPEAT_AFTER:
            return False
        if len(self._said) > 1000:
            self._said.clear()
        self._said[key] = now
        return True


def set_up(settings: Settings) -> None:
    """Log to stderr, as console lines or JSON, from the set level upwards."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: Any = (
        structlog.processors.JSONRenderer()
        if settings.log_format == "json"
        else structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(),
            exception_formatter=structlog.dev.plain_traceback,  # the rich one prints local variables, and with them secrets
        )
    )
    structlog.configure(
        processors=[*shared, structlog.processors.StackInfoRenderer(), structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    exceptions: list[Any] = [structlog.processors.format_exc_info] if settings.log_format == "json" else []
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *exceptions, renderer]
        )
    )
    handler.addFilter(RateLimit())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level.upper())
    for name, level in _QUIET.items():
        logging.getLogger(name).setLevel(level)
