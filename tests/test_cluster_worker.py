"""A worker of a cluster by itself, without Ray: how it begins and ends."""

import threading
from types import SimpleNamespace

import pytest
from cutout_common.distribution import build
from cutout_server.cluster import worker as module
from cutout_server.cluster.worker import Worker
from cutout_server.errors import FailedPreconditionError
from cutout_server.settings import Settings
from waiting import until


async def test_weights_that_cannot_be_had_are_tried_again_and_keep_no_device(monkeypatch: pytest.MonkeyPatch):
    """The next look may find them; a worker that no front looks after ends itself, though it never had its models."""
    fetches: list[int] = []
    ended = threading.Event()

    def fetch() -> None:
        fetches.append(len(fetches))
        if len(fetches) == 1:
            raise FailedPreconditionError("the hub cannot be reached")

    monkeypatch.setattr(module, "logs", SimpleNamespace(configure=lambda *_: None))
    monkeypatch.setattr(module, "heap", SimpleNamespace(keep_freed=lambda: None))
    monkeypatch.setattr(module, "os", SimpleNamespace(_exit=lambda _: ended.set()))
    catalogue = SimpleNamespace(specs={"model": SimpleNamespace(name="model", fetch=fetch)})
    monkeypatch.setattr(module, "Catalogue", SimpleNamespace(of=lambda _: catalogue))
    monkeypatch.setattr(module, "LEASE_S", -1.0)
    worker = Worker(Settings(preload=False, devices=("cpu",)), 0.0, build())
    try:
        with pytest.raises(FailedPreconditionError):
            await worker.look()
        await until(ended.is_set)
        assert (await worker.look()).models == {}
        assert (await worker.look()).models == {}
        assert fetches == [0, 1]
    finally:
        worker._ended.set()  # Or its thread would end this process in a minute.
    await worker._pool.close()
