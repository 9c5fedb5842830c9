"""Benign layouts change nothing that the other side can see; hostile ones are caught at it.

Random layouts over random transfers, on the pipe of the userspace UDC: what each URB and each
request comes to with a plan is held against what it comes to without one.
"""

from __future__ import annotations

from typing import Final

import pytest
import usb.core
import usb.util
from hypothesis import given, settings
from hypothesis import strategies as st

from gadgets.mass_storage import MassStorageFunction, RamLun
from tests.test_injection_function import Timers
from tests.test_layout import texts
from usbip_vudc.errors import TransferError
from usbip_vudc.exportable import Export
from usbip_vudc.function import Endpoint, Request
from usbip_vudc.gadget import Config, Gadget
from usbip_vudc.host.storage import UsbStorage
from usbip_vudc.injection import Layout, Plan, injected, injected_connect
from usbip_vudc.injection.endpoint import InjectedEndpoint
from usbip_vudc.pipe import Pipe
from usbip_vudc.proxy.export import InjectedExport
from usbip_vudc.pyusb_backend import get_backend
from usbip_vudc.serving import serving_udcs
from usbip_vudc.urb import Urb
from usbip_vudc.usb.ch9 import Direction, Speed, TransferType
from usbip_vudc.vudc import UserspaceUDC

PACKETS: Final = (8, 64, 512, 1024)


class PipeEndpoint(Endpoint):
    """An endpoint over a pipe, with nothing between."""

    transfer_type = TransferType.BULK
    interface = 0

    def __init__(self, direction: Direction, packet: int) -> None:
        self.role = direction.name.lower()
        self.direction = direction
        self.address = direction | 1
        self.max_packet_size = packet
        self.pipe = Pipe(direction, packet, on_urb=lambda _urb: None, on_request=self._ended)
        self._ends: list[tuple[Request, TransferError | None]] = []

    def _ended(self, request: Request, error: TransferError | None) -> None:
        self._ends.append((request, error))

    def settle(self) -> None:
        """Tell of what has ended, as a UDC does once its replies have left."""
        while self._ends:
            request, error = self._ends.pop(0)
            request.complete(error)

    def queue(self, request: Request) -> Request:
        self.pipe.queue(request)
        return request

    def withdraw(self, request: Request) -> None:
        self.pipe.withdraw(request)

    def halt(self) -> None:
        self.pipe.halt()


Seen = tuple[list[tuple[int | None, int, bytes]], list[tuple[bool, int, str, bytes]]]


def run(plan: str, direction: Direction, packet: int, moves: list[tuple[bool, int]]) -> Seen:
    """Queue requests (True) and submit URBs (False) of these lengths: what each came to."""
    below = PipeEndpoint(direction, packet)
    endpoint = InjectedEndpoint(Timers(plan), below) if plan else below
    urbs: list[Urb] = []
    requests: list[Request] = []
    data = iter(range(1 << 30))
    for is_request, length in moves:
        payload = bytes(next(data) % 251 for _ in range(length))
        if is_request:
            room = payload if direction == Direction.IN else bytearray(length)
            requests.append(endpoint.queue(Request(room)))
        else:
            urb = Urb(len(urbs), direction | 1, length, 0)
            if direction == Direction.OUT and length:
                below.pipe.landing(urb).put(memoryview(payload))
            urbs.append(urb)
            below.pipe.submit(urb)
        below.settle()
    return (
        [(urb.status, urb.actual, b"".join(urb.data)) for urb in urbs],
        [
            (request.done, request.actual if request.done else 0, type(request.error).__name__,
             request.sg.gather() if request.done else b"")
            for request in requests
        ],
    )  # fmt: skip


def some_lengths(packet: int) -> st.SearchStrategy[int]:
    near = st.builds(lambda n, off: max(n * packet + off, 0), st.integers(0, 4), st.integers(-1, 1))
    return near | st.integers(0, 5 * packet)


@settings(max_examples=150)
@given(data=st.data(), packet=st.sampled_from(PACKETS), direction=st.sampled_from(Direction))
def test_a_benign_layout_at_the_function_is_not_seen(
    data: st.DataObject, packet: int, direction: Direction
) -> None:
    layout = Layout.parse(data.draw(texts))
    moves = data.draw(st.lists(st.tuples(st.booleans(), some_lengths(packet)), max_size=12))
    benign = all(
        layout.verdict(length, packet).benign for is_request, length in moves if is_request
    )
    plain = run("", direction, packet, moves)
    overflowed = any(status for status, _, _ in plain[0])
    if benign and not (overflowed and not layout.one_request):
        assert run(f"f layout({layout})", direction, packet, moves) == plain


@settings(max_examples=100)
@given(layout=texts.map(Layout.parse), packet=st.sampled_from(PACKETS), length=st.integers(1, 5000))
def test_the_verdict_is_what_the_host_sees(layout: Layout, packet: int, length: int) -> None:
    """One transfer, one URB of its length: it is seen if, and only if, the verdict is hostile."""
    for direction in Direction:
        moves = [(True, length), (False, length)]
        urbs, _ = run(f"f layout({layout})", direction, packet, moves)
        seen = (urbs, direction) != (run("", direction, packet, moves)[0], direction)
        # A ZLP behind all of it comes to the next URB.
        last_zlp = not layout.apply(length, packet)[-1]
        assert seen == (not layout.verdict(length, packet).benign) or (last_zlp and not seen)


# --- over the cable ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "plan",
    [
        "cable layout(each:packets:3)",
        "cable layout(odd)",
        "cable tcp_cut(7, 4096)",
        "host layout(each:packets:5); cable layout(each:packets:2); function layout(packets:3)",
        "function layout(page-offset:1); host layout(straddle); cable layout(each:packets:7)",
    ],
)
@pytest.mark.parametrize("speed", [Speed.FULL, Speed.HIGH, Speed.SUPER], ids=lambda s: s.word)
def test_a_disk_is_the_same_behind_benign_plans(plan: str, speed: Speed) -> None:
    lun = RamLun(1 << 20)
    device = Gadget(
        name="disk", idVendor=1, idProduct=2,
        configs=(Config(functions=(MassStorageFunction([lun]),)),),
    )  # fmt: skip
    rules = Plan.parse(plan)
    udc = UserspaceUDC(injected(device, rules), speed=speed)
    data = bytes(i % 251 for i in range(100 * 512))
    with serving_udcs(InjectedExport(Export(1, udc), rules)) as port:
        host = usb.core.find(backend=get_backend(port=port, connect=injected_connect(rules)))
        try:
            disk = UsbStorage(host, timeout_ms=5000)
            disk.wait_ready()
            disk.write(17, data)
            assert bytes(lun.read(17 * 512, len(data))) == data
            assert disk.read(17, 100) == data
            assert disk.read_sg(17, "3584+7x4096") == data[:32256]
            assert disk.read_capacity().blocks == 2048
        finally:
            usb.util.dispose_resources(host)
