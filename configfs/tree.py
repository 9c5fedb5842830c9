"""What a Gadget is in configfs: the steps that make it, in the kernel's order, and their reverse.

Pure: paths are text relative to the gadget's own directory, and nothing is touched. The UDC is
no part of it; transaction.py takes the steps and binds (Documentation/usb/gadget_configfs.rst).
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from usbip_vudc.errors import SchemeError
from usbip_vudc.function import Function
from usbip_vudc.gadget import Config, Gadget, KernelFunction, OsDescriptors, Text, WebUsb
from usbip_vudc.usb.ch9 import Speed
from usbip_vudc.usb.descriptors import LANGID_ENGLISH_US

__all__ = (
    "Link",
    "MakeDir",
    "RemoveDir",
    "Step",
    "Undo",
    "Unlink",
    "Write",
    "check_name",
    "check_platforms",
    "check_speed",
    "dismantle",
    "ffs_instance",
    "languages",
    "overwritten",
    "plan",
    "undo",
    "userspace_functions",
)

_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,63}")

_FUNCTION_NAME_MAX: Final = 39
"""Characters of ``DRIVER.INSTANCE`` (drivers/usb/gadget/configfs.c, MAX_NAME_LEN)."""

_WRITE_MAX: Final = 4095
"""Bytes that reach an attribute in one write; more are cut off in silence (fs/configfs/file.c)."""

_ASSOCIATED: Final = frozenset({"acm", "ecm", "ncm", "rndis", "uac2", "uvc"})
"""Kernel functions whose descriptors begin with an interface association."""


@dataclass(frozen=True, slots=True)
class MakeDir:
    """Make a directory. A ``shared`` one may be there already: the kernel makes some itself."""

    path: str
    shared: bool = False


@dataclass(frozen=True, slots=True)
class Write:
    """Write an attribute, once. An ``optional`` one may be missing in an old kernel."""

    path: str
    data: bytes
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Link:
    """Make a symbolic link at ``path`` to ``target``, which is relative to the gadget too."""

    path: str
    target: str


@dataclass(frozen=True, slots=True)
class Unlink:
    """Remove a symbolic link."""

    path: str


@dataclass(frozen=True, slots=True)
class RemoveDir:
    """Remove a directory with its attributes; the kernel refuses (EPERM) for those it made."""

    path: str


Step = MakeDir | Write | Link
Undo = Unlink | RemoveDir


def plan(gadget: Gadget) -> tuple[Step, ...]:
    """The steps that make a gadget below its own directory, which must exist.

    Raises SchemeError for what configfs has no place for: a name that is no directory's, one
    function twice in a configuration, two functions of one name.
    """
    check_name(gadget.name)
    names = _names(gadget)
    return (
        *_device(gadget),
        *_device_strings(gadget),
        *(s for n, c in _numbered(gadget) for s in _config(n, c, languages(gadget))),
        *(s for name, function in names.items() for s in _function(name, function)),
        *(s for n, c in _numbered(gadget) for s in _links(n, c, names)),
        *_os_descriptors(gadget.os_descriptors),
        *_webusb(gadget.webusb),
    )


def undo(steps: Iterable[Step]) -> tuple[Undo, ...]:
    """What takes those steps back. Attributes and the kernel's own directories go by themselves."""
    back: list[Undo] = []
    for step in steps:
        if isinstance(step, Link):
            back.append(Unlink(step.path))
        elif isinstance(step, MakeDir):
            back.append(RemoveDir(step.path))
    return tuple(reversed(back))


def dismantle(directories: Iterable[str], links: Iterable[str]) -> tuple[Undo, ...]:
    """What removes a tree that somebody made: every link first, then directories, deepest first.

    ``directories`` and ``links`` are all that is below the gadget's directory.
    """
    order = {"configs": 0, "functions": 1}
    inner = [path for path in directories if "/" in path]  # the four at the top are the kernel's
    inner.sort(key=lambda path: (order.get(path.split("/")[0], 2), -path.count("/"), path))
    return (*map(Unlink, sorted(links)), *map(RemoveDir, inner))


def check_name(name: str) -> None:
    """Raises SchemeError for a gadget's name that cannot be a directory of configfs."""
    if not _NAME.fullmatch(name):
        raise SchemeError(
            f"gadget name {name!r}: expected 1 to 64 letters, digits, _, -, + and ., "
            f"beginning with a letter, a digit or _"
        )


