"""The injector: which rule acts on which transfer, and that it does so again and again."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usbip_vudc.injection import Injector, Plan, Transfer
from usbip_vudc.injection.actions import AFTER, BEFORE
from usbip_vudc.injection.host import HostSeam
from usbip_vudc.urb import HostUrb
from usbip_vudc.usb.bot import Cbw, pack_csw
from usbip_vudc.usb.ch9 import Direction, SetupPacket

IN, OUT = Direction.IN, Direction.OUT


def bulk(
    length: int = 512,
    way: Direction = IN,
    *,
    data: bytes = b"",
    seam: str = "host",
    number: int = 1,
) -> Transfer:
    return Transfer(seam=seam, address=number | way, direction=way, length=length, data=data)


class Traffic:
    """Transfers one after the other, and the numbers (from 1) of those that a rule acted on."""

    def __init__(self, text: str, seam: str = "host", seed: int = 0) -> None:
        self.injector = Injector(Plan.parse(text, seed), seam)
        self.count = 0
        self.hit: list[int] = []

    def move(self, transfer: Transfer, actual: int | None = None) -> bool:
        self.count += 1
        acting = self.injector.actions(transfer, BEFORE)
        moved = transfer.length if actual is None else actual
        if not transfer.data:
            transfer.data = bytes(moved)
        acting += self.injector.actions(transfer, AFTER)
        self.injector.finished(transfer, moved)
        if acting:
            self.hit.append(self.count)
        return bool(acting)


def hits(text: str, count: int, *, seed: int = 0) -> list[int]:
    traffic = Traffic(text, seed=seed)
    for _ in range(count):
        traffic.move(bulk())
    return traffic.hit


# --- counting ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("when", "expected"),
    [
        ("", [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
        ("nth(3)", [3]),
        ("nth(1, 4, 40)", [1, 4]),
        ("every(3)", [3, 6, 9]),
        ("times(2)", [1, 2]),
        ("every(3) times(2)", [3, 6]),
        ("nth(2,4,6) every(4)", [4]),
        ("every(2) nth(3)", []),
        ("p(1)", [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
        ("p(0)", []),
    ],
)
@pytest.mark.parametrize("what", ["stall", "delay(1s)"], ids=("before", "after"))
def test_counting_conditions(when: str, expected: list[int], what: str) -> None:
    assert hits(f"host.in {when} {what}", 10) == expected


def test_a_rule_counts_what_its_other_conditions_let_through() -> None:
    traffic = Traffic("host bytes(41) nth(2) delay(1s)")
    for data in (b"A", b"B", b"xAx", b"A", b"\x00"):
        traffic.move(bulk(len(data), OUT, data=data))
    assert traffic.hit == [3]


def test_directions_addresses_and_seams_are_told_apart() -> None:
    transfers = [bulk(), bulk(way=OUT), bulk(number=2), bulk(way=OUT, number=2)]
    expected = {"host": [1, 2, 3, 4], "host.in": [1, 3], "host.out": [2, 4], "host.0x81": [1],
                "host.0x02": [4], "host.0x83": []}  # fmt: skip
    for where, numbers in expected.items():
        traffic = Traffic(f"{where} stall")
        for transfer in transfers:
            traffic.move(transfer)
        assert traffic.hit == numbers, where
    for seam in ("function", "cable"):
        injector = Injector(Plan.parse("host stall"), seam)
        assert not injector
        assert injector.actions(bulk(seam=seam), BEFORE) == ()


def test_functions_and_roles_are_told_apart() -> None:
    def transfer(function: str, role: str) -> Transfer:
        return Transfer(
            seam="function", address=0x81, direction=IN, length=1, function=function, role=role
        )

    transfers = [transfer("acm", "in"), transfer("acm", "notify"), transfer("disk", "in")]
    # A role whose name is a direction is that direction.
    expected = {"function": [1, 2, 3], "acm": [1, 2], "acm.notify": [2], "disk.in": [3],
                "function.in": [1, 2, 3], "disk.notify": []}  # fmt: skip
    for where, numbers in expected.items():
        traffic = Traffic(f"{where} stall", "function")
        for one in transfers:
            traffic.move(one)
        assert traffic.hit == numbers, where


def test_actions_act_at_their_moment_and_in_the_order_of_the_rules() -> None:
    plan = Plan.parse("host.in delay(1s); host.in stall; host.in corrupt(1); host.in nak(1s)")
    injector = Injector(plan, "host")
    transfer = bulk()
    assert [str(a) for a in injector.actions(transfer, BEFORE)] == ["stall", "nak(1s)"]
    assert [str(a) for a in injector.actions(transfer, AFTER)] == ["delay(1s)", "corrupt(1, 0xff)"]


def test_the_trace_says_rule_place_length_and_number() -> None:
    injector = Injector(Plan.parse("host stall; cable drop; host.in every(2) delay(1s)"), "host")
    for _ in range(2):
        transfer = bulk(4096)
        injector.actions(transfer, BEFORE)
        injector.actions(transfer, AFTER)
    assert injector.trace == [
        "1: host 0x81 IN 4096 B #1: stall",
        "1: host 0x81 IN 4096 B #2: stall",
        "3: host 0x81 IN 4096 B #2: delay(1s)",
    ]


# --- the dice ----------------------------------------------------------------------------------


def test_chance_falls_as_the_seed_says() -> None:
    first = hits("host.in p(0.2) stall", 1000, seed=1)
    assert first == hits("host.in p(0.2) stall", 1000, seed=1)
    assert first != hits("host.in p(0.2) stall", 1000, seed=2)
    # 200 expected, 12.6 the deviation: six of them.
    assert 125 < len(first) < 275
    # On every Python alike.
    assert hits("host.in p(0.5) stall", 12, seed=7) == [1, 5]


def test_a_greater_chance_adds_firings_and_moves_none() -> None:
    few = hits("host.in p(0.1) stall", 500, seed=3)
    many = hits("host.in p(0.4) stall", 500, seed=3)
    assert set(few) < set(many)


OTHERS = ["host.in p(0.5) nak(1s)", "host.out p(0.5) stall", "cable p(0.3) drop",
          "host.in bytes(00) p(0.5) delay(1s)", "host.in p(0.3) nak(2s)"]  # fmt: skip


@given(
    st.lists(st.sampled_from(OTHERS), max_size=4),
    st.lists(st.sampled_from(OTHERS), max_size=4),
    st.integers(0, 9),
)
def test_other_rules_change_nothing_for_a_rule(
    before: list[str], behind: list[str], seed: int
) -> None:
    own = "host.in p(0.3) stall"

    def firings(rules: Sequence[str]) -> list[str]:
        traffic = Traffic(";".join(rules), seed=seed)
        for _ in range(30):
            traffic.move(bulk())
        return [line.partition(": ")[2] for line in traffic.injector.trace if "stall" in line]

    assert firings([*before, own, *behind]) == firings([own])


def test_equal_rules_throw_dice_of_their_own() -> None:
    rule = "host.in p(0.5) stall"
    traffic = Traffic(f"{rule};{rule}")
    for _ in range(100):
        traffic.move(bulk())
    numbers: dict[str, list[str]] = {"1": [], "2": []}
    for line in traffic.injector.trace:
        numbers[line[0]].append(line[1:])
    assert numbers["1"] != numbers["2"]


@given(st.integers(0, 1000), st.sampled_from(["host", "cable", "function"]))
def test_the_same_traffic_writes_the_same_trace(seed: int, seam: str) -> None:
    plan = Plan.parse(
        f"{seam}.in p(0.3) stall; {seam} every(3) delay(1s); {seam} bytes(07) p(0.5) delay(2s);"
        f"{seam}.out byte(2000) stall",
        seed,
    )

    def trace(plan: Plan) -> list[str]:
        dice = random.Random(seed)
        injector = Injector(plan, seam)
        for _ in range(50):
            way = dice.choice((IN, OUT))
            transfer = bulk(dice.randint(0, 1024), way, data=dice.randbytes(20), seam=seam)
            injector.actions(transfer, BEFORE)
            injector.actions(transfer, AFTER)
            injector.finished(transfer, dice.randint(0, transfer.length))
        return injector.trace

    assert trace(plan) == trace(plan)
    assert trace(plan) == trace(plan.for_seam(seam))


# --- bytes of a stream -------------------------------------------------------------------------


def test_byte_is_of_the_endpoints_stream() -> None:
    traffic = Traffic("host byte(1000) stall")
    for transfer in (bulk(), bulk(way=OUT), bulk(number=2), bulk(), bulk(way=OUT), bulk()):
        traffic.move(transfer)
    assert traffic.hit == [4, 5], "the second of each endpoint"


def test_short_transfers_count_what_moved() -> None:
    traffic = Traffic("host.in byte(600) stall")
    for actual in (512, 50, 512, 512):
        traffic.move(bulk(), actual)
    # Beforehand the second, which was to hold bytes 512 to 1023; then it moved 50 alone.
    assert traffic.hit == [2, 3]


def test_afterwards_a_transfer_holds_what_has_moved() -> None:
    traffic = Traffic("host.in byte(600) delay(1s)")
    for actual in (512, 50, 512, 512):
        traffic.move(bulk(data=bytes(actual)), actual)
    assert traffic.hit == [3], "bytes 562 to 1073"


def test_transfers_that_are_queued_at_once_follow_one_another() -> None:
    injector = Injector(Plan.parse("host byte(1024) stall"), "host")
    queued = [bulk() for _ in range(4)]
    assert [bool(injector.actions(transfer, BEFORE)) for transfer in queued] == [
        False, False, True, False,
    ]  # fmt: skip
    for transfer in queued:
        injector.finished(transfer, 512)
    assert not injector.actions(bulk(), BEFORE)


# --- commands of a disk ------------------------------------------------------------------------


def cbw(
    opcode: int, *, length: int = 4096, is_in: bool = True, lba: int = 0, count: int = 8
) -> bytes:
    cdb = bytes((opcode, 0)) + lba.to_bytes(4, "big") + b"\0" + count.to_bytes(2, "big") + b"\0"
    return Cbw(1, length, 0x80 if is_in else 0, 0, cdb).pack()


def command(
    traffic: Traffic,
    opcode: int,
    *,
    is_in: bool = True,
    pieces: int = 2,
    lba: int = 0,
    count: int = 8,
    function: str = "disk",
) -> list[str]:
    """One command as the function's seam sees it; the phases in which a rule acted."""
    length = 4096 * pieces
    acted = []

    def move(phase: str, way: Direction, size: int, data: bytes) -> None:
        transfer = Transfer(
            seam="function", function=function, role=way.name.lower(), address=1 | way,
            direction=way, length=size, data=data if way == IN else b"",
        )  # fmt: skip
        acting = traffic.injector.actions(transfer, BEFORE)
        transfer.data = data
        acting += traffic.injector.actions(transfer, AFTER)
        traffic.injector.finished(transfer, len(data))
        if acting:
            acted.append(phase)

    move("command", OUT, 512, cbw(opcode, length=length, is_in=is_in, lba=lba, count=count))
    for _ in range(pieces):
        move("data", IN if is_in else OUT, 4096, bytes(4096))
    move("status", IN, 13, pack_csw(1, 0, 0))
    return acted


