"""The life of a function on every UDC: what begins it, what ends it, and what it then sees.

Each claim is a function of a `Bench`, which it may leave unplugged. The seam's contract
(usbip_vudc/function.py) says what is claimed; udc_conformance.py holds what transfers do.
"""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import anyio
import pytest
import usb.core
import usb.util

from gadgets.serial.packets import Receiver
from tests.devices import echo
from tests.udc_bench import DEADLINE, Bench, is_in
from tests.udc_row import PATIENCE_MS, TIMEOUT_MS
from usbip_vudc.errors import EndpointDisabled
from usbip_vudc.function import Endpoint, Request
from usbip_vudc.sglist import SGList
from usbip_vudc.usb.ch9 import Speed, TransferType, default_max_packet_size

Claim = Callable[[Bench], None]

STORE: Final = (0x41, 0x5B, 0, 0)
STORED: Final = (0xC1, 0x5C, 0, 0)
"""Vendor requests to the interface: FunctionFS hears of no others."""

GET_STATUS: Final = (0x80, 0, 0, 0, 2)

LIBUSB_SPEED: Final = {Speed.FULL: 2, Speed.HIGH: 3, Speed.SUPER: 4}


def pattern(length: int) -> bytes:
    return bytes(range(251)) * (length // 251) + bytes(range(length % 251))


def say(bench: Bench, data: bytes) -> None:
    """Have a device that echoes say something back."""
    assert bench.write(data, PATIENCE_MS) == (len(data), 0)
    assert bench.read(4 * bench.max_packet_size, PATIENCE_MS) == data


@dataclass(slots=True)
class Life:
    """A life of the device with requests that wait on both of its endpoints."""

    endpoints: Mapping[str, Endpoint]
    requests: list[Request]
    number: int


def busy_life(bench: Bench) -> Life:
    """The current life, made busy: with more than dummy_hcd's FIFO of 64 bytes takes."""
    size = 2 * bench.max_packet_size
    requests = [bench.queue(role, Request(bytearray(size))) for role in ("in", "out", "in", "out")]
    return Life(bench.device.endpoints, requests, bench.device.lives)


def is_over(bench: Bench, life: Life) -> None:
    """It has ended, every request ended with it, and none can begin any more."""
    bench.wait(lambda: bench.device.ended >= life.number, "the end of the life")
    for endpoint in life.endpoints.values():
        late = Request(bytearray(64), on_complete=bench.device.told)
        life.requests.append(bench.call(endpoint.queue, late))
    for request in life.requests:
        bench.wait_done(request)
    ends = [(request.done, type(request.error)) for request in life.requests]
    assert ends == [(True, EndpointDisabled)] * 6


def eventually_gone(bench: Bench) -> bool:
    """Whether the host is told, before long, that there is no such device."""
    number, end = 0, time.monotonic() + DEADLINE
    while number != errno.ENODEV and time.monotonic() < end:
        try:
            bench.opened.ctrl_transfer(*GET_STATUS)
        except usb.core.USBError as error:  # other errnos are those of URBs under way
            number = int(error.errno)
    return number == errno.ENODEV


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


def has_stored(bench: Bench, data: bytes) -> None:
    """Its setup() was given these data; behind FunctionFS the host is told before that."""
    bench.wait(lambda: bench.device.stored == data, "the data in setup()")


def works(bench: Bench) -> None:
    """The device runs, and data go both ways."""
    assert bench.device.alive
    bench.order(echo)
    say(bench, pattern(bench.max_packet_size + 25))


# --- what begins a life ------------------------------------------------------------------------


def run_gets_its_endpoints_by_role_as_the_udc_chose_them(bench: Bench) -> None:
    host, endpoints = bench.opened, bench.device.endpoints
    assert host.speed == LIBUSB_SPEED[bench.speed]
    interface = host[0][(0, 0)]
    described = {
        "in" if is_in(e.bEndpointAddress) else "out": (e.bEndpointAddress, e.wMaxPacketSize)
        for e in interface
    }
    given = {role: (e.address, e.max_packet_size) for role, e in endpoints.items()}
    assert given == described
    size = default_max_packet_size(TransferType.BULK, bench.speed)
    assert {e.max_packet_size for e in endpoints.values()} == {size}
    assert {e.interface for e in endpoints.values()} == {interface.bInterfaceNumber}


def selecting_the_configuration_again_restarts_run(bench: Bench) -> None:
    life = busy_life(bench)
    usb.util.release_interface(bench.opened, 0)
    bench.opened.set_configuration(1)
    bench.wait(lambda: bench.device.lives > life.number and bench.device.alive, "a new life")
    is_over(bench, life)
    works(bench)


def a_bus_reset_restarts_run(bench: Bench) -> None:
    life = busy_life(bench)
    bench.reset()
    is_over(bench, life)
    works(bench)


def resets_in_a_row_end_a_life_each(bench: Bench) -> None:
    for _ in range(3):
        life = busy_life(bench)
        bench.reset()
        is_over(bench, life)
        assert bench.device.lives == life.number + 1
    works(bench)


def a_reset_of_a_busy_device_loses_only_its_life(bench: Bench) -> None:
    bench.order(echo)
    say(bench, b"before")
    bench.write(b"on its way", PATIENCE_MS)
    bench.reset()
    works(bench)


# --- what ends it ------------------------------------------------------------------------------


def configuration_0_ends_run_and_its_requests(bench: Bench) -> None:
    life = busy_life(bench)
    usb.util.release_interface(bench.opened, 0)
    bench.opened.set_configuration(0)
    is_over(bench, life)
    assert not bench.device.alive
    bench.opened.set_configuration(1)
    bench.wait(lambda: bench.device.alive, "the next life")
    works(bench)


def detaching_ends_run_and_its_requests_and_it_can_be_plugged_again(bench: Bench) -> None:
    life = busy_life(bench)
    bench.detach()
    is_over(bench, life)
    bench.plug()
    works(bench)


def unbinding_ends_run_and_its_requests_and_it_can_be_bound_again(bench: Bench) -> None:
    life = busy_life(bench)
    bench.unbind()
    is_over(bench, life)
    bench.plug()
    works(bench)


def a_urb_that_waits_ends_when_the_device_goes(bench: Bench) -> None:
    with waiting_read(bench) as outcome:
        bench.remove()
    assert outcome == [errno.ENODEV]
    bench.detach()


def a_crash_of_run_disconnects_the_device(bench: Bench) -> None:
    async def crash(_endpoints: Mapping[str, Endpoint]) -> None:
        raise RuntimeError("a bug in the firmware")

    life = busy_life(bench)
    bench.device.crashing = True
    bench.order(crash)
    is_over(bench, life)
    assert eventually_gone(bench)
    bench.unbind()
    bench.device.crashing = False
    bench.plug()
    works(bench)


def a_run_that_returns_leaves_nak(bench: Bench) -> None:
    async def leave(endpoints: Mapping[str, Endpoint]) -> None:
        endpoints["in"].queue(Request(b"x" * 100))

    ended = bench.device.ended
    bench.order(leave)
    bench.wait(lambda: bench.device.ended > ended, "its return")
    assert bench.read(256, PATIENCE_MS) == b"x" * 100
    assert bench.read(256, TIMEOUT_MS) == errno.ETIMEDOUT
    assert len(bench.opened.ctrl_transfer(*GET_STATUS)) == 2


# --- what it does meanwhile: URBs that wait, and halts -----------------------------------------


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


# --- what it does meanwhile: control -----------------------------------------------------------


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


# --- what it does meanwhile: data --------------------------------------------------------------


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


CLAIMS: Final[tuple[Claim, ...]] = (
    run_gets_its_endpoints_by_role_as_the_udc_chose_them,
    selecting_the_configuration_again_restarts_run,
    a_bus_reset_restarts_run,
    resets_in_a_row_end_a_life_each,
    a_reset_of_a_busy_device_loses_only_its_life,
    configuration_0_ends_run_and_its_requests,
    a_run_that_returns_leaves_nak,
    a_urb_that_waits_gets_the_next_request,
    a_urb_that_waits_ends_when_the_device_halts,
    a_halt_shows_in_get_status_until_it_is_cleared,
    control_data_go_both_ways,
    what_setup_does_not_handle_stalls_once,
    control_out_data_that_setup_does_not_handle,
    a_mebibyte_goes_each_way,
    a_request_may_be_queued_again_as_it_completes,
    a_cancelled_submit_takes_its_request_back,
    a_stream_of_odd_sizes_loses_nothing,
    unbinding_ends_run_and_its_requests_and_it_can_be_bound_again,
    detaching_ends_run_and_its_requests_and_it_can_be_plugged_again,
    a_urb_that_waits_ends_when_the_device_goes,
    a_crash_of_run_disconnects_the_device,
)
"""Those that end the controller stand last: they cost most where it is the kernel's."""
