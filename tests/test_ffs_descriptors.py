"""What functions say to FunctionFS, as bytes, and what FunctionFS could not carry."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest

try:
    import functionfs  # noqa: F401
except OSError as error:  # its libaio loads the C library
    pytest.skip(f"{error}; on Debian: apt install libaio1", allow_module_level=True)

from configfs.ffs_descriptors import describe
from gadgets.acm.function import AcmFunction
from gadgets.mass_storage.function import MassStorageFunction
from gadgets.mass_storage.lun import RamLun
from gadgets.serial.generic import GenericSerialFunction
from tests.devices import Scripted
from usbip_vudc.errors import SchemeError
from usbip_vudc.function import AltSetting, EndpointSpec
from usbip_vudc.usb.ch9 import Direction, Speed

# Counts of descriptors at full, high and super speed follow the header of
# struct usb_functionfs_descs_head_v2: magic 3, length, flags.
HEADER = struct.Struct("<5L")


def test_a_disk_is_described_at_three_speeds() -> None:
    description = describe(MassStorageFunction([RamLun(1 << 20)]))
    blob = description.descriptors
    assert HEADER.unpack_from(blob) == (3, len(blob), 0b111, 3, 3)
    assert blob[HEADER.size :] == bytes.fromhex(
        "05000000"
        "090400000208065000 07058102400000 07050102400000"
        "090400000208065000 07058102000200 07050102000200"
        "090400000208065000 07058102000400 063000000000 07050102000400 063000000000"
    )
    assert [(e.number, e.spec.role, e.interface) for e in description.endpoints] == [
        (1, "in", 0),
        (2, "out", 0),
    ]
    assert not description.plain


def test_speeds_that_usb_forbids_are_left_out() -> None:
    function = Scripted(alternates=1)
    spec = replace(EndpointSpec.bulk_in("in"), max_packet_size={Speed.FULL: 512})
    settings = (AltSetting(endpoints=(spec,)),)
    function.interfaces = (replace(function.interfaces[0], alternates=settings),)
    legal = HEADER.unpack_from(describe(function).descriptors)
    assert legal[2:] == (0b110, 2, 3), "high and super speed"
    meant = describe(function, deliberately_illegal=True).descriptors
    assert HEADER.unpack_from(meant)[2:] == (0b111, 2, 2)


def test_a_function_without_names_has_no_strings() -> None:
    strings = describe(GenericSerialFunction()).strings
    assert strings == struct.pack("<4L", 2, 16, 0, 0)


def test_names_become_strings_from_1_on() -> None:
    function = Scripted()
    spec = function.interfaces[0]
    function.interfaces = (replace(spec, alternates=spec.alternates[:1]),)
    strings = describe(function).strings
    assert strings[8:16] == struct.pack("<2L", 1, 1)
    assert strings[16:] == b"\x09\x04Scripted\0"


def test_acm_is_one_interface_with_its_three_endpoints() -> None:
    description = describe(AcmFunction())
    assert description.plain
    assert [spec.role for spec in description.interfaces] == ["comm"]
    assert [(e.spec.role, e.spec.direction) for e in description.endpoints] == [
        ("notify", Direction.IN),
        ("in", Direction.IN),
        ("out", Direction.OUT),
    ]
    # cdc-acm wants something between the interface and its endpoints; nothing of CDC is left.
    assert bytes.fromhex("090400000302020100 030900 07058103") in description.descriptors
    assert b"\x05\x24" not in description.descriptors


def test_class_descriptors_without_a_plain_form_are_refused() -> None:
    function = AcmFunction()
    function.plain_interfaces = None
    with pytest.raises(SchemeError, match="function acm: interface comm: descriptor type 0x24"):
        describe(function)


def test_alternate_settings_are_refused() -> None:
    with pytest.raises(SchemeError, match="interface data: 2 alternate settings"):
        describe(Scripted())
