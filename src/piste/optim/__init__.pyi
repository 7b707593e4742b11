# Made by `python -m tools.stubs`: edit the declarations, not this file.
from collections.abc import Callable
from typing import Any, Literal

from torch import Tensor

from . import lr_scheduler as lr_scheduler
from torch.optim import swa_utils as swa_utils
from torch.optim.optimizer import ParamsT

from .files import load as load
from .files import save as save
from .matrix_groups import matrix_groups as matrix_groups
from .optimizer import Optimizer as Optimizer
from .model_groups import param_groups as param_groups
from .ports import port as port
from .state import Buffer as Buffer

OPTIMIZERS: dict[str, type[Optimizer]]
__all__: list[str]

class ADOPT(Optimizer):
    def __init__(self, params: ParamsT, lr: float | Tensor = 0.001, betas: tuple[float, float] = (0.9, 0.9999), eps: float | Tensor = 1e-06, weight_decay: float | Tensor = 0.0, clip: bool = True, decoupled_weight_decay: bool = False, *, maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None, max_norm: float | Tensor | None = None, max_value: float | Tensor | None = None, nonfinite: Literal["ignore", "skip", "raise"] = 'ignore', convention: Literal["torch", "keras", "optax"] = 'torch', precision: Literal["plain", "stochastic", "kahan", "master"] = 'plain', rounding_seed: int = 0, state_dtype: Literal[None, "float32", "bfloat16"] = None) -> None: ...

class ASGD(Optimizer):
    def __init__(self, params: ParamsT, lr: float | Tensor = 0.01, lambd: float | Tensor = 0.0001, alpha: float | Tensor = 0.75, t0: float | Tensor = 1000000.0, weight_decay: float | Tensor = 0.0, *, maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None, max_norm: float | Tensor | None = None, max_value: float | Tensor | None = None, nonfinite: Literal["ignore", "skip", "raise"] = 'ignore', convention: Literal["torch", "keras", "optax"] = 'torch', precision: Literal["plain", "stochastic", "kahan", "master"] = 'plain', rounding_seed: int = 0, state_dtype: Literal[None, "float32", "bfloat16"] = None) -> None: ...

class AdEMAMix(Optimizer):
    def __init__(self, params: ParamsT, lr: float | Tensor = 0.001, betas: tuple[float, float, float] = (0.9, 0.999, 0.9999), eps: float | Tensor = 1e-08, weight_decay: float | Tensor = 0.0, alpha: float | Tensor = 5.0, warmup: float | Tensor = 0.0, *, maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None, max_norm: float | Tensor | None = None, max_value: float | Tensor | None = None, nonfinite: Literal["ignore", "skip", "raise"] = 'ignore', convention: Literal["torch", "keras", "optax"] = 'torch', precision: Literal["plain", "stochastic", "kahan", "master"] = 'plain', rounding_seed: int = 0, state_dtype: Literal[None, "float32", "bfloat16"] = None) -> None: ...

class AdaBelief(Optimizer):
    def __init__(self, params: ParamsT, lr: float | Tensor = 0.001, betas: tuple[float, float] = (0.9, 0.999), eps: float | Tensor = 1e-16, weight_decay: float | Tensor = 0.0, *, maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None, max_norm: float | Tensor | None = None, max_value: float | Tensor | None = None, nonfinite: Literal["ignore", "skip", "raise"] = 'ignore', convention: Literal["torch", "keras", "optax"] = 'torch', precision: Literal["plain", "stochastic", "kahan", "master"] = 'plain', rounding_seed: int = 0, state_dtype: Literal[None, "float32", "bfloat16"] = None) -> None: ...

class Adadelta(Optimizer):
    def __init__(self, params: ParamsT, lr: float | Tensor = 1.0, rho: float | Tensor = 0.9, eps: float | Tensor = 1e-06, weight_decay: float | Tensor = 0.0, *, maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None, max_norm: float | Tensor | None = None, max_value: float | Tensor | None = None, nonfinite: Literal["ignore", "skip", "raise"] = 'ignore', convention: Literal["torch", "keras", "optax"] = 'torch', precision: Literal["plain", "stochastic", "kahan", "master"] = 'plain', rounding_seed: int = 0, state_dtype: Literal[None, "float32", "bfloat16"] = None) -> None: ...

