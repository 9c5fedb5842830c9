"""What a function that runs can do on every UDC, beside plain transfers: see udc_conformance.py.

Each claim is a function of a `Bench`. How a run begins and ends is in udc_lifecycle.py.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

import anyio
import pytest
import usb.core
import usb.util

from gadgets.serial.packets import Receiver
from tests.udc_bench import DEADLINE, Bench
from tests.udc_row import PATIENCE_MS
from usbip_vudc.function import Endpoint, Request
from usbip_vudc.sglist import SGList

Claim = Callable[[Bench], None]

STORE: Final = (0x41, 0x5B, 0, 0)
STORED: Final = (0xC1, 0x5C, 0, 0)
"""Vendor requests to the interface: FunctionFS hears of no others."""


def pattern(length: int) -> bytes:
    return bytes(range(251)) * (length // 251) + bytes(range(length % 251))


@contextmanager
def waiting_read(bench: Bench) -> Iterator[list[bytes | int]]:
    """A read of the host that something inside must end; yields what it returns, once it has.

    Nobody can see that the URB has come to the UDC already: the claim must hold either way.
    """
    outcome: list[bytes | int] = []
    usb.util.claim_interface(bench.opened, 0)  # pyusb would do it in the thread

    def read() -> None:
        outcome.append(bench.read(4 * bench.max_packet_size, PATIENCE_MS))

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield outcome
    finally:
        reader.join(DEADLINE + 1)


# --- URBs that wait, and halts ------------------------------------------------------------------


def a_urb_that_waits_gets_the_next_request(bench: Bench) -> None:
    data = pattern(bench.max_packet_size + 25)
    with waiting_read(bench) as outcome:
        bench.queue("in", Request(data))
    assert outcome == [data]


def a_urb_that_waits_ends_when_the_device_halts(bench: Bench) -> None:
    with waiting_read(bench) as outcome:
        bench.call(bench.device.endpoints["in"].halt)
    assert outcome == [errno.EPIPE]
    bench.set_halt("in", halt=False)
    bench.queue("in", Request(b"x" * 100))
    assert bench.read(256, PATIENCE_MS) == b"x" * 100


def a_halt_shows_in_get_status_until_it_is_cleared(bench: Bench) -> None:
    for role in ("in", "out"):
        ask = (0x82, 0, 0, bench.address(role), 2)
        assert bench.opened.ctrl_transfer(*ask).tobytes() == b"\0\0"
        bench.call(bench.device.endpoints[role].halt)
        assert bench.opened.ctrl_transfer(*ask).tobytes() == b"\1\0"
        bench.set_halt(role, halt=False)
        assert bench.opened.ctrl_transfer(*ask).tobytes() == b"\0\0"


def a_wedge_outlives_what_the_host_clears(bench: Bench) -> None:
    for role in ("in", "out"):
        endpoint = bench.device.endpoints[role]
        bench.call(endpoint.wedge)
        for _ in range(2):
            bench.set_halt(role, halt=False)
            if role == "in":
                assert bench.read(512, PATIENCE_MS) == errno.EPIPE
            else:
                assert bench.write(b"refused", PATIENCE_MS) == (0, errno.EPIPE)
        bench.call(endpoint.halt)
        bench.set_halt(role, halt=False)
    bench.queue("in", Request(b"x" * 100))
    assert bench.read(256, PATIENCE_MS) == b"x" * 100


# --- control ------------------------------------------------------------------------------------


def has_stored(bench: Bench, data: bytes) -> None:
    """Its setup() was given these data; behind FunctionFS the host is told before that."""
    bench.wait(lambda: bench.device.stored == data, "the data in setup()")


def control_data_go_both_ways(bench: Bench) -> None:
    host = bench.opened
    for length in (1, 64, 512, 4096, 0):
        data = pattern(length)
        assert host.ctrl_transfer(*STORE, data, PATIENCE_MS) == length
        has_stored(bench, data)
        assert host.ctrl_transfer(*STORED, max(length, 8), PATIENCE_MS).tobytes() == data
        # A shorter wLength cuts the answer, a longer one gets all of it.
        assert host.ctrl_transfer(*STORED, 3, PATIENCE_MS).tobytes() == data[:3]
        assert host.ctrl_transfer(*STORED, 4096, PATIENCE_MS).tobytes() == data


def what_setup_does_not_handle_stalls_once(bench: Bench) -> None:
    host = bench.opened
    bad_in, bad_out, bug = (0xC1, 0x99, 0, 0, 8), (0x41, 0x99, 0, 0), (0xC1, 0xEE, 0, 0, 8)
    for number, request in enumerate((bad_in, bad_out, bug)):
        with pytest.raises(usb.core.USBError) as caught:
            host.ctrl_transfer(*request, timeout=PATIENCE_MS)
        assert caught.value.errno == errno.EPIPE
        data = pattern(7 + number)
        assert host.ctrl_transfer(*STORE, data, PATIENCE_MS) == len(data)
        assert host.ctrl_transfer(*STORED, 64, PATIENCE_MS).tobytes() == data


def control_out_data_that_setup_does_not_handle(bench: Bench) -> None:
    # ffs_ep0_read() acknowledges the data stage as it hands the data over: too late to stall.
    expected = 0 if "FunctionFS" in bench.traits else errno.EPIPE
    seen = 0
    try:
        bench.opened.ctrl_transfer(0x41, 0x99, 0, 0, b"data", PATIENCE_MS)
    except usb.core.USBError as error:
        seen = int(error.errno)
    assert seen == expected
    assert bench.opened.ctrl_transfer(*STORE, b"next", PATIENCE_MS) == 4


# --- data ---------------------------------------------------------------------------------------


def a_mebibyte_goes_each_way(bench: Bench) -> None:
    data = pattern(1 << 20)
    taken = bytearray(len(data))
    view = memoryview(taken)
    requests = [
        bench.queue("out", Request(view[start : start + (64 << 10)]))
        for start in range(0, len(data), 64 << 10)
    ]
    assert bench.write(data, PATIENCE_MS) == (len(data), 0)
    for request in requests:
        bench.wait_done(request)
        assert request.error is None
    assert taken == data
    given = bench.queue("in", Request(SGList.laid_out(data, (1, 4095, 65536, len(data) - 69632))))
    assert bench.read(len(data), PATIENCE_MS) == data
    bench.wait_done(given)
    assert (given.actual, given.error) == (len(data), None)


def a_request_may_be_queued_again_as_it_completes(bench: Bench) -> None:
    size = bench.max_packet_size
    seen: list[int] = []

    async def ring(endpoints: Mapping[str, Endpoint]) -> None:
        def again(request: Request) -> None:
            seen.append(request.actual)
            bench.device.tell()
            if len(seen) < 8:
                endpoints["out"].queue(request)

        endpoints["out"].queue(Request(bytearray(2 * size), on_complete=again))
        await anyio.sleep_forever()

    bench.order(ring)
    lengths = [size + n for n in range(1, 9)]
    for length in lengths:
        assert bench.write(pattern(length), PATIENCE_MS) == (length, 0)
    bench.wait(lambda: len(seen) == 8, "8 completions")
    assert seen == lengths


def a_cancelled_submit_takes_its_request_back(bench: Bench) -> None:
    size = bench.max_packet_size
    first, second = bytearray(2 * size), bytearray(2 * size)
    cancelled: list[bool] = []
    got: list[int] = []

    async def change_its_mind(endpoints: Mapping[str, Endpoint]) -> None:
        with anyio.move_on_after(0) as scope:
            await endpoints["out"].submit(first)
        cancelled.append(scope.cancelled_caught)
        bench.device.tell()
        got.append(await endpoints["out"].submit(second))
        bench.device.tell()

    bench.order(change_its_mind)
    bench.wait(lambda: bool(cancelled), "a cancelled submit")
    data = pattern(size + 25)
    assert bench.write(data, PATIENCE_MS) == (len(data), 0)
    bench.wait(lambda: bool(got), "the other submit")
    assert (cancelled, got) == ([True], [len(data)])
    assert second[: len(data)] == data
    assert not any(first)


def a_stream_of_odd_sizes_loses_nothing(bench: Bench) -> None:
    size = bench.max_packet_size
    sizes = (1, size - 1, size, size + 1, 3 * size, 7, 2 * size - 1, 4 * size, 4 * size + 1,
             5 * size, 63, 64, 2 * size)  # fmt: skip
    data = pattern(sum(sizes))
    taken = bytearray()

    async def receive(endpoints: Mapping[str, Endpoint]) -> None:
        def arrived() -> None:
            for piece in receiver.take():
                taken.extend(piece)
            receiver.release()
            bench.device.tell()

        # A ring that the stream goes round several times, and at times fills.
        receiver = Receiver(endpoints["out"], arrived, slots=4, size=2 * size)
        receiver.start()
        await anyio.sleep_forever()

    bench.order(receive)
    start = 0
    for length in sizes:
        assert bench.write(data[start : start + length], PATIENCE_MS) == (length, 0)
        start += length
    bench.wait(lambda: len(taken) >= len(data), "the whole stream")
    assert taken == data


RUNNING_CLAIMS: Final[tuple[Claim, ...]] = (
    a_urb_that_waits_gets_the_next_request,
    a_urb_that_waits_ends_when_the_device_halts,
    a_halt_shows_in_get_status_until_it_is_cleared,
    a_wedge_outlives_what_the_host_clears,
    control_data_go_both_ways,
    what_setup_does_not_handle_stalls_once,
    control_out_data_that_setup_does_not_handle,
    a_mebibyte_goes_each_way,
    a_request_may_be_queued_again_as_it_completes,
    a_cancelled_submit_takes_its_request_back,
    a_stream_of_odd_sizes_loses_nothing,
)
