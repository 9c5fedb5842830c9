"""BTF, the kernel's description of its own structs: where in a struct a member lies. Pure.

It reads what /sys/kernel/btf/vmlinux and the files of modules beside it hold
(Documentation/bpf/btf.rst), and of that the structs only: names, sizes, offsets of members. It
follows no types: members of a struct without a name inside another are not found.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from usbip_vudc.errors import UsbipVudcError

__all__ = ("Btf", "BtfError", "Struct")

_MAGIC: Final = 0xEB9F
_HEADER: Final = "HBBIIIII"
"""magic, version, flags, hdr_len, type_off, type_len, str_off, str_len."""

_STRUCT: Final = 4
_WORDS: Final = {
    1: (1, 0),  # INT
    2: (0, 0),  # PTR
    3: (3, 0),  # ARRAY
    _STRUCT: (0, 3),
    5: (0, 3),  # UNION
    6: (0, 2),  # ENUM
    7: (0, 0),  # FWD
    8: (0, 0),  # TYPEDEF
    9: (0, 0),  # VOLATILE
    10: (0, 0),  # CONST
    11: (0, 0),  # RESTRICT
    12: (0, 0),  # FUNC
    13: (0, 2),  # FUNC_PROTO
    14: (1, 0),  # VAR
    15: (0, 3),  # DATASEC
    16: (0, 0),  # FLOAT
    17: (1, 0),  # DECL_TAG
    18: (0, 0),  # TYPE_TAG
    19: (0, 3),  # ENUM64
}
"""Kind of a type -> 32-bit words that follow its first three: so many, and for each of vlen."""


class BtfError(UsbipVudcError):
    """It is no BTF, or not one that this module reads, or a struct is not in it."""


@dataclass(frozen=True, slots=True)
class Struct:
    """A struct of the kernel; ``size`` and the offsets of ``members`` are in bytes."""

    name: str
    size: int
    members: Mapping[str, int]

    def offset(self, member: str) -> int:
        """Where a member begins. Raises BtfError where there is none of this name."""
        try:
            return self.members[member]
        except KeyError:
            known = ", ".join(self.members)
            raise BtfError(f"struct {self.name} has no {member}: it has {known}") from None


class Btf:
    """One blob of BTF; a module's goes on where its ``base``, the kernel's own, ends.

    Raises BtfError where it is none.
    """

    def __init__(self, data: bytes, base: Btf | None = None) -> None:
        size = struct.calcsize(f"={_HEADER}")
        if len(data) < size:
            raise BtfError(f"BTF: {len(data)} bytes, a header alone has {size}")
        swapped = int.from_bytes(data[:2], sys.byteorder) != _MAGIC
        order = {"little": "><", "big": "<>"}[sys.byteorder][not swapped]
        fields = struct.unpack_from(order + _HEADER, data)
        magic, version, _flags, header, type_offset, type_length, str_offset, str_length = fields
        if magic != _MAGIC or version != 1:
            raise BtfError(
                f"BTF: magic {data[:2].hex()} and version {version}, expected {_MAGIC:#x} and 1"
            )
        types = data[header + type_offset : header + type_offset + type_length]
        strings = data[header + str_offset : header + str_offset + str_length]
        if len(types) != type_length or len(strings) != str_length or type_length % 4:
            raise BtfError(f"BTF: {len(data)} bytes are not all that its header announces")
        self._words = array("I", types)
        if swapped:
            self._words.byteswap()
        self.strings: Final[bytes] = (base.strings if base is not None else b"") + strings
        """Numbered through: a module's begin where its base's end."""

    def structs(self, *names: str) -> dict[str, Struct]:
        """Those of these structs that are here: in a module, those that its base has not.

        Of several of one name, the first.
        """
        found: dict[str, Struct] = {}
        wanted = {name.encode(): name for name in names}
        for position in self._positions():
            name = wanted.get(self._string(self._words[position]))
            if name is not None and name not in found:
                found[name] = self._struct(position, name)
        return found

    def _positions(self) -> Iterator[int]:
        """Where in the words each struct begins."""
        words, position = self._words, 0
        end = len(words)
        # About 100,000 types in a kernel: this loop is all the time that it takes to read it.
        while position + 3 <= end:
            info = words[position + 1]
            kind = info >> 24 & 0x1F
            if kind == _STRUCT:
                yield position
            if kind not in _WORDS:
                raise BtfError(f"BTF: type of kind {kind}, which is not known here")
            fixed, each = _WORDS[kind]
            position += 3 + fixed + each * (info & 0xFFFF)
        if position != end:
            raise BtfError("BTF: its last type is cut off")

    def _struct(self, position: int, name: str) -> Struct:
        _, info, size = self._words[position : position + 3]
        members: dict[str, int] = {}
        for number in range(info & 0xFFFF):
            at = position + 3 + 3 * number
            bits = self._words[at + 2]
            if info >> 31:  # kind_flag: the upper 8 bits are the width of a bit field, or 0
                bits &= 0xFF_FFFF
            if bits % 8 == 0:  # else a bit field, that begins inside a byte
                members[self._string(self._words[at]).decode()] = bits // 8
        return Struct(name, size, members)

    def _string(self, offset: int) -> bytes:
        end = self.strings.find(b"\0", offset)
        if end < 0:
            raise BtfError(f"BTF: string {offset} is beyond {len(self.strings)} bytes")
        return self.strings[offset:end]
