"""The host's seam: what a plan makes of transfers, with the blocking host and the async one."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.to_thread
import pytest

from tests.devices import Scripted, gadget
from tests.proxies import Watched
from usbip_vudc.errors import UrbError
from usbip_vudc.function import Endpoint, Request
from usbip_vudc.host.client import Host
from usbip_vudc.host.sg import SgResult
from usbip_vudc.injection import Injector, Plan
from usbip_vudc.injection.host import HostSeam, InjectedBlockingHost, InjectedHost
from usbip_vudc.server import Server
from usbip_vudc.sglist import SGList
from usbip_vudc.urb import URB_SHORT_NOT_OK, URB_ZERO_PACKET, HostUrb
from usbip_vudc.usb.ch9 import SetupPacket, Speed

pytestmark = pytest.mark.anyio

SET_CONFIGURATION = SetupPacket(0x00, 9, 1)
CLEAR_HALT_IN = SetupPacket(0x02, 1, 0, 0x81)
HOST = "127.0.0.1"


def pattern(length: int) -> bytes:
    return bytes(i % 251 for i in range(length))


class Both(Scripted):
    """Offers transfers of the given lengths, and takes whatever comes."""

    def __init__(self, *lengths: int) -> None:
        super().__init__(self._talk, alternates=1)
        self.lengths = lengths
        self.taken: list[bytes] = []

    async def _talk(self, endpoints: Mapping[str, Endpoint]) -> None:
        def again(request: Request) -> None:
            if request.error is None:
                self.taken.append(request.sg.gather()[: request.actual])
                endpoints["out"].queue(request)

        endpoints["out"].queue(Request(bytearray(8192), on_complete=again))
        for length in self.lengths:
            endpoints["in"].queue(Request(pattern(length)))
        await anyio.sleep_forever()


class Blocking:
    """The blocking host, called from a thread."""

    def __init__(self, host: InjectedBlockingHost) -> None:
        self.host = host

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        def call(*arguments: object, **named: object) -> Awaitable[Any]:
            method = getattr(self.host, name)
            return anyio.to_thread.run_sync(lambda: method(*arguments, **named))

        return call


class Bench:
    """A host with a plan, its device, and what each of them saw."""

    def __init__(self, host: Any, udc: Watched, function: Both, injector: Injector) -> None:
        self.host = host
        self.udc = udc
        self.function = function
        self.injector = injector

    async def read(self, room: int, timeout: float = 10.0, flags: int = 0) -> bytes | str:
        buffer = bytearray(room)
        urb = HostUrb(0x81, buffer, flags=flags)
        try:
            moved = await self.host.transfer(urb, timeout)
        except UrbError as error:
            return f"{errno.errorcode[error.errno]} after {error.actual_length}"
        assert (urb.status, urb.actual) == (0, moved)
        return bytes(buffer[:moved])

    async def write(self, data: bytes, timeout: float = 10.0, flags: int = 0) -> int | str:
        try:
            return int(await self.host.transfer(HostUrb(0x01, data, flags=flags), timeout))
        except UrbError as error:
            return f"{errno.errorcode[error.errno]} after {error.actual_length}"

    async def took(self, count: int) -> list[bytes]:
        with anyio.fail_after(10):
            while len(self.function.taken) < count:
                await anyio.sleep(0.005)
        return self.function.taken


Plug = Callable[..., Any]


@pytest.fixture(params=["blocking", "async"])
def plug(request: pytest.FixtureRequest) -> Plug:
    @asynccontextmanager
    async def plugged(plan: str, *lengths: int) -> AsyncIterator[Bench]:
        function = Both(*lengths)
        udc = Watched(gadget(function), Speed.HIGH)
        injector = Injector(Plan.parse(plan), "host")
        async with anyio.create_task_group() as tasks:
            _, port = await tasks.start(Server([udc]).serve, HOST, 0)
            if request.param == "async":
                async with Host.connect(HOST, port, "1-1") as below:
                    host = InjectedHost(below, injector)
                    await host.control(SET_CONFIGURATION)
                    yield Bench(host, udc, function, injector)
            else:
                made = await anyio.to_thread.run_sync(
                    lambda: InjectedBlockingHost(HOST, port, "1-1", plan=injector)
                )
                with made:
                    blocking = Blocking(made)
                    await blocking.control(SET_CONFIGURATION)
                    yield Bench(blocking, udc, function, injector)
            tasks.cancel_scope.cancel()

    return plugged


# --- layouts -----------------------------------------------------------------------------------


async def test_a_transfer_is_cut_into_urbs(plug: Plug) -> None:
    async with plug("host layout([512][1024])", 2000) as bench:
        assert await bench.read(2048) == pattern(2000)
        assert await bench.write(pattern(2000)) == 2000
        assert await bench.took(1) == [pattern(2000)]
        assert bench.udc.urbs == [(512, 0), (1536, 0), (512, 0), (1488, 0)]


async def test_a_short_packet_ends_it(plug: Plug) -> None:
    async with plug("host layout(each:packets:1)", 1500, 3072) as bench:
        assert await bench.read(4096) == pattern(1500), "families count in packets of SuperSpeed"
        assert bench.udc.urbs == [(1024, 0), (1024, 0)]
        assert await bench.read(3072) == pattern(3072)


async def test_short_not_ok_is_of_the_whole_transfer(plug: Plug) -> None:
    async with plug("host layout([1024][1024])", 1500, 2048) as bench:
        assert await bench.read(2048, flags=URB_SHORT_NOT_OK) == "EREMOTEIO after 1500"
        assert await bench.read(2048, flags=URB_SHORT_NOT_OK) == pattern(2048)


async def test_only_the_last_urb_may_end_with_a_zlp(plug: Plug) -> None:
    async with plug("host layout([512][512])") as bench:
        assert await bench.write(pattern(1024), flags=URB_ZERO_PACKET) == 1024
        assert await bench.took(1) == [pattern(1024)]


async def test_memory_in_its_page_comes_home(plug: Plug) -> None:
    async with plug("host layout(page-offset:4000)", 3000) as bench:
        assert await bench.read(4096) == pattern(3000)
        assert await bench.write(pattern(3001)) == 3001
        assert await bench.took(1) == [pattern(3001)]


async def test_a_zlp_in_the_middle_ends_the_devices_transfer(plug: Plug) -> None:
    async with plug("host.out layout([512][][100])") as bench:
        assert await bench.write(pattern(612)) == 612
        assert await bench.took(2) == [pattern(512), pattern(612)[512:]]


async def test_sg_lists_go_through_the_plan(plug: Plug) -> None:
    async with plug("host.in nth(2) layout([512][512])", 1024, 1024, 1024) as bench:
        for _ in range(3):
            room = bytearray(1024)
            result: SgResult = await bench.host.transfer_sg(0x81, SGList.laid_out(room, (512, 512)))
            assert (result.status, result.actual, bytes(room)) == (0, 1024, pattern(1024))
        assert bench.udc.urbs == [(1024, 0), (512, 0), (512, 0), (1024, 0)]


async def test_a_host_without_sg_is_one_still(plug: Plug) -> None:
    async with plug("host.in nth(9) stall", 1024) as bench:
        room = SGList.laid_out(bytearray(1024), (512, 512))
        result = await bench.host.transfer_sg(0x81, room, scatter_gather=False)
        assert (result.status, result.actual) == (0, 1024)
        assert bench.udc.urbs == [(512, 0), (512, 0)]


# --- faults ------------------------------------------------------------------------------------


async def test_the_callers_bytes_are_never_changed(plug: Plug) -> None:
    data = bytearray(pattern(100))
    async with plug("host.out corrupt(3, 0x01)") as bench:
        assert await bench.write(data) == 100
        (taken,) = await bench.took(1)
    assert data == pattern(100)
    assert (taken[3], taken[:3], taken[4:]) == (2, data[:3], data[4:])


async def test_timeouts_are_of_the_whole_transfer(plug: Plug) -> None:
    async with plug("host.in layout(each:512)", 512) as bench:
        assert await bench.read(1024, timeout=0.1) == "ETIMEDOUT after 512"
    async with plug("host.in layout([512])", 512) as bench:
        assert await bench.read(1024, timeout=0.1) == "ETIMEDOUT after 0", "one URB, taken back"


async def test_unlink_takes_back_what_waits(plug: Plug) -> None:
    async with plug("host.in nth(1) unlink(10ms)") as bench:
        assert await bench.read(512) == "ECONNRESET after 0"
        assert bench.udc.urbs == [(512, None)]
        assert await bench.write(b"still there") == 11


async def test_unlink_leaves_alone_what_is_quicker(plug: Plug) -> None:
    async with plug("host.in unlink(5s)", 100) as bench:
        assert await bench.read(512) == pattern(100)


async def test_a_bus_reset_selects_again_what_was_selected(plug: Plug) -> None:
    async with plug("host.in nth(2) bus_reset", 10, 20) as bench:
        assert await bench.read(512) == pattern(10)
        assert await bench.read(512) == pattern(10), "a new life, from the beginning"
        assert bench.function.lives == 2


async def test_a_stall_is_cleared_as_any(plug: Plug) -> None:
    async with plug("host.in nth(1) stall", 10) as bench:
        assert await bench.read(512) == "EPIPE after 0"
        await bench.host.control(CLEAR_HALT_IN)
        assert await bench.read(512) == pattern(10)


async def test_control_rules_are_of_control_transfers_alone(plug: Plug) -> None:
    rules = "host control(0x5c) times(1) short(2); host control(0x5c) corrupt(0, 0x01)"
    async with plug(rules, 10) as bench:
        bench.function.stored = b"abcd"
        ask = SetupPacket(0xC1, 0x5C, 0, 0, 4)
        with pytest.raises(UrbError) as caught:
            await bench.host.control(ask)
        assert caught.value.errno == errno.EOVERFLOW, "wLength says 4, the URB has room for 2"
        assert await bench.host.control(ask) == b"`bcd"
        assert await bench.read(512) == pattern(10)


async def test_a_disconnect_is_for_good(plug: Plug) -> None:
    async with plug("host nth(2) disconnect", 10, 20) as bench:
        assert await bench.read(512) == pattern(10)
        assert await bench.read(512) == "ENODEV after 0"
        assert await bench.read(512) == "ENODEV after 0"
        with anyio.fail_after(10):
            await bench.udc.wait_unplugged()


async def test_the_trace_is_that_of_the_seam(plug: Plug) -> None:
    async with plug("host.out every(2) nak(1ms); host.in delay(1ms)", 10) as bench:
        for _ in range(4):
            await bench.write(b"x")
        await bench.read(512)
        assert bench.injector.trace == [
            "1: host 0x01 OUT 1 B #2: nak(1ms)",
            "1: host 0x01 OUT 1 B #4: nak(1ms)",
            "2: host 0x81 IN 512 B #1: delay(1ms)",
        ]


def test_hosts_of_one_backend_share_the_count() -> None:
    seam = HostSeam(Plan.parse("host nth(2) stall"))
    for number in range(2):
        next(seam.steps(HostUrb(0x81, bytearray(number + 1))))
    assert len(seam.injector.trace) == 1
