"""Units that misbehave: models around any Lun, one around the other, by composition."""

from gadgets.mass_storage.models.base import Model
from gadgets.mass_storage.models.blocks import BadBlocks, BlockLimit, SlowBlocks
from gadgets.mass_storage.models.cache import VolatileCache
from gadgets.mass_storage.models.capacity import FakeCapacity, OffByOne
from gadgets.mass_storage.models.manners import NeedsReset, ResidueLie
from gadgets.mass_storage.models.text import MODELS, models_of, with_models

__all__ = (
    "MODELS",
    "BadBlocks",
    "BlockLimit",
    "FakeCapacity",
    "Model",
    "NeedsReset",
    "OffByOne",
    "ResidueLie",
    "SlowBlocks",
    "VolatileCache",
    "models_of",
    "with_models",
)
