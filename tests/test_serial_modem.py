"""The modem profile: AT commands without a port, and a call over the whole stack."""

from __future__ import annotations

import anyio
import pytest

from gadgets.acm.function import AcmFunction
from gadgets.serial.hayes import GUARD_SECONDS, Hayes
from gadgets.serial.modem import Modem
from tests.serial_bench import (
    NOTIFY,
    attached,
    control_lines,
    exported,
    plugged,
    read,
    read_all,
    write,
)
from usbip_vudc.usb.cdc import SerialState

WHO = b"\r\nusbip-vudc modem\r\n"
OK = b"\r\nOK\r\n"
ERROR = b"\r\nERROR\r\n"


def say(modem: Hayes, text: bytes, now: float = 0.0) -> bytes:
    return modem.receive(text, now).reply


SESSIONS: dict[str, tuple[bytes, bytes]] = {
    "attention": (b"AT\r", b"AT\r" + OK),
    "in lower case, with spaces": (b"at e0 v1\r", b"at e0 v1\r" + OK),
    "echo off": (b"ATE0\rAT\r", b"ATE0\r" + OK + OK),
    "numbers instead of words": (b"ATE0V0\rAT\rATX9!\r", b"ATE0V0\r" + b"0\r0\r4\r"),
    "quiet": (b"ATE0Q1\rAT\rAT!\r", b"ATE0Q1\r"),
    "who": (b"ATE0I\r", b"ATE0I\r" + WHO + OK),
    "who, in another way": (b"ATE0\rAT+GMM\r", b"ATE0\r" + OK + WHO + OK),
    "an extended command that it has not": (b"ATE0\rAT+CSQ\r", b"ATE0\r" + OK + ERROR),
    "minicom's init string": (
        b"ATE0\rAT S7=45 S0=0 L1 V1 X4 &c1 E1 Q0\r",
        b"ATE0\r" + OK + OK,
    ),
    "a register": (b"ATE0\rATS7=45S7?\r", b"ATE0\r" + OK + b"\r\n045\r\n" + OK),
    "not for a modem": (b"ATE0\rhello\r\r", b"ATE0\r" + OK),
    "a mistake that is taken back": (b"ATX\x08E0\r", b"ATX\x08E0\r" + OK),
    "once more": (b"ATE0I\rA/", b"ATE0I\r" + WHO + OK + WHO + OK),
    "not understood": (b"ATE0\rAT!\r", b"ATE0\r" + OK + ERROR),
    "no call to go back to": (b"ATE0\rATO\r", b"ATE0\r" + OK + b"\r\nNO CARRIER\r\n"),
    "a line without end": (b"ATE0\r" + b"AT" + b"X" * 5000 + b"\r", b"ATE0\r" + OK + ERROR),
}


@pytest.mark.parametrize(("sent", "expected"), SESSIONS.values(), ids=SESSIONS)
def test_commands(sent: bytes, expected: bytes) -> None:
    assert say(Hayes(), sent) == expected
    one_by_one = Hayes()
    assert b"".join(say(one_by_one, bytes([value])) for value in sent) == expected


def test_a_call_sends_back_what_it_is_sent() -> None:
    modem = Hayes()
    reaction = modem.receive(b"ATE0DT 555-1234\rhello", 0)
    assert reaction.reply == b"ATE0DT 555-1234\r\r\nCONNECT\r\nhello"
    assert reaction.carrier is True
    assert modem.receive(b"AT\r", 1).reply == b"AT\r", "data, not a command"


def call() -> Hayes:
    modem = Hayes()
    modem.receive(b"ATE0D1\r", 0)
    return modem


