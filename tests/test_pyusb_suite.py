"""The judge of PyUSB's tests, on a little suite of their form: no network, and none of theirs."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.pyusb_suite import TRANSFERS, fetch, judge, main
from usbip_vudc.verdicts import FAIL, PASS, SKIP

SUITE = """
import unittest

class Bundle(unittest.TestCase):
    def __init__(self, steps):
        super().__init__()
        self.steps = steps
    def runTest(self):
        for step in self.steps:
            getattr(self, "test_" + step)()
    def test_good(self):
        self.assertEquals(1, 1)
    def test_bad(self):
        self.assertEqual(1, 2, "one is not two")
    def test_more(self):
        pass

class Single(unittest.TestCase):
    def test_alone(self):
        pass

def get_suite():
    suite = unittest.TestSuite()
    suite.addTest(Bundle(["good", "good"]))
    suite.addTest(Bundle(["good", "bad", "more"]))
    suite.addTest(unittest.defaultTestLoader.loadTestsFromTestCase(Single))
    return suite
"""


def backend() -> Any:
    return SimpleNamespace(**{name: lambda *_: 1 for name in TRANSFERS})


def test_each_step_has_a_verdict(tmp_path: Path) -> None:
    (tmp_path / "test_of_bundles.py").write_text(SUITE)
    verdicts = judge(tmp_path, backend())[: -len(TRANSFERS)]
    assert [(v.name.removeprefix("test_of_bundles."), v.result) for v in verdicts] == [
        ("Bundle.test_good", PASS),
        ("Bundle.test_bad", SKIP),
        ("Bundle.test_more", SKIP),
        ("Bundle.test_good", PASS),
        ("Bundle.test_bad", FAIL),
        ("Bundle.test_more", SKIP),
        ("Single.test_alone", PASS),
    ]
    assert "one is not two" in verdicts[4].why
    assert [verdicts[i].why for i in (1, 5)] == [
        "PyUSB's own runTest leaves it out", "not reached",
    ]  # fmt: skip


def test_transfers_that_a_step_passed_over_are_a_failure(tmp_path: Path) -> None:
    (tmp_path / "test_of_one_write.py").write_text(
        SUITE.replace("        pass", "        backend.bulk_write()", 1)
        .replace('["good", "bad", "more"]', '["more"]')
        .replace("import unittest", "import unittest\nfrom one_backend import backend", 1)
    )
    (tmp_path / "one_backend.py").write_text("backend = None")
    own = backend()
    with pytest.MonkeyPatch.context() as patches:
        patches.syspath_prepend(str(tmp_path))
        patches.setattr("one_backend.backend", own)
        verdicts = judge(tmp_path, own)[-len(TRANSFERS) :]
    assert [v.result for v in verdicts] == [PASS] + [FAIL] * 5
    assert [v.why for v in verdicts[:2]] == ["1 transfers", "no transfer was made"]


def test_suite_that_finds_no_device_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "test_of_nothing.py").write_text(
        "import unittest\ndef get_suite():\n    return unittest.TestSuite()\n"
    )
    first = judge(tmp_path, backend())[0]
    assert (first.result, first.why) == (FAIL, "found no device")


def test_offline_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("USBIP_VUDC_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    assert main([]) == 4
    said = capsys.readouterr().out
    assert "PYUSB'S TESTS DID NOT RUN" in said
    assert "offline?" in said


def test_what_is_in_the_cache_is_not_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("USBIP_VUDC_CACHE", str(tmp_path))
    monkeypatch.setattr("subprocess.run", lambda *_, **__: pytest.fail("pip was run"))
    monkeypatch.setattr("importlib.metadata.version", lambda _: "9.9")
    (tmp_path / "sdists").mkdir()
    sdist = tmp_path / "sdists" / "pyusb-9.9.tar.gz"
    sdist.touch()
    assert fetch("pyusb") == sdist
