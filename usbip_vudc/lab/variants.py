"""Kernel modules without SG: which lines of which file make the difference, and where they lie.

Until 2019 vhci_hcd had no SG. usb_sg_init (drivers/usb/core/message.c) makes one URB of an SG
list where the bus has an ``sg_tablesize``, else one URB of each entry. So a module without SG is
today's without the lines that say so. Pure: text in, text out; what builds it is ``modules``.

Read so far, the edit is the same in each: Linux 5.10, 6.1, 6.12 (vhci_setup sets sg_tablesize 32
and no_sg_constraint, dummy_setup sg_tablesize ~0) and 7.2 (vhci's is ~0 too).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from usbip_vudc.errors import SchemeError, UsbipVudcError

__all__ = ("VARIANTS", "Variant", "VariantError", "kbuild_file", "variant_of", "variant_path",
           "without_sg")  # fmt: skip


class VariantError(UsbipVudcError):
    """A module without SG cannot be had for a kernel; the message says why."""


@dataclass(frozen=True, slots=True)
class Variant:
    """A module and what is taken out of it.

    ``folder`` is where it is in the kernel's tree, ``files`` a regex of the names there that it
    is built of, ``edited`` the one with the lines. ``assigned`` are the left sides of the
    assignments that are removed, each found exactly once.
    """

    module: str
    folder: str
    files: str
    edited: str
    assigned: tuple[str, ...]


VARIANTS: Final[Mapping[str, Variant]] = {
    variant.module: variant
    for variant in (
        Variant(
            module="vhci-hcd",
            folder="drivers/usb/usbip",
            files=r"Makefile|.+\.[ch]",
            edited="vhci_hcd.c",
            assigned=("hcd->self.sg_tablesize", "hcd->self.no_sg_constraint"),
        ),
        Variant(
            module="dummy_hcd",
            folder="drivers/usb/gadget/udc",
            files=r"Makefile|dummy_hcd\.c",
            edited="dummy_hcd.c",
            assigned=("hcd->self.sg_tablesize",),
        ),
    )
}


def variant_of(module: str) -> Variant:
    """The variant of a module. Raises SchemeError for one that has none."""
    try:
        return VARIANTS[module]
    except KeyError:
        known = ", ".join(VARIANTS)
        raise SchemeError(f"module {module!r}: there are variants without SG of {known}") from None


def variant_path(cache: Path, kernel_version: str, module: str) -> Path:
    """Where the module without SG for a kernel (as ``uname -r`` says it) is, once it is built.

    The directory is the same for all modules; its name changes when an edit does.
    """
    variant_of(module)
    recipe = repr(sorted(VARIANTS.items())) + "".join(map(kbuild_file, sorted(VARIANTS)))
    digest = hashlib.sha256(recipe.encode()).hexdigest()
    return cache / kernel_version / f"no-sg-{digest[:8]}" / f"{module}.ko"


def without_sg(source: str, variant: Variant, *, kernel: str) -> str:
    """The edited file without its assignments of SG.

    Raises VariantError, saying what was expected and what was found, where the file reads
    otherwise than we know: a module that still has SG would show nothing.
    """
    where = f"Linux {kernel}, {variant.folder}/{variant.edited}"
    for left in variant.assigned:
        source, count = re.subn(
            rf"^[ \t]*{re.escape(left)} = [^;\n]+;[ \t]*\n", "", source, flags=re.MULTILINE
        )
        if count != 1:
            raise VariantError(f"{where}: expected one line '{left} = ...;', found {count}")
    if left_over := re.search(
        r"^.*(?:->|\.)(?:sg_tablesize|no_sg_constraint).*$", source, re.MULTILINE
    ):
        raise VariantError(
            f"{where}: expected no more of SG after {' and '.join(variant.assigned)}, found "
            f"'{left_over[0].strip()}'"
        )
    return source


def kbuild_file(module: str) -> str:
    """The Kbuild file beside the kernel's own Makefile, which says what objects a module has."""
    return f"include $(src)/Makefile\nobj-y :=\nobj-m := {module}.o\n"
