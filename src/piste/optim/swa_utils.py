"""Re-exports torch.optim.swa_utils, so that `from piste.optim.swa_utils import AveragedModel` works."""

from torch.optim.swa_utils import *  # noqa: F403
from torch.optim.swa_utils import __all__ as __all__
