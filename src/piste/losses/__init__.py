"""The losses of torch.nn with the same names, arguments and values, as modules and as functions.

Every module of this package is searched: a loss is exported by being written. The settings that every loss has in
addition to torch's (`check`, `normalizer`, `empty`) are in `piste.losses.reduction`.
"""

from __future__ import annotations

import importlib
import pkgutil

for _module in sorted(module.name for module in pkgutil.iter_modules(__path__)):
    if _module not in ("functional", "operators"):  # the first is made of the others, the second imports torch._dynamo
        importlib.import_module(f"{__name__}.{_module}")

from . import functional, penalties, with_layer  # noqa: E402  # made of the losses that the modules registered
from .functional import FUNCTIONS  # noqa: E402
from .loss import Loss  # noqa: E402
from .registry import LOSSES, get_loss  # noqa: E402

named = get_loss  # the name before there was a registry

_WITH_LAYER = {name: getattr(with_layer, name) for name in with_layer.__all__ if name.endswith("Loss")}
_PENALTIES = {name: getattr(penalties, name) for name in penalties.__all__}
globals().update(LOSSES | _WITH_LAYER | _PENALTIES | FUNCTIONS)
__all__ = ["LOSSES", "Loss", "functional", "get_loss", "named", *_PENALTIES, *LOSSES, *_WITH_LAYER, *FUNCTIONS]
