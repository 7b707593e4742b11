"""The schedulers of torch.optim, so that `from piste.optim.lr_scheduler import StepLR` works, and those of Piste."""

from torch.optim.lr_scheduler import *  # noqa: F403
from torch.optim.lr_scheduler import __all__ as _torchs
from torch.optim.lr_scheduler import _LRScheduler as _LRScheduler

from .schedules import InverseSquareRootLR as InverseSquareRootLR
from .schedules import WarmupConstantLR as WarmupConstantLR
from .schedules import WarmupCosineLR as WarmupCosineLR
from .schedules import WarmupStableDecayLR as WarmupStableDecayLR

__all__ = [*_torchs, "InverseSquareRootLR", "WarmupConstantLR", "WarmupCosineLR", "WarmupStableDecayLR"]
