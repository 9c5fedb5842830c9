"""The function's seam: requests on their way through a plan, on a fake endpoint and a real UDC."""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.devices import Scripted, echo, gadget
from tests.test_vudc import CLEAR_HALT_IN, SET_CONFIGURATION, read, served
from usbip_vudc.errors import (
    DeviceGone,
    EndpointDisabled,
    LocalProtocolError,
    Overflow,
    RequestWithdrawn,
    SoftDisconnect,
    TransferError,
    UrbError,
)
from usbip_vudc.function import Endpoint, Request
from usbip_vudc.host.client import Host
from usbip_vudc.injection import InjectedFunction, Injector, Plan, injected
from usbip_vudc.injection.endpoint import InjectedEndpoint, Run
from usbip_vudc.sglist import SGList
from usbip_vudc.urb import HostUrb
from usbip_vudc.usb.bot import pack_csw
from usbip_vudc.usb.ch9 import Direction, SetupPacket, Speed, TransferType
from usbip_vudc.vudc import UserspaceUDC

IN, OUT = Direction.IN, Direction.OUT


class Below(Endpoint):
    """An endpoint below whose requests end when the test says so."""

    transfer_type = TransferType.BULK
    interface = 0

    def __init__(self, direction: Direction, max_packet_size: int = 512) -> None:
        self.role = direction.name.lower()
        self.direction = direction
        self.address = direction | 1
        self.max_packet_size = max_packet_size
        self.requests: deque[Request] = deque()
        self.halts = 0
        self.wedges = 0
        self.enabled = True

    def queue(self, request: Request) -> Request:
        assert not request.queued, "queued twice"
        request.queued, request.done, request.actual = True, False, 0
        if not self.enabled:
            request.complete(EndpointDisabled("over"))
        else:
            self.requests.append(request)
        return request

    def withdraw(self, request: Request) -> None:
        if request in self.requests:
            self.requests.remove(request)
            request.complete(RequestWithdrawn("back"))

    def halt(self) -> None:
        if self.requests and self.direction == IN:
            raise LocalProtocolError("IN requests are queued")
        self.halts += 1

    def wedge(self) -> None:
        self.wedges += 1

    # --- what the host does ---

    def end(self, data: bytes | None = None, error: TransferError | None = None) -> None:
        """The first request ends: OUT with these bytes, IN with all of its own."""
        request = self.requests.popleft()
        if data is not None:
            request.sg.scatter(data)
        request.actual = request.length if data is None else len(data)
        request.complete(error)

    def disable(self) -> None:
        self.enabled = False
        while self.requests:
            self.requests.popleft().complete(EndpointDisabled("over"))

    @property
    def shapes(self) -> list[list[int]]:
        """The segments of what is queued."""
        return [[len(segment) for segment in request.sg] for request in self.requests]

    @property
    def sent(self) -> list[bytes]:
        return [request.sg.gather() for request in self.requests]


class Timers(Run):
    """A run whose time passes when the test says so."""

    def __init__(self, rules: str, seed: int = 0) -> None:
        self.function = "f"
        self.injector = Injector(Plan.parse(rules, seed), "function")
        self.waiting: list[tuple[float, Callable[[], None]]] = []
        self.left: list[float] = []

    def later(self, seconds: float, call: Callable[[], None]) -> None:
        self.waiting.append((seconds, call))

    def disconnect(self, seconds: float) -> None:
        self.left.append(seconds)

    def fire(self) -> float:
        seconds, call = self.waiting.pop(0)
        call()
        return seconds


class Stand:
    """An injected endpoint, what is below it, and the requests that have ended, in order."""

    def __init__(self, rules: str, direction: Direction = IN, seed: int = 0) -> None:
        self.run = Timers(rules, seed)
        self.below = Below(direction)
        self.endpoint = InjectedEndpoint(self.run, self.below)
        self.ended: list[Request] = []

    def queue(
        self, data: bytes | bytearray | int | SGList, *, zero: bool = False, partial: bool = False
    ) -> Request:
        room = bytearray(data) if isinstance(data, int) else data
        request = Request(room, zero=zero, partial=partial, on_complete=self.ended.append)
        return self.endpoint.queue(request)


