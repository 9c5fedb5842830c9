"""Ready gadgets by name, with the vendor and product ids that Linux's own gadgets use."""

from __future__ import annotations

from typing import Final

from gadgets.acm.function import AcmFunction
from gadgets.mass_storage.function import MassStorageFunction
from gadgets.mass_storage.lun import FileLun, Lun, RamLun
from gadgets.mass_storage.models import with_models
from gadgets.mass_storage.stores import is_store, parse_store
from gadgets.serial.generic import GenericSerialFunction
from gadgets.serial.presets import flow_of, profiles_of
from usbip_vudc.errors import SchemeError
from usbip_vudc.gadget import Config, Gadget
from usbip_vudc.registry import GadgetOptions

__all__ = ("composite", "generic", "serial", "storage")

DEFAULT_RAM_SIZE: Final = 64 << 20


def serial(options: GadgetOptions) -> Gadget:
    """A CDC-ACM serial port, or several, 0525:a4a7 as g_serial."""
    return Gadget(
        name="serial",
        idVendor=0x0525,
        idProduct=0xA4A7,
        manufacturer="usbip-vudc",
        product="Serial gadget",
        serial=options.serial_number,
        configs=(Config(functions=_acm_ports(options), name="CDC ACM"),),
    )


def generic(options: GadgetOptions) -> Gadget:
    """Serial ports of two bulk endpoints without a class, 0525:a4a6 as g_serial's other mode."""
    ports = tuple(
        GenericSerialFunction(profile, flow=flow_of(options)) for profile in profiles_of(options)
    )
    return Gadget(
        name="generic",
        idVendor=0x0525,
        idProduct=0xA4A6,
        manufacturer="usbip-vudc",
        product="Generic serial gadget",
        serial=options.serial_number,
        configs=(Config(functions=ports, name="Serial"),),
    )


def storage(options: GadgetOptions) -> Gadget:
    """A Bulk-Only mass-storage disk, 0525:a4a5 as g_mass_storage."""
    return Gadget(
        name="storage",
        idVendor=0x0525,
        idProduct=0xA4A5,
        manufacturer="usbip-vudc",
        product="Storage gadget",
        serial=_storage_serial(options),
        configs=(Config(functions=(_mass_storage(options),), name="Mass storage"),),
    )


def composite(options: GadgetOptions) -> Gadget:
    """A serial port, or several, and a disk in one device, 1d6b:0106 as g_acm_ms."""
    functions = (*_acm_ports(options), _mass_storage(options))
    return Gadget(
        name="composite",
        idVendor=0x1D6B,
        idProduct=0x0106,
        manufacturer="usbip-vudc",
        product="Composite gadget",
        serial=_storage_serial(options),
        configs=(Config(functions=functions, name="ACM and mass storage"),),
    )


def _acm_ports(options: GadgetOptions) -> tuple[AcmFunction, ...]:
    return tuple(AcmFunction(profile, flow=flow_of(options)) for profile in profiles_of(options))


def _mass_storage(options: GadgetOptions) -> MassStorageFunction:
    return MassStorageFunction(luns=[_lun(options)])


def _lun(options: GadgetOptions) -> Lun:
    lun = _store(options)
    try:
        return with_models(lun, options.models)
    except SchemeError:
        lun.close()
        raise


def _store(options: GadgetOptions) -> Lun:
    if options.image is None:
        size = options.size or DEFAULT_RAM_SIZE
        return RamLun(size, read_only=options.read_only, removable=options.removable)
    if is_store(str(options.image)):
        if options.size is not None:
            raise SchemeError(f"image {options.image} has a size of its own; leave --size out")
        return parse_store(
            str(options.image), read_only=options.read_only, removable=options.removable
        )
    if options.size is None and not options.image.exists():
        raise SchemeError(f"image {options.image} does not exist; give a size and it is created")
    return FileLun(
        options.image,
        create_size=options.size,
        read_only=options.read_only,
        removable=options.removable,
    )


def _storage_serial(options: GadgetOptions) -> str:
    """BOT 4.1.1: at least twelve hexadecimal digits, different for each device of one kind."""
    return options.serial_number.rjust(12, "0").upper()
