"""The picture of the floors, held against the imports: down only, and no circle."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# From the ground up: a room may import itself and what stands before it.
ROOMS = (
    "usbip_vudc.errors",
    "usbip_vudc.memory",
    "usbip_vudc.kernel_log",
    "usbip_vudc.usb",
    "usbip_vudc.sglist",
    "usbip_vudc.urb",
    "usbip_vudc.wire",
    "usbip_vudc.function",
    "usbip_vudc.wrapped",
    "usbip_vudc.conversation",
    "usbip_vudc.gadget",
    "usbip_vudc.registry",
    "usbip_vudc.scheme",
    "usbip_vudc.control",
    "usbip_vudc.pipe",
    "usbip_vudc.iso_pipe",
    "usbip_vudc.pace",
    "usbip_vudc.standard_requests",
    "usbip_vudc.endpoint0",
    "usbip_vudc.lives",
    "usbip_vudc.cable",
    "usbip_vudc.vudc",
    "usbip_vudc.sysfs",
    "usbip_vudc.settle",
    "usbip_vudc.exportable",
    "usbip_vudc.server",
    "usbip_vudc.serving",
    "usbip_vudc.stub",
    "usbip_vudc.kernel_export",
    "usbip_vudc.host",
    "usbip_vudc.pyusb_errors",
    "usbip_vudc.pyusb_backend",
    "usbip_vudc.vhci",
    "usbip_vudc.injection",
    "usbip_vudc.capture",
    "usbip_vudc.proxy",
    "usbip_vudc.carrier",
    "usbip_vudc.seams",
    "usbip_vudc.strategies",
    "usbip_vudc.pytest_support",
    "usbip_vudc.pytest_plugin",
    "usbip_vudc.lab",
    "usbip_vudc.block",
    "usbip_vudc.report",
    "usbip_vudc.verdicts",
    "usbip_vudc.demo",
    "usbip_vudc.matrix",
    "usbip_vudc.usbtest",
    "usbip_vudc.conformance",
    "usbip_vudc.bot_check",
    "usbip_vudc.cli",
    "usbip_vudc.__main__",
)

# The kernel's UDCs stand on the words, the seam and the model; their commands on the apps too.
CONFIGFS_STANDS_ON = {
    "usbip_vudc.errors",
    "usbip_vudc.kernel_log",
    "usbip_vudc.memory",
    "usbip_vudc.usb",
    "usbip_vudc.sglist",
    "usbip_vudc.function",
    "usbip_vudc.gadget",
    "usbip_vudc.registry",
    "usbip_vudc.scheme",
    "usbip_vudc.lives",
    "usbip_vudc.sysfs",
}

# What devices do stands on the words, the seam and the model alone.
GADGETS_STAND_ON = {
    "usbip_vudc.errors",
    "usbip_vudc.memory",
    "usbip_vudc.usb",
    "usbip_vudc.sglist",
    "usbip_vudc.conversation",
    "usbip_vudc.function",
    "usbip_vudc.wrapped",
    "usbip_vudc.gadget",
    "usbip_vudc.registry",
    "usbip_vudc.scheme",
}

PURE = (
    "usbip_vudc.errors",
    "usbip_vudc.usb",
    "usbip_vudc.sglist",
    "usbip_vudc.urb",
    "usbip_vudc.wire",
    "usbip_vudc.gadget",
    "usbip_vudc.pipe",
    "usbip_vudc.iso_pipe",
    "usbip_vudc.standard_requests",
    "usbip_vudc.endpoint0",
    "usbip_vudc.block.btf",
    "usbip_vudc.block.events",
    "usbip_vudc.block.limits",
    "usbip_vudc.host.iso",
    "usbip_vudc.host.sg",
    "usbip_vudc.injection.shaping",
    "usbip_vudc.host.enumeration",
    "usbip_vudc.host.scsi",
    "usbip_vudc.proxy.effects",
    "usbip_vudc.proxy.endpoints",
    "usbip_vudc.proxy.ends",
    "usbip_vudc.proxy.injected",
    "usbip_vudc.proxy.passing",
    "usbip_vudc.proxy.relay",
    "usbip_vudc.bot_check.judging",
    "usbip_vudc.usbtest.cases",
    "usbip_vudc.usbtest.meaning",
    "usbip_vudc.usbtest.parameters",
    "usbip_vudc.scheme.platforms",
    "usbip_vudc.scheme.size",
    "usbip_vudc.scheme.writing",
    "configfs.ffs_os_descriptors",
    "configfs.summary",
    "configfs.tree",
    "gadgets.acm.descriptors",
    "gadgets.acm.line",
    "gadgets.ftdi.chip",
    "gadgets.ftdi.eeprom",
    "gadgets.hid.control",
    "gadgets.hid.descriptors",
    "gadgets.mass_storage.blocks",
    "gadgets.serial.dropping",
    "gadgets.serial.flow",
    "gadgets.serial.hayes",
    "gadgets.serial.line",
    "gadgets.mass_storage.bot",
    "gadgets.mass_storage.capacity",
    "gadgets.mass_storage.cdrom",
    "gadgets.mass_storage.command",
    "gadgets.mass_storage.inquiry",
    "gadgets.mass_storage.mode",
    "gadgets.mass_storage.provisioning",
    "gadgets.mass_storage.report",
    "gadgets.mass_storage.scsi",
    "gadgets.mass_storage.sense",
    "gadgets.mass_storage.stores.extents",
    "gadgets.mass_storage.state",
)
IMPURE_MODULES = {
    "anyio", "asyncio", "mmap", "os", "pathlib", "select", "socket", "subprocess", "threading",
}  # fmt: skip


def modules(package: str) -> Iterator[tuple[str, set[str]]]:
    """Each module of a package with all the modules that it imports."""
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        imported: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{name}: relative import"
                imported.add(node.module or "")
                imported |= {f"{node.module}.{alias.name}" for alias in node.names}
        yield name, imported


def room_of(module: str) -> str | None:
    """The room that a module belongs to: the longest that it begins with."""
    fits = [room for room in ROOMS if f"{module}.".startswith(f"{room}.")]
    return max(fits, key=len, default=None)


OURS = dict(modules("usbip_vudc"))
GADGETS = dict(modules("gadgets"))
CONFIGFS = dict(modules("configfs"))


@pytest.mark.parametrize("module", [m for m in OURS if m != "usbip_vudc"])
def test_imports_point_down(module: str) -> None:
    room = room_of(module)
    assert room is not None, f"{module} is in no room: give it a place in the picture"
    for imported in OURS[module]:
        target = room_of(imported)
        if target is not None:
            assert ROOMS.index(target) <= ROOMS.index(room), f"{module} imports {imported}"
        assert not imported.startswith(("gadgets", "configfs")), f"{module} imports {imported}"


@pytest.mark.parametrize("module", GADGETS)
def test_gadgets_stand_on_seam_model_and_words(module: str) -> None:
    for imported in GADGETS[module]:
        room = room_of(imported)
        assert room is None or room in GADGETS_STAND_ON, f"{module} imports {imported}"


@pytest.mark.parametrize("module", CONFIGFS)
def test_configfs_stands_on_seam_model_and_words(module: str) -> None:
    for imported in CONFIGFS[module]:
        room = room_of(imported)
        assert room is None or room in CONFIGFS_STANDS_ON or module.startswith("configfs.cli"), (
            f"{module} imports {imported}"
        )
        assert not imported.startswith("gadgets"), f"{module} imports {imported}"


def test_the_two_gadgets_do_not_know_each_other() -> None:
    for module, imported in GADGETS.items():
        for own, other in (("gadgets.acm", "gadgets.mass_storage"),
                           ("gadgets.mass_storage", "gadgets.acm")):  # fmt: skip
            if module.startswith(own):
                assert not any(name.startswith(other) for name in imported), module


@pytest.mark.parametrize("room", PURE)
def test_pure_rooms_do_no_io(room: str) -> None:
    inside = {
        m: i for m, i in {**OURS, **GADGETS, **CONFIGFS}.items() if f"{m}.".startswith(f"{room}.")
    }
    assert inside, f"no module {room}"
    for module, imported in inside.items():
        used = {name.split(".")[0] for name in imported} & IMPURE_MODULES
        assert not used, f"{module} imports {used}"


def test_every_public_module_says_what_it_offers() -> None:
    for package in ("usbip_vudc", "gadgets", "configfs"):
        for path in (ROOT / package).rglob("*.py"):
            tree = ast.parse(path.read_text())
            assert ast.get_docstring(tree), f"{path} has no docstring"
