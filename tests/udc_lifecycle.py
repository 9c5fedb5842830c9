"""The life of a function on every UDC: what begins it, what ends it, and what it then sees.

Each claim is a function of a `Bench`, which it may leave unplugged. The seam's contract
(usbip_vudc/function.py) says what is claimed; udc_conformance.py holds what transfers do.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import usb.core
import usb.util

from tests.devices import echo
from tests.udc_bench import DEADLINE, Bench, is_in
from tests.udc_row import PATIENCE_MS, TIMEOUT_MS
from tests.udc_running import Claim, pattern, waiting_read
from usbip_vudc.errors import EndpointDisabled, SoftDisconnect
from usbip_vudc.function import Endpoint, Request
from usbip_vudc.usb.ch9 import Speed, TransferType, default_max_packet_size

GET_STATUS: Final = (0x80, 0, 0, 0, 2)

LIBUSB_SPEED: Final = {Speed.FULL: 2, Speed.HIGH: 3, Speed.SUPER: 4}


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
    expected = {errno.ENODEV}
    if "dummy_udc" in bench.traits:
        # Until its hub has noticed, dummy_timer() gives a URB back whose endpoint it cannot find
        # any more, with -EPROTO (drivers/usb/gadget/udc/dummy_hcd.c).
        expected.add(errno.EIO)
    with waiting_read(bench) as outcome:
        bench.remove()
    assert len(outcome) == 1
    assert outcome[0] in expected
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


def a_soft_disconnect_ends_run_and_its_requests_and_it_comes_back_by_itself(bench: Bench) -> None:
    async def leave(_endpoints: Mapping[str, Endpoint]) -> None:
        raise SoftDisconnect

    for _ in range(2):
        life = busy_life(bench)
        bench.order(leave)
        is_over(bench, life)
        assert eventually_gone(bench)
        bench.reopen()
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


LIFE_CLAIMS: Final[tuple[Claim, ...]] = (
    run_gets_its_endpoints_by_role_as_the_udc_chose_them,
    selecting_the_configuration_again_restarts_run,
    a_bus_reset_restarts_run,
    resets_in_a_row_end_a_life_each,
    a_reset_of_a_busy_device_loses_only_its_life,
    configuration_0_ends_run_and_its_requests,
    a_run_that_returns_leaves_nak,
    a_soft_disconnect_ends_run_and_its_requests_and_it_comes_back_by_itself,
    unbinding_ends_run_and_its_requests_and_it_can_be_bound_again,
    detaching_ends_run_and_its_requests_and_it_can_be_plugged_again,
    a_urb_that_waits_ends_when_the_device_goes,
    a_crash_of_run_disconnects_the_device,
)
"""Those that end the controller stand last: they cost most where it is the kernel's."""