def pattern(length: int) -> bytes:
    return bytes(i % 251 for i in range(length))


# --- shape -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "shapes"),
    [
        ("layout(odd)", [[1, 3, 5, 7, 9, 11, 13, 15, 17, 19]]),
        ("layout([50][][30,20])", [[50], [], [30, 20]]),
        ("layout(each:40)", [[40], [60]]),
        ("short(30)", [[30]]),
        ("short(300)", [[100]]),
        ("short(0)", [[]]),
        ("zlp", [[], [100]]),
        ("babble(7)", [[107]]),
        ("corrupt(99)", [[100]]),
    ],
)
def test_what_an_in_request_becomes(rule: str, shapes: list[list[int]]) -> None:
    stand = Stand(f"f.in {rule}")
    request = stand.queue(pattern(100))
    assert stand.below.shapes == shapes
    for _ in shapes:
        assert not request.done
        stand.below.end()
    moved = min(sum(map(sum, shapes)), 100)
    assert (request.done, request.actual, request.error) == (True, moved, None)
    assert stand.ended == [request]


def test_zero_belongs_to_the_last_part() -> None:
    stand = Stand("f.in layout(each:512)")
    stand.queue(bytes(1024), zero=True)
    assert [request.zero for request in stand.below.requests] == [False, True]


def test_segments_lie_in_memory_where_the_layout_says() -> None:
    import ctypes

    stand = Stand("f layout(100@4000+50@7)")
    data = bytearray(pattern(150))
    stand.queue(data)
    (request,) = stand.below.requests
    starts = [ctypes.addressof(ctypes.c_char.from_buffer(segment)) for segment in request.sg]
    assert [start % 4096 for start in starts] == [4000, 7]
    assert request.sg.gather() == data


def test_what_comes_into_other_memory_is_brought_home() -> None:
    stand = Stand("f layout(page-offset:4000)", OUT)
    room = bytearray(700)
    request = stand.queue(room)
    stand.below.end(pattern(600))
    assert (request.actual, room) == (600, bytearray(pattern(600) + bytes(100)))


def test_the_functions_own_bytes_are_never_changed() -> None:
    for rule in ("corrupt(0)", "babble(3)", "csw(tag=1)"):
        stand = Stand(f"f.in {rule}")
        own = bytearray(pack_csw(5, 0, 0))
        stand.queue(own)
        assert own == pack_csw(5, 0, 0)
        assert stand.below.sent[0] != own or "csw" in rule


def test_out_parts_follow_one_another_until_a_short_packet() -> None:
    stand = Stand("f.out layout(each:packets:1)", OUT)
    room = bytearray(2048)
    first, second = stand.queue(room), stand.queue(1000)
    assert stand.below.shapes == [[512]]
    stand.below.end(pattern(512))
    assert stand.below.shapes == [[512]]
    stand.below.end(pattern(100))
    assert (first.done, first.actual, bytes(room[:612])) == (
        True, 612, pattern(512) + pattern(100),
    )  # fmt: skip
    assert stand.below.shapes == [[512]], "the second one's turn"
    stand.below.end()
    assert stand.below.shapes == [[488]]
    stand.below.end(b"")
    assert (second.done, second.actual) == (True, 512)


def test_overflow_of_a_part_is_the_requests() -> None:
    stand = Stand("f.out layout(each:512)", OUT)
    request = stand.queue(612)
    stand.below.end(bytes(512))
    stand.below.end(bytes(100), Overflow("too much"))
    assert (request.actual, type(request.error)) == (612, Overflow)


def test_a_partial_request_ends_with_its_first_part() -> None:
    stand = Stand("f.out layout(each:512)", OUT)
    request = stand.queue(2048, partial=True)
    assert stand.below.requests[0].partial
    stand.below.end(bytes(512))
    assert (request.done, request.actual) == (True, 512)


