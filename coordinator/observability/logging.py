"""Structured logs on standard error, one JSON object per line."""

import contextlib
import logging
import sys

import structlog


def configure_logging() -> None:
    """Set up logging for this process. Libraries log from WARNING on."""
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(levelname)s %(name)s %(message)s")
    # It warns if a job is skipped because the last run is still in progress, which is intended.
    logging.getLogger("apscheduler").setLevel(logging.ERROR)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.WriteLoggerFactory(file=_BestEffortStderr()),  # type: ignore[arg-type] # it writes
        cache_logger_on_first_use=True,
    )


class _BestEffortStderr:
    """Standard error. A line that cannot be written is lost: a full disk must not end a coordinator."""

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError):
            sys.stderr.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            sys.stderr.flush()
