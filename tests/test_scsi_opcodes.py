"""The commands of each kind of unit, and the report of them, which must not lie (SPC-4 6.35)."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from gadgets.mass_storage import MassStorageFunction, RamLun
from gadgets.mass_storage.command import Command
from gadgets.mass_storage.scsi import Target, commands_of
from gadgets.mass_storage.unit import Lun
from tests import scsi_page
from tests.scsi_target import failure, given, reply
from usbip_vudc.scheme import load_scheme

KINDS = {
    "disk": {},
    "stick": {"removable": True},
    "thin": {"thin": True},
    "cdrom": {"cdrom": True},
}

DISK = (
    "00 03 08 0a 12 15 1a 1b 1d 23 25 28 2a 2e 2f 35 41 55 5a 88 8a 8e 8f 91 93 9e:10 9e:12 a0 "
    "a3:0c a8 aa ae af"
)
CDROM = "00 03 12 15 1a 1b 1d 1e 25 28 43 46 4a 55 5a a0 a3:0c a8"


def lun_of(kind: str) -> RamLun:
    return RamLun(1 << 20, **KINDS[kind])  # type: ignore[arg-type]


def code(command: Command) -> str:
    action = command.service_action
    return f"{command.opcode:02x}" + (f":{action:02x}" if action is not None else "")


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("disk", DISK),
        ("stick", DISK.replace("23", "1e 23")),
        ("thin", DISK.replace("55", "42 55")),
        ("cdrom", CDROM),
    ],
)
def test_commands_of_a_unit(kind: str, expected: str) -> None:
    assert " ".join(code(one) for one in commands_of(lun_of(kind))) == expected


EVERY = list(
    {one.usage: (kind, one) for kind in KINDS for one in commands_of(lun_of(kind))}.values()
)
"""Each command once, with a unit that has it."""

COMMANDS = pytest.mark.parametrize(
    ("kind", "command"), EVERY, ids=[f"{kind}-{code(one)}" for kind, one in EVERY]
)


@pytest.mark.parametrize("kind", KINDS)
def test_an_opcode_that_is_not_reported_is_refused(kind: str) -> None:
    lun = lun_of(kind)
    reported = {one.opcode for one in commands_of(lun)}
    for opcode in sorted(set(range(256)) - reported):
        assert failure(lun, bytes((opcode,)) + bytes(15)) == "05/20/00"


@COMMANDS
def test_an_unknown_service_action_is_an_invalid_field(kind: str, command: Command) -> None:
    lun = lun_of(kind)
    known = {one.service_action for one in commands_of(lun) if one.opcode == command.opcode}
    if known != {None}:
        for action in sorted(set(range(32)) - known):
            assert failure(lun, bytes((command.opcode, action, *bytes(14)))) == "05/24/00"


@COMMANDS
def test_each_bit_that_is_not_reported_is_refused(kind: str, command: Command) -> None:
    lun = lun_of(kind)
    for byte in range(1, command.size):
        for bit in range(8):
            in_action = byte == 1 and command.service_action is not None and bit < 5
            was_lun = byte == 1 and command.size == 6 and bit > 4
            if command.usage[byte] >> bit & 1 or in_action or was_lun:
                continue
            cdb = bytearray(command.size)
            cdb[0], cdb[1] = command.opcode, command.service_action or 0
            cdb[byte] |= 1 << bit
            assert failure(lun, bytes(cdb)) == "05/24/00", cdb.hex(" ")


@COMMANDS
def test_allocation_lengths_cut(kind: str, command: Command) -> None:
    """All that an allocation length (SPC-4 4.2.5.6) can do is to cut."""
    lun = lun_of(kind)
    places = {
        0x03: (4, 1), 0x12: (3, 2), 0x1A: (4, 1), 0x5A: (7, 2), 0x23: (7, 2), 0x9E: (10, 4),
        0xA3: (6, 4), 0x43: (7, 2), 0x46: (7, 2), 0x4A: (7, 2),
    }  # fmt: skip
    if command.opcode not in places:
        return
    at, width = places[command.opcode]
    cdb = bytearray(command.size)
    cdb[0], cdb[1] = command.opcode, command.service_action or 0
    if command.opcode in (0x1A, 0x5A):
        cdb[2] = 0x3F
    if command.opcode == 0x4A:
        cdb[1] = 0x01
    cdb[at : at + width] = b"\xff" * width
    whole = bytes.fromhex(reply(lun, cdb.hex()))
    assert len(whole) >= 4
    for length in (0, 1, len(whole) - 1, len(whole)):
        cdb[at : at + width] = length.to_bytes(width, "big")
        assert bytes.fromhex(reply(lun, cdb.hex())) == whole[:length]


# --- REPORT SUPPORTED OPERATION CODES ----------------------------------------------------------

TIMEOUTS = "00 0a 00 00 00 00 00 00 00 00 00 00"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rctd", [0, 0x80])
def test_all_commands_are_reported(kind: str, rctd: int) -> None:
    lun = lun_of(kind)
    data = bytes.fromhex(reply(lun, f"a3 0c {rctd:02x} 00 0000 0000ffff 00 00"))
    assert struct.unpack_from(">I", data)[0] == len(data) - 4
    step = 20 if rctd else 8
    found = []
    for at in range(4, len(data), step):
        opcode, action, flags, size = struct.unpack_from(">BxHxBH", data, at)
        assert bool(flags & 2) is bool(rctd)
        assert data[at + 8 : at + step].hex(" ") == (TIMEOUTS if rctd else "")
        found.append((opcode, action if flags & 1 else None, size))
    assert found == [(one.opcode, one.service_action, one.size) for one in commands_of(lun)]


@COMMANDS
@pytest.mark.parametrize("rctd", [0, 0x80])
def test_one_command_is_reported(kind: str, command: Command, rctd: int) -> None:
    lun = lun_of(kind)
    action = command.service_action
    right, wrong = (1, 2) if action is None else (2, 1)
    for options in (right, 3):
        cdb = struct.pack(
            ">BBBBHIxx", 0xA3, 0x0C, rctd | options, command.opcode, action or 0, 0xFFFF
        )
        expected = struct.pack(">xBH", 0x83 if rctd else 0x03, command.size) + command.usage
        assert reply(lun, cdb.hex()) == f"{expected.hex(' ')} {TIMEOUTS if rctd else ''}".strip()
    cdb = struct.pack(">BBBBHIxx", 0xA3, 0x0C, wrong, command.opcode, action or 0, 0xFFFF)
    assert failure(lun, cdb) == "05/24/00"


@pytest.mark.parametrize(
    "question", ["01 ff 0000", "03 ff 0000", "01 42 0000", "02 9e 0011", "03 a3 000d", "03 28 0001"]
)
def test_a_command_that_is_not_there_is_reported_so(question: str) -> None:
    assert reply(lun_of("disk"), f"a3 0c {question} 0000ffff 00 00") == "00 01 00 00"


@pytest.mark.parametrize("options", [4, 5, 6, 7])
def test_other_reporting_options_are_refused(options: int) -> None:
    assert failure(lun_of("disk"), f"a3 0c 0{options} 00 0000 0000ffff 00 00") == "05/24/00"


def test_usage_of_read_10_in_bytes() -> None:
    expected = "00 03 00 0a 28 18 ff ff ff ff 00 ff ff 00"
    assert reply(lun_of("disk"), "a3 0c 01 28 0000 0000ffff 00 00") == expected


def test_units_of_one_device_have_commands_of_their_own() -> None:
    luns: list[Lun] = [lun_of("disk"), lun_of("cdrom")]
    target = Target(luns)
    toc = bytes.fromhex("43 00 00 000000 00 00ff 00")
    assert [target.execute(lun, toc).failed for lun in luns] == [True, False]
    report = bytes.fromhex("a0 00 00 00 00 00 00 00 00 20 00 00")
    assert [target.execute(lun, report).length for lun in luns] == [24, 24]


def test_a_lun_in_the_command_block_as_scsi_2_had_it() -> None:
    luns = [RamLun(1 << 20) for _ in range(3)]
    target = Target(luns)
    read = bytes.fromhex("28 40 00000000 00 0001 00")
    assert [target.execute(lun, read).failed for lun in luns] == [True, True, False]
    capacity = bytes.fromhex("25 20 00000000 0000 00 00")
    assert [target.execute(lun, capacity).failed for lun in luns] == [True, False, True]


# --- deferred errors ---------------------------------------------------------------------------


class Failing(RamLun):
    """A cache that cannot be written back."""

    has_write_cache = True

    def flush(self) -> None:
        raise OSError(5, "broken")


@pytest.mark.parametrize("cdb", ["35 02" + "00" * 8, "91 02" + "00" * 14, "1b 01 00 00 00 00"])
def test_immed_leaves_the_work_until_the_status_is_sent(cdb: str) -> None:
    lun = Failing(1024)
    answer = given(lun, cdb)
    assert answer.work is None and answer.afterwards is not None
    failed = answer.afterwards()
    assert str(failed) == "03/0c/00"


def test_deferred_error_ends_the_next_command_instead_of_running_it() -> None:
    lun = RamLun(1024)
    lun.attend(given(Failing(1024), "35 02" + "00" * 8).afterwards().later())  # type: ignore[union-attr,misc]
    assert not given(lun, "12 00 00 00 24 00").failed  # SPC-4 4.5.5: INQUIRY is not held up
    assert failure(lun, "28 00 00000000 00 0001 00") == "03/0c/00 deferred"
    assert reply(lun, "03 00 00 00 12 00")[:41] == "71 00 03 00 00 00 00 0a 00 00 00 00 0c 00"
    assert not given(lun, "28 00 00000000 00 0001 00").failed


def test_deferred_error_in_descriptors() -> None:
    lun = RamLun(1024)
    lun.attend(given(Failing(1024), "35 02" + "00" * 8).afterwards().later())  # type: ignore[union-attr,misc]
    assert reply(lun, "03 01 00 00 ff 00") == "73 03 0c 00 00 00 00 00"


def test_medium_pulled_before_it_was_written_is_a_deferred_error() -> None:
    class Pulled(RamLun):
        def _close_medium(self) -> None:
            raise OSError(28, "full")

    lun = Pulled(1024, removable=True)
    with pytest.raises(OSError, match="full"):
        lun.eject()
    assert [failure(lun, bytes(6)) for _ in range(2)] == ["03/0c/00 deferred", "02/3a/00"]
    lun.insert()
    assert failure(lun, bytes(6)) == "06/28/00"
    answer = given(lun, "1b 00 00 00 02 00")
    assert answer.finish is not None and str(answer.finish()) == "03/0c/00"
    assert failure(lun, bytes(6)) == "02/3a/00"  # it has been told


def test_the_page_has_the_commands_as_they_are() -> None:
    page = (Path(__file__).parent.parent / "docs/scsi.md").read_text()
    assert scsi_page.filled(page) == page, "run: python -m tests.scsi_page docs/scsi.md"


def test_the_scheme_of_the_page_makes_such_units(tmp_path: Path) -> None:
    page = (Path(__file__).parent.parent / "docs/scsi.md").read_text()
    luns = page[page.index("    luns = [") : page.index("    ]\n") + 6]
    (tmp_path / "debian.iso").write_bytes(bytes(4096))
    scheme = tmp_path / "units.toml"
    scheme.write_text(
        "name = 'g'\nidVendor = 0x0525\nidProduct = 0xa4a5\n[[configs]]\n[[configs.functions]]\n"
        f'type = "mass_storage"\n{luns}'
    )
    gadget = load_scheme(scheme)
    function = gadget.configs[0].functions[0]
    assert isinstance(function, MassStorageFunction)
    thin, drive = function.luns
    try:
        assert (thin.thin, thin.size, drive.cdrom, drive.block_size) == (True, 3 << 40, True, 2048)
    finally:
        thin.close()
        drive.close()