# --- CSWs --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "sent"),
    [
        ("csw(tag=1)", [pack_csw(6, 8, 0)]),
        ("csw(tag=0xffffffff)", [pack_csw(4, 8, 0)]),
        ("csw(residue=512, status=2)", [pack_csw(5, 512, 2)]),
        ("csw(signature=0x55425355)", [b"USBU" + pack_csw(5, 8, 0)[4:]]),
        ("csw(length=12)", [pack_csw(5, 8, 0)[:12]]),
        ("csw(length=15)", [pack_csw(5, 8, 0) + b"\0\0"]),
        ("csw(split=5)", [pack_csw(5, 8, 0)[:5], pack_csw(5, 8, 0)[5:]]),
    ],
)
def test_a_csw_as_the_rule_says(rule: str, sent: list[bytes]) -> None:
    stand = Stand(f"f.in {rule}")
    command(stand.run.injector)
    data, csw = stand.queue(bytes(20)), stand.queue(pack_csw(5, 8, 0))
    assert stand.below.sent == [bytes(20), *sent]
    for _ in range(1 + len(sent)):
        stand.below.end()
    assert (data.actual, csw.actual) == (20, min(13, sum(map(len, sent))))


def command(injector: Injector) -> None:
    """The injector sees a CBW of READ(10)."""
    from usbip_vudc.injection import Transfer
    from usbip_vudc.usb.bot import Cbw

    cbw = Cbw(5, 20, 0x80, 0, b"\x28" + bytes(9)).pack()
    transfer = Transfer(
        seam="function", function="f", address=1, direction=OUT, length=512, data=cbw
    )
    injector.actions(transfer, "after")


def test_merged_data_go_with_the_csw() -> None:
    stand = Stand("f.in csw(merged)")
    command(stand.run.injector)
    data = stand.queue(b"some data")
    assert (stand.below.sent, data.done) == ([], False)
    stand.run.fire()
    assert (data.done, data.actual, data.error) == (True, 9, None), "the function believes it"
    csw = stand.queue(pack_csw(5, 0, 0))
    assert stand.below.sent == [b"some data" + pack_csw(5, 0, 0)]
    stand.below.end()
    assert (csw.done, csw.actual) == (True, 13)


# --- order and time ----------------------------------------------------------------------------


def test_nak_holds_back_what_comes_behind() -> None:
    stand = Stand("f nth(2) nak(1s)")
    for n in range(3):
        stand.queue(bytes(n + 1))
    assert stand.below.shapes == [[1]]
    assert stand.run.fire() == 1.0
    assert stand.below.shapes == [[1], [2], [3]]


def test_delay_keeps_order() -> None:
    stand = Stand("f nth(1) delay(1s)")
    requests = [stand.queue(bytes(n + 1)) for n in range(3)]
    for _ in requests:
        stand.below.end()
    assert stand.ended == []
    assert stand.run.fire() == 1.0
    assert stand.ended == requests


def test_stall_waits_for_what_goes_before_it() -> None:
    stand = Stand("f.in nth(2) stall")
    requests = [stand.queue(bytes(n + 1)) for n in range(3)]
    assert (stand.below.halts, stand.below.shapes) == (0, [[1]])
    stand.below.end()
    assert (stand.below.halts, stand.below.shapes) == (1, [[2], [3]])
    stand.below.end()
    stand.below.end()
    assert stand.ended == requests


def test_a_stall_behind_a_delayed_end_does_not_wait_for_it() -> None:
    stand = Stand("f.in nth(1) delay(1s); f.in nth(2) stall")
    stand.queue(b"1")
    stand.queue(b"2")
    stand.below.end()
    assert (stand.below.halts, stand.ended) == (1, [])


def test_drop_in_tells_the_function_that_it_went_out() -> None:
    stand = Stand("f.in nth(1) drop")
    first, second = stand.queue(b"lost"), stand.queue(b"kept")
    assert (stand.below.sent, first.done) == ([b"kept"], False)
    stand.below.end()
    assert not second.done, "in order"
    stand.run.fire()
    assert stand.ended == [first, second]
    assert (first.actual, first.error) == (4, None)


