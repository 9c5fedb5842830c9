"""A gadget in configfs, read back as a Gadget: what can be written again, and nothing else.

Of a kernel function that is every attribute which can be both read and written, so also those
that nobody set; a scheme made of it makes the same tree on another machine.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from configfs.transaction import ConfigfsGadget
from usbip_vudc.errors import SchemeError
from usbip_vudc.gadget import Config, Gadget, KernelFunction, OsDescriptors, Text, WebUsb
from usbip_vudc.sysfs import SysfsError, read_attribute, read_bytes
from usbip_vudc.usb.ch9 import ConfigAttributes, Speed
from usbip_vudc.usb.descriptors import LANGID_ENGLISH_US

__all__ = ("read_gadget",)

_BINARY: Final = frozenset({"report_desc", "guidFormat"})
"""Attributes that are bytes, not text."""

_LAST: Final = ("file",)
"""A LUN's other attributes cannot be changed once it has its file."""

_SPEEDS: Final = {"low-speed": Speed.LOW, "full-speed": Speed.FULL, "high-speed": Speed.HIGH}


def read_gadget(gadget: ConfigfsGadget) -> Gadget:
    """Read a gadget back. Raises SchemeError for what a Gadget cannot say, SysfsError if it goes.

    It cannot say FunctionFS functions, whose behaviour lives in a program, and links below a
    function (uvc).
    """
    path = gadget.path
    if not gadget.exists:
        raise SchemeError(f"there is no gadget {gadget.name} in configfs: usbip-vudc list")
    device_class = tuple(
        int(read_attribute(path / name), 0)
        for name in ("bDeviceClass", "bDeviceSubClass", "bDeviceProtocol")
    )
    configs = _configs(path)
    return Gadget(
        name=gadget.name,
        idVendor=int(read_attribute(path / "idVendor"), 0),
        idProduct=int(read_attribute(path / "idProduct"), 0),
        bcdDevice=int(read_attribute(path / "bcdDevice"), 0),
        device_class=(device_class[0], device_class[1], device_class[2]),
        manufacturer=_text(path / "strings", "manufacturer"),
        product=_text(path / "strings", "product"),
        serial=_text(path / "strings", "serialnumber"),
        max_speed=_max_speed(path / "max_speed"),
        os_descriptors=_os_descriptors(path / "os_desc"),
        webusb=_webusb(path / "webusb"),
        configs=tuple(_config(config) for config in configs),
    )


def _max_speed(path: Path) -> Speed:
    # A kernel without the attribute goes to SuperSpeed, and so do we.
    return _SPEEDS.get(read_attribute(path), Speed.SUPER) if path.exists() else Speed.SUPER


def _text(strings: Path, name: str) -> Text:
    """One string of every language; plain where English (United States) is the only one."""
    texts: dict[int, str] = {}
    for language in strings.iterdir():
        text = read_bytes(language / name).decode(errors="replace").removesuffix("\n")
        texts[int(language.name, 0)] = text
    if set(texts) <= {LANGID_ENGLISH_US}:
        return texts.get(LANGID_ENGLISH_US, "")
    return {code: text for code, text in sorted(texts.items()) if text} or ""


def _os_descriptors(path: Path) -> OsDescriptors | None:
    links = [link.name for link in path.iterdir() if link.is_symlink()]
    if read_attribute(path / "use") != "1" or not links:
        return None
    return OsDescriptors(
        vendor_code=int(read_attribute(path / "b_vendor_code"), 0) & 0xFF,  # shown with its sign
        signature=read_attribute(path / "qw_sign"),
        config=_number(links[0]),
    )


def _webusb(path: Path) -> WebUsb | None:
    # A kernel before 6.3 has no such directory.
    if not path.is_dir() or read_attribute(path / "use") != "1":
        return None
    return WebUsb(
        vendor_code=int(read_attribute(path / "bVendorCode"), 0),
        url=read_attribute(path / "landingPage"),
    )


# --- configurations and functions --------------------------------------------------------------


def _configs(path: Path) -> list[Path]:
    configs = sorted((path / "configs").iterdir(), key=lambda config: _number(config.name))
    numbers = [_number(config.name) for config in configs]
    if numbers != list(range(1, len(numbers) + 1)):
        raise SchemeError(
            f"{path}: configurations {numbers}: a scheme numbers them from 1 without gaps"
        )
    return configs


def _number(name: str) -> int:
    """The bConfigurationValue in ``NAME.NUMBER``."""
    return int(name.rpartition(".")[2])


def _config(path: Path) -> Config:
    attributes = ConfigAttributes(int(read_attribute(path / "bmAttributes"), 0))
    # configfs lists the newest first; interfaces are numbered by the oldest.
    links = [entry for entry in path.iterdir() if entry.is_symlink()][::-1]
    return Config(
        functions=tuple(_function(link.resolve()) for link in links),
        name=_text(path / "strings", "configuration"),
        self_powered=ConfigAttributes.SELF_POWERED in attributes,
        remote_wakeup=ConfigAttributes.REMOTE_WAKEUP in attributes,
        max_power_ma=int(read_attribute(path / "MaxPower"), 0),
    )


def _function(path: Path) -> KernelFunction:
    driver, _, instance = path.name.partition(".")
    if driver == "ffs":
        raise SchemeError(
            f"function {path.name}: what it does lives in a program (FunctionFS), and so does its "
            f"scheme"
        )
    return KernelFunction(driver=driver, instance=instance, attributes=dict(_attributes(path)))


def _attributes(function: Path) -> Iterator[tuple[str, str | bytes]]:
    for path in _writable(function):
        try:
            data = read_bytes(path)
        except SysfsError:  # some can be read only while they have a value
            continue
        name = str(path.relative_to(function))
        if path.name in _BINARY:
            value: str | bytes = data
        else:
            value = data.rstrip(b"\0\n").decode(errors="replace")
        # An interface's name is the kernel's choice unless it is a pattern (eth%d).
        if value and not (path.name == "ifname" and "%" not in str(value)):
            yield name, value


def _writable(directory: Path) -> Iterable[Path]:
    """Attributes that can be read and written: files before directories, in the order to write."""
    entries = sorted(directory.iterdir(), key=_order)
    for path in entries:
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            raise SchemeError(f"function {path}: a link below a function, which no scheme can say")
        if stat.S_ISREG(mode) and mode & stat.S_IRUSR and mode & stat.S_IWUSR:
            yield path
    for path in entries:
        if path.is_dir():
            yield from _writable(path)


def _order(path: Path) -> tuple[bool, str, int]:
    stem, number = re.fullmatch(r"(.*?)(\d*)", path.name).groups()  # type: ignore[union-attr]
    return path.name in _LAST, stem, int(number or 0)
