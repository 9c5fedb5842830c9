"""Isochronous transfers through plans: at the function, at the host, on the cable."""

from __future__ import annotations

import errno
from collections.abc import Mapping

import anyio
import pytest

from tests.iso_device import IN, OUT, PACKET, Iso, Loopback, blocking, iso_gadget, plugged
from tests.test_proxy_relay import DEVID, feed, relay_with, taken
from usbip_vudc.errors import SchemeError, UrbError
from usbip_vudc.function import Endpoint
from usbip_vudc.host.enumeration import set_configuration, set_interface
from usbip_vudc.injection import Plan
from usbip_vudc.injection.function import check_plan
from usbip_vudc.injection.host import InjectedBlockingHost, InjectedHost
from usbip_vudc.serving import serving
from usbip_vudc.urb import IsoPacket, IsoUrb
from usbip_vudc.wire.iso import pack_packets
from usbip_vudc.wire.pdu import CmdSubmit, CmdUnlink, RetSubmit, RetUnlink

pytestmark = pytest.mark.anyio

PACKETS = (b"abc", b"de", b"fgh")
ALL = (*PACKETS, b"end")


async def read(plan: str, count: int, length: int = PACKET) -> IsoUrb:
    """One URB of so many packets from a device that offers `ALL`, with this plan."""
    async with plugged(Iso(*ALL), plan=plan) as host:
        return await host.transfer_iso(IN, (length,) * count, timeout=5)


# --- the function ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "packets"),
    [
        ("iso.in nth(2) drop", (b"abc", b"fgh", b"end")),
        ("iso.in nth(2) short(1)", (b"abc", b"d", b"fgh")),
        ("iso.in nth(2) short(0)", (b"abc", b"", b"fgh")),
        ("iso.mic nth(2) corrupt(1, 0x01)", (b"abc", b"dd", b"fgh")),
        ("iso.in nth(2) babble(2)", (b"abc", b"de\xbb\xbb", b"fgh")),
        ("iso.in nth(2) nak(10ms)", PACKETS),
        ("iso.in nth(2) delay(10ms)", PACKETS),
        ("iso.in layout(odd)", PACKETS),
        ("iso.in nth(1) layout([1][2])", (b"a", b"bc", b"de")),
        ("iso.in stall", PACKETS),
        ("iso.in zlp", PACKETS),
    ],
)
async def test_what_a_rule_at_the_function_does_to_packets(
    rule: str, packets: tuple[bytes, ...]
) -> None:
    urb = await read(rule, 3)
    assert (urb.status, urb.error_count, urb.received) == (0, 0, packets)


async def test_babble_at_the_function_is_the_status_of_a_packet() -> None:
    urb = await read("iso.in nth(1) babble(1)", 3, length=3)
    assert [packet.status for packet in urb.packets] == [-errno.EOVERFLOW, 0, 0]
    assert urb.received == PACKETS


@pytest.mark.parametrize(
    ("rule", "taken_"),
    [
        ("iso.out nth(1) drop", [b"def", b"ghi"]),
        ("iso.out nth(1) short(2)", [b"ab", b"def", b"ghi"]),
        ("iso.out nth(2) corrupt(0, 0x01)", [b"abc", b"eef", b"ghi"]),
        ("iso.speaker nth(2) delay(10ms)", [b"abc", b"def", b"ghi"]),
        ("iso.out stall", [b"abc", b"def", b"ghi"]),
    ],
)
async def test_what_a_rule_at_the_function_does_to_packets_of_the_host(
    rule: str, taken_: list[bytes]
) -> None:
    function = Iso()
    async with plugged(function, plan=rule) as host:
        urb = await host.transfer_iso(OUT, (3, 3, 3), b"abcdefghi", timeout=5)
        assert (urb.actual, urb.error_count) == (9, 0), "nothing is acknowledged"
        with anyio.fail_after(5):
            while len(function.taken) < len(taken_):
                await anyio.sleep(0.005)
        assert function.taken == taken_


async def test_a_function_behind_a_plan_sees_its_service_interval() -> None:
    class Asks(Iso):
        async def run(self, endpoints: Mapping[str, Endpoint]) -> None:
            self.taken += [bytes([e.bytes_per_interval]) for e in endpoints.values()]
            await super().run(endpoints)

    function = Asks(b"x")
    async with plugged(function, plan="iso.in nth(9) drop") as host:
        await host.transfer_iso(IN, (PACKET,), timeout=5)
    assert function.taken == [bytes([PACKET])] * 2


@pytest.mark.parametrize("action", ["stall", "zlp"])
def test_a_rule_that_an_iso_endpoint_has_nothing_for_is_refused(action: str) -> None:
    with pytest.raises(SchemeError, match=rf"'mic' is isochronous, where there is no {action}: "):
        check_plan(Plan.parse(f"iso.mic {action}"), iso_gadget(Iso()))


def test_a_rule_for_all_endpoints_is_not_refused_for_an_iso_one() -> None:
    check_plan(Plan.parse("iso.in stall; iso.mic drop; function zlp"), iso_gadget(Iso()))


# --- the host ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "packets"),
    [
        ("host.in corrupt(4, 0x01)", (b"abc", b"dd", b"fgh")),
        ("host.in delay(5ms)", PACKETS),
        ("host.in nak(5ms)", PACKETS),
        ("host.in layout(each:100)", PACKETS),
        ("host.in stall", PACKETS),
    ],
)
async def test_what_a_rule_at_the_host_does_to_packets(
    rule: str, packets: tuple[bytes, ...]
) -> None:
    async with plugged(Iso(*ALL)) as below:
        host = InjectedHost(below, Plan.parse(rule))
        urb = await host.transfer_iso(IN, (PACKET,) * 3, timeout=5)
        assert (urb.status, urb.received) == (0, packets)
        assert bool(host.seam.injector.trace) == (not rule.endswith(("stall", "100)")))


async def test_a_short_urb_at_the_host_has_packets_without_room() -> None:
    async with plugged(Iso(b"abc", b"", b"")) as below:
        host = InjectedHost(below, Plan.parse("host.in short(4)"))
        urb = await host.transfer_iso(IN, (4, 4, 4), timeout=5)
        assert urb.received == (b"abc", b"", b"")
        assert [packet.length for packet in urb.packets] == [4, 4, 4], "as the caller asked"


async def test_short_and_corrupt_urbs_at_the_host_going_out() -> None:
    function = Iso()
    async with plugged(function) as below:
        host = InjectedHost(below, Plan.parse("host.out short(5); host.out corrupt(0, 0x01)"))
        urb = await host.transfer_iso(OUT, (3, 3, 3), b"abcdefghi", timeout=5)
        assert function.taken == [b"`bc", b"de", b""]
        assert [packet.actual_length for packet in urb.packets] == [3, 2, 0]


async def test_an_iso_urb_that_a_plan_unlinks() -> None:
    async with plugged(Iso()) as below:
        host = InjectedHost(below, Plan.parse("host.in unlink(1ms)"))
        with pytest.raises(UrbError) as caught:
            await host.transfer_iso(IN, (PACKET,), timeout=5)
        assert caught.value.errno == errno.ECONNRESET


def test_a_blocking_host_with_a_plan_takes_several_urbs() -> None:
    with serving(iso_gadget(Iso(*ALL))) as port:
        plan = Plan.parse("host.in nth(2) corrupt(0, 0x01)")
        with InjectedBlockingHost("127.0.0.1", port, "1-1", plan=plan) as host:
            host.control(set_configuration(1))
            host.control(set_interface(0, 1))
            urbs = [IsoUrb(IN, bytearray(8), (4, 4)) for _ in range(2)]
            assert host.transfer_each(urbs, 5.0) == 11
            assert [urb.received for urb in urbs] == [(b"abc", b"de"), (b"ggh", b"end")]


def test_a_blocking_host_without_rules_for_it_submits_them_all_at_once() -> None:
    with blocking(Loopback()) as host:
        first, second = IsoUrb(IN, bytearray(4), (4,)), IsoUrb(OUT, b"four", (4,))
        assert host.transfer_each([first, second], 5.0) == 8
        assert first.received == (b"four",)


# --- the cable ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "packets"),
    [
        ("cable.in short(4)", (b"abc", b"d", b"")),
        ("cable.in corrupt(3, 0x01)", (b"abc", b"ee", b"fgh")),
        ("cable.in delay(5ms)", PACKETS),
        ("cable.in tcp_cut(1, 17)", PACKETS),
        ("cable.in stall", PACKETS),
        ("cable.in babble(3)", PACKETS),
        ("cable layout(each:1)", PACKETS),
    ],
)
async def test_what_a_rule_on_the_cable_does_to_packets(
    rule: str, packets: tuple[bytes, ...]
) -> None:
    urb = await read(rule, 3)
    assert (urb.status, urb.received) == (0, packets)
    assert urb.actual == len(b"".join(packets))


async def test_a_status_on_the_cable_is_that_of_the_urb() -> None:
    async with plugged(Iso(*ALL), plan="cable.in status(-18)") as host:
        urb = IsoUrb(IN, bytearray(PACKET), (PACKET,))
        end = host.submit(urb)
        with anyio.fail_after(5):
            await end.wait()
        assert (urb.status, urb.received) == (-errno.EXDEV, (b"abc",))


async def test_a_wrong_actual_length_on_the_cable_breaks_the_sum() -> None:
    async with plugged(Iso(*ALL), plan="cable.in actual(5)") as host:
        with pytest.raises(UrbError) as caught:
            await host.transfer_iso(IN, (PACKET,), timeout=5)
        assert caught.value.errno == errno.EPROTO
        assert "3 in all, but the URB has 5" in str(host.failure)


async def test_a_dropped_urb_waits_for_its_unlink() -> None:
    async with plugged(Iso(*ALL), plan="cable.in nth(1) drop") as host:
        with pytest.raises(UrbError) as caught:
            await host.transfer_iso(IN, (PACKET,), timeout=0.05)
        assert caught.value.errno == errno.ETIMEDOUT
        assert (await host.transfer_iso(IN, (PACKET,), timeout=5)).received == (b"abc",)


def iso_out(seqnum: int, data: bytes, *packets: IsoPacket) -> bytes:
    head = CmdSubmit(
        seqnum=seqnum, devid=DEVID, direction=0, ep=1, transfer_buffer_length=len(data),
        number_of_packets=len(packets), transfer_flags=2, interval=8,
    )  # fmt: skip
    return head.pack() + data + pack_packets(packets)


def test_a_relay_with_rules_for_others_passes_iso_byte_for_byte() -> None:
    relay = relay_with("cable.in stall")
    asked = [IsoPacket(offset=o, length=3, status=-18) for o in (0, 4)]
    feed(relay.host, iso_out(1, b"abc-def", *asked))
    assert taken(relay.to_device) == iso_out(1, b"abc-def", *asked)
    went = [IsoPacket(offset=o, length=3, actual_length=3) for o in (0, 4)]
    said = RetSubmit(seqnum=1, actual_length=6, number_of_packets=2, start_frame=5).pack()
    feed(relay.device, said + pack_packets(went))
    assert taken(relay.to_host) == said + pack_packets(went)


def test_a_short_out_urb_on_the_cable_is_told_with_the_packets_that_were_asked_for() -> None:
    relay = relay_with("cable.out short(5)")
    feed(relay.host, iso_out(1, b"abcdef", *(IsoPacket(offset=o, length=3) for o in (0, 3))))
    got = (IsoPacket(offset=0, length=3), IsoPacket(offset=3, length=2))
    assert taken(relay.to_device) == iso_out(1, b"abcde", *got)
    said = RetSubmit(seqnum=1, actual_length=5, number_of_packets=2).pack()
    went = [IsoPacket(offset=p.offset, length=p.length, actual_length=p.length) for p in got]
    feed(relay.device, said + pack_packets(went))
    told = [IsoPacket(offset=o, length=3, actual_length=a) for o, a in ((0, 3), (3, 2))]
    assert taken(relay.to_host) == said + pack_packets(told)


def test_an_iso_urb_that_the_relay_unlinks_keeps_its_descriptors() -> None:
    relay = relay_with("cable.out unlink(1s)")
    asked = IsoPacket(offset=0, length=3, status=-18)
    feed(relay.host, iso_out(1, b"abc", asked))
    relay.timers.advance(2.0)
    assert taken(relay.to_device).endswith(CmdUnlink(seqnum=2, devid=DEVID, unlink_seqnum=1).pack())
    feed(relay.device, RetUnlink(seqnum=2, status=-errno.ECONNRESET).pack())
    said = RetSubmit(seqnum=1, status=-errno.ECONNRESET, number_of_packets=1).pack()
    assert taken(relay.to_host) == said + asked.pack()
