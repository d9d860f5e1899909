"""Structured logs: structlog, and the libraries that log through `logging`, in one form on stderr."""

import atexit
import io
import logging
import sys
from typing import Literal, TextIO, cast

import structlog

from cutout_common import traces
from cutout_common.log_writer import LogWriter

_writers: list[LogWriter] = []


def configure(form: Literal["json", "console"], level: str) -> None:
    """Sets up the logs of a program.

    Args:
        form: One JSON object a line, or lines for people.
        level: The least level that is logged; libraries are heard from `warning` on.
    """
    stream = _stream()
    least = logging.getLevelNamesMapping()[level.upper()]
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    # ConsoleRenderer prints tracebacks by itself (plain: without the values of variables, which may be secret); JSON
    # needs them as text.
    last: list[structlog.typing.Processor] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
        if form == "json"
        else [
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback)
        ]
    )
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(least),
        logger_factory=structlog.WriteLoggerFactory(stream),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream)
    without_meta = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    formatter = structlog.stdlib.ProcessorFormatter(processors=[without_meta, *last], foreign_pre_chain=shared)
    handler.setFormatter(formatter)
    logging.basicConfig(handlers=[handler], level=max(logging.WARNING, least), force=True)


def bind_trace(traceparent: str) -> None:
    """Has every further line of this task tell the trace's id, if there is one."""
    if trace_id := traces.trace_id(traceparent):
        structlog.contextvars.bind_contextvars(trace_id=trace_id)


def dropped() -> int:
    """Lines that were left out because nobody read them."""
    return sum(writer.dropped for writer in _writers)


def _stream() -> TextIO:
    """stderr, written to by a thread: a reader that stops reading must not stop the program."""
    try:
        descriptor = sys.stderr.fileno()
    except io.UnsupportedOperation:  # a stand-in, as notebooks and tests have
        return sys.stderr
    writer = LogWriter(descriptor)
    _writers.append(writer)
    atexit.register(writer.finish)
    return cast("TextIO", writer)
