"""acm over the whole stack: a host at one end of a socket, the serial function at the other."""

from __future__ import annotations

import errno
import hashlib
import random

import anyio
import pytest

from gadgets.acm.function import AcmFunction
from gadgets.serial.line import (
    BreakSent,
    Connected,
    ControlLinesSet,
    Disconnected,
    LineCodingSet,
    LineEvent,
)
from gadgets.serial.packets import RING_SLOTS
from gadgets.serial.profiles import Echo, Sink, Source, Stream, pattern
from tests.serial_bench import (
    GET_LINE_CODING,
    NOTIFY,
    SET_CONFIGURATION,
    SET_LINE_CODING,
    attached,
    control_lines,
    exported,
    noise,
    plugged,
    read,
    read_all,
    write,
)
from usbip_vudc.errors import LocalProtocolError, SchemeError, UrbError
from usbip_vudc.urb import HostUrb
from usbip_vudc.usb.cdc import LineCoding, SerialState
from usbip_vudc.usb.ch9 import SetupPacket, Speed

pytestmark = pytest.mark.anyio

MPS = {Speed.FULL: 64, Speed.HIGH: 512, Speed.SUPER: 1024}
UNCONFIGURE = SetupPacket(0x00, 9, 0, 0, 0)
EIGHT_MIB = 8 << 20


# --- echo --------------------------------------------------------------------------------------


@pytest.mark.parametrize("speed", MPS, ids=lambda speed: speed.word)
@pytest.mark.parametrize("packets", [0, 1, 2, 3, 40])
@pytest.mark.parametrize("extra", [-1, 0, 1])
async def test_echo_comes_at_once_without_a_zlp(speed: Speed, packets: int, extra: int) -> None:
    data = noise(max(packets * MPS[speed] + extra, 1))
    async with plugged(AcmFunction(), speed) as host:
        for _ in range(2):
            await write(host, data)
            echoed = bytearray()
            while len(echoed) < len(data):
                # Larger than the data: only a short packet or a ZLP ends it.
                echoed += await read(host, 65536, timeout=2)
            assert echoed == data


async def test_zlp_from_the_host_is_no_data() -> None:
    async with plugged(AcmFunction()) as host:
        for _ in range(RING_SLOTS + 3):
            await write(host, b"")
        await write(host, b"x")
        assert await read(host) == b"x"


@pytest.mark.parametrize("speed", [Speed.FULL, Speed.HIGH, Speed.SUPER], ids=lambda s: s.word)
async def test_echo_of_8_mib(speed: Speed) -> None:
    data = memoryview(noise(EIGHT_MIB))

    async def write_all() -> None:
        for offset in range(0, EIGHT_MIB, 1 << 16):
            await write(host, data[offset : offset + (1 << 16)])

    async with plugged(AcmFunction(Echo()), speed) as host, anyio.create_task_group() as tasks:
        tasks.start_soon(write_all)
        echoed = await read_all(host, EIGHT_MIB)
    assert hashlib.sha256(echoed).hexdigest() == hashlib.sha256(data).hexdigest()


async def test_echo_of_odd_writes_keeps_every_byte() -> None:
    rng = random.Random(7)
    sizes = [rng.choice((1, 3, 511, 512, 513, 1024, 1536, 5000)) for _ in range(600)]
    data = noise(sum(sizes))

    async def write_all() -> None:
        offset = 0
        for size in sizes:
            await write(host, data[offset : offset + size])
            offset += size

    async with plugged(AcmFunction()) as host, anyio.create_task_group() as tasks:
        tasks.start_soon(write_all)
        echoed = b""
        while len(echoed) < len(data):
            echoed += await read(host, 512 * rng.randint(1, 9))
    assert echoed == data


async def test_host_that_does_not_read_gets_nak_and_loses_nothing() -> None:
    data = noise(1 << 20)
    written = 0

    async def write_all() -> None:
        nonlocal written
        for offset in range(0, len(data), 8192):
            written += await write(host, data[offset : offset + 8192], None)

    async with plugged(AcmFunction()) as host, anyio.create_task_group() as tasks:
        tasks.start_soon(write_all)
        while written < RING_SLOTS * 8192:
            await anyio.sleep(0.01)
        await anyio.sleep(0.1)
        assert written == RING_SLOTS * 8192, "one ring, and not a byte more, is held"
        assert await read_all(host, len(data)) == data


