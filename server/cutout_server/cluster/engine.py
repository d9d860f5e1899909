"""Ray itself: joining a cluster, and the workers in it by their names."""

import asyncio
import hashlib
import signal
import sys
import threading
from asyncio.subprocess import PIPE
from collections.abc import Callable
from typing import Any, TypeVar

import ray
from cutout_common.distribution import build

from cutout_server.cluster import head
from cutout_server.cluster.worker import Worker
from cutout_server.settings import Settings

T = TypeVar("T")

NAMESPACE = "cutout"
# What workers need of the settings. Fronts that agree in these and in their build share workers.
OF_WORKERS = {
    "profile",
    "models",
    "weights_dir",
    "offline",
    "hub_endpoint",
    "engine",
    "precision",
    "preload",
    "devices",
    "memory_budget_bytes",
    "embeddings_cache_bytes",
    "embeddings_cache_dtype",
    "max_batch",
    "max_encode_batch",
    "max_deadline_s",
    "ray_min_workers",
    "ray_worker_cpus",
    "ray_idle_s",
    "trace_endpoint",
}
MANY = 1000  # Questions that a worker works on at once, which wait in its queue.


class RayEngine:
    """A cluster, in which this server is one of the fronts. Nothing here waits on the event loop.

    Args:
        settings: The front's.
    """

    def __init__(self, settings: Settings) -> None:
        self._address = settings.ray_address
        self._head: asyncio.subprocess.Process | None = None
        self._cpus = settings.ray_worker_cpus
        self._gpus = 0 if settings.devices == ("cpu",) else 1
        self._min_workers, self._spare_s = settings.ray_min_workers, settings.ray_idle_s
        # Whom the front lets in is nobody else's to know.
        self._settings = settings.model_copy(
            update={"api_keys": (), "rewrite_api_key": Settings.model_fields["rewrite_api_key"].default}
        )
        told = self._settings.model_dump_json(include=OF_WORKERS)
        self._prefix = f"{hashlib.sha256(f'{build()} {told}'.encode()).hexdigest()[:8]}-"

    async def join(self) -> None:
        """Joins the cluster; without an address, begins one on this machine.

        Raises:
            ConnectionError: There is none.
        """
        address = self._address or await self._own()
        options = {"namespace": NAMESPACE, "log_to_driver": False, "configure_logging": False}
        try:
            await _off_loop(lambda: ray.init(address, **options))
        except RuntimeError as error:
            raise ConnectionError(f"no cluster can be joined at {address}: {error}") from error
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):  # Which Ray took for itself.
                signal.signal(number, signal.getsignal(number))

    async def leave(self) -> None:
        """Leaves the cluster; workers that no other front looks after end themselves."""
        await _off_loop(ray.shutdown)
        if self._head is not None and self._head.stdin is not None:
            self._head.stdin.close()
            await self._head.wait()

    async def _own(self) -> str:
        """The address of a cluster of this machine, which ends with this process, however that ends."""
        command = (sys.executable, "-m", head.__name__)
        # Ctrl-C is for this process, which lets accepted work finish.
        self._head = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, start_new_session=True)
        assert self._head.stdout is not None, "a pipe"  # noqa: S101
        async for line in self._head.stdout:
            text = line.decode("utf-8", "replace")
            if text.startswith(head.ADDRESS):
                return text.removeprefix(head.ADDRESS).strip()
        raise ConnectionError("Ray could not begin a cluster on this machine")

    async def numbers(self) -> list[int]:
        """Which workers there are."""
        names: list[str] = await _off_loop(ray.util.list_named_actors)
        return [int(name.removeprefix(self._prefix)) for name in names if name.startswith(self._prefix)]

    async def worker(self, number: int) -> Any:
        """The worker of that number, which is begun if there is none."""
        options = {
            "name": f"{self._prefix}{number}",
            "get_if_exists": True,
            "lifetime": "detached",  # It may outlive the front that began it.
            "num_cpus": self._cpus,
            "num_gpus": self._gpus,
            "max_concurrency": MANY,
        }
        spare_s = self._spare_s if number >= self._min_workers else 0.0
        actor = ray.remote(Worker).options(**options)
        return await _off_loop(lambda: actor.remote(self._settings, spare_s, build()))


async def _off_loop(work: Callable[[], T]) -> T:
    return await asyncio.to_thread(work)