def test_drop_out_lets_the_same_room_wait_for_more() -> None:
    stand = Stand("f.out nth(1, 3) drop", OUT)
    rooms = [bytearray(512) for _ in range(3)]
    requests = [stand.queue(room) for room in rooms]
    assert stand.below.shapes == [[512]], "one at a time, where what comes may be lost"
    for data in (b"lost", b"one", b"lost too", b"two", b"three"):
        stand.below.end(data)
    assert stand.ended == requests
    assert [bytes(room[: r.actual]) for room, r in zip(rooms, requests, strict=True)] == [
        b"one", b"two", b"three",
    ]  # fmt: skip


def test_corrupt_out_changes_what_came() -> None:
    stand = Stand("f.out corrupt(1, 0x01); f.out corrupt(9)", OUT)
    room = bytearray(512)
    stand.queue(room)
    stand.below.end(b"abc")
    assert room[:3] == b"acc"


def test_disconnect_holds_everything_for_ever() -> None:
    stand = Stand("f nth(2) disconnect(2s)")
    for n in range(3):
        stand.queue(bytes(n + 1))
    assert (stand.run.left, stand.below.shapes) == ([2.0], [[1]])
    stand.below.disable()
    stand.endpoint.close()
    assert [type(r.error) for r in stand.ended] == [EndpointDisabled] * 3


# --- taking back -------------------------------------------------------------------------------


def ended_with(stand: Stand) -> list[str]:
    return [type(r.error).__name__ if r.error else "ok" for r in stand.ended]


def test_withdraw_while_it_flies() -> None:
    stand = Stand("f.in layout(each:512)")
    first, second = stand.queue(bytes(1024)), stand.queue(bytes(5))
    stand.below.end()
    stand.endpoint.withdraw(first)
    assert (first.actual, ended_with(stand)) == (512, ["RequestWithdrawn"])
    assert stand.below.shapes == [[5]]
    stand.endpoint.withdraw(first)
    stand.below.end()
    assert stand.ended == [first, second]


@pytest.mark.parametrize("direction", [IN, OUT])
def test_withdraw_does_not_wait_for_what_goes_before(direction: Direction) -> None:
    stand = Stand("f layout(odd)", direction)
    first, second = stand.queue(bytes(5)), stand.queue(bytes(6))
    stand.endpoint.withdraw(second)
    assert ended_with(stand) == ["RequestWithdrawn"]
    stand.below.end()
    assert stand.ended == [second, first]


@pytest.mark.parametrize("direction", [IN, OUT])
def test_withdraw_while_it_is_held(direction: Direction) -> None:
    stand = Stand("f nth(1) nak(1s)", direction)
    first, second = stand.queue(bytes(5)), stand.queue(bytes(6))
    stand.endpoint.withdraw(first)
    assert ended_with(stand) == ["RequestWithdrawn"]
    assert stand.below.shapes == [[6]], "nothing holds back the next any more"
    stand.run.fire()
    assert stand.below.shapes == [[6]]
    stand.below.end()
    assert stand.ended == [first, second]


def test_withdraw_behind_one_that_is_held() -> None:
    stand = Stand("f nth(1) nak(1s)")
    first, second, third = (stand.queue(bytes(n)) for n in (1, 2, 3))
    stand.endpoint.withdraw(second)
    stand.run.fire()
    assert stand.below.shapes == [[1], [3]]
    stand.below.end()
    stand.below.end()
    assert stand.ended == [second, first, third]


def test_withdraw_of_what_has_moved_tells_the_truth_at_once() -> None:
    stand = Stand("f delay(1s)")
    request = stand.queue(b"moved")
    stand.below.end()
    stand.endpoint.withdraw(request)
    assert (ended_with(stand), request.actual) == (["ok"], 5)
    stand.endpoint.queue(request)
    stand.run.fire()
    assert not request.done, "the old end is not the new one's"