# --- the line ----------------------------------------------------------------------------------


async def test_line_coding_reaches_the_application_and_the_host_again() -> None:
    acm = AcmFunction()
    async with plugged(acm) as host:
        assert await host.control(GET_LINE_CODING) == LineCoding().pack()
        async with anyio.create_task_group() as tasks:
            seen: list[LineCoding] = []

            async def listen(*, task_status: anyio.abc.TaskStatus[None]) -> None:
                task_status.started()
                seen.append(await acm.line_coding_set())

            await tasks.start(listen)
            await host.control(SET_LINE_CODING, LineCoding.from_text("115200 7E2").pack())
        assert [str(coding) for coding in seen] == ["115200 7E2"]
        assert str(acm.line_coding) == "115200 7E2"
        assert await host.control(GET_LINE_CODING) == acm.line_coding.pack()


@pytest.mark.parametrize(
    ("setup", "data"),
    [
        (SET_LINE_CODING, bytes(7)),
        (SetupPacket(0x21, 0x20, 0, 0, 6), bytes(6)),
        (SetupPacket(0x21, 0x22, 1, 1, 0), b""),
        (SetupPacket(0x21, 0x02, 1, 0, 0), b""),
    ],
    ids=["no rate", "six bytes", "to the data interface", "unknown"],
)
async def test_refused_requests_stall(setup: SetupPacket, data: bytes) -> None:
    acm = AcmFunction()
    async with plugged(acm) as host:
        with pytest.raises(UrbError) as caught:
            await host.control(setup, data)
        assert caught.value.errno == errno.EPIPE
        assert acm.line_coding == LineCoding()
        assert not acm.dtr


async def test_dtr_and_rts_can_be_waited_for() -> None:
    acm = AcmFunction()
    async with plugged(acm) as host, anyio.create_task_group() as tasks:
        tasks.start_soon(host.control, control_lines(1))
        await acm.wait_dtr()
        assert (acm.dtr, acm.rts) == (True, False)
        tasks.start_soon(host.control, control_lines(2))
        await acm.wait_rts()
        await acm.wait_dtr(False)
        assert (acm.dtr, acm.rts) == (False, True)


async def test_break_reaches_the_application() -> None:
    acm = AcmFunction()
    async with plugged(acm) as host, anyio.create_task_group() as tasks:
        tasks.start_soon(host.control, SetupPacket(0x21, 0x23, 0xFFFF))
        assert await acm.break_sent() == BreakSent(None)
        assert acm.breaking
        tasks.start_soon(host.control, SetupPacket(0x21, 0x23, 0))
        assert await acm.break_sent() == BreakSent(0)
        assert not acm.breaking


async def test_events_tell_the_life_of_a_session() -> None:
    acm = AcmFunction()
    events = acm.events()
    seen: list[LineEvent] = []
    async with exported(acm) as port:
        async with attached(port) as host:
            await host.control(SET_LINE_CODING, LineCoding(300).pack())
            await host.control(control_lines(3))
            await host.control(SetupPacket(0x21, 0x23, 100))
        async for event in events:
            seen.append(event)
            if event == Disconnected():
                break
    assert seen == [
        Connected(),
        LineCodingSet(LineCoding(300)),
        ControlLinesSet(dtr=True, rts=True),
        BreakSent(100),
        Disconnected(),
    ]


async def test_lines_that_a_host_raises_as_it_selects_anew_stay_up() -> None:
    """Its requests may be here before the run of the last configuration has ended."""
    acm = AcmFunction()
    async with plugged(acm) as host:
        await host.control(control_lines(1))
        events = acm.events()
        for setup in (SET_CONFIGURATION, control_lines(3)):
            finished = host.submit(HostUrb(0, b"", setup=setup))  # both at once
        await finished.wait()
        seen = [await anext(events) for _ in range(3)]
        assert seen[0] == Disconnected(), "the lines of the last one have fallen"
        assert set(seen[1:]) == {ControlLinesSet(dtr=True, rts=True), Connected()}
        assert (acm.connected, acm.dtr, acm.rts) == (True, True, True)
        assert acm.dtr_rises == 2


