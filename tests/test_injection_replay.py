"""The same plan and seed give the same trace, and the same bytes on the cable, twice."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from gadgets.acm.function import AcmFunction
from gadgets.mass_storage import MassStorageFunction, RamLun
from tests.proxies import proxying
from usbip_vudc.errors import UrbError
from usbip_vudc.function import Function
from usbip_vudc.gadget import Config, Gadget
from usbip_vudc.host.blocking import BlockingHost
from usbip_vudc.injection import Injector, Plan, injected
from usbip_vudc.injection.host import HostSeam, InjectedBlockingHost
from usbip_vudc.proxy.server import Proxy
from usbip_vudc.serving import serving_udcs
from usbip_vudc.sglist import Buffer
from usbip_vudc.urb import HostUrb
from usbip_vudc.usb.bot import Cbw
from usbip_vudc.usb.ch9 import SetupPacket, Speed, TransferType
from usbip_vudc.vudc import UserspaceUDC
from usbip_vudc.wire.pdu import CmdSubmit, RetSubmit

# Chance at every seam, and nothing that depends on who is first: no timeouts and no unlinks, one
# URB at a time, and no IN end that a function hears of while it already takes the next OUT bytes.
PLAN = """
function p(0.3) layout(random:3)
function.in p(0.2) corrupt(3)
function.in p(0.1) stall
function.out p(0.3) nak(2)
function.out p(0.2) delay(1ms)
function.in p(0.1) short(5)
mass_storage.in p(0.5) csw(tag=1)
host.out p(0.2) corrupt(20)
host.in p(0.3) layout(odd)
host p(0.1) delay(1ms)
cable.in p(0.1) status(-71)
cable.in p(0.1) corrupt(0)
cable p(0.2) delay(1ms)
cable.in p(0.1) tcp_cut(1, 47, 100)
cable.out p(0.1) stall
"""


ECHO = 0x82


class Cable:
    """Keeps every PDU of URBs that passed, at one side of the relay."""

    def __init__(self) -> None:
        self.bytes: list[bytes] = []

    def submit(self, head: CmdSubmit, payload: Buffer, iso: bytes, _kind: TransferType) -> None:
        self.bytes.append(head.pack() + bytes(payload) + iso)

    def complete(
        self, _asked: CmdSubmit, reply: RetSubmit, payload: Buffer, iso: bytes, _kind: TransferType
    ) -> None:
        self.bytes.append(reply.pack() + bytes(payload) + iso)

    def lost(self, asked: CmdSubmit, _kind: TransferType) -> None:
        self.bytes.append(b"lost" + asked.pack())


class Replay:
    """One conversation: what everyone did, and every byte of it."""

    def __init__(self, function: Function, plan: Plan) -> None:
        self.function = function
        self.plan = plan
        self.sides = Cable(), Cable()
        self.heard: list[str] = []
        self.traces: dict[str, list[str]] = {}

    @contextmanager
    def host(self) -> Iterator[BlockingHost]:
        device = Gadget(
            name="replay", idVendor=1, idProduct=2, configs=(Config(functions=(self.function,)),)
        )
        below, seam = Injector(self.plan, "function"), HostSeam(self.plan)
        udc = UserspaceUDC(injected(device, below), speed=Speed.HIGH)
        with serving_udcs(udc) as remote:
            proxy = Proxy("127.0.0.1", remote, self.plan, record=lambda _busid: self.sides)
            with (
                proxying(proxy) as port,
                InjectedBlockingHost("127.0.0.1", port, "1-1", plan=seam) as host,
            ):
                host.control(SetupPacket(0x00, 9, 1))
                yield host
                self.traces = {
                    "function": below.trace,
                    "host": seam.injector.trace,
                    "cable": list(proxy.traces["1-1"]),
                }

    def transfer(self, host: BlockingHost, endpoint: int, data: bytes | int) -> bool:
        """One transfer; a halt is cleared, anything else is noted and borne."""
        buffer = bytearray(data)
        try:
            moved = host.transfer(HostUrb(endpoint, buffer), 2.0)
        except UrbError as error:
            self.heard.append(errno.errorcode[error.errno])
            host.control(SetupPacket(0x02, 1, 0, endpoint))
            return False
        self.heard.append(bytes(buffer[:moved]).hex() if endpoint & 0x80 else str(moved))
        return True


def storage(plan: Plan) -> Replay:
    """INQUIRY and TEST UNIT READY by hand, each begun with a Bulk-Only reset."""
    replay = Replay(MassStorageFunction([RamLun(1 << 16)]), plan)
    with replay.host() as host:
        for tag in range(1, 25):
            host.control(SetupPacket(0x21, 0xFF))
            for endpoint in (0x81, 0x01):
                host.control(SetupPacket(0x02, 1, 0, endpoint))
            length = 36 if tag % 2 else 0
            cdb = bytes((0x12, 0, 0, 0, length, 0)) if length else bytes(6)
            if not replay.transfer(host, 0x01, Cbw(tag, length, 0x80, 0, cdb).pack()):
                continue
            if length and not replay.transfer(host, 0x81, 512):
                continue
            replay.transfer(host, 0x81, 512)
    return replay


def serial(plan: Plan) -> Replay:
    """Lines to a port that echoes, one at a time; one that was lost is not waited for."""
    replay = Replay(AcmFunction(), plan)
    with replay.host() as host:
        for number in range(40):
            line = bytes((number,)) * (30 + number)
            if not replay.transfer(host, 0x01, line):
                continue
            if not replay.transfer(host, ECHO, 512) and replay.heard[-1] == "EPIPE":
                replay.transfer(host, ECHO, 512)  # it is still there, behind the halt
    return replay


@pytest.mark.parametrize("conversation", [storage, serial])
@pytest.mark.parametrize("seed", [1, 2019])
def test_twice_the_same_byte_for_byte(conversation: Callable[[Plan], Replay], seed: int) -> None:
    plan = Plan.parse(PLAN, seed)
    first, second = conversation(plan), conversation(plan)
    assert first.traces == second.traces
    assert first.heard == second.heard
    for one, other in zip(first.sides, second.sides, strict=True):
        assert one.bytes == other.bytes
    assert all(first.traces.values()), "every seam had its chance"
    assert "ETIMEDOUT" not in first.heard


@pytest.mark.parametrize("conversation", [storage, serial])
def test_another_seed_another_trace(conversation: Callable[[Plan], Replay]) -> None:
    one, other = (conversation(Plan.parse(PLAN, seed)) for seed in (1, 2))
    assert one.traces != other.traces
    assert one.sides[0].bytes != other.sides[0].bytes


def test_what_a_plan_says_of_itself_replays_it() -> None:
    plan = Plan.parse(PLAN, 5)
    again = eval(repr(plan), {"Plan": Plan})
    assert storage(again).traces == storage(plan).traces
