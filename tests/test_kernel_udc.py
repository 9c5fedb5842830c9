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


def test_what_functionfs_cannot_carry_is_refused_before_anything_is_made() -> None:
    with pytest.raises(SchemeError, match="interface data: 2 alternate settings"):
        KernelUDC(gadget(Scripted(alternates=1), Scripted()), "dummy_udc.0")
    function = AcmFunction()
    function.plain_interfaces = None
    with pytest.raises(SchemeError, match="the function has no plain form"):
        KernelUDC(replace(gadget(function), name="serial"), "dummy_udc.0")


def test_a_user_that_does_not_exist_is_refused() -> None:
    with pytest.raises(SchemeError, match="user 'nobody-at-all': there is no such account"):
        KernelUDC(gadget(Scripted(alternates=1)), "dummy_udc.0", user="nobody-at-all")