class Adafactor(Optimizer):
    def __init__(self, params: ParamsT, lr: float | Tensor = 0.01, beta2_decay: float | Tensor = -0.8, eps: tuple[float | None, float] = (None, 0.001), d: float | Tensor = 1.0, weight_decay: float | Tensor = 0.0, *, maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None, max_norm: float | Tensor | None = None, max_value: float | Tensor | None = None, nonfinite: Literal["ignore", "skip", "raise"] = 'ignore', convention: Literal["torch", "keras", "optax"] = 'torch', precision: Literal["plain", "stochastic", "kahan", "master"] = 'plain', rounding_seed: int = 0, state_dtype: Literal[None, "float32", "bfloat16"] = None) -> None: ...

class Adagrad(Optimizer):
    def __init__(self, params: ParamsT, lr: float | Tensor = 0.01, lr_decay: float | Tensor = 0.0, weight_decay: float | Tensor = 0.0, initial_accumulator_value: float | Tensor = 0.0, eps: float | Tensor = 1e-10, *, maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None, max_norm: float | Tensor | None = None, max_value: float | Tensor | None = None, nonfinite: Literal["ignore", "skip", "raise"] = 'ignore', convention: Literal["torch", "keras", "optax"] = 'torch', precision: Literal["plain", "stochastic", "kahan", "master"] = 'plain', rounding_seed: int = 0, state_dtype: Literal[None, "float32", "bfloat16"] = None) -> None: ...

class Adam(Optimizer):
    def __init__(self, params: ParamsT, lr: float | Tensor = 0.001, betas: tuple[float, float] = (0.9, 0.999), eps: float | Tensor = 1e-08, weight_decay: float | Tensor = 0.0, amsgrad: bool = False, decoupled_weight_decay: bool = False, *, maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None, max_norm: float | Tensor | None = None, max_value: float | Tensor | None = None, nonfinite: Literal["ignore", "skip", "raise"] = 'ignore', convention: Literal["torch", "keras", "optax"] = 'torch', precision: Literal["plain", "stochastic", "kahan", "master"] = 'plain', rounding_seed: int = 0, state_dtype: Literal[None, "float32", "bfloat16"] = None) -> None: ...

class AdamW(Optimizer):
    def __init__(self, params: ParamsT, lr: float | Tensor = 0.001, betas: tuple[float, float] = (0.9, 0.999), eps: float | Tensor = 1e-08, weight_decay: float | Tensor = 0.01, amsgrad: bool = False, *, maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None, max_norm: float | Tensor | None = None, max_value: float | Tensor | None = None, nonfinite: Literal["ignore", "skip", "raise"] = 'ignore', convention: Literal["torch", "keras", "optax"] = 'torch', precision: Literal["plain", "stochastic", "kahan", "master"] = 'plain', rounding_seed: int = 0, state_dtype: Literal[None, "float32", "bfloat16"] = None) -> None: ...

class Adamax(Optimizer):
    def __init__(self, params: ParamsT, lr: float | Tensor = 0.002, betas: tuple[float, float] = (0.9, 0.999), eps: float | Tensor = 1e-08, weight_decay: float | Tensor = 0.0, *, maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None, max_norm: float | Tensor | None = None, max_value: float | Tensor | None = None, nonfinite: Literal["ignore", "skip", "raise"] = 'ignore', convention: Literal["torch", "keras", "optax"] = 'torch', precision: Literal["plain", "stochastic", "kahan", "master"] = 'plain', rounding_seed: int = 0, state_dtype: Literal[None, "float32", "bfloat16"] = None) -> None: ...

class Adan(Optimizer):
    def __init__(self, params: ParamsT, lr: float | Tensor = 0.001, betas: tuple[float, float, float] = (0.98, 0.92, 0.99), eps: float | Tensor = 1e-08, weight_decay: float | Tensor = 0.0, *, maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None, max_norm: float | Tensor | None = None, max_value: float | Tensor | None = None, nonfinite: Literal["ignore", "skip", "raise"] = 'ignore', convention: Literal["torch", "keras", "optax"] = 'torch', precision: Literal["plain", "stochastic", "kahan", "master"] = 'plain', rounding_seed: int = 0, state_dtype: Literal[None, "float32", "bfloat16"] = None) -> None: ...

