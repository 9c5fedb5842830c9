"""configfs on the real kernel: every kind of function created, bound, read back, and gone."""

from __future__ import annotations

import errno
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from configfs.controllers import choose, controllers
from configfs.lifecycle import bring_down, clean_stale, install
from configfs.live import read_gadget
from configfs.mount import MountError, functionfs_mounts, mount_functionfs, unmount
from configfs.records import alive, claim, find, mount_directory, stale
from configfs.transaction import GADGETS, ConfigfsError, ConfigfsGadget
from configfs.tree import ffs_instance, plan
from tests.devices import Scripted
from tests.kernel.carriers import wait_for
from usbip_vudc.gadget import Config, Gadget, KernelFunction, OsDescriptors
from usbip_vudc.scheme import dump_scheme, parse_scheme
from usbip_vudc.sysfs import SysfsError, read_attribute
from usbip_vudc.usb.ch9 import Speed

pytestmark = pytest.mark.kernel

UDC = "dummy_udc.0"
VUDC = "usbip-vudc.0"
BOUND_ONLY = {
    "obex": UDC,  # connects when a program opens its tty
    "uac1": VUDC,  # dummy_hcd has no isochronous endpoint
    "uac2": VUDC,
}
"""Functions that no host sees here, and the UDC that takes them all the same."""

KEYBOARD = bytes.fromhex(
    "05010906a101050719e029e71500250175019508810295017508810395067508150025650507190029658100c0"
)

KINDS: dict[str, dict[str, str | bytes]] = {
    "acm": {},
    "gser": {},
    "obex": {},
    "ncm": {"dev_addr": "02:00:00:00:00:01", "host_addr": "02:00:00:00:00:02", "qmult": "7"},
    "ecm": {"dev_addr": "02:00:00:00:00:03", "host_addr": "02:00:00:00:00:04"},
    "eem": {"qmult": "7"},
    "rndis": {
        "class": "ef", "subclass": "04", "protocol": "01",
        "os_desc/interface.rndis/compatible_id": "RNDIS",
        "os_desc/interface.rndis/sub_compatible_id": "5162001",
    },
    "hid": {"protocol": "1", "subclass": "1", "report_length": "8", "report_desc": KEYBOARD},
    "Loopback": {"qlen": "4", "bulk_buflen": "8192"},
    "SourceSink": {"pattern": "1", "bulk_buflen": "8192", "isoc_interval": "4"},
    "uac1": {"c_srate": "44100", "p_chmask": "1", "function_name": "Card"},
    "uac2": {"c_srate": "48000", "p_ssize": "4", "c_sync": "adaptive"},
    "midi": {"in_ports": "2", "out_ports": "2", "id": "keys", "qlen": "16"},
    "printer": {"pnp_string": "MFG:Acme;MDL:Ink;", "q_len": "8"},
}  # fmt: skip
"""Every kind that Debian's kernels offer -> attributes, of which none is the default."""