@pytest.mark.parametrize(
    ("rule", "is_in", "expected"),
    [
        ("disk phase(data) delay(1s)", True, ["data", "data"]),
        ("disk phase(data) delay(1s)", False, ["data", "data"]),
        ("disk phase(status) delay(1s)", True, ["status"]),
        ("disk phase(status) delay(1s)", False, ["status"]),
        ("disk phase(command) delay(1s)", False, ["command"]),
        ("disk.in phase(status) csw(tag=1)", True, ["status"]),
        ("disk.in csw(tag=1)", True, ["status"]),
        ("disk.in csw(merged)", True, ["data", "data"]),
        ("disk.in csw(merged)", False, []),
        ("disk cbw(0x28) delay(1s)", True, ["command", "data", "data", "status"]),
        ("disk.in cbw(0x28) nak(1s)", True, ["data", "data", "status"]),
        ("disk.out cbw(0x28) phase(data) nak(1s)", False, ["data", "data"]),
        ("disk cbw(0x2a) delay(1s)", True, []),
    ],
)
def test_phases_of_a_command(rule: str, is_in: bool, expected: list[str]) -> None:
    traffic = Traffic(rule, "function")
    for _ in range(3):
        assert command(traffic, 0x28, is_in=is_in) == expected


def test_a_rule_for_the_command_phase_acts_before_a_cbw_has_come() -> None:
    traffic = Traffic("disk.out phase(command) nak(1s)", "function")
    assert [command(traffic, 0x28, is_in=False) for _ in range(3)] == [["command"]] * 3