async def test_a_host_that_selects_anew_finds_its_lines_down() -> None:
    acm = AcmFunction(dsr_follows_dtr=True)
    async with plugged(acm) as host:
        await host.control(control_lines(3))
        assert SerialState.DSR in acm.serial_state
        events = acm.events()
        await host.control(SET_CONFIGURATION)
        assert await anext(events) == Disconnected()
        assert (acm.dtr, acm.rts) == (False, False)
        assert acm.serial_state == SerialState(0), "the plug has nothing to show"


@pytest.mark.parametrize(
    ("setup", "refused"),
    [
        (SET_LINE_CODING, False),
        (SetupPacket(0x21, 0x20, 0, 0, 6), True),
        (SetupPacket(0x21, 0x02, 1, 0, 2), True),
        (control_lines(3), False),
    ],
    ids=["line coding", "six bytes", "another one with data", "without data"],
)
def test_what_is_refused_whatever_its_data_are_is_known_before_they_are_taken(
    setup: SetupPacket, refused: bool
) -> None:
    assert AcmFunction().refuses(setup) == refused


async def test_listener_far_behind_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gadgets.serial.events.MAX_BEHIND", 2)
    acm = AcmFunction()
    events = acm.events()
    async with plugged(acm) as host:
        for _ in range(3):
            await host.control(control_lines(1))
    assert [await anext(events), await anext(events)] == [Connected(), ControlLinesSet(True, False)]
    with pytest.raises(LocalProtocolError):
        await anext(events)


# --- SERIAL_STATE ------------------------------------------------------------------------------


async def test_serial_state_is_a_notification_of_ten_bytes() -> None:
    acm = AcmFunction()
    async with plugged(acm) as host, anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: acm.set_serial_state(dcd=True, dsr=True))
        told = await read(host, 16, endpoint=NOTIFY)
        assert told.hex(" ") == "a1 20 00 00 00 00 02 00 03 00"
        tasks.start_soon(lambda: acm.set_serial_state(dsr=False, overrun=True))
        assert (await read(host, 64, endpoint=NOTIFY))[8:] == b"\x41\0"
        assert acm.serial_state == SerialState.DCD


async def test_serial_state_names_the_interface_of_its_own_function() -> None:
    first, second = AcmFunction(), AcmFunction()
    async with exported(first, second) as port, attached(port) as host:
        await second.wait_connected()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: second.set_serial_state(ring=True))
            told = await read(host, 16, endpoint=0x83)
        assert told.hex(" ") == "a1 20 00 00 02 00 02 00 08 00"


async def test_serial_state_waits_for_the_host_and_merges_what_comes_meanwhile() -> None:
    acm = AcmFunction()
    async with plugged(acm) as host:
        for changes in ({"dcd": True}, {"parity": True}, {"dcd": False}, {"dsr": True}):
            with anyio.move_on_after(0.02) as scope:
                await acm.set_serial_state(**changes)
            assert scope.cancelled_caught, "nobody has read it"
        assert (await read(host, 16, endpoint=NOTIFY))[8] == SerialState.DCD
        assert (await read(host, 16, endpoint=NOTIFY))[8] == SerialState.DSR | SerialState.PARITY
        with pytest.raises(UrbError):
            await read(host, 16, timeout=0.05, endpoint=NOTIFY)


async def test_serial_state_is_kept_for_the_next_host() -> None:
    acm = AcmFunction()
    await acm.set_serial_state(dcd=True)
    async with exported(acm) as port:
        for _ in range(2):
            async with attached(port) as host:
                assert (await read(host, 16, endpoint=NOTIFY))[8] == SerialState.DCD


async def test_serial_state_does_not_wait_for_a_host_that_leaves() -> None:
    acm = AcmFunction()
    async with plugged(acm) as host, anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: acm.set_serial_state(dcd=True))
        tasks.start_soon(lambda: acm.set_serial_state(ring=True))
        await anyio.sleep(0.02)
        await host.control(UNCONFIGURE)


