"""What each command's ``--help`` ends with. A test parses every line with the command's options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

__all__ = ("EXAMPLES",)

EXAMPLES: Final[Mapping[str, tuple[str, ...]]] = {
    "serve": (
        "usbip-vudc serve storage serial --image disk.img --size 64M",
        "usbip-vudc serve serial --profile pty:/tmp/firmware --speed full",
        "usbip-vudc serve ./disk.toml --plan 'mass_storage.in nth(3) stall' --tcp-port 0",
    ),
    "check": ("usbip-vudc check disk.toml", "usbip-vudc check storage --speed full"),
    "template": ("usbip-vudc template storage > disk.toml",),
    "media": (
        "usbip-vudc media list",
        "usbip-vudc media eject --force",
        "usbip-vudc media insert other.img --device 1-1 --lun 0",
        "usbip-vudc media protect --off",
    ),
    "udc": ("usbip-vudc udc",),
    "up": (
        "usbip-vudc up storage --image disk.img --udc dummy_udc.0",
        "usbip-vudc up disk.toml --udc fe980000.usb --user nobody",
    ),
    "down": ("usbip-vudc down storage", "usbip-vudc down --all"),
    "list": ("usbip-vudc list", "usbip-vudc list -r 192.168.1.7"),
    "save": ("usbip-vudc save g1 g1.toml",),
    "export": (
        "usbip-vudc export usbip-vudc.0 3-1 --host 0.0.0.0",
        "usbip-vudc export --gadget serial --plan flaky-wire",
    ),
    "bind": ("usbip-vudc bind -b 3-1",),
    "unbind": ("usbip-vudc unbind -b 3-1",),
    "attach": (
        "usbip-vudc attach -r 127.0.0.1 -b 1-1 --wait",
        "usbip-vudc attach -r 192.168.1.7 -b 1-1 --retry",
    ),
    "detach": ("usbip-vudc detach -p 0", "usbip-vudc detach --all"),
    "port": ("usbip-vudc port",),
    "sg": (
        "usbip-vudc sg limits /dev/sda",
        "usbip-vudc sg read /dev/sda --layout 3584+7x4096 --trace",
        "usbip-vudc sg write /dev/sda --layout odd --length 64K --pattern 7 --yes",
    ),
    "plan": (
        "usbip-vudc plan list",
        "usbip-vudc plan explain 'mass_storage.in cbw(0x28) phase(status) nth(3) csw(tag=1)'",
        "usbip-vudc plan layout each:3584+7x4096 --maxp 1024",
        "usbip-vudc plan toml flaky-wire > flaky.toml",
    ),
    "proxy": (
        "usbip-vudc proxy -r 192.168.1.7 --record cable.pcapng",
        "usbip-vudc proxy -r 192.168.1.7 --plan 'cable tcp_cut(1, 47, 100)'",
    ),
    "matrix": (
        "usbip-vudc matrix --gadget storage --speed super --layout 3584+7x4096 --plan none",
        "usbip-vudc matrix --plan all -n 2 --junit matrix.xml",
    ),
    "conformance": (
        "usbip-vudc conformance 192.168.1.7 1-1",
        "usbip-vudc conformance 192.168.1.7 1-1 --rules must --junit usbip.xml",
    ),
    "bot-check": (
        "usbip-vudc bot-check 192.168.1.7 1-1",
        "usbip-vudc bot-check --device 3-1 --checks 4-8,cbw --no-write",
    ),
    "usbtest": (
        "usbip-vudc lab -- usbip-vudc usbtest --on vudc,super",
        "usbip-vudc usbtest --device 3-1 --cases control,7,8 --ktap",
    ),
    "demo": ("usbip-vudc demo", "usbip-vudc lab -- usbip-vudc demo lowspeed"),
    "doctor": ("usbip-vudc doctor",),
    "lab": (
        "usbip-vudc lab --kernel debian:trixie -- usbip-vudc udc",
        "usbip-vudc lab --kernel ~/linux/arch/x86/boot/bzImage -- make -C ~/tests run",
    ),
}
"""Command -> lines that one can type."""