@pytest.mark.parametrize("opcode", [0x28, 0x2A, 0x2F])
def test_lba_ranges_touch_or_do_not(opcode: int) -> None:
    traffic = Traffic(f"disk cbw({opcode}, lba=100-199) phase(status) delay(1s)", "function")
    touches = {(0, 8): False, (92, 8): False, (93, 8): True, (100, 1): True, (150, 1): True,
               (199, 100): True, (200, 8): False, (0, 1000): True}  # fmt: skip
    for (lba, count), touched in touches.items():
        assert bool(command(traffic, opcode, lba=lba, count=count)) == touched, (lba, count)


def test_commands_without_blocks_have_no_lba() -> None:
    traffic = Traffic("disk cbw(0x12, lba=0-9999) delay(1s)", "function")
    assert command(traffic, 0x12) == []


def test_two_disks_do_not_mix_their_commands() -> None:
    traffic = Traffic("b cbw(0x28) delay(1s)", "function")
    assert command(traffic, 0x28, function="a") == []
    assert command(traffic, 0x2A, function="b") == []
    assert command(traffic, 0x28, function="b") != []


def test_a_new_life_is_at_no_command() -> None:
    traffic = Traffic("disk.out phase(data) stall", "function")
    injector = traffic.injector
    transfer = Transfer(
        seam="function", function="disk", role="out", address=1, direction=OUT, length=512
    )
    injector.actions(transfer, BEFORE)
    transfer.data = cbw(0x2A, is_in=False)
    injector.actions(transfer, AFTER)
    data = Transfer(
        seam="function", function="disk", role="out", address=1, direction=OUT, length=512
    )
    assert injector.actions(data, BEFORE)
    injector.begins("disk")
    assert not injector.actions(data, BEFORE)


