"""docs/storage.md has the stores and the models as they are, and its scheme can be read."""

from __future__ import annotations

import re
from pathlib import Path

from gadgets.mass_storage import MassStorageFunction
from gadgets.mass_storage.models import MODELS
from gadgets.mass_storage.stores import STORES
from tests.pages import filled, table
from usbip_vudc.scheme import parse_scheme

PAGE = Path(__file__).parent.parent / "docs" / "storage.md"


def parts() -> dict[str, str]:
    stores = (
        (f"`{store.form}`".replace(" or ", "` or `"), store.what) for store in STORES.values()
    )
    models = ((f"`{kind.form}`".replace(" or ", "` or `"), kind.does) for kind in MODELS.values())
    return {
        "stores": table(("image", "it is"), stores),
        "models": table(("model", "it does"), models),
    }


def test_page_is_as_the_code_is() -> None:
    page = PAGE.read_text()
    assert page == filled(page, parts()), "run: python -m tests.test_storage_page"


def test_units_of_the_page_can_be_made(tmp_path: Path) -> None:
    for name in ("disk.img", "base.img"):
        (tmp_path / name).write_bytes(bytes(1 << 20))
    (tmp_path / "to-show").mkdir()
    found = re.search(r"    luns = \[\n.*?\n    \]\n", PAGE.read_text(), re.DOTALL)
    assert found is not None
    head = "name = 'g'\nidVendor = 1\nidProduct = 2\n[[configs]]\n[[configs.functions]]\n"
    text = head + "type = 'mass_storage'\n" + found[0].replace(', size = "1G"', "")
    gadget = parse_scheme(text, where="page.toml", base=tmp_path)
    (function,) = gadget.configs[0].functions
    assert isinstance(function, MassStorageFunction)
    kinds = [type(lun).__name__ for lun in function.luns]
    for lun in function.luns:
        lun.close()
    assert kinds == [
        "RamLun", "FileLun", "OverlayLun", "FolderLun", "PatternLun", "SparseLun", "FileLun",
    ]  # fmt: skip


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(), parts()))
