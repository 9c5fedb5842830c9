from __future__ import annotations

import struct
from pathlib import Path

import pytest

from usbip_vudc.block.btf import Btf, BtfError

KERNEL = Path("/sys/kernel/btf/vmlinux")


class Blob:
    """BTF by hand, as Documentation/bpf/btf.rst describes it."""

    def __init__(self, order: str = "=", *, first_string: int = 0) -> None:
        self.order = order
        self.types = b""
        self.strings = b"" if first_string else b"\0"
        self.first_string = first_string

    def name(self, text: str) -> int:
        offset = self.first_string + len(self.strings)
        self.strings += text.encode() + b"\0"
        return offset

    def add(self, kind: int, *words: int, name: str = "", vlen: int = 0, flag: int = 0) -> None:
        info = flag << 31 | kind << 24 | vlen
        offset = self.name(name) if name else 0
        self.types += struct.pack(f"{self.order}{2 + len(words)}I", offset, info, *words)

    def add_struct(self, name: str, size: int, members: dict[str, int], *, flag: int = 0) -> None:
        """``members`` are name -> the word of the offset."""
        words = [word for text, bits in members.items() for word in (self.name(text), 1, bits)]
        self.add(4, size, *words, name=name, vlen=len(members), flag=flag)

    def packed(self) -> bytes:
        header = struct.pack(
            f"{self.order}HBBIIIII", 0xEB9F, 1, 0, 24,
            0, len(self.types), len(self.types), len(self.strings),
        )  # fmt: skip
        return header + self.types + self.strings


URB = {"dev": 64 * 8, "pipe": 80 * 8, "num_sgs": 124 * 8}


@pytest.mark.parametrize("order", ["<", ">"], ids=["little-endian", "big-endian"])
def test_a_struct_says_where_its_members_begin(order: str) -> None:
    blob = Blob(order)
    blob.add(1, 4, 0x2000_0020, name="int")
    blob.add_struct("scatterlist", 32, {"page_link": 0, "offset": 64, "length": 96})
    blob.add_struct("urb", 184, URB)
    found = Btf(blob.packed()).structs("urb", "scatterlist", "nosuch")
    assert sorted(found) == ["scatterlist", "urb"]
    assert found["urb"].size == 184
    assert found["urb"].members == {"dev": 64, "pipe": 80, "num_sgs": 124}
    assert found["scatterlist"].offset("length") == 12


def test_what_lies_between_structs_is_passed_over_by_its_length() -> None:
    blob = Blob()
    blob.add(1, 4, 0x20, name="int")  # INT
    for kind in (2, 8, 9, 10, 11, 12, 16, 18):  # PTR, TYPEDEF... those that are three words
        blob.add(kind, 1)
    blob.add(7, 0, name="urb")  # FWD: declared here, and no struct
    blob.add(3, 0, 1, 1, 8)  # ARRAY
    blob.add(5, 8, 0, 1, 0, 0, 1, 0, vlen=2)  # UNION
    blob.add(6, 4, 0, 1, vlen=1)  # ENUM
    blob.add(13, 1, 0, 1, vlen=1)  # FUNC_PROTO
    blob.add(14, 1, 0)  # VAR
    blob.add(15, 4, 1, 0, 4, vlen=1)  # DATASEC
    blob.add(17, 1, 0)  # DECL_TAG
    blob.add(19, 8, 0, 1, 0, vlen=1)  # ENUM64
    blob.add_struct("urb", 184, URB)
    assert Btf(blob.packed()).structs("urb")["urb"].offset("pipe") == 80


def test_bit_fields_have_no_offset_in_bytes_but_their_neighbours_do() -> None:
    blob = Blob()
    members = {"reset": 1 << 24 | 12, "ready": 1 << 24 | 16, "devnum": 32}
    blob.add_struct("usb_device", 64, members, flag=1)
    assert Btf(blob.packed()).structs("usb_device")["usb_device"].members == {
        "ready": 2, "devnum": 4,
    }  # fmt: skip


def test_the_first_struct_of_a_name_counts() -> None:
    blob = Blob()
    blob.add_struct("urb", 184, {"pipe": 640})
    blob.add_struct("urb", 8, {"pipe": 0})
    assert Btf(blob.packed()).structs("urb")["urb"].size == 184


def test_a_module_takes_names_from_the_kernel_and_goes_on_behind_them() -> None:
    kernel = Blob()
    shared = kernel.name("pipe")
    base = Btf(kernel.packed())
    module = Blob(first_string=len(kernel.strings))
    own = module.name("dev")
    module.add(4, 16, shared, 1, 0, own, 1, 64, name="urb", vlen=2)
    assert Btf(module.packed(), base=base).structs("urb")["urb"].members == {"pipe": 0, "dev": 8}


def test_a_member_that_is_not_there_is_named_with_those_that_are() -> None:
    blob = Blob()
    blob.add_struct("urb", 184, URB)
    urb = Btf(blob.packed()).structs("urb")["urb"]
    with pytest.raises(BtfError, match=r"struct urb has no sg: it has dev, pipe, num_sgs"):
        urb.offset("sg")


GOOD = Blob()
GOOD.add_struct("urb", 184, URB)
UNKNOWN = Blob()
UNKNOWN.add(31, 0)
CUT = Blob()
CUT.add(3, 0, 1)
NAMELESS = Blob()
NAMELESS.add_struct("urb", 8, {})
NAMELESS.types = struct.pack("=I", 1000) + NAMELESS.types[4:]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x9f\xeb", "2 bytes, a header alone has 24"),
        (b"\x7fELF" + bytes(20), "magic 7f45 and version 76, expected 0xeb9f and 1"),
        (GOOD.packed()[:-1], "not all that its header announces"),
        (UNKNOWN.packed(), "kind 31, which is not known here"),
        (CUT.packed(), "its last type is cut off"),
        (NAMELESS.packed(), "string 1000 is beyond 5 bytes"),
    ],
)
def test_what_is_no_btf_is_refused_with_the_reason(data: bytes, reason: str) -> None:
    with pytest.raises(BtfError, match=reason):
        Btf(data).structs("urb")


@pytest.mark.skipif(not KERNEL.exists(), reason=f"this kernel has no {KERNEL}")
def test_the_kernel_that_runs_describes_its_scatterlist() -> None:
    found = Btf(KERNEL.read_bytes()).structs("scatterlist")["scatterlist"]
    # include/linux/scatterlist.h: page_link first, then two unsigned ints, whatever comes behind.
    word = struct.calcsize("P")
    assert (found.offset("page_link"), found.offset("offset")) == (0, word)
    assert found.offset("length") == word + 4
    assert found.size >= word + 8
