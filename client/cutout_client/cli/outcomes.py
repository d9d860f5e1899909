"""What became of one picture, and its JSON document."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cutout_client.cli.folders import Job
from cutout_client.errors import CutoutError
from cutout_client.results import Segmentation


@dataclass(frozen=True)
class Outcome:
    """What a job came to: a result with its files, an error, or both when not all files could be written.

    Attributes:
        job: What was to be done.
        result: The answer.
        files: What was made of it.
        error: What went wrong.
        kept: Whether the answer is that of an earlier run.
    """

    job: Job
    result: Segmentation | None = None
    files: Sequence[Path] = ()
    error: Exception | None = None
    kept: bool = False


def said(error: Exception) -> str:
    """An error on one line. The kind of one that was not made for people says more than its text."""
    text = " ".join(str(error).split())
    return text if text and isinstance(error, CutoutError | OSError | ValueError) else f"{type(error).__name__}: {text}"


def describe(outcome: Outcome) -> dict[str, Any]:
    """The document."""
    described: dict[str, Any] = {"picture": outcome.job.origin}
    if outcome.error is not None:
        described["error"] = _describe_error(outcome.error)
    if outcome.result is not None:
        described |= _describe_result(outcome.result) | {"files": [str(path) for path in outcome.files]}
    return described


def _describe_error(error: Exception) -> dict[str, Any]:
    if not isinstance(error, CutoutError):
        return {"message": said(error)}
    return {
        "code": error.code.name,
        "reason": error.reason,
        "message": error.message,
        "violations": [asdict(violation) for violation in error.violations],
        "request_id": error.request_id,
    }


def _describe_result(result: Segmentation) -> dict[str, Any]:
    return {
        "width": result.image.width,
        "height": result.image.height,
        **({"concepts": result.concepts.to_dict()} if result.concepts else {}),
        **({"rewriting": asdict(result.rewriting)} if result.rewriting else {}),
        "objects": [
            {"label": each.label, "score": each.score, "box": each.box, "area": each.area, "prompt": each.prompt_index}
            | ({"concepts": each.concepts.to_dict()} if each.concepts else {})
            for each in result
        ],
        "omissions": [asdict(omission) for omission in result.omissions],
        "models": result.models,
        "timings": asdict(result.timings),
        "request_id": result.request_id,
    }
