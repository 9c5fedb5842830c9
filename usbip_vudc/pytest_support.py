"""What `usbip_vudc.pytest_plugin` does with the package: reads its options, makes its gadgets.

And the host ends that its fixtures hand out. It is loaded by the first option or fixture that is
used, and knows nothing of pytest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from usbip_vudc.carrier import OURS, PATIENCE, Carried, Carrier
from usbip_vudc.errors import SchemeError
from usbip_vudc.gadget import Gadget
from usbip_vudc.host.serial import UsbSerial
from usbip_vudc.host.storage import UsbStorage
from usbip_vudc.injection import Plan, find_plan
from usbip_vudc.injection.conditions import Chance
from usbip_vudc.registry import OPTIONS, GadgetOptions, load_gadget
from usbip_vudc.scheme import is_scheme, load_scheme, parse_size
from usbip_vudc.usb.ch9 import Speed

__all__ = (
    "SerialGadget",
    "StorageGadget",
    "VudcServer",
    "impossible",
    "make_gadget",
    "read_carrier",
    "read_plan",
)


def read_carrier(text: str, gadget: Gadget | None = None) -> Carrier:
    """The carrier that ``--udc`` names, ``NAME[:SPEED][:HOST][:stub]``. Raises SchemeError.

    Where no speed is given it is the fastest that the UDC and the gadget both can do.
    """
    words = text.replace(":", ",")
    carrier = Carrier.parse(words)
    speeds = {speed.word for speed in Speed}
    if gadget is None or speeds & set(words.split(",")):
        return carrier
    return replace(carrier, speed=min(carrier.speed, gadget.max_speed))


def read_plan(word: str, seed: int | None, drawn: int | None) -> tuple[Plan, bool]:
    """The plan that ``--plan`` names, and whether its seed is ``drawn``.

    It is where chance has a part in it and it has no seed. Raises SchemeError or OSError.
    """
    plan = find_plan(word, seed)
    has_chance = any(isinstance(c, Chance) for rule in plan.rules for c in rule.conditions)
    if drawn is None or plan.seed or not has_chance:
        return plan, False
    return replace(plan, seed=drawn), True


def impossible(gadget: Gadget, carrier: Carrier) -> str | None:
    """Why a gadget that can exist cannot at the carrier's speed; None where it can.

    What is wrong with it at every speed is for `carried` to tell.
    """
    if carrier.udc != OURS or carrier.speed == gadget.max_speed:
        return None
    try:
        gadget.describe(gadget.max_speed)
    except SchemeError:
        return None
    try:
        gadget.describe(carrier.speed)
    except SchemeError as error:
        return str(error)
    return None


def make_gadget(source: str | Path | Gadget, options: Mapping[str, object]) -> Gadget:
    """What ``@pytest.mark.gadget(source, **options)`` means.

    A ready-made gadget's name, with options of its `OPTIONS` (`GadgetOptions`; ``size`` may be such
    as ``"16M"``), a scheme's FILE.toml, or a Gadget. Raises SchemeError, or OSError for a file.
    """
    if isinstance(source, str) and not is_scheme(source):
        return load_gadget(source, _options(source, options))
    if options:
        raise SchemeError(
            f"gadget {source!r}: {', '.join(options)}: options are for ready-made gadgets alone"
        )
    if isinstance(source, str | Path):
        return load_scheme(Path(source))
    return source


def _options(name: str, given: Mapping[str, object]) -> GadgetOptions:
    if name not in OPTIONS:
        return GadgetOptions()  # `load_gadget` says which gadgets there are
    known = (*sorted(OPTIONS[name]), "serial_number")
    values = dict(given)
    for option, value in given.items():
        if option not in known:
            raise SchemeError(
                f"gadget {name}: {option}={value!r}: expected one of {', '.join(known)}"
            )
    if isinstance(size := given.get("size"), str):
        values["size"] = parse_size(size)
    if isinstance(image := given.get("image"), str):
        values["image"] = Path(image)
    return GadgetOptions(**values)  # type: ignore[arg-type]  # the names are right, values as given


@dataclass(frozen=True, slots=True)
class VudcServer:
    """A USB/IP server of ours that exports the gadget, for a client of the test's own."""

    host: str
    port: int
    busids: tuple[str, ...]

    @property
    def busid(self) -> str:
        """The gadget's."""
        return self.busids[0]


class SerialGadget:
    """A carried gadget with a CDC-ACM function, and its host's end."""

    def __init__(self, gadget: Gadget, carried: Carried) -> None:
        self.gadget = gadget
        self.carried = carried
        self._port: UsbSerial | None = None

    @property
    def port(self) -> UsbSerial:
        """The port over pyusb, on every carrier; one object until the device leaves.

        Linux's cdc-acm loses it. Raises ValueError where the gadget has no such function.
        """
        device = self.carried.device()
        if self._port is None or self._port.device is not device:
            self._port = UsbSerial(device)
        return self._port

    def node(self, timeout: float = PATIENCE) -> str:
        """The tty on Linux, such as /dev/ttyACM0, as soon as it is there.

        Raises NotReady after ``timeout`` seconds, CarrierError where the host is our own.
        """
        return self.carried.node("ttyACM", timeout)


class StorageGadget:
    """A carried gadget with a disk, and its host's end."""

    def __init__(self, gadget: Gadget, carried: Carried) -> None:
        self.gadget = gadget
        self.carried = carried
        self._disk: UsbStorage | None = None

    @property
    def disk(self) -> UsbStorage:
        """The disk over pyusb, on every carrier, ready; one object until the device leaves.

        Linux's usb-storage loses it. Raises ValueError where the gadget has no such function, and
        what `UsbStorage.wait_ready` raises.
        """
        device = self.carried.device()
        if self._disk is None or self._disk.device is not device:
            disk = UsbStorage(device)
            disk.wait_ready()  # takes the unit attention of a disk that was just plugged in
            self._disk = disk
        return self._disk

    def node(self, timeout: float = PATIENCE) -> str:
        """The disk on Linux, such as /dev/sda, as soon as it is there.

        Raises NotReady after ``timeout`` seconds, CarrierError where the host is our own.
        """
        return self.carried.node("sd", timeout)
