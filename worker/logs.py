"""Structured logs through the standard library: Celery's handlers carry them."""

import structlog


def configure_logging() -> None:
    """Make every structlog logger write one line of key=value pairs to `logging`."""
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.processors.StackInfoRenderer(),
            structlog.processors.format_exc_info,
            structlog.processors.KeyValueRenderer(key_order=["event"]),
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )
