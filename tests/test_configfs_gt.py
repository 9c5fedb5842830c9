"""gt: schemes of libusbgx read as gadgets."""

from __future__ import annotations

from pathlib import Path

import pytest

from configfs.gt import load_gt_scheme, parse_gt_scheme
from usbip_vudc.errors import SchemeError
from usbip_vudc.gadget import Config, Gadget, KernelFunction, OsDescriptors

SCHEME = """
# what gt save writes, and what its documentation allows
attrs : {
    bcdUSB = 0x200;  bDeviceClass = 0xEF;  bDeviceSubClass = 0x2;  bDeviceProtocol = 0x1;
    bMaxPacketSize0 = 0x40;  idVendor = 0x1D6B;  idProduct = 0x104;  bcdDevice = 0x1;
};
strings = (
    { lang = 0x409; manufacturer = "Foo Inc."; product = "Bar Gadget"; serialnumber = "0123"; },
    { lang = 0x407; product = "Bar-Gerät"; }
);
os_descs = { use = 1; b_vendor_code = 0xCD; qw_sign = "MSFT100"; config_id = 1; };
functions : {
    acm_usb0 = { instance = "usb0"; type = "acm"; attrs = { port_num = 0; }; };
    disk = {
        instance = "disk"; type = "mass_storage";
        attrs = {
            stall = false;
            luns = (
                { cdrom = false; ro = true; nofua = false; removable = true; filename = ""; },
                { removable = 0; filename = "/disk.img"; }
            );
        };
    };
    net = {
        instance = "0"; type = "rndis";
        attrs = { dev_addr = "02:00:00:00:00:01"; qmult = 5; ifname = "usb0"; };
        os_descs = ( { interface = "rndis"; compatible_id = "RNDIS";
                       sub_compatible_id = "5162001"; } );
    };
};
configs = (
    {
        id = 2; name = "other";
        functions = ( { function = { type = "hid"; instance = "0";
                                     attrs = { protocol = 1; report_desc = ( 0x5, 0x1 ); }; } } );
    },
    {
        id = 1; name = "The only one";
        attrs = { bmAttributes = 0xA0; bMaxPower = 250; };
        strings = ( { lang = 0x409; configuration = "Config 1"; } );
        functions = ( "net", { name = "acm.GS0"; function = "acm_usb0"; },
                      { function = "mass_storage_disk"; } );
    }
);
"""


def parse(text: str, base: Path = Path("/nowhere")) -> Gadget:
    return parse_gt_scheme(text, where="g.scheme", name="g", base=base)


def test_everything_that_gt_says() -> None:
    rndis = KernelFunction(
        driver="rndis",
        attributes={
            "dev_addr": "02:00:00:00:00:01", "qmult": "5",
            "os_desc/interface.rndis/compatible_id": "RNDIS",
            "os_desc/interface.rndis/sub_compatible_id": "5162001",
        },
    )  # fmt: skip
    disk = KernelFunction(
        driver="mass_storage", instance="disk",
        attributes={
            "stall": "0", "lun.0/cdrom": "0", "lun.0/ro": "1", "lun.0/nofua": "0",
            "lun.0/removable": "1", "lun.1/removable": "0", "lun.1/file": "/disk.img",
        },
    )  # fmt: skip
    acm = KernelFunction(driver="acm", instance="usb0")
    hid = KernelFunction(driver="hid", attributes={"protocol": "1", "report_desc": b"\x05\x01"})
    assert parse(SCHEME) == Gadget(
        name="g", idVendor=0x1D6B, idProduct=0x0104, bcdDevice=0x0001, device_class=(0xEF, 2, 1),
        manufacturer={0x0409: "Foo Inc."}, product={0x0409: "Bar Gadget", 0x0407: "Bar-Gerät"},
        serial={0x0409: "0123"}, os_descriptors=OsDescriptors(vendor_code=0xCD),
        configs=(
            Config(functions=(rndis, acm, disk), name={0x0409: "Config 1"}, self_powered=False,
                   remote_wakeup=True, max_power_ma=250),
            Config(functions=(hid,), self_powered=False, max_power_ma=2),
        ),
    )  # fmt: skip


def test_the_file_names_the_gadget_and_may_include_others(tmp_path: Path) -> None:
    (tmp_path / "acm.scheme").write_text('type = "acm"\n')
    path = tmp_path / "phone.scheme"
    path.write_text(
        'functions = { a = { instance = "0"\n@include "acm.scheme"\n} }\n'
        'configs = ( { id = 1; name = "c"; functions = ( "a" ); } )\n'
    )
    gadget = load_gt_scheme(path)
    assert gadget.name == "phone"
    assert gadget.configs[0].functions == (KernelFunction(driver="acm"),)


def test_os_descriptors_out_of_use_are_none() -> None:
    text = "os_descs = { use = 0; config_id = 1; }; configs = ( { id = 1; name = ''; } )"
    assert parse(text.replace("'", '"')).os_descriptors is None


BAD = [
    ("attrs = {", "g.scheme: not libconfig: "),
    ("configs = ()", "g.scheme: gadget g: 0 configs, expected 1 to 8"),
    ("attr = {}", "g.scheme: attr: unknown key; did you mean attrs?"),
    ("attrs = { idVendor = 0x10000 }",
     "g.scheme: attrs.idVendor = 65536: expected a number from 0 to 0xffff"),
    ("attrs = { idVendor = \"x\" }", "g.scheme: attrs.idVendor = 'x': expected a number"),
    ("configs = ( { name = \"c\" } )", "g.scheme: configs[0].id is missing: expected a number"),
    ("configs = ( { id = 3 } )",
     "configs[0].id = 3: expected 1: configurations are numbered from 1 without gaps"),
    ("configs = ( { id = 1; functions = ( \"nobody\" ) } )",
     "g.scheme: configs[0].functions[0].function = 'nobody': expected one of "),
    ("configs = ( { id = 1; functions = 7 } )",
     "configs[0].functions = 7: expected a list of labels or groups"),
    ("functions = { a = 7 }", "g.scheme: functions.a = 7: expected a table"),
    ("functions = { a = { instance = \"0\" } }", "functions.a.type is missing: expected a string"),
    ("functions = { a = { type = \"acm\" } }", "functions.a.instance is missing"),
    ("functions = { a = { type = \"acm\"; instance = \"a/b\" } }",
     "functions.a: kernel function acm.a/b: instance 'a/b': expected letters"),
    ("functions = { a = { type = \"hid\"; instance = \"0\"; attrs = { report_desc = ( 256 ) } } }",
     "functions.a.attrs.report_desc = [256]: expected text, a number, true or false, or a list"),
    ("functions = { a = { type = \"mass_storage\"; instance = \"0\"; "
     "attrs = { luns = ( { size = 1 } ) } } }", "functions.a.attrs.luns[0].size: unknown key"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "reason"), BAD, ids=[reason[:50] for _, reason in BAD])
def test_mistakes_have_their_place(text: str, reason: str) -> None:
    with pytest.raises(SchemeError) as failure:
        parse(text)
    assert reason in str(failure.value)