# --- control -----------------------------------------------------------------------------------


def control(bRequest: int, kind: int = 0xA1, value: int = 0) -> Transfer:
    setup = SetupPacket(kind, bRequest, value, 0, 7)
    return Transfer(
        seam="host", address=0, direction=setup.direction, length=setup.wLength, setup=setup
    )


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("control(0x21)", [2, 3, 4]),
        ("control(0x21, type=0xa1)", [2, 4]),
        ("control(0x21, type=0xa1, value=3)", [4]),
        ("control(0x22)", []),
    ],
)
def test_control_requests(condition: str, expected: list[int]) -> None:
    traffic = Traffic(f"host {condition} nak(1ms)")
    for transfer in (bulk(), control(0x21), control(0x21, 0x21), control(0x21, value=3), bulk()):
        traffic.move(transfer)
    assert traffic.hit == expected


def test_a_control_transfer_of_the_host_is_on_endpoint_0_both_ways() -> None:
    seam = HostSeam(Plan.parse("host.0x00 control(0x21) nak(1ms)"))
    for kind in (0x21, 0xA1):
        setup = SetupPacket(kind, 0x21, 0, 0, 7)
        next(seam.steps(HostUrb(0, bytearray(7), setup=setup)))
    assert [line.split()[2:4] for line in seam.injector.trace] == [["0x00", "OUT"], ["0x00", "IN"]]


def test_other_rules_leave_control_alone() -> None:
    traffic = Traffic("host stall; host every(1) delay(1s)")
    traffic.move(control(0x21))
    assert traffic.hit == []
