"""Profiles by their names, from --profile and from schemes, and what a served one leaves behind."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
import usb.core
import usb.util

from gadgets.acm.function import AcmFunction
from gadgets.serial.ends import Exec, Pty, Tcp
from gadgets.serial.file import File
from gadgets.serial.flow import Flow
from gadgets.serial.generic import GenericSerialFunction
from gadgets.serial.modem import Modem
from gadgets.serial.naming import FORMS, make_profile
from gadgets.serial.profile import Profile
from gadgets.serial.profiles import Echo, Sink, Source, pattern
from tests.devices import gadget
from tests.test_cli import listening_port, serving
from usbip_vudc.errors import SchemeError
from usbip_vudc.function import Function
from usbip_vudc.host.serial import UsbSerial
from usbip_vudc.pyusb_backend import get_backend
from usbip_vudc.registry import GadgetOptions, load_gadget
from usbip_vudc.scheme import dump_scheme, parse_scheme

NAMES: dict[str, type[Profile]] = {
    "echo": Echo,
    "sink": Sink,
    "sink:7": Sink,
    "source": Source,
    "source:7": Source,
    "source:7:100": Source,
    "pty": Pty,
    "pty:/run/tty": Pty,
    "tcp:localhost:4000": Tcp,
    "tcp:[::1]:4000": Tcp,
    "exec:sh -c 'cat; echo done'": Exec,
    "file:/var/log/port": File,
    "modem": Modem,
}


@pytest.mark.parametrize(("text", "kind"), NAMES.items())
def test_a_name_makes_a_profile_that_has_that_name(text: str, kind: type[Profile]) -> None:
    profile = make_profile(text)
    assert type(profile) is kind
    assert profile.text == text


def test_every_form_has_an_example_here() -> None:
    assert {form.partition("[")[0].partition(":")[0] for form in FORMS} == {
        text.partition(":")[0] for text in NAMES
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("fax", "there are echo, sink"),
        ("", "there are echo, sink"),
        ("tcp", "expected tcp:HOST:PORT"),
        ("tcp:localhost", "expected tcp:HOST:PORT"),
        ("tcp:localhost:http", r"expected tcp:HOST:PORT \(PORT 'http' is no number\)"),
        ("tcp::4000", "expected tcp:HOST:PORT"),
        ("tcp:localhost:65536", "expected tcp:HOST:PORT"),
        ("exec:", "expected exec:COMMAND"),
        ("exec: ", "expected exec:COMMAND"),
        ("exec:sh -c 'open", "No closing quotation"),
        ("file", "expected file:PATH"),
        ("pty:", r"expected pty\[:LINK\]"),
        ("sink:x", r"expected sink\[:SEED\]"),
        ("source:1:-1", "expected 0 to what there is to send"),
        ("echo:1", "expected echo"),
        ("modem:1", "expected modem"),
        ("exec:sh \0", "expected no NUL"),
    ],
)
def test_another_name_is_refused_with_what_would_be_right(text: str, expected: str) -> None:
    with pytest.raises(SchemeError, match=expected):
        make_profile(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fax", "functions[0].profile = 'fax': expected one of echo, sink"),
        ("tpc:h:1", "functions[0].profile = 'tpc:h:1': expected one of "),
        ("tpc:h:1", "did you mean tcp?"),
        ("tcp:h:99999", "functions[0]: serial profile 'tcp:h:99999': expected tcp:HOST:PORT ("),
        ("tcp:h:99999", "port 99999: expected some host, and a port from 1 to 65535"),
        ("exec:sh 'x", "No closing quotation"),
    ],
)
def test_a_scheme_says_where_and_why_a_profile_is_none(text: str, message: str) -> None:
    written = dump_scheme(gadget(AcmFunction())).replace('"echo"', f'"{text}"')
    with pytest.raises(SchemeError) as caught:
        parse_scheme(written, where="x")
    assert str(caught.value).startswith("x: configs[0].")
    assert message in str(caught.value)


@pytest.mark.parametrize("name", ["serial", "generic", "composite"])
def test_a_link_leads_to_one_port(name: str, tmp_path: Path) -> None:
    profile = f"pty:{tmp_path}/tty"
    load_gadget(name, GadgetOptions(profile=profile, size=1 << 20))
    with pytest.raises(SchemeError, match=r"ports 2: profile 'pty:.*/tty': expected pty, "):
        load_gadget(name, GadgetOptions(profile=profile, ports=2, size=1 << 20))
    load_gadget(name, GadgetOptions(profile="pty", ports=2, size=1 << 20))


def test_relative_paths_start_from_the_scheme(tmp_path: Path) -> None:
    assert make_profile("file:log", base=tmp_path).text == f"file:{tmp_path}/log"
    assert make_profile("pty:tty", base=tmp_path).text == f"pty:{tmp_path}/tty"


@pytest.mark.parametrize("text", NAMES)
def test_every_profile_survives_a_scheme(text: str) -> None:
    flow = Flow(back_pressure="drop-new", zlp=False, baud_paced=True, wait_for_dtr=True)
    acm = AcmFunction(make_profile(text), flow=flow, dsr_follows_dtr=True)
    generic = GenericSerialFunction(
        make_profile(text), flow=Flow(back_pressure="drop-oldest", zlp=False)
    )
    written = dump_scheme(gadget(acm, generic))
    functions: tuple[Function, ...] = parse_scheme(written, where="x").configs[0].functions  # type: ignore[assignment]
    back, other = functions
    assert isinstance(back, AcmFunction)
    assert isinstance(other, GenericSerialFunction)
    assert (back.profile.text, back.flow, back.dsr_follows_dtr) == (text, flow, True)
    assert (other.profile.text, other.flow) == (text, generic.flow)


def test_the_options_of_a_ready_made_gadget_are_its_flow() -> None:
    options = GadgetOptions(
        profile="modem", back_pressure="drop-new", zlp=False, baud_paced=True, wait_for_dtr=True
    )
    acm = load_gadget("serial", options).configs[0].functions[0]
    assert isinstance(acm, AcmFunction)
    assert isinstance(acm.profile, Modem)
    assert acm.flow == Flow(back_pressure="drop-new", zlp=False, baud_paced=True, wait_for_dtr=True)


@pytest.mark.parametrize("length", [1, 65_520, 65_521, 65_522, 200_000])
def test_a_sink_finds_the_first_byte_that_is_not_the_patterns(length: int) -> None:
    sink = Sink(seed=3)
    data = bytearray(pattern(3, 300_000))
    for start in range(0, len(data), 16_384):
        sink._take(memoryview(data)[start : start + 16_384])
    assert sink.first_wrong is None
    sink.reset()
    data[length] ^= 1
    sink._take(memoryview(data)[:100])
    sink._take(memoryview(data)[100:])
    assert [sink.first_wrong, sink.received] == [length, 300_000]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_served_gadget_that_is_stopped_leaves_no_process_and_no_link(
    number: signal.Signals, tmp_path: Path
) -> None:
    link, pid = tmp_path / "tty", tmp_path / "pid"
    command = f"exec:sh -c 'echo $$ >{pid}; echo ready; exec sleep 1000'"
    scheme = tmp_path / "two.toml"
    scheme.write_text(
        dump_scheme(gadget(AcmFunction(Pty(link)), AcmFunction(make_profile(command))))
    )
    with serving(str(scheme)) as process:
        backend = get_backend(port=listening_port(process))
        device = usb.core.find(backend=backend)
        device.set_configuration()
        assert device.read(0x84, 1024, 20_000).tobytes() == b"ready\n"
        assert link.is_symlink()
        process.send_signal(number)
        process.wait(20)
        usb.util.dispose_resources(device)
    assert not link.is_symlink()
    assert not Path(f"/proc/{int(pid.read_text())}").exists()


def test_a_modem_answers_pyusb_over_the_command_line() -> None:
    with serving(
        "serial", "--profile", "modem", "--no-zlp", "--back-pressure", "drop-new"
    ) as process:
        device = usb.core.find(backend=get_backend(port=listening_port(process)))
        port = UsbSerial(device)
        port.write(b"ATE0\r")
        came = b""
        deadline = time.monotonic() + 20
        while not came.endswith(b"OK\r\n") and time.monotonic() < deadline:
            came += port.read()
        assert came == b"ATE0\r\r\nOK\r\n"
        usb.util.dispose_resources(device)


def test_the_page_names_every_profile_and_its_program_runs() -> None:
    page = (Path(__file__).parent.parent / "docs/serial.md").read_text()
    for text in ("echo", "sink:SEED", "source:SEED:LENGTH", *FORMS[4:]):
        assert f"`{text}`" in page
    program: dict[str, object] = {}
    exec(page.split("```python\n")[1].split("```")[0], program)
    port = program["port"]
    assert isinstance(port, AcmFunction)
    assert port.flow == Flow(wait_for_dtr=True)