@pytest.fixture(autouse=True)
def machine(
    need_modules: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """The modules, and a runtime directory of the test's own; what a failed test left goes."""
    need_modules("libcomposite", "dummy_hcd", "usbip-vudc")
    monkeypatch.setenv("USBIP_VUDC_RUNTIME_DIR", str(tmp_path / "run"))
    before = {path.name for path in GADGETS.iterdir()}
    yield
    for mount in functionfs_mounts(tmp_path):
        unmount(mount)
    for path in GADGETS.iterdir():
        if path.name not in before:
            ConfigfsGadget(path).remove()


def gadget(*functions: KernelFunction | Scripted, **more: object) -> Gadget:
    fields: dict[str, object] = {
        "name": "test", "idVendor": 0x1D6B, "idProduct": 0x0104, "serial": "0001",
        "configs": (Config(functions=functions),),
    }  # fmt: skip
    return Gadget(**{**fields, **more})  # type: ignore[arg-type]


def disk(image: Path) -> KernelFunction:
    image.write_bytes(bytes(1 << 20))
    return KernelFunction(
        driver="mass_storage",
        instance="disk",
        attributes={
            "stall": "1", "lun.0/removable": "0", "lun.0/ro": "1", "lun.0/cdrom": "0",
            "lun.0/file": str(image), "lun.1/removable": "1", "lun.1/inquiry_string": "Acme",
        },
    )  # fmt: skip


def host_device() -> Path | None:
    """The gadget as this machine's host side sees it, configured."""
    for device in Path("/sys/bus/usb/devices").iterdir():
        try:
            ids = read_attribute(device / "idVendor"), read_attribute(device / "idProduct")
            if ids == ("1d6b", "0104") and read_attribute(device / "bConfigurationValue"):
                return device
        except SysfsError:  # an interface, or gone meanwhile
            continue
    return None


def remove(made: ConfigfsGadget) -> None:
    """Remove a gadget, and wait until the host has noticed, so that the next is not mistaken."""
    made.remove()
    wait_for(lambda: host_device() is None, "gone from the host")
    assert not made.exists


def written(function: KernelFunction) -> dict[str, str | bytes]:
    """What the live function has where the given one says something."""
    [live] = read_gadget(ConfigfsGadget(GADGETS / "test")).configs[0].functions
    assert isinstance(live, KernelFunction)
    said = {path: live.attributes.get(path, "") for path in function.attributes}
    return {path: v.rstrip(" ") if isinstance(v, str) else v for path, v in said.items()}


def test_every_kind_of_function_is_created_bound_and_removed() -> None:
    for driver, attributes in KINDS.items():
        function = KernelFunction(driver=driver, instance="x.1", attributes=attributes)
        made = ConfigfsGadget.create(gadget(function))
        assert written(function) == attributes, driver
        udc = BOUND_ONLY.get(driver, UDC)
        made.bind(udc)
        assert choose(udc).gadget == "test"
        if driver not in BOUND_ONLY:
            wait_for(host_device, f"{driver}: configured by the host")
        remove(made)


def test_a_disk_of_two_units(tmp_path: Path) -> None:
    function = disk(tmp_path / "disk.img")
    made = ConfigfsGadget.create(gadget(function))
    assert written(function) == function.attributes
    made.bind(UDC)
    wait_for(host_device, "configured by the host")
    assert choose(UDC).gadget == "test"
    remove(made)
    assert choose(UDC).gadget == ""


def composite(image: Path) -> Gadget:
    rndis = KernelFunction(driver="rndis", attributes=KINDS["rndis"])
    return gadget(
        manufacturer="Acme", product={0x0409: "Thing", 0x0407: "Ding"},
        device_class=(0xEF, 2, 1), max_speed=Speed.HIGH,
        os_descriptors=OsDescriptors(vendor_code=0xCD),
        configs=(
            Config(functions=(KernelFunction(driver="acm"), disk(image), rndis),
                   name={0x0409: "one", 0x0407: "eins"}, max_power_ma=64, remote_wakeup=True),
            Config(functions=(KernelFunction(driver="hid", attributes=KINDS["hid"]), rndis),
                   self_powered=False, max_power_ma=2),
        ),
    )  # fmt: skip


def test_two_configurations_two_languages_and_os_descriptors(tmp_path: Path) -> None:
    made = ConfigfsGadget.create(composite(tmp_path / "disk.img"))
    path = made.path
    assert read_attribute(path / "strings/0x407/product") == "Ding"
    assert read_attribute(path / "configs/c.1/strings/0x407/configuration") == "eins"
    assert read_attribute(path / "os_desc/qw_sign") == "MSFT100"
    assert (path / "os_desc/c.1").resolve() == path / "configs/c.1"
    assert (path / "configs/c.2/rndis.0").resolve() == path / "functions/rndis.0"
    assert read_attribute(path / "configs/c.2/bmAttributes") == "0x80"
    made.bind(UDC)
    host = wait_for(host_device, "configured by the host")
    said = {name: read_attribute(host / name) for name in (
        "bNumConfigurations", "bConfigurationValue", "bNumInterfaces", "bMaxPower", "bmAttributes",
        "bDeviceClass", "speed", "product", "configuration",
    )}  # fmt: skip
    assert said == {
        "bNumConfigurations": "2", "bConfigurationValue": "1", "bNumInterfaces": "5",
        "bMaxPower": "64mA", "bmAttributes": "e0", "bDeviceClass": "ef", "speed": "480",
        "product": "Thing", "configuration": "one",
    }  # fmt: skip
    remove(made)


def test_what_is_saved_makes_an_equal_tree(tmp_path: Path) -> None:
    description = composite(tmp_path / "disk.img")
    made = ConfigfsGadget.create(description)
    saved = read_gadget(made)
    made.remove()
    assert [f.name for f in saved.configs[0].functions] == ["acm.0", "mass_storage.disk", "rndis.0"]
    again = parse_scheme(dump_scheme(saved), where="saved.toml")
    assert again == saved
    made = ConfigfsGadget.create(again)
    assert read_gadget(made) == saved
    made.remove()
    ours = {step for step in plan(description) if "functions" not in step.path}
    assert ours == {step for step in plan(saved) if "functions" not in step.path}


def test_an_impossible_attribute_in_the_middle_leaves_nothing(tmp_path: Path) -> None:
    bad = KernelFunction(driver="uac2", attributes={"c_ssize": "2", "p_srate": "fast"})
    with pytest.raises(ConfigfsError) as failure:
        ConfigfsGadget.create(gadget(disk(tmp_path / "disk.img"), bad))
    path = GADGETS / "test/functions/uac2.0/p_srate"
    assert str(failure.value) == (
        f"{path}: writing 'fast': Invalid argument (EINVAL); the kernel refuses this value"
    )
    assert not (GADGETS / "test").exists()


REFUSED = [
    ("mass_storage", {"lun.0/file": "/nowhere.img"}, errno.ENOENT,
     "unable to open backing file: /nowhere.img"),
    ("tcm", {}, errno.ENOENT, "the kernel has no function tcm; modprobe usb_f_tcm"),
    ("acm", {"port_num": "1"}, errno.EACCES, "the attribute is read-only"),
    ("hid", {"report_desk": b"x"}, errno.ENOENT, "did you mean report_desc?"),
    ("rndis", {"os_desc/x/y": "1"}, errno.EPERM, "os_desc/x: mkdir: "),
]  # fmt: skip


@pytest.mark.parametrize(("driver", "attributes", "number", "reason"), REFUSED)
def test_refusals_say_what_the_kernel_said(
    driver: str, attributes: dict[str, str | bytes], number: int, reason: str
) -> None:
    with pytest.raises(ConfigfsError) as failure:
        ConfigfsGadget.create(gadget(KernelFunction(driver=driver, attributes=attributes)))
    assert failure.value.errno == number
    assert reason in str(failure.value)
    assert not (GADGETS / "test").exists()


def test_an_attribute_of_an_open_unit_is_busy(tmp_path: Path) -> None:
    (tmp_path / "disk.img").write_bytes(bytes(4096))
    attributes = {"lun.0/file": str(tmp_path / "disk.img"), "lun.0/ro": "1"}
    with pytest.raises(ConfigfsError, match=r"EBUSY.*before lun\.N/file is written"):
        ConfigfsGadget.create(gadget(KernelFunction(driver="mass_storage", attributes=attributes)))
    assert not (GADGETS / "test").exists()


def test_a_bind_that_fails_says_why() -> None:
    made = ConfigfsGadget.create(gadget(KernelFunction(driver="ffs", instance="nobody")))
    with pytest.raises(ConfigfsError, match=rf"kernel: udc {UDC}: failed to start test: -19"):
        made.bind(UDC)
    made.remove()
    first = ConfigfsGadget.create(gadget(KernelFunction(driver="acm"), name="first"))
    made = ConfigfsGadget.create(gadget(KernelFunction(driver="acm")))
    first.bind(UDC)
    with pytest.raises(ConfigfsError, match=rf"{UDC} is taken: usbip-vudc down first"):
        made.bind(UDC)
    with pytest.raises(ConfigfsError, match=r"kernel: .*couldn't find an available UDC"):
        made.bind("nobody.0")
    first.remove()
    made.remove()


def test_the_tree_of_another_program_is_removed_whole() -> None:
    path = GADGETS / "test"
    for directory in (
        "", "strings/0x409", "configs/Config.7", "functions/uvc.cam",
        "functions/uvc.cam/control/header/h", "functions/uvc.cam/streaming/mjpeg/m",
        "functions/uvc.cam/streaming/mjpeg/m/360p", "functions/uvc.cam/streaming/header/h",
    ):  # fmt: skip
        (path / directory).mkdir()
    camera = path / "functions/uvc.cam"
    for link, target in (
        ("control/class/fs/h", "control/header/h"), ("control/class/ss/h", "control/header/h"),
        ("streaming/header/h/m", "streaming/mjpeg/m"),
        ("streaming/class/fs/h", "streaming/header/h"),
        ("streaming/class/hs/h", "streaming/header/h"),
        ("streaming/class/ss/h", "streaming/header/h"),
    ):  # fmt: skip
        (camera / link).symlink_to(camera / target)
    (path / "configs/Config.7/camera").symlink_to(camera)
    assert bring_down("test")
    assert not path.exists()
    assert not bring_down("test")


# --- FunctionFS mounts -------------------------------------------------------------------------


def test_functionfs_is_mounted_for_a_user_and_unmounted(tmp_path: Path) -> None:
    function = Scripted()
    description = gadget(function)
    made = ConfigfsGadget.create(description)
    instance = ffs_instance(description, function)
    where = tmp_path / "a b" / instance
    mount_functionfs(instance, where, uid=65534, gid=65534, mode=0o640)
    ep0 = (where / "ep0").stat()
    assert (ep0.st_uid, ep0.st_gid, ep0.st_mode & 0o777) == (65534, 65534, 0o640)
    assert functionfs_mounts(tmp_path) == (where,)
    with pytest.raises(MountError, match=r"EBUSY.*it is mounted already"):
        mount_functionfs(instance, tmp_path / "second")
    assert not (tmp_path / "second").exists()
    for _ in range(2):
        unmount(where)
        assert functionfs_mounts(tmp_path) == ()
        assert not where.exists()
    made.remove()


def test_a_mount_of_nothing_names_the_function(tmp_path: Path) -> None:
    with pytest.raises(MountError, match=r"ENO[A-Z]+\); .*(ffs\.nobody|usb_f_fs)"):
        mount_functionfs("nobody", tmp_path / "mount")


def test_a_mount_in_use_is_detached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("configfs.mount._BUSY_SECONDS", 0.1)
    function = Scripted()
    description = gadget(function)
    made = ConfigfsGadget.create(description)
    mount_functionfs(ffs_instance(description, function), tmp_path / "mount")
    ep0 = os.open(tmp_path / "mount/ep0", os.O_RDWR)
    try:
        with caplog.at_level(logging.WARNING):
            unmount(tmp_path / "mount")
        assert "files are still open; detached" in caplog.text
        assert functionfs_mounts(tmp_path) == ()
    finally:
        os.close(ep0)
    made.remove()


# --- what a process leaves ---------------------------------------------------------------------


def holder(description: Gadget) -> int:
    """A process that holds a gadget with a FunctionFS mount until it is killed: its pid."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            record = claim(description)
            ConfigfsGadget.create(description)
            for mount in record.mounts:
                mount_functionfs(Path(mount).name, Path(mount))
            os.write(writing, b"ready")
            signal.pause()
        finally:
            os._exit(1)
    os.close(writing)
    assert os.read(reading, 5) == b"ready"
    os.close(reading)
    return pid


def test_what_a_killed_process_held_is_found_and_removed() -> None:
    pid = holder(gadget(Scripted(), KernelFunction(driver="acm"), name="killed"))
    record = find("killed")
    assert record is not None
    assert record.pid == pid
    assert alive(record)
    assert stale() == ()
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert functionfs_mounts(mount_directory("killed"))
    assert stale() == (record,)
    assert list(clean_stale()) == [(record, None)]
    assert functionfs_mounts(mount_directory("killed")) == ()
    assert not Path(record.path).exists()
    assert not mount_directory("killed").exists()
    assert (find("killed"), stale(), list(clean_stale())) == (None, (), [])


def test_down_ends_the_process_and_removes_what_it_left() -> None:
    pid = holder(gadget(Scripted(), name="held"))
    assert bring_down("held")
    assert os.waitpid(pid, 0)[1] == signal.SIGTERM
    assert functionfs_mounts(mount_directory("held")) == ()
    assert not (GADGETS / "held").exists()


def test_kernel_functions_stay_up_without_a_process() -> None:
    tree = install(gadget(KernelFunction(driver="acm")), UDC)
    wait_for(lambda: list(Path("/sys/class/tty").glob("ttyACM*")), "a port")
    assert [(c.name, c.gadget) for c in controllers() if c.gadget] == [(UDC, "test")]
    assert stale() == ()
    with pytest.raises(ConfigfsError, match="gadget test is up already"):
        install(gadget(KernelFunction(driver="acm")), UDC)
    assert bring_down("test")
    assert not tree.exists


def test_two_at_once_make_one(tmp_path: Path) -> None:
    description = replace(gadget(KernelFunction(driver="acm")), name="race")
    pids = []
    for _ in range(2):
        pid = os.fork()
        if pid == 0:
            status = 2
            try:
                install(description, UDC)
                status = 0
            except ConfigfsError:
                status = 1
            finally:
                os._exit(status)
        pids.append(pid)
    statuses = sorted(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids)
    assert statuses == [0, 1]
    assert ConfigfsGadget(GADGETS / "race").udc == UDC
    assert bring_down("race")
    assert not list((tmp_path / "run/gadgets").iterdir())


def test_up_holds_a_gadget_until_down() -> None:
    command = (sys.executable, "-m", "usbip_vudc", "up", "serial", "--udc", UDC)
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stderr is not None
            line = process.stdout.readline()
            assert line == f"serial {UDC}\n", process.stderr.read()
            record = find("serial")
            assert record is not None
            assert (record.pid, record.held) == (process.pid, True)
            assert record.source, "so that a second `up` knows it"
            assert bring_down("serial")
            _, said = process.communicate(timeout=60)
            assert process.returncode == 0
            assert "Traceback" not in said
        finally:
            process.kill()
    assert (find("serial"), (GADGETS / "serial").exists()) == (None, False)
    deadline = time.monotonic() + 30
    while functionfs_mounts(mount_directory("serial")) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert functionfs_mounts(mount_directory("serial")) == ()
