from __future__ import annotations

import itertools
import struct

import pytest

from usbip_vudc.block.btf import BtfError, Struct
from usbip_vudc.block.events import Events, TracedUrb, TraceError
from usbip_vudc.injection.layout import Layout, Segment

# Linux 6.1 on x86-64, Debian's.
STRUCTS = {
    "urb": Struct(
        "urb", 184,
        {"dev": 64, "pipe": 80, "sg": 112, "num_sgs": 124, "transfer_buffer_length": 128},
    ),
    "usb_device": Struct("usb_device", 1392, {"devnum": 0, "bus": 80}),
    "usb_bus": Struct("usb_bus", 144, {"busnum": 16}),
    "scatterlist": Struct(
        "scatterlist", 32, {"page_link": 0, "offset": 8, "length": 12, "dma_address": 16}
    ),
}  # fmt: skip
EVENTS = Events(STRUCTS)

IN_PIPE = 3 << 30 | 1 << 15 | 2 << 8 | 0x80
OUT_PIPE = 3 << 30 | 2 << 15 | 2 << 8
LEFT = b"\x5a" * 32
"""What lies in memory where no list is: seen as an entry it would have 1.5 GB."""


def entries_of(layout: str) -> tuple[Segment, ...]:
    parsed = Layout.parse(layout)
    return parsed.apply(parsed.length, 512)[0]


def entry(page_link: int, segment: Segment = Segment(0, 0)) -> bytes:  # noqa: B008 - a value
    return struct.pack("=QIIQII", page_link, segment.page_offset or 0, segment.length, 0, 0, 0)


def array_of(segments: tuple[Segment, ...]) -> bytes:
    """An array of entries as sg_init_table and sg_set_page leave it, the last one marked."""
    last = len(segments) - 1
    return b"".join(
        entry(0xFFFF_EA00_0000_0000 + 64 * number | (2 if number == last else 0), segment)
        for number, segment in enumerate(segments)
    )


def dump(memory: bytes, begin: int) -> str:
    """1024 bytes as the kernel prints them; behind the array is whatever was there."""
    data = (memory + LEFT * 200)[begin : begin + 1024]
    words = [f"{word:#x}" for word in struct.unpack("=128Q", data)]
    return f"a={{{','.join(words[:64])}}} b={{{','.join(words[64:])}}}"


def lines(
    layout: str, *, chained: bool, urb: int = 0xFFFF_8881_0000_1000, pipe: int = IN_PIPE
) -> list[str]:
    """What the kernel prints for one URB whose SG list is this layout."""
    segments = entries_of(layout)
    if chained and len(segments) > 2:
        first = array_of(segments[:1]).replace(b"\2", b"\0", 1) + entry(0xFFFF_8881_0000_2001)
        chain = array_of(segments[1:])
    else:
        first, chain = array_of(segments), b""
    length = sum(segment.length for segment in segments)
    fields = f"urb={urb:#x} bus=3 device=2 pipe={pipe} length={length} count={len(segments)}"
    made = [line("list", f"{fields} {dump(first, 0)}")]
    for number in range(4):
        if len(segments) > 1 + 32 * number:
            made.append(line(f"chain{number}", f"{fields} {dump(chain, 1024 * number)}"))
    return made


def line(event: str, fields: str, cpu: int = 1) -> str:
    task = f"     usb-storage-214     [{cpu:03}] d....    42.190823"
    return f"{task}: {event}: (vhci_urb_enqueue+0x0/0x420 [vhci_hcd]) {fields}"


def traced(*made: list[str]) -> tuple[TracedUrb, ...]:
    counted = sum(map(len, made))
    header = f"# tracer: nop\n#\n# entries-in-buffer/entries-written: {counted}/{counted}   #P:2\n"
    return EVENTS.urbs(header + "\n".join(itertools.chain(*made)) + "\n")


LAYOUTS = [
    "4096@0",
    "512@512+1024@0",
    "3584@512+7x4096@0",
    "1536@512+2560@1024+512@3584+4096@0+1024@2048",
    "32x512@3584",
]