@pytest.mark.parametrize("parts", [(b"+++",), (b"+", b"++"), (b"+", b"+", b"+")])
def test_three_pluses_between_silences_lead_back_to_commands(parts: tuple[bytes, ...]) -> None:
    modem = call()
    for number, part in enumerate(parts):
        assert modem.receive(part, 10 + number / 10).reply == part, "it is sent on, too"
    due = modem.escape_at
    assert due == 10 + (len(parts) - 1) / 10 + GUARD_SECONDS
    assert modem.tick(due - 0.01).reply == b""
    assert modem.tick(due).reply == OK
    assert modem.carrier, "the call is still there"
    assert say(modem, b"ATO\r", due) == b"\r\nCONNECT\r\n"
    assert modem.online
    modem.receive(b"+++", due + 5)
    modem.tick(due + 5 + GUARD_SECONDS)
    reaction = modem.receive(b"ATH\r", due + 7)
    assert (reaction.reply, reaction.carrier) == (OK, False)


@pytest.mark.parametrize(
    "parts",
    [
        ((10.0, b"x+++"),),
        ((10.0, b"++++"),),
        ((10.0, b"x"), (10.5, b"+++")),
        ((10.0, b"+++"), (10.5, b"x")),
        ((10.0, b"++"),),
    ],
    ids=["in data", "four", "no silence before", "no silence after", "two"],
)
def test_other_pluses_are_data(parts: tuple[tuple[float, bytes], ...]) -> None:
    modem = call()
    for now, part in parts:
        assert modem.receive(part, now).reply == part
    assert modem.escape_at is None
    assert modem.tick(100).reply == b""
    assert modem.online


def test_a_modem_rings_but_not_during_a_call() -> None:
    assert Hayes().ring().reply == b"\r\nRING\r\n"
    assert call().ring().reply == b""
    answered = Hayes().receive(b"ATE0A\r", 0)
    assert answered.carrier is True


@pytest.mark.anyio
async def test_a_call_over_the_bus_raises_dcd_and_falling_dtr_ends_it() -> None:
    modem = Modem()
    function = AcmFunction(modem)
    async with plugged(function) as host:
        await host.control(control_lines(3))
        assert (await read(host, 16, endpoint=NOTIFY))[8] == SerialState.DSR
        await write(host, b"ATE0\r")
        assert await read_all(host, 11) == b"ATE0\r" + OK
        await write(host, b"ATDT1\r")
        assert await read_all(host, 11) == b"\r\nCONNECT\r\n"
        assert (await read(host, 16, endpoint=NOTIFY))[8] == SerialState.DSR | SerialState.DCD
        await write(host, b"hello")
        assert await read_all(host, 5) == b"hello"
        await host.control(control_lines(0))
        assert (await read(host, 16, endpoint=NOTIFY))[8] == SerialState.DSR
        await write(host, b"AT\r")
        assert await read_all(host, 6) == OK
        await modem.ring()
        assert await read_all(host, 8) == b"\r\nRING\r\n"
        assert SerialState.RING in SerialState((await read(host, 16, endpoint=NOTIFY))[8])


@pytest.mark.anyio
async def test_a_modem_that_rings_and_answers_at_once_says_both() -> None:
    """The host reads late, so that one of the two has to wait for the other."""
    rings = 8200  # of eight bytes: more than the port holds

    async def ring() -> None:
        for _ in range(rings):
            await modem.ring()

    modem = Modem()
    function = AcmFunction(modem)
    async with plugged(function) as host, anyio.create_task_group() as tasks:
        tasks.start_soon(ring)
        await anyio.wait_all_tasks_blocked()
        await write(host, b"ATE0\r")
        said = await read_all(host, rings * 8 + 11)
        assert said.count(b"\r\nRING\r\n") == rings
        assert said.replace(b"\r\nRING\r\n", b"") == b"ATE0\r" + OK
    assert not function.connected


@pytest.mark.anyio
async def test_nobody_hears_a_modem_that_rings_without_a_host() -> None:
    modem = Modem()
    function = AcmFunction(modem)
    await modem.ring()
    async with exported(function) as port:
        async with attached(port):
            await function.wait_connected()
        await function.wait_connected(False)
        await modem.ring()
        async with attached(port) as host:
            await write(host, b"ATE0\r")
            assert await read_all(host, 11) == b"ATE0\r" + OK