def check_speed(gadget: Gadget) -> None:
    """Raises SchemeError for a gadget of low speed, which no UDC of the kernel can carry."""
    if gadget.max_speed == Speed.LOW:
        raise SchemeError(
            f"gadget {gadget.name}: max_speed low: the kernel's UDCs cannot be low-speed devices: "
            f"drivers/usb/gadget/composite.c sets bMaxPacketSize0 to that of the controller, 64, "
            f"and a host takes only 8 at low speed (USB 2.0 5.5.3); usbip-vudc serve can"
        )


def check_platforms(gadget: Gadget) -> None:
    """Raises SchemeError for Microsoft OS 2.0 descriptors, which the kernel's gadgets have not."""
    if gadget.os_descriptors is not None and 2 in gadget.os_descriptors.versions:
        raise SchemeError(
            f"gadget {gadget.name}: os_descriptors: versions "
            f"{list(gadget.os_descriptors.versions)}: the kernel's gadgets have no Microsoft OS "
            f"2.0 descriptors (drivers/usb/gadget/composite.c): expected [1]; usbip-vudc serve "
            f"has both"
        )


def overwritten(gadget: Gadget) -> tuple[str, ...]:
    """What the kernel writes over in a gadget's device descriptor, in words; often nothing.

    Its composite framework takes bcdUSB and bMaxPacketSize0 from the controller.
    """
    given = (("bcdUSB", gadget.bcdUSB, "#06x"), ("bMaxPacketSize0", gadget.bMaxPacketSize0, "d"))
    return tuple(
        f"{name} {value:{shown}} at {speed.word} speed is not kept on a UDC of the kernel, which "
        f"writes the controller's (drivers/usb/gadget/composite.c)"
        for name, values, shown in given
        for speed, value in sorted(values.items())
    )


def userspace_functions(gadget: Gadget) -> tuple[Function, ...]:
    """The functions that FunctionFS must stand for, each once, in the order of their configs."""
    found: dict[int, Function] = {}
    for config in gadget.configs:
        for function in config.functions:
            if isinstance(function, Function):
                found.setdefault(id(function), function)
    return tuple(found.values())


def ffs_instance(gadget: Gadget, function: Function) -> str:
    """The FunctionFS instance that stands for a userspace function: ``GADGETNAME-0``.

    A long gadget name is shortened, and made unique by its checksum. Raises SchemeError where
    the function is not in the gadget.
    """
    numbers = [n for n, own in enumerate(userspace_functions(gadget)) if own is function]
    if not numbers:
        raise SchemeError(f"gadget {gadget.name}: function {function.name} is not in it")
    end = f"-{numbers[0]}"
    room = _FUNCTION_NAME_MAX - len("ffs.") - len(end)
    name = gadget.name
    if len(name) > room:
        name = f"{name[: room - 9]}-{zlib.crc32(name.encode()):08x}"
    return name + end


def languages(gadget: Gadget) -> tuple[int, ...]:
    """The language codes of a gadget's strings; English (United States) where none is named."""
    texts = (*_device_texts(gadget).values(), *(config.name for config in gadget.configs))
    codes = {code for text in texts if not isinstance(text, str) for code in text}
    return tuple(sorted(codes)) or (LANGID_ENGLISH_US,)


# --- the parts of a plan -----------------------------------------------------------------------


def _device(gadget: Gadget) -> Iterator[Step]:
    speed = f"{gadget.max_speed.word}-speed"
    # What a kernel without the attribute allows is SuperSpeed, too.
    yield _text("max_speed", speed, optional=speed == "super-speed")
    for name in ("idVendor", "idProduct", "bcdDevice"):
        yield _text(name, f"{getattr(gadget, name):#06x}")
    triple = gadget.device_class or ((0xEF, 2, 1) if _has_association(gadget) else (0, 0, 0))
    for name, value in zip(
        ("bDeviceClass", "bDeviceSubClass", "bDeviceProtocol"), triple, strict=True
    ):
        yield _text(name, f"{value:#04x}")


def _has_association(gadget: Gadget) -> bool:
    """Whether a host finds an interface association in it (USB ECN, IAD: class EF/02/01)."""
    for config in gadget.configs:
        for function in config.functions:
            if isinstance(function, KernelFunction):
                if function.driver in _ASSOCIATED:
                    return True
            elif len(function.plain_interfaces or function.interfaces) > 1:
                return True
    return False


def _device_texts(gadget: Gadget) -> dict[str, Text]:
    return {
        "manufacturer": gadget.manufacturer,
        "product": gadget.product,
        "serialnumber": gadget.serial,
    }


