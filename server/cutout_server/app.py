"""The composition root: settings in, a running server out."""

import asyncio
import contextlib
from wsgiref.simple_server import WSGIServer

import grpc
import structlog
from cutout.v1 import (
    generation_service_pb2,
    generation_service_pb2_grpc,
    image_service_pb2,
    image_service_pb2_grpc,
    model_service_pb2,
    model_service_pb2_grpc,
    segmentation_pb2,
    segmentation_service_pb2,
    segmentation_service_pb2_grpc,
    tracking_service_pb2,
    tracking_service_pb2_grpc,
    video_service_pb2,
    video_service_pb2_grpc,
)
from cutout_common.allowance import Allowance
from cutout_common.config import ConfigError
from cutout_common.distribution import build
from cutout_common.traces import tracer_of
from grpc_channelz.v1 import channelz
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from prometheus_client import start_http_server

from cutout_server.auth import Auth
from cutout_server.callers.accounts import Accounts
from cutout_server.catalogue import Catalogue
from cutout_server.certificates import credentials
from cutout_server.convert.requests import RequestReader
from cutout_server.convert.tracking import TrackingReader
from cutout_server.convert.videos import VideoTrackReader
from cutout_server.daemon import in_daemon_thread
from cutout_server.drain import Drain
from cutout_server.exchange import Bounds
from cutout_server.images.decoder import PictureDecoder
from cutout_server.images.decoder_processes import Decoders
from cutout_server.images.early_decoding import EarlyDecoding
from cutout_server.images.fetch import FetchPolicy
from cutout_server.images.pictures import Pictures
from cutout_server.images.pixel_budget import PixelBudget
from cutout_server.images.private_folder import PrivateFolder
from cutout_server.images.store import ImageStore
from cutout_server.images.uploads import Uploads
from cutout_server.images.videos import Videos
from cutout_server.imaging.decode import ImageLimits
from cutout_server.imaging.video import VideoLimits
from cutout_server.interceptors import CallInterceptor, CallLog
from cutout_server.metrics import Metrics
from cutout_server.models.devices import check_devices
from cutout_server.pipelines.generate import GeneratePipeline
from cutout_server.pipelines.response_cache import ResponseCache
from cutout_server.pipelines.rewrite import Rewriter
from cutout_server.pipelines.segment import SegmentPipeline
from cutout_server.pipelines.track import TrackPipeline
from cutout_server.pipelines.track_video import VideoTrackPipeline
from cutout_server.places import Places
from cutout_server.pools.device import DevicePool
from cutout_server.pools.fair import FairThreads
from cutout_server.pools.placement import Pools
from cutout_server.pools.remembered import Remembered
from cutout_server.services.answers import SegmentationCache
from cutout_server.services.generation import GenerationServicer
from cutout_server.services.images import ImageServicer
from cutout_server.services.models import ModelServicer
from cutout_server.services.segmentation import SegmentationServicer
from cutout_server.services.session import Sessions
from cutout_server.services.tracking import TrackingServicer
from cutout_server.services.videos import VideoServicer
from cutout_server.settings import Role, Settings
from cutout_server.status import ServerStatus, State, StatusBoard
from cutout_server.zoo import KNOWN, PROFILES

log = structlog.get_logger()

OTHER_THREADS = 8  # Most of them wait for disks.
# For TLS and the first words of HTTP/2.
HANDSHAKE_MS = 20_000
PING_TIMEOUT_MS = 20_000

SERVICES = tuple(
    module.DESCRIPTOR.services_by_name[name].full_name
    for module, name in (
        (segmentation_service_pb2, "SegmentationService"),
        (image_service_pb2, "ImageService"),
        (video_service_pb2, "VideoService"),
        (generation_service_pb2, "GenerationService"),
        (tracking_service_pb2, "TrackingService"),
        (model_service_pb2, "ModelService"),
    )
)

# They need the store.
STORING = (
    image_service_pb2.DESCRIPTOR.services_by_name["ImageService"].full_name,
    video_service_pb2.DESCRIPTOR.services_by_name["VideoService"].full_name,
)
ServingStatus = health_pb2.HealthCheckResponse


def rewriter_of(settings: Settings) -> Rewriter | None:
    """What asks the operator's language model; None when there is none."""
    if not settings.rewrite_url:
        return None
    return Rewriter(
        settings.rewrite_url,
        settings.rewrite_model,
        api_key=settings.rewrite_api_key.get_secret_value(),
        timeout_s=settings.rewrite_timeout_s,
        max_phrases=settings.max_prompts,
    )


