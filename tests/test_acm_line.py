"""acm without a bus: descriptors and the line, byte for byte (CDC 1.2, PSTN 1.2); the rings."""

from __future__ import annotations

import pytest

from gadgets.acm.descriptors import (
    AbstractControl,
    CallManagement,
    FunctionalDescriptors,
    Header,
    Union,
    parse_functional,
)
from gadgets.acm.function import AcmFunction
from gadgets.acm.line import LineState
from gadgets.serial.line import BreakSent, ControlLinesSet, LineCodingSet, LineEvent
from gadgets.serial.packets import Receiver, Transmitter
from tests.devices import gadget
from usbip_vudc.errors import EndpointDisabled, RemoteProtocolError
from usbip_vudc.function import Endpoint, Request
from usbip_vudc.usb.cdc import ControlLineState, LineCoding, SerialState
from usbip_vudc.usb.ch9 import SetupPacket, Speed

NUMBERS = {"comm": 2, "data": 3}
FUNCTIONAL = "05240020010524010003042402060524060203"


# --- descriptors -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("descriptor", "expected"),
    [
        (Header(), "05 24 00 20 01"),
        (CallManagement(), "05 24 01 00 03"),
        (AbstractControl(), "04 24 02 06"),
        (Union(), "05 24 06 02 03"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else "",
)
def test_functional_descriptor_bytes(
    descriptor: Header | CallManagement | AbstractControl | Union, expected: str
) -> None:
    assert descriptor.pack(NUMBERS) == bytes.fromhex(expected)


def test_configuration_at_high_speed_is_what_cdc_acm_wants() -> None:
    configuration = gadget(AcmFunction()).describe(Speed.HIGH).configurations[0].pack()
    assert configuration.hex(" ") == (
        "09 02 4b 00 02 01 04 c0 32 "
        "08 0b 00 02 02 02 01 00 "  # IAD: two interfaces from 0, class 02/02/01
        "09 04 00 00 01 02 02 01 00 "
        "05 24 00 20 01 05 24 01 00 01 04 24 02 06 05 24 06 00 01 "
        "07 05 81 03 10 00 09 "  # 16 bytes, every 2^8 microframes: 32 ms
        "09 04 01 00 02 0a 00 00 00 "
        "07 05 82 02 00 02 00 07 05 01 02 00 02 00"
    )


def test_second_function_names_its_own_interfaces() -> None:
    configuration = gadget(AcmFunction(), AcmFunction()).describe(Speed.HIGH).configurations[0]
    assert bytes.fromhex("05 24 06 02 03") in configuration.pack()


@pytest.mark.parametrize(
    ("speed", "notify", "bulk"),
    [(Speed.FULL, 16, 64), (Speed.HIGH, 16, 512), (Speed.SUPER, 16, 1024)],
)
def test_packet_sizes(speed: Speed, notify: int, bulk: int) -> None:
    interfaces = gadget(AcmFunction()).describe(speed).layouts[0].interfaces
    sizes = [slot.max_packet_size for i in interfaces.values() for slot in i.alternates[0]]
    assert sizes == [notify, bulk, bulk]


def test_parse_functional_reads_what_we_pack() -> None:
    assert parse_functional(bytes.fromhex(FUNCTIONAL)) == FunctionalDescriptors(
        bcdCDC=0x0120,
        call_capabilities=0,
        call_interface=3,
        acm_capabilities=6,
        control=2,
        subordinates=(3,),
    )


def test_parse_functional_passes_over_what_it_does_not_know() -> None:
    unknown = bytes.fromhex("03 09 00 06 24 0f 01 02 03")  # OTG, then Ethernet networking
    assert parse_functional(unknown + bytes.fromhex("04 24 02 02")) == FunctionalDescriptors(
        acm_capabilities=2
    )
    assert parse_functional(b"") == FunctionalDescriptors()


def test_parse_functional_reads_all_subordinates() -> None:
    assert parse_functional(bytes.fromhex("07 24 06 00 01 02 03")).subordinates == (1, 2, 3)


@pytest.mark.parametrize("data", ["00", "01 24", "05 24 00 20", "04 24 00 20", "04 24 06 00"])
def test_parse_functional_refuses_broken_lengths(data: str) -> None:
    with pytest.raises(RemoteProtocolError):
        parse_functional(bytes.fromhex(data))


# --- line coding -------------------------------------------------------------------------------

IMPOSSIBLE = {
    "no rate": "00 00 00 00 00 00 08",
    "stop bits 3": "80 25 00 00 03 00 08",
    "parity 5": "80 25 00 00 00 05 08",
    "4 data bits": "80 25 00 00 00 00 04",
    "9 data bits": "80 25 00 00 00 00 09",
    "six bytes": "80 25 00 00 00 00",
    "eight bytes": "80 25 00 00 00 00 08 00",
}


@pytest.mark.parametrize("data", IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_impossible_line_coding_stalls_and_changes_nothing(data: str) -> None:
    line = LineState()
    payload = bytes.fromhex(data)
    outcome = line.handle(SetupPacket(0x21, 0x20, 0, 0, len(payload)), payload)
    assert outcome.reply is None
    assert outcome.event is None
    assert line.coding == LineCoding()


# --- requests ----------------------------------------------------------------------------------

REQUESTS: dict[str, tuple[SetupPacket, str, bytes | None, LineEvent | None]] = {
    "set coding": (
        SetupPacket(0x21, 0x20, 0, 0, 7),
        "00 c2 01 00 00 00 08",
        b"",
        LineCodingSet(LineCoding(115_200)),
    ),
    "get coding": (
        SetupPacket(0xA1, 0x21, 0, 0, 7),
        "",
        bytes.fromhex("80 25 00 00 00 00 08"),
        None,
    ),
    "dtr and rts": (SetupPacket(0x21, 0x22, 3), "", b"", ControlLinesSet(dtr=True, rts=True)),
    "dtr": (SetupPacket(0x21, 0x22, 1), "", b"", ControlLinesSet(dtr=True, rts=False)),
    "rts": (SetupPacket(0x21, 0x22, 2), "", b"", ControlLinesSet(dtr=False, rts=True)),
    "neither": (SetupPacket(0x21, 0x22, 0), "", b"", ControlLinesSet(dtr=False, rts=False)),
    "reserved bits": (
        SetupPacket(0x21, 0x22, 0xFFFD),
        "",
        b"",
        ControlLinesSet(dtr=True, rts=False),
    ),
    "break of 250 ms": (SetupPacket(0x21, 0x23, 250), "", b"", BreakSent(250)),
    "break on": (SetupPacket(0x21, 0x23, 0xFFFF), "", b"", BreakSent(None)),
    "break off": (SetupPacket(0x21, 0x23, 0), "", b"", BreakSent(0)),
    "SET_COMM_FEATURE": (SetupPacket(0x21, 0x02, 1, 0, 2), "00 00", None, None),
    "set with an IN stage": (SetupPacket(0xA1, 0x20, 0, 0, 7), "", None, None),
    "get with an OUT stage": (SetupPacket(0x21, 0x21, 0, 0, 7), "00" * 7, None, None),
    "to the device": (SetupPacket(0x20, 0x22, 3), "", None, None),
}


@pytest.mark.parametrize(("setup", "data", "reply", "event"), REQUESTS.values(), ids=REQUESTS)
def test_request(
    setup: SetupPacket, data: str, reply: bytes | None, event: LineEvent | None
) -> None:
    outcome = LineState().handle(setup, bytes.fromhex(data))
    assert outcome.reply == reply
    assert outcome.event == event


def test_break_lasts_until_it_is_ended() -> None:
    line = LineState()
    line.handle(SetupPacket(0x21, 0x23, 0xFFFF))
    assert line.breaking
    line.handle(SetupPacket(0x21, 0x23, 0))
    assert not line.breaking


def test_disconnect_lets_dtr_rts_and_break_fall_and_keeps_the_rest() -> None:
    line = LineState(LineCoding(300), ControlLineState(3), SerialState.DCD, breaking=True)
    line.disconnect()
    assert line == LineState(LineCoding(300), ControlLineState(0), SerialState.DCD, breaking=False)


# --- SERIAL_STATE ------------------------------------------------------------------------------


def test_carrier_lasts_and_errors_are_told_once() -> None:
    line = LineState()
    told = line.change_serial({SerialState.DCD: True, SerialState.PARITY: True})
    assert told == SerialState.DCD | SerialState.PARITY
    assert line.change_serial({SerialState.DSR: True}) == SerialState.DCD | SerialState.DSR
    assert line.change_serial({SerialState.DCD: False}) == SerialState.DSR


# --- the rings, against an endpoint without a bus ----------------------------------------------


class FakeEndpoint(Endpoint):
    """Collects requests; the test moves the bytes, and decides when a request hears of it."""

    max_packet_size = 4

    def __init__(self) -> None:
        self.requests: list[Request] = []

    def queue(self, request: Request) -> Request:
        self.requests.append(request)
        return request

    def withdraw(self, request: Request) -> None:
        raise NotImplementedError

    def halt(self) -> None:
        raise NotImplementedError

    def fill(self, *packets: bytes) -> list[Request]:
        """Let packets arrive in the oldest requests, which do not know yet."""
        filled = []
        for packet in packets:
            request = self.requests.pop(0)
            request.sg.scatter(packet)
            request.actual = len(packet)
            filled.append(request)
        return filled


def test_receiver_lends_full_packets_as_one_run_and_says_so_once() -> None:
    endpoint = FakeEndpoint()
    calls: list[int] = []
    receiver = Receiver(endpoint, lambda: calls.append(1), slots=4, size=4)
    receiver.start()
    assert [request.length for request in endpoint.requests] == [4, 4, 4, 4]
    for request in endpoint.fill(b"abcd", b"efgh", b"i"):
        request.complete()
    assert calls == [1], "the next packet was on its way twice"
    assert [bytes(run) for run in receiver.take()] == [b"abcdefghi"]
    assert receiver.take() == []
    assert len(endpoint.requests) == 1, "what is lent is not queued"
    receiver.release()
    assert len(endpoint.requests) == 4
    for request in endpoint.fill(b"jklm", b"nopq", b"r"):
        request.complete()
    assert [bytes(run) for run in receiver.take()] == [b"jklm", b"nopqr"], "round the ring's end"


def test_receiver_stopped_keeps_packets_that_it_was_not_told_of() -> None:
    endpoint = FakeEndpoint()
    receiver = Receiver(endpoint, lambda: None, slots=4, size=4)
    receiver.start()
    told, untold, zlp, last = endpoint.fill(b"abcd", b"ef", b"", b"ghij")
    told.complete()
    assert receiver.stop() == b"abcdefghij"
    untold.complete()
    zlp.complete()
    last.complete(EndpointDisabled("over"))
    assert receiver.take() == []


def test_transmitter_ends_only_the_last_of_a_series_with_a_zlp() -> None:
    endpoint = FakeEndpoint()
    batches = [(b"abcd", False), (b"efgh", True), (b"ijk", True), (b"lmno", True)]
    sent: list[int] = []

    def pull() -> tuple[list[memoryview], bool]:
        data, last = batches.pop(0) if batches else (b"", True)
        return ([memoryview(data)] if data else []), last

    transmitter = Transmitter(endpoint, pull, lambda: sent.append(1))
    transmitter.pump()
    assert len(endpoint.requests) == 2, "two at a time"
    for request in tuple(endpoint.requests):
        request.complete()
    assert [request.zero for request in endpoint.requests] == [False, True, False, True]
    assert len(sent) == 2
    endpoint.requests[2].actual = 1
    assert b"".join(transmitter.stop()) == b"jklmno"
    endpoint.requests[2].complete()
    assert len(sent) == 2, "nothing is told after stop"