def test_withdraw_of_what_was_lost_or_merged() -> None:
    for rule in ("drop", "csw(merged)"):
        stand = Stand(f"f.in {rule}")
        command(stand.run.injector)
        request = stand.queue(b"lost")
        stand.endpoint.withdraw(request)
        assert ended_with(stand) == ["ok"]
        stand.endpoint.queue(request)
        stand.run.fire()
        assert not request.done
        stand.run.fire()
        assert request.done


def test_a_request_may_be_queued_again_from_on_complete() -> None:
    stand = Stand("f.in every(2) layout(each:1)")
    sizes: list[int] = []

    def again(request: Request) -> None:
        sizes.append(request.actual)
        if len(sizes) < 4:
            stand.endpoint.queue(request)

    stand.endpoint.queue(Request(b"ab", on_complete=again))
    while stand.below.requests:
        stand.below.end()
    assert sizes == [2, 2, 2, 2]


def test_queued_twice_is_the_functions_mistake() -> None:
    stand = Stand("f nak(1s)")
    request = stand.queue(b"x")
    with pytest.raises(LocalProtocolError, match="queued already"):
        stand.endpoint.queue(request)


def test_halt_is_refused_while_in_requests_wait_as_below() -> None:
    stand = Stand("f nak(1s)")
    stand.queue(b"x")
    with pytest.raises(LocalProtocolError, match="1 IN request"):
        stand.endpoint.halt()
    stand.run.fire()
    with pytest.raises(LocalProtocolError):
        stand.endpoint.halt()
    stand.below.end()
    stand.endpoint.halt()
    assert stand.below.halts == 1
    stand = Stand("f nak(1s)")
    stand.queue(b"x")
    with pytest.raises(LocalProtocolError, match="1 IN request"):
        stand.endpoint.wedge()
    stand = Stand("f nak(1s)", OUT)
    stand.queue(8)
    stand.endpoint.halt()
    assert stand.below.halts == 1
    stand.endpoint.wedge()
    assert stand.below.wedges == 1


def test_after_the_end_the_endpoint_below_answers() -> None:
    stand = Stand("f nak(1s)")
    held = stand.queue(b"held")
    stand.below.disable()
    stand.endpoint.close()
    late = stand.queue(b"late")
    assert stand.ended == [held, late]
    assert ended_with(stand) == ["EndpointDisabled"] * 2


def test_what_is_queued_again_at_the_end_ends_each_time() -> None:
    """As below: a function that never gives up recurses, and does not hang."""
    stand = Stand("f layout(each:1)")
    seen = 0

    def again(request: Request) -> None:
        nonlocal seen
        seen += 1
        if seen < 20:
            stand.endpoint.queue(request)

    stand.endpoint.queue(Request(b"abc", on_complete=again))
    stand.below.disable()
    assert seen == 20


# --- nothing leaks -----------------------------------------------------------------------------

SHAPES = ["layout(odd)", "layout([3][][100])", "layout(each:maxp-1)", "layout(page-offset:4000)",
          "short(7)", "nak(1s)", "delay(1s)", "stall", "corrupt(3)"]  # fmt: skip
IN_ONLY = ["zlp", "babble(3)", "drop", "csw(merged)", "csw(split=5)", "csw(length=20)"]


def some_rules(name: str, actions: list[str]) -> st.SearchStrategy[str]:
    whens = st.sampled_from(["", "p(0.3)", "every(2)"])
    rule = st.builds(lambda when, what: f"f.{name} {when} {what}", whens, st.sampled_from(actions))
    return st.lists(rule, max_size=5).map("; ".join)


rules_of = {IN: some_rules("in", [*SHAPES, *IN_ONLY]), OUT: some_rules("out", [*SHAPES, "drop"])}
steps = st.lists(
    st.tuples(
        st.sampled_from(
            ["queue", "queue", "end", "end", "end", "short", "fire", "fire", "withdraw", "again"]
        ),
        st.integers(0, 1500),
    ),
    max_size=40,
)


