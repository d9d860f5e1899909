"""Processes beside the event loop, for what takes Python long.

JSON is read and written by Python code, at microseconds to tens of them a value, and a string of base64 in one go,
during which no other Python runs. On the event loop, or in a thread beside it, one body or answer would hold up every
other caller.
"""

import asyncio
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from typing import NamedTuple, ParamSpec, TypeVar

from cutout_common import heap
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.rpc.status_pb2 import Status

from cutout_gateway.descriptors import Contract
from cutout_gateway.errors import HttpError
from cutout_gateway.routes import Binding, Routes

_PROCESSES = 2

P = ParamSpec("P")
T = TypeVar("T")


class ProcessLostError(Exception):
    """The process was ended from outside, as a system short of memory does."""


class _Refusal(NamedTuple):
    """An HttpError on its way between processes."""

    http_status: int
    status: bytes
    headers: dict[str, str]


class Processes:
    """Two of them, from the first work on that needs one. They know the contract, and its bindings by numbers."""

    def __init__(self, contract: Contract, routes: Routes) -> None:
        self._descriptor_set = contract.descriptor_set.SerializeToString()
        self._numbers = {id(binding): number for number, binding in enumerate(routes.bindings)}
        self._processes: ProcessPoolExecutor | None = None

    def number(self, binding: Binding) -> int:
        """What a binding goes by there; see `binding_there`."""
        return self._numbers[id(binding)]

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What a function gives, which other processes can import.

        Raises:
            HttpError: What the function raises.
            ProcessLostError: The process was killed meanwhile; the next work starts new ones.
        """
        if self._processes is None:
            self._processes = ProcessPoolExecutor(
                _PROCESSES, multiprocessing.get_context("spawn"), _begin, (self._descriptor_set,)
            )
        try:
            answer = await asyncio.wrap_future(self._processes.submit(_try, partial(function, *args, **kwargs)))
        except BrokenProcessPool:
            self.close()
            raise ProcessLostError from None
        if isinstance(answer, _Refusal):
            raise HttpError(answer.http_status, Status.FromString(answer.status), answer.headers)
        return answer

    def close(self) -> None:
        """Ends them; the next work starts new ones."""
        if self._processes is not None:
            self._processes.shutdown(wait=False, cancel_futures=True)
            self._processes = None


# What follows runs in the processes.

_contracts: list[Contract] = []
_bindings: list[Binding] = []


def binding_there(number: int) -> Binding:
    """The binding of that number."""
    return _bindings[number]


def pool_there() -> DescriptorPool:
    """The contract's."""
    return _contracts[0].pool


def _begin(descriptor_set: bytes) -> None:
    # The gateway stops its processes by itself; a Ctrl-C is meant for it alone.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_gateway, daemon=True).start()
    _contracts.append(Contract(FileDescriptorSet.FromString(descriptor_set)))
    _bindings.extend(Routes(_contracts[0]).bindings)


def _end_with_gateway() -> None:
    """A gateway that is killed cannot end its processes."""
    parent = multiprocessing.parent_process()
    assert parent is not None  # noqa: S101
    parent.join()
    os._exit(0)


def _try(work: Callable[[], T]) -> T | _Refusal:
    try:
        return work()
    except HttpError as refused:
        return _Refusal(refused.http_status, refused.status.SerializeToString(), refused.headers)
    finally:
        heap.trim()
