"""All that serves, made from settings: who knows whom."""

from contextlib import AsyncExitStack

from cutout_common.config import ConfigError
from cutout_common.traces import tracer_of

from cutout_server.auth import Auth
from cutout_server.catalogue import Catalogue
from cutout_server.cluster import own
from cutout_server.convert.requests import RequestReader
from cutout_server.convert.tracking import TrackingReader
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
from cutout_server.metrics import Metrics
from cutout_server.pipelines.generate import GeneratePipeline
from cutout_server.pipelines.rewrite import Rewriter
from cutout_server.pipelines.segment import SegmentPipeline
from cutout_server.pipelines.track import TrackPipeline
from cutout_server.pipelines.track_live import LiveTrackPipeline
from cutout_server.pipelines.track_video import VideoTrackPipeline
from cutout_server.places import Drain
from cutout_server.pools.device import DevicePool
from cutout_server.pools.fair_queue import FairThreads
from cutout_server.pools.placement import Pools
from cutout_server.pools.remembered import Remembered
from cutout_server.services.answers import segmentation_cache
from cutout_server.services.generation import GenerationServicer
from cutout_server.services.images import ImageServicer
from cutout_server.services.models import ModelServicer
from cutout_server.services.registry import Servicers
from cutout_server.services.segmentation import SegmentationServicer
from cutout_server.services.session import Sessions
from cutout_server.services.tracking import TrackingServicer
from cutout_server.services.videos import VideoServicer
from cutout_server.settings import Settings
from cutout_server.status import StatusBoard
from cutout_server.types import Task

_VIDEOS_EACH = 4  # Are read by a process in turn, at most; more are refused.