@pytest.mark.parametrize("way", [IN, OUT], ids=lambda way: way.name)
@given(data=st.data())
def test_every_request_ends_exactly_once(way: Direction, data: st.DataObject) -> None:
    stand = Stand(data.draw(rules_of[way]), way, seed=data.draw(st.integers(0, 9)))
    below, endpoint = stand.below, stand.endpoint
    order: list[Request] = []  # as they were queued
    for what, number in data.draw(steps):
        idle = [request for request in order if not request.queued]
        if what == "queue":
            order.append(stand.queue(pattern(number) if way == IN else number))
        elif what == "again" and idle:
            again = idle[number % len(idle)]
            order.append(endpoint.queue(again))
        elif what == "end" and below.requests:
            below.end()
        elif what == "short" and below.requests and way == OUT:
            below.end(pattern(number % (below.requests[0].length + 1)))
        elif what == "fire" and stand.run.waiting:
            stand.run.fire()
        elif what == "withdraw" and order:
            back = order[number % len(order)]
            endpoint.withdraw(back)
            assert not back.queued, "at once, whatever goes before it"
        assert sum(request.queued for request in set(order)) == len(order) - len(stand.ended)
    below.disable()
    with suppress(IndexError):
        while True:
            stand.run.fire()
    endpoint.close()
    assert len(stand.ended) == len(order)
    assert not any(request.queued for request in order)
    assert all(0 <= request.actual <= request.length for request in order)


@given(
    rules_of[OUT].filter(lambda text: "stall" not in text and "drop" not in text),
    st.lists(st.integers(0, 1500), min_size=1, max_size=8),
)
def test_what_ends_by_itself_ends_in_order(rules: str, lengths: list[int]) -> None:
    stand = Stand(rules, OUT)
    requests = [stand.queue(length) for length in lengths]
    while stand.below.requests or stand.run.waiting:
        if stand.below.requests:
            stand.below.end()
        if stand.run.waiting:
            stand.run.fire()
    assert stand.ended == requests


# --- on the userspace UDC ----------------------------------------------------------------------

pytest_anyio = pytest.mark.anyio


@asynccontextmanager
async def plugged(
    function: Scripted, plan: str, speed: Speed = Speed.HIGH
) -> AsyncIterator[tuple[Host, Injector]]:
    injector = Injector(Plan.parse(plan), "function")
    device = injected(gadget(function), injector)
    async with (
        served(UserspaceUDC(device, speed=speed)) as port,
        Host.connect("127.0.0.1", port, "1-1") as host,
    ):
        await host.control(SET_CONFIGURATION)
        yield host, injector


async def write(host: Host, data: bytes) -> int:
    return await host.transfer(HostUrb(1, data), 5)


@pytest_anyio
async def test_bytes_come_back_through_a_plan() -> None:
    plan = "scripted layout(odd); scripted.in every(2) nak(2); scripted.out every(3) delay(1ms)"
    async with plugged(Scripted(echo), plan) as (host, injector):
        for n in range(1, 6):
            assert await write(host, pattern(300 * n)) == 300 * n
            assert await read(host, 4096) == pattern(300 * n)
    assert sum("nak" in line for line in injector.trace) == 2


@pytest_anyio
async def test_a_halt_waits_for_the_host() -> None:
    async with plugged(Scripted(echo), "scripted.in nth(1) stall") as (host, _):
        await write(host, b"hello")
        with pytest.raises(UrbError) as caught:
            await read(host, 512)
        assert caught.value.errno == errno.EPIPE
        await host.control(CLEAR_HALT_IN)
        assert await read(host, 512) == b"hello"


@pytest_anyio
async def test_disconnect_and_coming_back() -> None:
    function = Scripted(echo)
    injector = Injector(Plan.parse("scripted.in nth(2) disconnect"), "function")
    udc = UserspaceUDC(injected(gadget(function), injector), speed=Speed.HIGH)
    async with served(udc) as port:
        async with Host.connect("127.0.0.1", port, "1-1") as host:
            await host.control(SET_CONFIGURATION)
            await write(host, b"one")
            assert await read(host, 512) == b"one"
            await write(host, b"two")
            with pytest.raises(DeviceGone):
                await read(host, 512)
        await udc.wait_unplugged()
        async with Host.connect("127.0.0.1", port, "1-1") as host:
            await host.control(SET_CONFIGURATION)
            await write(host, b"three")
            assert await read(host, 512) == b"three"
    assert function.lives == function.ended == 2