class App:
    """A server. `start`, `serve`, `stop`, once each, on one event loop.

    Raises:
        ConfigError: The settings name what is not there, or what does not belong together.
    """

    def __init__(self, settings: Settings) -> None:
        # What can be wrong with the machine's own things comes first: nothing has to be taken back yet.
        check_devices(settings.devices)
        self._settings = settings
        self._credentials = self._read_certificate()
        self._catalogue = Catalogue.of(settings)
        self._metrics = Metrics()
        self._tracer = tracer_of("cutout-server", settings.trace_endpoint, settings.trace_share)
        self._auth = Auth(settings)
        self._drain = Drain()
        self._decoding = FairThreads(settings.imaging_threads, "decode", self._metrics)
        self._decoders = Decoders(settings.decoding_processes, settings.max_decode_s, self._metrics)
        self._video_decoders = Decoders(settings.video_processes, settings.max_decode_s, self._metrics, "video process")
        self._encoding = FairThreads(settings.imaging_threads, "encode", self._metrics)
        self._store = ImageStore(
            _image_folder(settings),
            max_bytes=settings.image_store_bytes,
            max_images=settings.image_store_images,
            ttl_s=settings.image_store_ttl_s,
        )
        self._pools = Pools({device: self._pool(device) for device in settings.devices}, self._catalogue)
        self._rewriter = rewriter_of(settings)
        self._answers: SegmentationCache = ResponseCache(
            settings.answers_cache_bytes, settings.answers_cache_ttl_s, segmentation_pb2.Segmentation.ByteSize
        )
        self._pools.on_unload(self._answers.forget)
        self._remembered = Remembered(settings.max_tracking_bytes, self._share(settings.max_tracking_bytes))
        self._board = StatusBoard(self._pools, self._store, self._answers, self._auth.accounts, self._remembered)
        self._metrics.watch(self._board)
        self._health = health.aio.HealthServicer()
        self._server: grpc.aio.Server | None = self._grpc_server()
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
        return self._drain.begun.is_set()

    @property
    def accounts(self) -> Accounts:
        """What each caller uses."""
        return self._auth.accounts

    def status(self) -> ServerStatus:
        """The server at this moment; safe from any thread."""
        return self._board.read()

    def announce(self) -> None:
        """Says what starts, which models serve, and how to get better ones while no neural network is among them."""
        log.info("starting", **build())
        for spec in self._catalogue.specs.values():
            tasks = [f"{task.value}{' (default)' if task in spec.default_for else ''}" for task in spec.family.tasks]
            log.info("model", name=spec.name, what=spec.description or spec.family.name, does=", ".join(sorted(tasks)))
        if self._settings.api_keys and not self._auth.has(Role.OPERATOR):
            log.info("no key has the role operator: nobody can load or unload models, or see the status, by calls")
        if not any(spec.family.needs_checkpoint for spec in self._catalogue.specs.values()):
            for profile in ("small", "quality"):
                size = sum(KNOWN[name].size_bytes for name in PROFILES[profile]) / 1e9
                log.info(
                    f"for any words and better masks: cutout serve --profile {profile}", downloads=f"{size:.1f} GB"
                )

    def admit(self, settings: Settings) -> None:
        """Lets in whom the settings name from now on, by their quotas; all else stays as it is until the next start."""
        self._auth.admit(settings)
        log.info("keys read again", callers=sorted({key.caller for key in settings.api_keys}))

    async def start(self) -> None:
        """Binds every port and answers from then on; health says NOT_SERVING until `serve` has returned.

        Raises:
            OSError: A port is taken.
        """
        settings = self._settings
        # What asyncio.to_thread does: files, and what is made of everything's masks.
        asyncio.get_running_loop().set_default_executor(FairThreads(OTHER_THREADS, "other", self._metrics))
        for service in (health.OVERALL_HEALTH, *SERVICES):
            await self._health.set(service, ServingStatus.NOT_SERVING)
        server = self._server
        assert server is not None, "an App starts once"  # noqa: S101
        self.port = self._bind(server, f"{settings.host}:{settings.port}", self._credentials)
        if settings.metrics_port >= 0:
            listener, _ = start_http_server(settings.metrics_port, settings.metrics_host, self._metrics.registry)
            self._metrics_server = listener
            self.metrics_port = listener.server_port
        if settings.admin_port >= 0:
            self._admin = grpc.aio.server()
            channelz.add_channelz_servicer(self._admin)
            self.admin_port = self._bind(self._admin, f"127.0.0.1:{settings.admin_port}", None)
            await self._admin.start()
        await server.start()
        self._watching = asyncio.create_task(self._store.watch(self._show_health))

    async def serve(self) -> None:
        """Downloads what is missing and loads the models, then says that it is serving.

        Raises:
            CutoutError: A model cannot be had or loaded.
        """
        for spec in self._catalogue.specs.values():
            await in_daemon_thread(spec.fetch, f"fetch-{spec.name}")
        if self._settings.preload:
            await self._pools.preload()
        if self.draining:
            return
        self._board.state = State.SERVING
        await self._show_health()
        log.info(
            "serving",
            address=self.address,
            metrics_port=self.metrics_port,
            admin_port=self.admin_port,
            models=list(self._catalogue.specs),
            devices=list(self._settings.devices),
        )

    async def _show_health(self) -> None:
        if self._board.state is not State.SERVING:
            return
        for service in (health.OVERALL_HEALTH, *SERVICES):
            works = service not in STORING or self._store.is_available
            await self._health.set(service, ServingStatus.SERVING if works else ServingStatus.NOT_SERVING)

    async def stop(self) -> None:
        """Refuses new work, lets accepted work finish as long as the setting allows, and gives everything back."""
        self._board.state = State.DRAINING
        self._drain.begun.set()
        await self._health.enter_graceful_shutdown()
        log.info("draining", seconds=self._settings.drain_s)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._drain.emptied(), self._settings.drain_s)
        for server in (self._server, self._admin):
            if server is not None:
                await server.stop(grace=1.0)
        # Their finalizers need the loop, which is closed by the time that the garbage collector would call them.
        del server
        self._server = self._admin = None
        await self._pools.close()
        if self._rewriter is not None:
            await self._rewriter.close()
        await self._arrivals.close()
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        await self._decoders.close()
        await self._video_decoders.close()
        for threads in (self._decoding, self._encoding):
            threads.shutdown(cancel_futures=True)
        self._store.close()
        if self._metrics_server is not None:
            await asyncio.to_thread(self._metrics_server.shutdown)
            self._metrics_server.server_close()
        await asyncio.to_thread(self._tracer.close)
        log.info("stopped")

    def _pool(self, device: str) -> DevicePool:
        settings = self._settings
        return DevicePool(
            device,
            capacity=settings.max_requests_per_device,
            max_batch=settings.max_batch,
            max_encode_batch=settings.max_encode_batch,
            memory_budget_bytes=settings.memory_budget_bytes,
            embeddings_cache_bytes=settings.embeddings_cache_bytes,
            compact_embeddings=settings.embeddings_cache_dtype == "bf16",
            observer=self._metrics,
        )

    def _share(self, total: int) -> int:
        """How much of it one caller may have: all of it while there is no other."""
        settings = self._settings
        several = len({key.caller for key in settings.api_keys}) > 1
        return max(1, int(total * settings.caller_share)) if several else total

    def _grpc_server(self) -> grpc.aio.Server:
        settings = self._settings
        received = Allowance(settings.max_received_bytes, self._share(settings.max_received_bytes))
        answers = Allowance(settings.max_answer_bytes, self._share(settings.max_answer_bytes))
        self._metrics.bytes_in_hand("messages", lambda: received.in_use)
        self._metrics.bytes_in_hand("answers", lambda: answers.in_use)
        interceptor = CallInterceptor(
            self._auth,
            self._drain,
            (CallLog(), self._metrics),
            self._tracer,
            trusted_proxies=settings.trusted_proxies,
            default_deadline_s=settings.default_deadline_s,
            max_deadline_s=settings.max_deadline_s,
            bounds=Bounds(received, answers, settings.max_message_bytes, settings.max_stall_s),
            places=Places("calls", settings.max_calls, self._share(settings.max_calls)),
            sessions=Places("sessions", settings.max_sessions, self._share(settings.max_sessions)),
        )
        server = grpc.aio.server(
            interceptors=[interceptor],
            options=[
                ("grpc.max_receive_message_length", settings.max_message_bytes),
                ("grpc.max_send_message_length", settings.max_message_bytes),
                ("grpc.max_concurrent_streams", settings.max_concurrent_streams),
                ("grpc.max_allowed_incoming_connections", settings.max_connections),
                # What comes unasked for, and is kept, of each call: gRPC's own bound grows to megabytes.
                ("grpc.http2.bdp_probe", 0),
                ("grpc.server_handshake_timeout_ms", HANDSHAKE_MS),
                # The third ping in a row that comes too soon ends a connection. gRPC's own bounds, five minutes with a
                # call and two hours without, would end the idle sessions of clients that ping as often as usual.
                ("grpc.http2.min_ping_interval_without_data_ms", round(settings.min_ping_interval_s * 1000)),
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.keepalive_time_ms", round(settings.ping_interval_s * 1000)),
                ("grpc.keepalive_timeout_ms", PING_TIMEOUT_MS),
                *_connection_age(settings),
                # Two servers on one port would share its calls in silence.
                ("grpc.so_reuseport", 0),
            ],
        )
        uploaded = ImageLimits(settings.max_upload_bytes, settings.max_image_pixels)
        budget = PixelBudget(settings.max_pixels_in_hand)
        self._metrics.pixels_in_hand(lambda: budget.in_use)
        self._arrivals = EarlyDecoding(budget, uploaded)
        videos = Videos(
            self._store,
            self._decoders,
            self._video_decoders,
            VideoLimits(settings.max_video_pixels, settings.max_video_frames, settings.max_video_s),
            max_bytes=settings.max_video_bytes,
        )
        pictures = Pictures(
            self._store,
            PictureDecoder(self._decoding, self._decoders),
            self._encoding,
            budget,
            self._arrivals,
            videos,
            inline=ImageLimits(settings.max_image_bytes, settings.max_image_pixels),
            uploaded=uploaded,
            fetching=self._fetch_policy(),
            observer=self._metrics,
        )
        segmentation = SegmentPipeline(
            self._catalogue, self._pools, pictures, self._encoding, self._rewriter, max_tiles=settings.max_tiles
        )
        uploads = Uploads(self._store, self._decoding, uploaded, self._arrivals)
        reader = RequestReader(settings.max_prompts, settings.max_objects)
        sessions = Sessions(
            segmentation,
            reader,
            uploads,
            self._drain.begun,
            open_s=settings.max_deadline_s,
            idle_s=settings.session_idle_s,
            prompt_deadline_s=settings.default_deadline_s,
            max_message_bytes=settings.max_message_bytes,
        )
        segmentation_service_pb2_grpc.add_SegmentationServiceServicer_to_server(
            SegmentationServicer(
                segmentation, reader, sessions, self._answers, max_message_bytes=settings.max_message_bytes
            ),
            server,
        )
        image_service_pb2_grpc.add_ImageServiceServicer_to_server(ImageServicer(uploads, segmentation, reader), server)
        video_service_pb2_grpc.add_VideoServiceServicer_to_server(VideoServicer(videos), server)
        generation = GeneratePipeline(self._catalogue, self._pools, self._encoding)
        generation_service_pb2_grpc.add_GenerationServiceServicer_to_server(
            GenerationServicer(generation, segmentation, reader, max_message_bytes=settings.max_message_bytes), server
        )
        tracking = TrackPipeline(
            self._catalogue,
            self._pools,
            pictures,
            self._encoding,
            self._remembered,
            max_objects=settings.max_tracked_objects,
        )
        tracking_service_pb2_grpc.add_TrackingServiceServicer_to_server(
            TrackingServicer(
                tracking,
                VideoTrackPipeline(tracking, segmentation, videos, max_objects=settings.max_tracked_objects),
                VideoTrackReader(reader, TrackingReader(settings.max_tracked_objects)),
                self._drain.begun,
                idle_s=settings.session_idle_s,
                frame_deadline_s=settings.default_deadline_s,
                max_message_bytes=settings.max_message_bytes,
            ),
            server,
        )
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(
            ModelServicer(self._catalogue, self._pools, self._board), server
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        if settings.reflection:
            names = (*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME)
            reflection.enable_server_reflection(names, server)
        return server

    def _fetch_policy(self) -> FetchPolicy | None:
        settings = self._settings
        if not settings.allow_uris:
            return None
        return FetchPolicy(
            allowed_hosts=tuple(host.lower() for host in settings.uri_hosts),
            max_bytes=settings.max_image_bytes,
            timeout_s=settings.uri_timeout_s,
        )

    def _read_certificate(self) -> grpc.ServerCredentials | None:
        settings = self._settings
        if settings.tls_cert is None or settings.tls_key is None:
            return None
        return credentials(settings.tls_cert, settings.tls_key, settings.tls_client_ca)

    @staticmethod
    def _bind(server: grpc.aio.Server, address: str, credentials: grpc.ServerCredentials | None) -> int:
        try:
            if credentials is None:
                return server.add_insecure_port(address)
            return server.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise OSError(f"cannot listen on {address}: {error}") from error


def _connection_age(settings: Settings) -> list[tuple[str, int]]:
    """How long connections last, as gRPC takes it, which spreads them by a tenth; nothing when they last."""
    if not settings.max_connection_age_s:
        return []
    return [
        ("grpc.max_connection_age_ms", round(settings.max_connection_age_s * 1000)),
        ("grpc.max_connection_age_grace_ms", round(settings.max_connection_age_grace_s * 1000)),
    ]


def _image_folder(settings: Settings) -> PrivateFolder:
    try:
        return PrivateFolder(settings.image_store_dir)
    except OSError as error:
        raise ConfigError(f"image_store_dir: no pictures can be kept there: {error}") from error
