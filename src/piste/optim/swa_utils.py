"""The weight averages of torch.optim.swa_utils, for `from piste.optim.swa_utils import AveragedModel`."""

from torch.optim.swa_utils import *  # noqa: F403
from torch.optim.swa_utils import __all__ as __all__