@pytest_anyio
async def test_a_control_request_disconnects() -> None:
    function = Scripted(echo)
    async with plugged(function, "scripted control(0x5c) disconnect") as (host, _):
        with pytest.raises((DeviceGone, UrbError)):
            for _ in range(100):
                await host.control(SetupPacket(0xC1, 0x5C, 0, 0, 8))
                await anyio.sleep(0.01)


@pytest_anyio
@pytest.mark.parametrize(
    ("rule", "stored", "answer"),
    [
        ("control(0x5c) short(2)", b"abcd", b"ab"),
        ("control(0x5c) corrupt(1, 0x01)", b"abcd", b"accd"),
        ("control(0x5c) drop", b"abcd", b""),
        ("control(0x5b) corrupt(0, 0x01)", b"`bcd", b"`bcd"),
        ("control(0x5b) short(1)", b"a", b"a"),
        ("control(0x5b) drop", b"", b""),
        ("control(0x5c, value=7) stall", b"abcd", b"abcd"),
    ],
)
async def test_control_requests(rule: str, stored: bytes, answer: bytes) -> None:
    function = Scripted()
    async with plugged(function, f"scripted {rule}") as (host, injector):
        await host.control(SetupPacket(0x41, 0x5B, 0, 0, 4), b"abcd")
        assert function.stored == stored
        assert await host.control(SetupPacket(0xC1, 0x5C, 0, 0, 8)) == answer
        with pytest.raises(UrbError) as caught:
            await host.control(SetupPacket(0xC1, 0x99, 0, 0, 8))
        assert caught.value.errno == errno.EPIPE
    places = [line.split()[1] for line in injector.trace]
    assert places == ["scripted"] * ("value" not in rule)


@pytest_anyio
async def test_a_function_that_crashes_crashes_as_it_would() -> None:
    async def crash(endpoints: Mapping[str, Endpoint]) -> None:
        await endpoints["out"].submit(bytearray(512))
        raise RuntimeError("a bug")

    function = Scripted(crash)
    async with plugged(function, "scripted layout(odd)") as (host, _):
        await write(host, b"x")
        with pytest.raises(DeviceGone):
            await read(host, 512)
    assert function.ended == 1


@pytest_anyio
async def test_a_function_that_returns_leaves_nak() -> None:
    async def leave(endpoints: Mapping[str, Endpoint]) -> None:
        await endpoints["in"].submit(b"bye")

    async with plugged(Scripted(leave), "scripted layout(odd)") as (host, _):
        assert await read(host, 512) == b"bye"
        with pytest.raises(UrbError) as caught:
            await read(host, 512, timeout=0.05)
        assert caught.value.errno == errno.ETIMEDOUT


@pytest_anyio
async def test_soft_disconnect_of_the_function_itself_goes_through() -> None:
    async def leave(endpoints: Mapping[str, Endpoint]) -> None:
        await endpoints["out"].submit(bytearray(512))
        raise SoftDisconnect(0)

    async with plugged(Scripted(leave), "scripted layout(odd)") as (host, _):
        await write(host, b"x")
        with pytest.raises(DeviceGone):
            await read(host, 512)


def test_names_and_interfaces_are_the_functions_own() -> None:
    function = Scripted()
    (wrapped,) = injected(gadget(function), Plan.parse("function nak(1s)")).configs[0].functions
    assert isinstance(wrapped, InjectedFunction)
    assert (wrapped.name, wrapped.inner) == ("scripted", function)
    assert wrapped.interfaces is function.interfaces


def test_only_the_functions_that_are_meant_are_wrapped() -> None:
    class Other(Scripted):
        name = "other"

    device = gadget(Scripted(), Other())
    first, second = injected(device, Plan.parse("other stall")).configs[0].functions
    assert type(first) is Scripted
    assert isinstance(second, InjectedFunction)