@pytest.mark.parametrize("chained", [True, False], ids=["chained as SCSI's", "one array"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_list_is_read_entry_by_entry(layout: str, chained: bool) -> None:
    (urb,) = traced(lines(layout, chained=chained))
    assert urb.entries == entries_of(layout)
    assert urb.count == len(urb.entries)
    assert str(urb) == layout
    assert (urb.busnum, urb.devnum, urb.endpoint) == (3, 2, 0x81)


def test_a_long_chain_is_read_over_several_events() -> None:
    (urb,) = traced(lines("512@0+127x4096@0+512@0", chained=True))
    assert urb.entries == entries_of("512@0+127x4096@0+512@0")


def test_what_was_not_fetched_of_a_list_is_counted() -> None:
    (urb,) = traced(lines("40x4096@0", chained=False))
    assert urb.lengths == (4096,) * 32
    assert str(urb) == "32x4096@0+(8 more entries)"


def test_a_urb_without_a_list_says_so() -> None:
    fields = f"urb=0xff bus=3 device=2 pipe={OUT_PIPE} length=31 count=0 {dump(b'', 0)}"
    (urb,) = traced([line("list", fields)])
    assert urb == TracedUrb(3, 2, 0x02, 31, 0, ())
    assert str(urb) == "31 without an SG list"


def test_a_urb_that_moves_less_than_its_list_holds_says_so() -> None:
    # sd reads the last blocks of a USB disk one by one.
    made = [text.replace("length=4096", "length=512") for text in lines("4096@0", chained=True)]
    (urb,) = traced(made)
    assert str(urb) == "4096@0, 512 bytes of it"


@pytest.mark.parametrize("backwards", [False, True])
def test_events_of_one_urb_belong_together_in_any_order(backwards: bool) -> None:
    # Handlers of two kprobes at one place run in the order that the kernel likes.
    layouts = ["3584@512+7x4096@0", "4096@0", "8x512@3584", "8x512@0", "4096@512", "3x512@0"]
    made = [lines(layout, chained=True) for layout in layouts]
    if backwards:
        made = [group[::-1] for group in made]
    assert [str(urb) for urb in traced(*made)] == layouts


def on_cpu_0(made: list[str]) -> list[str]:
    return [text.replace("[001]", "[000]") for text in made]


def test_two_urbs_whose_events_alternate_stay_apart() -> None:
    one = lines("3x512@0", chained=True, urb=0xA0)
    other = on_cpu_0(lines("3x1024@0", chained=True, urb=0xB0, pipe=OUT_PIPE))
    mixed = [text for pair in zip(one, other, strict=True) for text in pair]
    assert [(str(urb), urb.endpoint) for urb in traced(mixed)] == [
        ("3x512@0", 0x81),
        ("3x1024@0", 0x02),
    ]


def test_a_urb_that_two_cpus_used_is_told_apart_by_them() -> None:
    one = lines("3584@512+7x4096@0", chained=True)
    other = on_cpu_0(lines("8x512@3584", chained=True))
    (first, second) = traced([one[0], *other, one[1]])
    assert (str(first), str(second)) == ("3584@512+7x4096@0", "8x512@3584")


@pytest.mark.parametrize("backwards", [False, True])
def test_a_urb_of_which_the_trace_has_a_part_at_its_end_does_not_count(backwards: bool) -> None:
    made = lines("8x512@3584", chained=True)
    if backwards:
        made = made[::-1]
    other = lines("8x512@3584", chained=True, urb=0xA0)
    assert traced(made[1:], other, made[:1]) == traced(other)


LOST = "# entries-in-buffer/entries-written: 10/25   #P:2\n"


@pytest.mark.parametrize(
    ("trace", "reason"),
    [
        (LOST, "the trace kept 10 events of 25"),
        ("  cat-1 [000] d.... 1.0: list: [LINE TOO BIG]\n", "too long to print"),
        ("\n".join(lines("3x512", chained=True)[1:] * 3), "the trace has chain0 only"),
    ],
)
def test_a_trace_that_is_not_complete_is_refused(trace: str, reason: str) -> None:
    with pytest.raises(TraceError, match=reason):
        EVENTS.urbs(trace)


def test_offsets_in_the_events_are_those_of_the_structs() -> None:
    # These very lines were given to Linux 6.1.
    made = EVENTS.definitions()
    assert list(made) == ["list", "chain0", "chain1", "chain2", "chain3"]
    common = (
        "vhci_hcd:vhci_urb_enqueue urb=$arg2:x64 bus=+16(+80(+64($arg2))):s32 "
        "device=+0(+64($arg2)):s32 pipe=+80($arg2):u32 length=+128($arg2):u32 count=+124($arg2):s32"
    )
    assert made["list"] == (
        f"p:usbip_vudc_sg/list {common} a=+0(+112($arg2)):x64[64] b=+512(+112($arg2)):x64[64]"
    )
    assert made["chain1"] == (
        f"p:usbip_vudc_sg/chain1 {common} "
        "a=+1023(+32(+112($arg2))):x64[64] b=+1535(+32(+112($arg2))):x64[64]"
    )
    assert made["chain0"].endswith(
        " a=-1(+32(+112($arg2))):x64[64] b=+511(+32(+112($arg2))):x64[64]"
    )


def test_each_event_is_limited_to_one_device_and_to_lists_that_reach_it() -> None:
    assert EVENTS.filters(3, 2) == {
        "list": "bus == 3 && device == 2",
        "chain0": "bus == 3 && device == 2 && count > 1",
        "chain1": "bus == 3 && device == 2 && count > 33",
        "chain2": "bus == 3 && device == 2 && count > 65",
        "chain3": "bus == 3 && device == 2 && count > 97",
    }


def test_a_kernel_with_other_members_is_refused_by_their_name() -> None:
    other = {**STRUCTS, "urb": Struct("urb", 100, {"dev": 0, "sg": 8, "pipe": 16})}
    with pytest.raises(BtfError, match="struct urb has no transfer_buffer_length"):
        Events(other).definitions()