async def test_dsr_follows_dtr_where_asked() -> None:
    acm = AcmFunction(dsr_follows_dtr=True)
    async with plugged(acm) as host:
        await host.control(control_lines(1))
        assert (await read(host, 16, endpoint=NOTIFY))[8] == SerialState.DSR
        await host.control(control_lines(1))
        await host.control(control_lines(0))
        assert (await read(host, 16, endpoint=NOTIFY))[8] == 0


# --- connections -------------------------------------------------------------------------------


async def test_reconnect_keeps_the_coding_and_drops_dtr() -> None:
    acm = AcmFunction(line_coding=LineCoding.from_text("19200 8E1"))
    async with exported(acm) as port:
        async with attached(port) as host:
            await acm.wait_connected()
            await host.control(SET_LINE_CODING, LineCoding(300).pack())
            await host.control(control_lines(3))
            await write(host, b"never read")
            assert acm.dtr
        await acm.wait_connected(False)
        assert not acm.dtr
        assert not acm.rts
        async with attached(port) as host:
            assert await host.control(GET_LINE_CODING) == LineCoding(300).pack()
            await write(host, b"fresh")
            assert await read(host) == b"fresh", "an echo ends with its connection"


async def test_configuration_can_be_selected_again_and_again() -> None:
    acm = AcmFunction()
    async with plugged(acm) as host:
        for round_ in range(5):
            await host.control(UNCONFIGURE)
            await acm.wait_connected(False)
            await host.control(SET_CONFIGURATION)
            await host.control(SET_CONFIGURATION)
            data = b"round %d" % round_
            await write(host, data)
            assert await read(host) == data


# --- sink and source ---------------------------------------------------------------------------


async def test_sink_counts_and_digests() -> None:
    sink = Sink(sha256=True)
    data = noise(1 << 20)
    async with plugged(AcmFunction(sink)) as host:
        for offset in range(0, len(data), 40_000):
            await write(host, data[offset : offset + 40_000])
        await sink.wait_received(len(data))
        assert sink.received == len(data)
        assert sink.sha256 == hashlib.sha256(data).hexdigest()
        sink.reset()
        await write(host, b"abc")
        await sink.wait_received(3)
        assert sink.sha256 == hashlib.sha256(b"abc").hexdigest()


async def test_sink_without_digest_has_none() -> None:
    with pytest.raises(LocalProtocolError):
        _ = Sink().sha256


@pytest.mark.parametrize("length", [0, 1, 512, 65_536, 300_000])
async def test_source_ends_after_its_length(length: int) -> None:
    source = Source(seed=3, length=length)
    async with plugged(AcmFunction(source)) as host:
        assert await read_all(host, length) == pattern(3, length)
        with pytest.raises(UrbError):
            # At most the ZLP that ends an exact multiple is left.
            assert await read(host, 512, timeout=0.1) == b""
            await read(host, 512, timeout=0.1)
        assert source.sent == length


async def test_source_without_end_starts_over_for_each_connection() -> None:
    async with exported(AcmFunction(Source(seed=9)), speed=Speed.SUPER) as port:
        for _ in range(2):
            async with attached(port) as host:
                assert (await read_all(host, 1 << 20))[: 1 << 20] == pattern(9, 1 << 20)


async def test_source_throws_away_what_the_host_sends() -> None:
    """A tty echoes until it is raw; a port that did not take that would block its host."""
    async with plugged(AcmFunction(Source(seed=3))) as host:
        for _ in range(20):
            await write(host, noise(40_000))
        assert (await read_all(host, 4096))[:4096] == pattern(3, 4096)


async def test_source_of_given_bytes() -> None:
    async with plugged(AcmFunction(Source(b"login: ", length=5))) as host:
        assert await read(host) == b"login"


def test_source_refuses_more_than_it_has() -> None:
    with pytest.raises(SchemeError):
        Source(b"abc", length=4)


# --- stream ------------------------------------------------------------------------------------