def _device_strings(gadget: Gadget) -> Iterator[Step]:
    yield from _strings("strings", _device_texts(gadget), languages(gadget))


def _strings(directory: str, texts: dict[str, Text], codes: tuple[int, ...]) -> Iterator[Step]:
    for code in codes:
        words = {
            name: text if isinstance(text, str) else text.get(code, "")
            for name, text in texts.items()
        }
        if any(words.values()):
            yield MakeDir(f"{directory}/{code:#x}")
            for name, word in words.items():
                if word:
                    yield _text(f"{directory}/{code:#x}/{name}", word)


def _numbered(gadget: Gadget) -> Iterator[tuple[int, Config]]:
    return enumerate(gadget.configs, start=1)


def _config(number: int, config: Config, codes: tuple[int, ...]) -> Iterator[Step]:
    directory = f"configs/c.{number}"
    yield MakeDir(directory)
    yield _text(f"{directory}/bmAttributes", f"{config.bmAttributes:#04x}")
    yield _text(f"{directory}/MaxPower", str(config.max_power_ma))  # mA; the kernel converts
    yield from _strings(f"{directory}/strings", {"configuration": config.name}, codes)


def _names(gadget: Gadget) -> dict[str, Function | KernelFunction]:
    """The directories below ``functions``. Raises SchemeError where two functions want one."""
    names: dict[str, Function | KernelFunction] = {}
    for config in gadget.configs:
        for function in config.functions:
            name = _name(gadget, function)
            if len(name) > _FUNCTION_NAME_MAX:
                raise SchemeError(
                    f"gadget {gadget.name}: function {name}: {len(name)} characters, expected "
                    f"at most {_FUNCTION_NAME_MAX}"
                )
            if names.setdefault(name, function) != function:
                raise SchemeError(
                    f"gadget {gadget.name}: two functions are called {name}, with different "
                    f"attributes; give one of them another instance"
                )
    return names


def _name(gadget: Gadget, function: Function | KernelFunction) -> str:
    if isinstance(function, KernelFunction):
        return function.name
    return f"ffs.{ffs_instance(gadget, function)}"


def _function(name: str, function: Function | KernelFunction) -> Iterator[Step]:
    directory = f"functions/{name}"
    yield MakeDir(directory)
    if not isinstance(function, KernelFunction):
        return
    made = {directory}
    for path, value in function.attributes.items():
        *parents, _ = path.split("/")
        for depth in range(1, len(parents) + 1):
            inner = "/".join((directory, *parents[:depth]))
            if inner not in made:
                made.add(inner)
                yield MakeDir(inner, shared=True)
        # With its newline, as everybody writes: some lose the last byte (uac1's function_name).
        data = value if isinstance(value, bytes) else f"{value}\n".encode()
        written = Write(f"{directory}/{path}", data)
        if len(written.data) > _WRITE_MAX:
            raise SchemeError(
                f"function {name}: attribute {path}: {len(written.data)} bytes, expected at most "
                f"{_WRITE_MAX}"
            )
        yield written


def _links(
    number: int, config: Config, names: dict[str, Function | KernelFunction]
) -> Iterator[Step]:
    linked: set[str] = set()
    for function in config.functions:
        name = next(n for n, own in names.items() if own is function or own == function)
        if name in linked:
            raise SchemeError(f"configs[{number - 1}]: function {name} is in it twice")
        linked.add(name)
        yield Link(f"configs/c.{number}/{name}", f"functions/{name}")


def _os_descriptors(os_descriptors: OsDescriptors | None) -> Iterator[Step]:
    if os_descriptors is None:
        return
    yield _text("os_desc/use", "1")
    yield _text("os_desc/b_vendor_code", f"{os_descriptors.vendor_code:#04x}")
    yield _text("os_desc/qw_sign", os_descriptors.signature)
    config = f"c.{os_descriptors.config}"
    yield Link(f"os_desc/{config}", f"configs/{config}")


def _webusb(webusb: WebUsb | None) -> Iterator[Step]:
    if webusb is None:
        return
    yield _text("webusb/bcdVersion", "0x0100")
    yield _text("webusb/bVendorCode", f"{webusb.vendor_code:#04x}")
    if webusb.url:
        yield _text("webusb/landingPage", webusb.url)
    yield _text("webusb/use", "1")


def _text(path: str, value: str, *, optional: bool = False) -> Write:
    # A write of no bytes never reaches the kernel's attribute; a newline empties it.
    return Write(path, (value or "\n").encode(), optional)