class Parts:
    """What a server consists of behind its ports; `close` gives everything back.

    Raises:
        ConfigError: The settings name what is not there, or what does not belong together.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.catalogue = Catalogue.of(settings)
        self.metrics = Metrics()
        self.tracer = tracer_of("cutout-server", settings.trace_endpoint, settings.trace_share)
        self.auth = Auth(settings)
        self.drain = Drain()
        self._decoding = FairThreads(settings.imaging_threads, "decode", self.metrics)
        self._encoding = FairThreads(settings.imaging_threads, "encode", self.metrics)
        self.decoders = Decoders(settings.decoding_processes, settings.max_decode_s, self.metrics)
        self.video_decoders = Decoders(settings.video_processes, settings.max_decode_s, self.metrics, "video process")
        self.store = ImageStore(
            _image_folder(settings),
            max_bytes=settings.image_store_bytes,
            max_images=settings.image_store_images,
            ttl_s=settings.image_store_ttl_s,
        )
        self.pools = self._pools()
        self._rewriter = rewriter_of(settings)
        self._answers = segmentation_cache(settings.answers_cache_bytes, settings.answers_cache_ttl_s)
        self.pools.on_unload(self._answers.forget)
        self._remembered = Remembered(
            settings.max_tracking_bytes,
            share_of_one(settings, settings.max_tracking_bytes),
            self.catalogue.able(Task.TRACK),
        )
        self._budget = PixelBudget(settings.max_pixels_in_hand)
        self._uploaded = ImageLimits(settings.max_upload_bytes, settings.max_image_pixels)
        self._arrivals = EarlyDecoding(self._budget, self._uploaded)
        self.board = StatusBoard(self.pools, self.store, self._answers, self.auth.accounts, self._remembered)
        self.metrics.watch(self.board)
        self.metrics.pixels_in_hand(lambda: self._budget.in_use)

    def servicers(self) -> Servicers:
        """One for each service, on these parts."""
        settings = self._settings
        reader = RequestReader(settings.max_prompts, settings.max_objects)
        uploads = Uploads(self.store, self._decoding, self._uploaded, self._arrivals)
        videos = self._videos()
        pictures = self._pictures(videos)
        segmentation = SegmentPipeline(
            self.catalogue, self.pools, pictures, self._encoding, self._rewriter, max_tiles=settings.max_tiles
        )
        generation = GeneratePipeline(self.catalogue, self.pools, self._encoding)
        tracking = TrackPipeline(
            self.catalogue,
            self.pools,
            pictures,
            self._encoding,
            self._remembered,
            max_objects=settings.max_tracked_objects,
            max_message_bytes=settings.max_message_bytes,
        )
        sessions = Sessions(
            segmentation,
            reader,
            uploads,
            self.drain.begun,
            open_s=settings.max_deadline_s,
            idle_s=settings.session_idle_s,
            prompt_deadline_s=settings.default_deadline_s,
            max_message_bytes=settings.max_message_bytes,
        )
        return Servicers(
            segmentation=SegmentationServicer(
                segmentation, reader, sessions, self._answers, max_message_bytes=settings.max_message_bytes
            ),
            images=ImageServicer(uploads, segmentation, reader),
            videos=VideoServicer(videos),
            generation=GenerationServicer(
                generation, segmentation, reader, max_message_bytes=settings.max_message_bytes
            ),
            tracking=TrackingServicer(
                LiveTrackPipeline(tracking, segmentation, max_objects=settings.max_tracked_objects),
                VideoTrackPipeline(tracking, segmentation, videos, max_objects=settings.max_tracked_objects),
                TrackingReader(reader, settings.max_tracked_objects),
                self.drain.begun,
                idle_s=settings.session_idle_s,
                frame_deadline_s=settings.default_deadline_s,
                max_message_bytes=settings.max_message_bytes,
            ),
            models=ModelServicer(self.catalogue, self.pools, self.board),
        )

    async def close(self) -> None:
        """Gives everything back, once no call is left."""
        async with AsyncExitStack() as stack:  # One that cannot be given back keeps no other.
            stack.callback(self.store.close)
            for threads in (self._encoding, self._decoding):
                stack.callback(threads.shutdown, cancel_futures=True)
            stack.push_async_callback(self.video_decoders.close)
            stack.push_async_callback(self.decoders.close)
            stack.push_async_callback(self._arrivals.close)
            if self._rewriter is not None:
                stack.push_async_callback(self._rewriter.close)
            stack.push_async_callback(self.pools.close)

    def _pools(self) -> Pools:
        settings = self._settings
        if settings.cluster:
            if not settings.ray_address:
                own.prepare()
            from cutout_server.cluster.pools import ClusterPools  # noqa: PLC0415 - without it, Ray is not imported

            return ClusterPools(settings, self.catalogue, self.metrics)
        pools = {device: DevicePool.of(device, settings, self.metrics) for device in settings.devices}
        return Pools(pools, self.catalogue)

    def _videos(self) -> Videos:
        settings = self._settings
        return Videos(
            self.store,
            self.decoders,
            self.video_decoders,
            VideoLimits(settings.max_video_pixels, settings.max_video_frames, settings.max_video_s),
            max_bytes=settings.max_video_bytes,
            followed=_VIDEOS_EACH * settings.video_processes,
            # So that whoever waits for the others at its process has its next frame in time.
            turn_s=settings.default_deadline_s / (2 * _VIDEOS_EACH),
        )

    def _pictures(self, videos: Videos) -> Pictures:
        settings = self._settings
        return Pictures(
            self.store,
            PictureDecoder(self._decoding, self.decoders),
            self._encoding,
            self._budget,
            self._arrivals,
            videos,
            inline=ImageLimits(settings.max_image_bytes, settings.max_image_pixels),
            uploaded=self._uploaded,
            fetching=_fetch_policy(settings),
            observer=self.metrics,
        )


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


def share_of_one(settings: Settings, total: int) -> int:
    """How much of a bound one caller may have: all of it while there is no other."""
    several = len({key.caller for key in settings.api_keys}) > 1
    return max(1, int(total * settings.caller_share)) if several else total


def _fetch_policy(settings: Settings) -> FetchPolicy | None:
    if not settings.allow_uris:
        return None
    return FetchPolicy(
        allowed_hosts=tuple(host.lower() for host in settings.uri_hosts),
        max_bytes=settings.max_image_bytes,
        timeout_s=settings.uri_timeout_s,
    )


def _image_folder(settings: Settings) -> PrivateFolder:
    try:
        return PrivateFolder(settings.image_store_dir)
    except OSError as error:
        raise ConfigError(f"image_store_dir: no pictures can be kept there: {error}") from error
