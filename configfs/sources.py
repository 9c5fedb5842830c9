"""What ``up`` can be given: a ready-made gadget's name, a scheme, a scheme of gt, a directory.

A source is described before it is built: to describe it opens no disk image, so that a gadget
which is up can be compared with it while it has its images open and locked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

from configfs.records import digest
from configfs.tree import userspace_functions
from usbip_vudc.errors import SchemeError
from usbip_vudc.gadget import Gadget
from usbip_vudc.registry import GADGETS, GadgetOptions, load_gadget
from usbip_vudc.scheme import load_scheme

__all__ = ("DIRECTORY_SCHEME", "Source", "find_source")

DIRECTORY_SCHEME: Final = "scheme.toml"
"""A directory stands for the scheme of this name in it, with what lies beside it (images)."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where a gadget comes from.

    ``described`` is good for its descriptors and its tree only; `build` makes the one that can
    run. ``digest`` is the same for what would be the same gadget.
    """

    described: Gadget
    digest: str
    build: Callable[[], Gadget]

    @property
    def name(self) -> str:
        """The gadget's name."""
        return self.described.name

    @property
    def needs_process(self) -> bool:
        """Whether some of its functions run in a process of ours."""
        return bool(userspace_functions(self.described))

    def under(self, condition: str, change: Callable[[Gadget], Gadget]) -> Source:
        """The same gadget, changed as it is built: another one where ``condition`` is another."""
        both = hashlib.sha256(f"{self.digest}\0{condition}".encode()).hexdigest()
        return replace(self, digest=both, build=lambda: change(self.build()))


def find_source(what: str, options: GadgetOptions) -> Source:
    """Find what a word of the command line means. ``options`` are those of ready-made gadgets.

    Raises SchemeError where it means nothing, or something impossible, and OSError.
    """
    if what in GADGETS:
        described = load_gadget(what, replace(options, image=None, size=None, models=()))
        image = options.image.absolute() if options.image is not None else None
        origin = repr((what, replace(options, image=image)))
        return _source(described, origin, partial(load_gadget, what, options))
    path = Path(what)
    if path.is_dir():
        path /= DIRECTORY_SCHEME
        if not path.exists():
            raise SchemeError(f"{what}: a directory must have its scheme in {DIRECTORY_SCHEME}")
    if not path.exists():
        raise SchemeError(
            f"{what}: neither a file nor a ready-made gadget ({', '.join(sorted(GADGETS))})"
        )
    if path.suffix == ".scheme":
        try:
            from configfs.gt import load_gt_scheme
        except ModuleNotFoundError as error:
            raise SchemeError(
                f"{path}: schemes of gt need the Python package {error.name}: "
                f"pip install 'usbip-vudc[kernel]'"
            ) from None
        described = load_gt_scheme(path)
        return _source(described, "", lambda: described)
    described = load_scheme(path, opens_files=False)
    origin = f"{path.parent.absolute()}\0{path.read_text()}"
    return _source(described, origin, partial(load_scheme, path))


def _source(described: Gadget, origin: str, build: Callable[[], Gadget]) -> Source:
    tree = digest(described)
    if not userspace_functions(described):
        return Source(described, tree, build)  # the tree is all there is to it
    return Source(described, hashlib.sha256(f"{tree}{origin}".encode()).hexdigest(), build)
