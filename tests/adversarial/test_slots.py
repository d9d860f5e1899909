"""A caller who asks for all slots of a device at once, by one connection or by many."""

from collections import Counter
from contextlib import ExitStack

import grpc
import pytest
from conftest import Stubs, run_server
from cutout.v1 import mask_pb2
from cutout.v1 import segmentation_service_pb2 as pb2
from cutout_common.status import unpack
from grpc_status import rpc_status
from probe_family import Probe, probe_family
from waiting import PATIENCE_S, wait_until

from adversarial.stack import BAD, GOOD
from adversarial.test_uploads import picture

KEYS = [{"caller": "good", "key": GOOD}, {"caller": "bad", "key": BAD}]


@pytest.mark.parametrize("connections", [1, 5])
def test_others_find_a_slot_at_once(connections: int):
    """A quarter of the slots is left to others; what is beyond the rest is refused with a delay, and counted."""
    probe = Probe()
    box = mask_pb2.Box(x_min=1, y_min=1, x_max=9, y_max=9)
    request = pb2.SegmentByBoxRequest(image={"content": picture(1000, 1)}, boxes=[box])
    options = [("grpc.use_local_subchannel_pool", 1)]
    with (
        probe_family(probe) as model,
        run_server(models=[model], max_requests_per_device=8, api_keys=KEYS) as server,
        ExitStack() as stack,
    ):

        def stubs() -> Stubs:
            return Stubs.over(stack.enter_context(grpc.insecure_channel(server.address, options)))

        bad, good = [stubs() for _ in range(connections)], stubs()
        calls = [
            bad[number % connections].segmentation.SegmentByBox.future(
                request, metadata=[("x-api-key", BAD)], timeout=PATIENCE_S
            )
            for number in range(20)
        ]
        wait_until(lambda: sum(call.done() for call in calls) == 14)
        refused = [unpack(rpc_status.from_call(call.exception())) for call in calls if call.done()]
        assert Counter(details.reason for details in refused) == {"QUOTA_EXCEEDED": 14}
        assert all(details.metadata["quota"] == "requests_in_hand" for details in refused)
        assert all(details.retry_after_s > 0 for details in refused)
        for number in range(2):
            calls.append(good.segmentation.SegmentByBox.future(request, metadata=[("x-api-key", GOOD)]))
            wait_until(lambda number=number: server.app.status().devices[0].requests == 7 + number)
        probe.gate.set()
        assert all(call.result().segmentation.objects for call in calls if call.code() is grpc.StatusCode.OK)
        assert [call.code() for call in calls[20:]] == [grpc.StatusCode.OK] * 2
