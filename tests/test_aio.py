"""Transfers and FfsEndpoint over ordinary files: what they give to libaio, and what comes back.

How FunctionFS itself answers is shown in the kernel lane.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import anyio
import pytest

try:
    import functionfs
except OSError as error:  # its libaio loads the C library
    pytest.skip(f"{error}; on Debian: apt install libaio1", allow_module_level=True)

from configfs.aio import MAX_TRANSFER, Transfers
from configfs.ffs_descriptors import FfsEndpointSpec
from configfs.ffs_endpoint import FfsEndpoint
from configfs.wedges import Wedges
from usbip_vudc.errors import EndpointDisabled, LocalProtocolError
from usbip_vudc.function import EndpointSpec, Request
from usbip_vudc.sglist import SGList


class OrdinaryFile:
    """An endpoint file that is a file on disk; its maxpacket is 512."""

    wMaxPacketSize = 512

    def __init__(self, path: Path) -> None:
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT)
        self.halts = 0

    def fileno(self) -> int:
        return self.fd

    def getDescriptor(self) -> functionfs.USBEndpointDescriptor:
        return functionfs.USBEndpointDescriptor(
            bEndpointAddress=0x81, wMaxPacketSize=self.wMaxPacketSize
        )

    def halt(self) -> None:
        self.halts += 1


@pytest.fixture
def transfers() -> Iterator[Transfers]:
    made = Transfers()
    yield made
    made.close()


@pytest.fixture
def file(tmp_path: Path) -> Iterator[OrdinaryFile]:
    made = OrdinaryFile(tmp_path / "ep1")
    yield made
    os.close(made.fd)


def crash() -> None:
    raise AssertionError("on_complete raised")


def endpoint(
    file: OrdinaryFile,
    transfers: Transfers,
    spec: EndpointSpec,
    on_crash: Callable[[], None] = crash,
    wedges: Wedges | None = None,
) -> FfsEndpoint:
    wedges = wedges or Wedges()
    return FfsEndpoint(FfsEndpointSpec(1, spec, 0), file, 3, transfers, on_crash, wedges)


BULK_IN = EndpointSpec.bulk_in("in")
BULK_OUT = EndpointSpec.bulk_out("out")


def finish(transfers: Transfers, *requests: Request) -> None:
    for _ in range(2000):
        transfers.collect()
        if all(request.done for request in requests):
            return
        os.sched_yield()
    raise AssertionError(f"not done: {requests}")


def test_an_endpoint_is_what_its_descriptor_says(file: OrdinaryFile, transfers: Transfers) -> None:
    made = endpoint(file, transfers, BULK_IN)
    assert (made.address, made.max_packet_size, made.interface) == (0x81, 512, 3)


@pytest.mark.parametrize(
    ("spec", "wMaxPacketSize", "bytes_per_interval"),
    [
        (BULK_IN, 512, 0),
        (EndpointSpec.interrupt_in("in"), 64, 64),
        (EndpointSpec.iso_in("in", mult=2), 0x1400, 3072),
    ],
)
def test_a_service_interval_is_what_its_descriptor_says(
    file: OrdinaryFile, transfers: Transfers, spec: EndpointSpec,
    wMaxPacketSize: int, bytes_per_interval: int,
) -> None:  # fmt: skip
    file.wMaxPacketSize = wMaxPacketSize
    made = endpoint(file, transfers, spec)
    assert made.bytes_per_interval == bytes_per_interval
    assert made.max_packet_size == wMaxPacketSize & 0x7FF


def test_an_sg_list_leaves_as_one_transfer(
    file: OrdinaryFile, transfers: Transfers, tmp_path: Path
) -> None:
    data = bytes(range(256)) * 4
    request = Request(SGList.laid_out(bytearray(data), (1, 511, 3, 509)))
    endpoint(file, transfers, BULK_IN).queue(request)
    assert not request.done, "on_complete must not run inside queue()"
    finish(transfers, request)
    assert request.actual == 1024
    assert (tmp_path / "ep1").read_bytes() == data


def test_read_only_memory_can_be_sent(
    file: OrdinaryFile, transfers: Transfers, tmp_path: Path
) -> None:
    request = endpoint(file, transfers, BULK_IN).queue(Request(b"USBS" + bytes(9)))
    finish(transfers, request)
    assert (tmp_path / "ep1").read_bytes() == b"USBS" + bytes(9)


def test_the_segments_of_an_out_request_are_filled_in_order(
    file: OrdinaryFile, transfers: Transfers
) -> None:
    os.write(file.fd, b"abcdefgh")
    room = bytearray(512)
    sg = SGList.laid_out(room, (3, 2, 507))
    request = endpoint(file, transfers, BULK_OUT).queue(Request(sg))
    finish(transfers, request)
    assert (request.actual, bytes(room[:8])) == (8, b"abcdefgh")


def test_a_partial_request_is_cut_to_one_packet(file: OrdinaryFile, transfers: Transfers) -> None:
    os.write(file.fd, bytes(2048))
    request = endpoint(file, transfers, BULK_OUT).queue(Request(bytearray(2048), partial=True))
    finish(transfers, request)
    assert request.actual == 512


@pytest.mark.parametrize(("length", "zero", "blocks"), [
    (512, False, 1), (512, True, 2), (511, True, 1), (0, True, 1), (1024, True, 2),
])  # fmt: skip
def test_zero_adds_a_transfer_of_no_bytes_after_whole_packets(
    file: OrdinaryFile, transfers: Transfers, length: int, zero: bool, blocks: int
) -> None:
    request = Request(bytearray(length), zero=zero)
    endpoint(file, transfers, BULK_IN).queue(request)
    assert transfers.in_flight == blocks
    finish(transfers, request)
    assert request.actual == length
    assert transfers.in_flight == 0


def test_a_request_is_queued_once(file: OrdinaryFile, transfers: Transfers) -> None:
    made = endpoint(file, transfers, BULK_IN)
    request = made.queue(Request(b"x"))
    with pytest.raises(LocalProtocolError, match="queued already"):
        made.queue(request)
    finish(transfers, request)
    made.queue(request)
    finish(transfers, request)


def test_more_than_the_kernel_takes_is_refused(file: OrdinaryFile, transfers: Transfers) -> None:
    with pytest.raises(LocalProtocolError, match=f"at most {MAX_TRANSFER}"):
        endpoint(file, transfers, BULK_IN).queue(Request(bytearray(MAX_TRANSFER + 1)))


def test_halting_with_in_requests_queued_is_refused(
    file: OrdinaryFile, transfers: Transfers
) -> None:
    made = endpoint(file, transfers, BULK_IN)
    request = made.queue(Request(b"x"))
    with pytest.raises(LocalProtocolError, match="while IN requests are queued"):
        made.halt()
    finish(transfers, request)
    made.halt()
    assert file.halts == 1


class Rounds:
    """Tells one round of the wedges from the next, being wedged itself."""

    def __init__(self, wedges: Wedges) -> None:
        self._round = anyio.Event()
        wedges.add(self, self._halt)

    def _halt(self) -> None:
        self._round.set()
        self._round = anyio.Event()

    async def pass_by(self, count: int) -> None:
        with anyio.fail_after(10):
            for _ in range(count):
                await self._round.wait()


@pytest.mark.anyio
async def test_a_wedge_is_halted_again_until_it_is_a_halt(
    file: OrdinaryFile, transfers: Transfers
) -> None:
    wedges = Wedges()
    made = endpoint(file, transfers, BULK_IN, wedges=wedges)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wedges.run)
        rounds = Rounds(wedges)
        for _ in range(2):
            file.halts = 0
            made.wedge()
            await rounds.pass_by(4)
            assert file.halts >= 4
            made.halt()
            file.halts = 0
            await rounds.pass_by(2)
            assert file.halts == 0
        tasks.cancel_scope.cancel()


@pytest.mark.anyio
async def test_a_wedge_ends_with_the_configuration(
    file: OrdinaryFile, transfers: Transfers
) -> None:
    wedges = Wedges()
    made = endpoint(file, transfers, BULK_OUT, wedges=wedges)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wedges.run)
        made.wedge()
        made.disable()
        await Rounds(wedges).pass_by(2)
        tasks.cancel_scope.cancel()
    assert file.halts == 1


def test_after_the_end_of_the_configuration_requests_end_at_once(
    file: OrdinaryFile, transfers: Transfers
) -> None:
    made = endpoint(file, transfers, BULK_OUT)
    made.disable()
    request = made.queue(Request(bytearray(512)))
    assert isinstance(request.error, EndpointDisabled)


def test_requests_queued_by_completions_go_together(
    file: OrdinaryFile, transfers: Transfers
) -> None:
    made = endpoint(file, transfers, BULK_IN)
    later = [Request(b"b"), Request(b"c")]

    def more(_request: Request) -> None:
        for request in later:
            made.queue(request)
        assert transfers.in_flight == 0, "held until all completions are handed out"

    first = made.queue(Request(b"a", on_complete=more))
    finish(transfers, first, *later)


def test_a_crash_in_on_complete_is_told(file: OrdinaryFile, transfers: Transfers) -> None:
    crashes: list[bool] = []

    def bug(_request: Request) -> None:
        raise RuntimeError("a bug in on_complete")

    made = endpoint(file, transfers, BULK_IN, lambda: crashes.append(True))
    finish(transfers, made.queue(Request(b"a", on_complete=bug)))
    assert crashes == [True]


@pytest.mark.anyio
async def test_a_task_waits_for_completions_on_the_eventfd(
    file: OrdinaryFile, transfers: Transfers
) -> None:
    made = endpoint(file, transfers, BULK_IN)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(transfers.run)
        with anyio.fail_after(10):
            assert [await made.submit(bytes(n)) for n in (1, 512, 40)] == [1, 512, 40]
        tasks.cancel_scope.cancel()


def test_more_transfers_than_the_context_holds_wait_their_turn(
    file: OrdinaryFile, transfers: Transfers
) -> None:
    made = endpoint(file, transfers, BULK_IN)
    requests = [made.queue(Request(bytearray(1))) for _ in range(2000)]
    finish(transfers, *requests)
