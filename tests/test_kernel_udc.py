"""KernelUDC before there is anything in the kernel: what it refuses at once."""

from __future__ import annotations

from dataclasses import replace

import pytest

try:
    from configfs.udc import KernelUDC
except OSError as error:  # python-functionfs' libaio loads the C library
    pytest.skip(f"{error}; on Debian: apt install libaio1", allow_module_level=True)

from gadgets.acm.function import AcmFunction
from tests.devices import Scripted, gadget
from usbip_vudc.errors import SchemeError
from usbip_vudc.function import AltSetting, EndpointSpec
from usbip_vudc.usb.ch9 import Speed


def test_what_functionfs_cannot_carry_is_refused_before_anything_is_made() -> None:
    with pytest.raises(SchemeError, match="interface data: 2 alternate settings"):
        KernelUDC(gadget(Scripted(alternates=1), Scripted()), "dummy_udc.0")
    function = AcmFunction()
    function.plain_interfaces = None
    with pytest.raises(SchemeError, match="the function has no plain form"):
        KernelUDC(replace(gadget(function), name="serial"), "dummy_udc.0")


def test_a_gadget_of_low_speed_is_refused_before_anything_is_made() -> None:
    with pytest.raises(SchemeError, match="max_speed low: the kernel's UDCs cannot be low-speed"):
        KernelUDC(gadget(Scripted(alternates=1), max_speed=Speed.LOW), "dummy_udc.0")


def test_what_usb_forbids_is_refused_unless_it_is_meant() -> None:
    function = Scripted(alternates=1)
    spec = EndpointSpec.iso_in("in")
    settings = (AltSetting(endpoints=(spec,)),)
    function.interfaces = (replace(function.interfaces[0], alternates=settings),)
    with pytest.raises(SchemeError, match=r"isochronous .* in alternate setting 0.*5\.6\.3"):
        KernelUDC(gadget(function), "dummy_udc.0")
    assert KernelUDC(replace(gadget(function), deliberately_illegal=True), "dummy_udc.0")


def test_a_user_that_does_not_exist_is_refused() -> None:
    with pytest.raises(SchemeError, match="user 'nobody-at-all': there is no such account"):
        KernelUDC(gadget(Scripted(alternates=1)), "dummy_udc.0", user="nobody-at-all")