class LAMB(Optimizer):
    def __init__(self, params: ParamsT, lr: float | Tensor = 0.001, betas: tuple[float, float] = (0.9, 0.999), eps: float | Tensor = 1e-06, weight_decay: float | Tensor = 0.0, bias_correction: bool = True, *, maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None, max_norm: float | Tensor | None = None, max_value: float | Tensor | None = None, nonfinite: Literal["ignore", "skip", "raise"] = 'ignore', convention: Literal["torch", "keras", "optax"] = 'torch', precision: Literal["plain", "stochastic", "kahan", "master"] = 'plain', rounding_seed: int = 0, state_dtype: Literal[None, "float32", "bfloat16"] = None) -> None: ...

class LARS(Optimizer):
    def __init__(self, params: ParamsT, lr: float | Tensor = 0.001, momentum: float | Tensor = 0.9, weight_decay: float | Tensor = 0.0, trust_coefficient: float | Tensor = 0.001, nesterov: bool = False, adapt: bool = True, *, maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None, max_norm: float | Tensor | None = None, max_value: float | Tensor | None = None, nonfinite: Literal["ignore", "skip", "raise"] = 'ignore', convention: Literal["torch", "keras", "optax"] = 'torch', precision: Literal["plain", "stochastic", "kahan", "master"] = 'plain', rounding_seed: int = 0, state_dtype: Literal[None, "float32", "bfloat16"] = None) -> None: ...

class LBFGS(Optimizer):
    def __init__(self, params: ParamsT, lr: float | Tensor = 1.0, max_iter: int = 20, max_eval: int | None = None, tolerance_grad: float | Tensor = 1e-07, tolerance_change: float | Tensor = 1e-09, history_size: int = 100, line_search_fn: Literal[None, "strong_wolfe"] = None, *, maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None, max_norm: float | Tensor | None = None, max_value: float | Tensor | None = None, nonfinite: Literal["ignore", "skip", "raise"] = 'ignore', convention: Literal["torch", "keras", "optax"] = 'torch', precision: Literal["plain", "stochastic", "kahan", "master"] = 'plain', rounding_seed: int = 0, state_dtype: Literal[None, "float32", "bfloat16"] = None) -> None: ...

class Lion(Optimizer):
    def __init__(self, params: ParamsT, lr: float | Tensor = 0.0001, betas: tuple[float, float] = (0.9, 0.99), weight_decay: float | Tensor = 0.0, *, maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None, max_norm: float | Tensor | None = None, max_value: float | Tensor | None = None, nonfinite: Literal["ignore", "skip", "raise"] = 'ignore', convention: Literal["torch", "keras", "optax"] = 'torch', precision: Literal["plain", "stochastic", "kahan", "master"] = 'plain', rounding_seed: int = 0, state_dtype: Literal[None, "float32", "bfloat16"] = None) -> None: ...

class Muon(Optimizer):
    def __init__(self, params: ParamsT, lr: float | Tensor = 0.001, weight_decay: float | Tensor = 0.1, momentum: float | Tensor = 0.95, nesterov: bool = True, ns_coefficients: tuple[float, float, float] = (3.4445, -4.775, 2.0315), eps: float | Tensor = 1e-07, ns_steps: int = 5, adjust_lr_fn: Literal[None, "original", "match_rms_adamw"] = None, adamw: bool = False, split: int = 1, ns_dtype: Literal["bfloat16", "float32"] = 'bfloat16', *, maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None, max_norm: float | Tensor | None = None, max_value: float | Tensor | None = None, nonfinite: Literal["ignore", "skip", "raise"] = 'ignore', convention: Literal["torch", "keras", "optax"] = 'torch', precision: Literal["plain", "stochastic", "kahan", "master"] = 'plain', rounding_seed: int = 0, state_dtype: Literal[None, "float32", "bfloat16"] = None) -> None: ...

class NAdam(Optimizer):
    def __init__(self, params: ParamsT, lr: float | Tensor = 0.002, betas: tuple[float, float] = (0.9, 0.999), eps: float | Tensor = 1e-08, weight_decay: float | Tensor = 0.0, momentum_decay: float | Tensor = 0.004, decoupled_weight_decay: bool = False, *, maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None, max_norm: float | Tensor | None = None, max_value: float | Tensor | None = None, nonfinite: Literal["ignore", "skip", "raise"] = 'ignore', convention: Literal["torch", "keras", "optax"] = 'torch', precision: Literal["plain", "stochastic", "kahan", "master"] = 'plain', rounding_seed: int = 0, state_dtype: Literal[None, "float32", "bfloat16"] = None) -> None: ...

