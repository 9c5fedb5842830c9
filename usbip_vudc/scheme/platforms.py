"""Microsoft OS descriptors and WebUSB in a scheme: `os_descriptors` and `webusb`, both ways. Pure.

Whatever a function has of it stands in `[[os_descriptors.features]]`, by the function's place in
the configuration.
"""

from __future__ import annotations

from typing import Final

from usbip_vudc.gadget import OsDescriptors, OsFeatures, WebUsb
from usbip_vudc.scheme.table import Table
from usbip_vudc.usb.os_descriptors_2 import WINDOWS_8_1
from usbip_vudc.usb.os_features import PropertyValue

__all__ = ("feature_keys", "os_descriptor_keys", "read_os_descriptors", "read_webusb")

_VERSIONS: Final = ((1,), (2,), (1, 2))


def read_os_descriptors(table: Table | None) -> OsDescriptors | None:
    """The descriptors that a table says, None without one. Raises SchemeError."""
    if table is None:
        return None
    table.expect("vendor_code", "signature", "config", "versions", "windows_version", "features")
    features: dict[int, OsFeatures] = {}
    for entry in table.tables("features"):
        place = entry.integer("function", None, 0, 255)
        if place in features:
            raise entry.error("function", "each function once")
        features[place] = _features(entry)
    return OsDescriptors(
        vendor_code=table.integer("vendor_code", None, 0, 0xFF),
        signature=table.text("signature", "MSFT100"),
        config=table.integer("config", 1, 1, 255),
        versions=_versions(table),
        windows_version=table.integer("windows_version", WINDOWS_8_1, 0, 0xFFFFFFFF),
        features=features,
    )


def _versions(table: Table) -> tuple[int, ...]:
    given = table.values.get("versions", [1])
    # True and 1.0 equal 1, and are no version.
    if isinstance(given, list) and all(type(version) is int for version in given):
        for versions in _VERSIONS:
            if tuple(given) == versions:
                return versions
    raise table.error("versions", "[1], [2] or [1, 2]")


def _features(table: Table) -> OsFeatures:
    table.expect("function", "compatible_id", "sub_compatible_id", "properties")
    properties = table.table("properties")
    with table.blamed():
        return OsFeatures(
            compatible_id=table.text("compatible_id", ""),
            sub_compatible_id=table.text("sub_compatible_id", ""),
            properties={} if properties is None else {
                name: _property(properties, name) for name in properties.values
            },
        )  # fmt: skip


def _property(table: Table, name: str) -> PropertyValue:
    match table.values[name]:
        case str(text):
            return text
        case bool():
            pass
        case int(number):
            return number
        case list(texts) if all(isinstance(text, str) for text in texts):
            return tuple(texts)
        case {"hex": str(digits), **rest} if not rest:
            try:
                return bytes.fromhex(digits)
            except ValueError:
                pass
    raise table.error(name, "text, an array of texts, a number, or { hex = '01 02 ...' }")


def read_webusb(table: Table | None) -> WebUsb | None:
    """What a table says of WebUSB, None without one. Raises SchemeError."""
    if table is None:
        return None
    table.expect("vendor_code", "url")
    return WebUsb(
        vendor_code=table.integer("vendor_code", None, 0, 0xFF), url=table.text("url", "")
    )


def os_descriptor_keys(ours: OsDescriptors) -> dict[str, object]:
    """The keys of `os_descriptors` but its features, without what goes without saying."""
    keys: dict[str, object] = {
        "vendor_code": ours.vendor_code,
        "signature": ours.signature,
        "config": ours.config,
    }
    if ours.versions != (1,):
        keys["versions"] = list(ours.versions)
    if ours.windows_version != WINDOWS_8_1:
        keys["windows_version"] = ours.windows_version
    return keys


def feature_keys(place: int, features: OsFeatures) -> dict[str, object]:
    """The keys of one of `[[os_descriptors.features]]` but its properties."""
    keys: dict[str, object] = {"function": place}
    for name in ("compatible_id", "sub_compatible_id"):
        if getattr(features, name):
            keys[name] = getattr(features, name)
    return keys
