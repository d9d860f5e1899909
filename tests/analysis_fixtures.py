"""A server that segments, classifies and rewrites: the built-in model, a small CLIP, and a language model."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from clip_checkpoints import clip_folder  # noqa: F401 - a fixture
from conftest import RunningServer, run_server
from language_model import KEY, MODEL, LanguageModel, run_language_model
from waiting import PATIENCE_S


@dataclass(frozen=True)
class Analysis:
    """What runs.

    Attributes:
        server: The server.
        words: The language model that it asks.
        clip: The folder of its classifier, which is called "clip".
    """

    server: RunningServer
    words: LanguageModel
    clip: Path

    @property
    def address(self) -> str:
        """Of the server."""
        return self.server.address


@pytest.fixture(scope="session")
def analysis(clip_folder: Path) -> Iterator[Analysis]:  # noqa: F811
    """Runs them."""
    models = [
        {"name": "builtin", "family": "builtin"},
        {"name": "clip", "family": "clip", "checkpoint": str(clip_folder)},
    ]
    with run_language_model() as words:
        language = {
            "rewrite_url": words.url,
            "rewrite_model": MODEL,
            "rewrite_api_key": KEY,
            "rewrite_timeout_s": PATIENCE_S,
        }
        with run_server(models=models, **language) as server:
            yield Analysis(server, words, clip_folder)


@pytest.fixture
def words(analysis: Analysis) -> LanguageModel:
    """The language model, as new."""
    analysis.words.reset()
    return analysis.words