class RAdam(Optimizer):
    def __init__(self, params: ParamsT, lr: float | Tensor = 0.001, betas: tuple[float, float] = (0.9, 0.999), eps: float | Tensor = 1e-08, weight_decay: float | Tensor = 0.0, decoupled_weight_decay: bool = False, *, maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None, max_norm: float | Tensor | None = None, max_value: float | Tensor | None = None, nonfinite: Literal["ignore", "skip", "raise"] = 'ignore', convention: Literal["torch", "keras", "optax"] = 'torch', precision: Literal["plain", "stochastic", "kahan", "master"] = 'plain', rounding_seed: int = 0, state_dtype: Literal[None, "float32", "bfloat16"] = None) -> None: ...

class RMSprop(Optimizer):
    def __init__(self, params: ParamsT, lr: float | Tensor = 0.01, alpha: float | Tensor = 0.99, eps: float | Tensor = 1e-08, weight_decay: float | Tensor = 0.0, momentum: float | Tensor = 0.0, centered: bool = False, *, maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None, max_norm: float | Tensor | None = None, max_value: float | Tensor | None = None, nonfinite: Literal["ignore", "skip", "raise"] = 'ignore', convention: Literal["torch", "keras", "optax"] = 'torch', precision: Literal["plain", "stochastic", "kahan", "master"] = 'plain', rounding_seed: int = 0, state_dtype: Literal[None, "float32", "bfloat16"] = None) -> None: ...

class Rprop(Optimizer):
    def __init__(self, params: ParamsT, lr: float | Tensor = 0.01, etas: tuple[float, float] = (0.5, 1.2), step_sizes: tuple[float, float] = (1e-06, 50), *, maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None, max_norm: float | Tensor | None = None, max_value: float | Tensor | None = None, nonfinite: Literal["ignore", "skip", "raise"] = 'ignore', convention: Literal["torch", "keras", "optax"] = 'torch', precision: Literal["plain", "stochastic", "kahan", "master"] = 'plain', rounding_seed: int = 0, state_dtype: Literal[None, "float32", "bfloat16"] = None) -> None: ...

class SGD(Optimizer):
    def __init__(self, params: ParamsT, lr: float | Tensor = 0.001, momentum: float | Tensor = 0.0, dampening: float | Tensor = 0.0, weight_decay: float | Tensor = 0.0, nesterov: bool = False, *, maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None, max_norm: float | Tensor | None = None, max_value: float | Tensor | None = None, nonfinite: Literal["ignore", "skip", "raise"] = 'ignore', convention: Literal["torch", "keras", "optax"] = 'torch', precision: Literal["plain", "stochastic", "kahan", "master"] = 'plain', rounding_seed: int = 0, state_dtype: Literal[None, "float32", "bfloat16"] = None) -> None: ...

class SparseAdam(Optimizer):
    def __init__(self, params: ParamsT, lr: float | Tensor = 0.001, betas: tuple[float, float] = (0.9, 0.999), eps: float | Tensor = 1e-08, *, maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None, max_norm: float | Tensor | None = None, max_value: float | Tensor | None = None, nonfinite: Literal["ignore", "skip", "raise"] = 'ignore', convention: Literal["torch", "keras", "optax"] = 'torch', precision: Literal["plain", "stochastic", "kahan", "master"] = 'plain', rounding_seed: int = 0, state_dtype: Literal[None, "float32", "bfloat16"] = None) -> None: ...

class StableAdamW(Optimizer):
    def __init__(self, params: ParamsT, lr: float | Tensor = 0.001, betas: tuple[float, float] = (0.9, 0.99), eps: float | Tensor = 1e-08, weight_decay: float | Tensor = 0.01, *, maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None, max_norm: float | Tensor | None = None, max_value: float | Tensor | None = None, nonfinite: Literal["ignore", "skip", "raise"] = 'ignore', convention: Literal["torch", "keras", "optax"] = 'torch', precision: Literal["plain", "stochastic", "kahan", "master"] = 'plain', rounding_seed: int = 0, state_dtype: Literal[None, "float32", "bfloat16"] = None) -> None: ...
