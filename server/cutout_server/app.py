"""A running server: it starts, says what it does, serves, and drains."""

import asyncio
import contextlib
from wsgiref.simple_server import WSGIServer

import grpc
import structlog
from cutout_common.distribution import build
from grpc_channelz.v1 import channelz
from grpc_health.v1 import health, health_pb2
from prometheus_client import start_http_server

from cutout_server.callers.accounts import Accounts
from cutout_server.listener import bind, grpc_server, read_certificate
from cutout_server.models.devices import check_devices
from cutout_server.parts import Parts
from cutout_server.pools.fair_queue import FairThreads
from cutout_server.services.registry import SERVICES, STORING
from cutout_server.settings import Role, Settings
from cutout_server.status import ServerStatus, State
from cutout_server.zoo import KNOWN, PROFILES

log = structlog.get_logger()

OTHER_THREADS = 8  # Most of them wait for disks.
ServingStatus = health_pb2.HealthCheckResponse


class App:
    """A server. `start`, `serve`, `stop`, once each, on one event loop.

    Raises:
        ConfigError: The settings name what is not there, or what does not belong together.
    """

    def __init__(self, settings: Settings) -> None:
        # What can be wrong with the machine's own things comes first: nothing has to be taken back yet.
        if not settings.cluster:  # Its workers have devices of their own.
            check_devices(settings.devices)
        self._settings = settings
        self._has_keys = bool(settings.api_keys)
        self._certificate = read_certificate(settings)
        self.parts = Parts(settings)
        self._health = health.aio.HealthServicer()
        self._server: grpc.aio.Server | None = grpc_server(settings, self.parts)
        self.parts.servicers().add_to(self._server, self._health, reflected=settings.reflection)
        self._admin: grpc.aio.Server | None = None
        self._metrics_server: WSGIServer | None = None
        self._watching: asyncio.Task[None] | None = None
        self.port = 0
        self.metrics_port: int | None = None
        self.admin_port: int | None = None

    @property
    def address(self) -> str:
        """host:port of the gRPC server."""
        return f"{self._settings.host}:{self.port}"

    @property
    def draining(self) -> bool:
        """Whether new work is refused."""
        return self.parts.drain.begun.is_set()

    @property
    def accounts(self) -> Accounts:
        """What each caller uses."""
        return self.parts.auth.accounts

    def status(self) -> ServerStatus:
        """The server at this moment; safe from any thread."""
        return self.parts.board.read()

    def announce(self) -> None:
        """Says what starts, which models serve, and how to get better ones while no neural network is among them."""
        log.info("starting", **build())
        for spec in self.parts.catalogue.specs.values():
            tasks = [f"{task.value}{' (default)' if task in spec.default_for else ''}" for task in spec.family.tasks]
            log.info("model", name=spec.name, what=spec.description or spec.family.name, does=", ".join(sorted(tasks)))
        if self._settings.api_keys and not self.parts.auth.has(Role.OPERATOR):
            log.info("no key has the role operator: nobody can load or unload models, or see the status, by calls")
        if not any(spec.family.needs_checkpoint for spec in self.parts.catalogue.specs.values()):
            for profile in ("small", "quality"):
                size = sum(KNOWN[name].size_bytes for name in PROFILES[profile]) / 1e9
                log.info(
                    f"for any words and better masks: cutout serve --profile {profile}", downloads=f"{size:.1f} GB"
                )

    def admit(self, settings: Settings) -> None:
        """Lets in whom the settings name from now on, by their quotas; all else stays as it is until the next start.

        Where there were keys, settings without any are no reason to let in everybody: the file may be half written.
        """
        if self._has_keys and not settings.api_keys:
            log.error("settings not read again; the keys before go on", error="api_keys: expected at least one")
            return
        self._has_keys = bool(settings.api_keys)
        self.parts.auth.admit(settings)
        log.info("keys read again", callers=sorted({key.caller for key in settings.api_keys}))

    async def start(self) -> None:
        """Binds every port and answers from then on; health says NOT_SERVING until `serve` has returned.

        Raises:
            OSError: A port is taken.
        """
        settings = self._settings
        # What asyncio.to_thread does: files, and what is made of everything's masks.
        asyncio.get_running_loop().set_default_executor(FairThreads(OTHER_THREADS, "other", self.parts.metrics))
        for service in (health.OVERALL_HEALTH, *SERVICES):
            await self._health.set(service, ServingStatus.NOT_SERVING)
        server = self._server
        assert server is not None, "an App starts once"  # noqa: S101
        self.port = bind(server, f"{settings.host}:{settings.port}", self._certificate)
        if settings.metrics_port >= 0:
            listener, _ = start_http_server(settings.metrics_port, settings.metrics_host, self.parts.metrics.registry)
            self._metrics_server = listener
            self.metrics_port = listener.server_port
        if settings.admin_port >= 0:
            self._admin = grpc.aio.server()
            channelz.add_channelz_servicer(self._admin)
            self.admin_port = bind(self._admin, f"127.0.0.1:{settings.admin_port}", None)
            await self._admin.start()
        await server.start()
        self._watching = asyncio.create_task(self.parts.store.watch(self._show_health))
        self.parts.pools.on_change(self._show_health)

    async def serve(self) -> None:
        """Downloads what is missing and loads the models, or joins the cluster, then says that it is serving.

        Raises:
            CutoutError: A model cannot be had or loaded.
            OSError: There is no cluster where the settings say.
        """
        await self.parts.pools.begin(preload=self._settings.preload)
        if self.draining:
            return
        self.parts.board.state = State.SERVING
        await self._show_health()
        log.info(
            "serving",
            address=self.address,
            metrics_port=self.metrics_port,
            admin_port=self.admin_port,
            models=list(self.parts.catalogue.specs),
            devices=list(self.parts.pools.by_device),
        )

    async def _show_health(self) -> None:
        if self.parts.board.state is not State.SERVING:
            return
        for service in (health.OVERALL_HEALTH, *SERVICES):
            works = self.parts.pools.is_available and (service not in STORING or self.parts.store.is_available)
            await self._health.set(service, ServingStatus.SERVING if works else ServingStatus.NOT_SERVING)

    async def stop(self) -> None:
        """Refuses new work, lets accepted work finish as long as the setting allows, and gives everything back."""
        self.parts.board.state = State.DRAINING
        self.parts.drain.begun.set()
        await self._health.enter_graceful_shutdown()
        log.info("draining", seconds=self._settings.drain_s)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.parts.drain.emptied(), self._settings.drain_s)
        self.parts.drain.end()
        for server in (self._server, self._admin):
            if server is not None:
                await server.stop(grace=1.0)
        # Their finalizers need the loop, which is closed by the time that the garbage collector would call them.
        del server
        self._server = self._admin = None
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        await self.parts.close()
        if self._metrics_server is not None:
            await asyncio.to_thread(self._metrics_server.shutdown)
            self._metrics_server.server_close()
        await asyncio.to_thread(self.parts.tracer.close)
        log.info("stopped")
