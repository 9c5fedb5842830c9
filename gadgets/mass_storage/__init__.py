"""USB mass storage, Bulk-Only Transport: disks over files, block devices and memory."""

from gadgets.mass_storage.function import MassStorageFunction
from gadgets.mass_storage.lun import FileLun, RamLun
from gadgets.mass_storage.unit import Lun, MediumEvent

__all__ = ("FileLun", "Lun", "MassStorageFunction", "MediumEvent", "RamLun")