async def test_stream_both_ways() -> None:
    stream = Stream()
    async with plugged(AcmFunction(stream)) as host:
        await write(host, b"root\n")
        assert await stream.receive() == b"root\n"
        for data in (b"# ", noise(512), noise(1536)):
            await stream.send(data)
            assert await read(host, 65536) == data
        await stream.send_eof()
        with pytest.raises(anyio.ClosedResourceError):
            await stream.send(b"x")


async def test_stream_hands_out_no_more_than_asked() -> None:
    stream = Stream()
    async with plugged(AcmFunction(stream)) as host:
        await write(host, b"abcdefgh")
        assert [await stream.receive(3) for _ in range(3)] == [b"abc", b"def", b"gh"]


async def test_stream_large_both_ways_at_once() -> None:
    stream = Stream()
    data = noise(2 << 20)

    async def write_all() -> None:
        for offset in range(0, len(data), 50_000):
            await write(host, data[offset : offset + 50_000])

    async def mirror() -> None:
        for _ in range(1 << 30):
            await stream.send(await stream.receive(10_000))

    function = AcmFunction(stream)
    async with plugged(function, Speed.SUPER) as host, anyio.create_task_group() as tasks:
        tasks.start_soon(write_all)
        tasks.start_soon(mirror)
        assert await read_all(host, len(data)) == data
        tasks.cancel_scope.cancel()


async def test_many_small_sends_leave_together_and_in_order() -> None:
    stream = Stream()
    data = noise(3000)
    async with plugged(AcmFunction(stream)) as host:
        for value in data:
            await stream.send(bytes([value]))
        assert await read_all(host, len(data)) == data
        await stream.drain()


async def test_stream_that_is_not_read_holds_one_ring() -> None:
    stream = Stream()
    data = noise(400_000)
    written = 0

    async def write_all() -> None:
        nonlocal written
        for offset in range(0, len(data), 4096):
            written += await write(host, data[offset : offset + 4096], None)

    async with plugged(AcmFunction(stream)) as host, anyio.create_task_group() as tasks:
        tasks.start_soon(write_all)
        while written < RING_SLOTS * 4096:
            await anyio.sleep(0.01)
        await anyio.sleep(0.1)
        assert written == RING_SLOTS * 4096
        received = b""
        while len(received) < len(data):
            received += await stream.receive()
        assert received == data


async def test_send_waits_for_a_host_that_does_not_read() -> None:
    stream = Stream()
    data = noise(300_000)
    async with plugged(AcmFunction(stream)) as host:
        with anyio.move_on_after(0.1) as scope:
            await stream.send(data)
        assert scope.cancelled_caught
        assert await read_all(host, len(data)) == data, "a cancelled wait unsends nothing"
        await stream.drain()


async def test_stream_keeps_bytes_over_a_reconnect() -> None:
    acm = AcmFunction(stream := Stream())
    await stream.send(b"before anyone came")
    async with exported(acm) as port:
        async with attached(port) as host:
            assert await read(host) == b"before anyone came"
            await write(host, b"typed, then ")
            for part in (b"first ", b"second ", b"third"):
                await stream.send(part)
        await acm.wait_connected(False)
        async with attached(port) as host:
            await write(host, b"unplugged")
            assert await read_all(host, 18) == b"first second third"
            received = b""
            while len(received) < 21:
                received += await stream.receive()
            assert received == b"typed, then unplugged"


async def test_stream_discards_on_request() -> None:
    stream = Stream()
    acm = AcmFunction(stream)
    await stream.send(b"12345")
    assert stream.discard() == 5
    async with plugged(acm) as host:
        await write(host, b"typed")
        assert stream.discard() == 5
        await stream.send(b"new")
        assert await read(host) == b"new"


async def test_closed_stream_ends_its_readers() -> None:
    stream = Stream()
    async with plugged(AcmFunction(stream)), anyio.create_task_group() as tasks:

        async def receive() -> None:
            with pytest.raises(anyio.ClosedResourceError):
                await stream.receive()

        tasks.start_soon(receive)
        await anyio.sleep(0.01)
        await stream.aclose()
    with pytest.raises(anyio.ClosedResourceError):
        await stream.send(b"x")
