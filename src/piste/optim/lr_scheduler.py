"""Re-exports the schedulers of torch.optim, so that `from piste.optim.lr_scheduler import StepLR` works."""

from torch.optim.lr_scheduler import *  # noqa: F403
from torch.optim.lr_scheduler import __all__ as __all__
from torch.optim.lr_scheduler import _LRScheduler as _LRScheduler
