"""The base class of all optimizers: arguments, param groups, checkpoints and the step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..engine import MatrixSpec, StepSpec, parameters
from ..torch_internals import LOAD_HOOKS, has_step_hooks, is_profiling, profile_hook, without_compiler
from ..translation import translate
from . import checkpoint, declaration, group_checks, validation
from .backward_steps import stepping_in_backward
from .clipping import SkippedSteps, steps_on_gpu
from .composition import describe_group
from .convention import Convention
from .group_sums import share_group_state
from .model_groups import compare_with_model
from .options import Option
from .registry import OPTIMIZERS
from .shards import existing_part
from .shared_formulas import fill_largest_rate
from .state import as_buffer, state_of
from .step_plans import StepPlans
from .stepping import take_step


class Optimizer(torch.optim.Optimizer):
    """The base class of all optimizers; a subclass declares a rule.

    A rule declares

    - `options`: the arguments after `params`, in order (see `piste.optim.options`);
    - `buffers`: the state tensors of a parameter, as `{checkpoint key: letter or Buffer}`;
    - `update(g, *buffers, *, ...)`: the formula of one element. It takes the gradient, each buffer (`None` for a
      buffer that is off) and, by keyword, the numbers and flags that it names; a first argument `p` is the parameter.
      It returns the step `d` and the new buffers; the parameter changes by `-lr * d`;
    - `per_step`: numbers that depend on the step count `t` and the options alone, as formulas by name, in order.
      A number with the name of an option (`lr`) replaces that option in this step;
    - `counters`: 0-d state tensors other than the step count, declared like `buffers`. They are float32 where the
      default dtype is, and float64 with `double_counters`.

    A rule that adds over all parameters declares also

    - `group_state`: numbers that each param group keeps, the same in all, with a first value or the option that is it;
    - `reduce(g, *buffers, *, ...)`: a formula of the terms that are added over all elements of all parameters;
    - `finish(*sums, *, ...)`: the next values of `group_state` from the sums. `update` and `reduce` have the values
      before the step by their names, and `update` the next ones too, with `new_` in front;
    - `same_in_groups`: the options that must not differ between param groups.

    A rule of whole matrices declares in place of `update`

    - `before(g, *buffers, *, ...)`: a formula that returns the input of the matrix stage and the new buffers;
    - `matrix(u, *buffers, *, ...)`: torch operations on matrices (count, rows, columns), and on buffers (count,
      elements) that no formula reads, the last ones declared; it returns the matrices and the new buffers. Options come
      by their public names, and the step count as `t`. With `any_shape` it takes tensors (count, *shape) as they are.
      Groups of `matrix_groups` have AdamW step all other parameters;
    - `after(u, *, ...)`: a formula of the step from the result of the matrix stage; by default that result.

    The base adds the sign, weight decay, the last subtraction, dtypes, checkpoints and backends; no rule mentions
    them.

    Args:
        params: Parameters, named parameters, or param groups, as in torch.optim.
        *args: The options by position, in the order of `options`.
        **kwargs: The options by name, and those that every optimizer has.

    Raises:
        InvalidType: An option is unknown or of the wrong type, or `params` is not a collection of parameters.
        InvalidValue: An option is out of its range, or a parameter is listed twice.

    Example:
        >>> import torch, piste
        >>> from piste.formula import sign
        >>> from piste.optim.options import rate
        >>> class SignSGD(piste.optim.Optimizer):
        ...     options = {"lr": rate(0.1)}
        ...
        ...     def update(g):
        ...         return sign(g)
        >>> w = torch.tensor([1.0, -1.0], requires_grad=True)
        >>> optimizer = SignSGD([w])
        >>> (w * w).sum().backward()
        >>> optimizer.step()
        >>> w
        tensor([ 0.9000, -0.9000], requires_grad=True)
    """

    options: ClassVar[dict[str, Option]] = {}
    buffers: ClassVar[Mapping[str, Any]] = {}
    counters: ClassVar[Mapping[str, Any]] = {}
    per_step: ClassVar[Mapping[str, Callable[..., Any]]] = {}
    conventions: ClassVar[Mapping[str, Convention]] = {}  # the same optimizer in other frameworks
    group_constants: ClassVar[Mapping[str, Any]] = {}  # entries of a param group that are no arguments
    optional_in_checkpoint: ClassVar[tuple[str, ...]] = ("decoupled_weight_decay",)  # missing in old ones
    decay_option: ClassVar[str] = ""  # an option that decays the weights, like decoupled weight decay
    has_rate: ClassVar[bool] = False  # whether the step of the rule contains the learning rate
    counts_steps: ClassVar[bool] = True  # whether checkpoints have a "step"
    double_counters: ClassVar[bool] = False  # keep the counters in float64, as sums over many steps need
    state_from_start: ClassVar[bool] = False  # create state at construction, not at the first step
    sparse_safe: ClassVar[bool] = False  # entries without a gradient don't change: allows sparse gradients
    elementwise: ClassVar[bool] = True  # whether `update` alone states the step, so that it can be shown in numbers
    refused: ClassVar[Mapping[str, str]] = {}  # shared options that it can't have, with the reason
    extensions: ClassVar[tuple[str, ...]] = ()  # options that the class of torch.optim lacks
    own_decay: ClassVar[bool] = False  # whether `update` decays the weights, because it reads `weight_decay`
    any_shape: ClassVar[bool] = False  # whether the matrix stage takes tensors of any shape, as they are
    sparse_only: ClassVar[bool] = False  # takes sparse gradients and no dense ones
    group_state: ClassVar[Mapping[str, float | str]] = {}  # numbers that a param group keeps, with their first values
    same_in_groups: ClassVar[tuple[str, ...]] = ()  # options of `reduce` and `finish`
    update: Callable[..., Any]
    reduce: ClassVar[Callable[..., Any] | None] = None
    finish: ClassVar[Callable[..., Any] | None] = None
    before: Callable[..., Any]
    matrix: ClassVar[Callable[..., Tensor] | None] = None
    _counts_on_host: ClassVar[bool] = False  # whether the matrix stage reads the step count
    _specs: ClassVar[dict[Any, StepSpec | MatrixSpec]] = {}  # by flags and buffers
    options_of_all: ClassVar[set[str]] = set()  # detects the checkpoint of another optimizer

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.buffers = {key: as_buffer(b) for key, b in cls.buffers.items()}
        cls.counters = {key: as_buffer(b) for key, b in cls.counters.items()}
        declaration.check_declaration(cls)
        cls._specs = {}
        if "update" in vars(cls):  # a convention replaces the formula, so a custom one has none
            cls.conventions = vars(cls).get("conventions", {})
            cls.own_decay = "weight_decay" in parameters(cls.update)
        cls._counts_on_host = cls.matrix is not None and "t" in parameters(cls.matrix)
        Optimizer.options_of_all |= set(cls.options)
        cls.__signature__ = declaration.signature(cls.options)  # type: ignore[attr-defined]
        cls.__doc__ = declaration.document_options(cls)

    def __init__(self, params: Any = declaration.MISSING, *args: Any, **kwargs: Any) -> None:
        self._step_plans = StepPlans()
        defaults = validation.bind(type(self), args, kwargs, has_params=params is not declaration.MISSING)
        super().__init__(group_checks.list_params(type(self), params), defaults)
        self._state_exposed = self._has_warned = False
        self._skipped_steps = SkippedSteps()

    def after(u: Any) -> Any:  # type: ignore[misc]
        """Return the step of one element from the result of the matrix stage."""
        return u

    @classmethod
    def rule_of(cls, group: Mapping[str, Any]) -> Any:
        """Return the class whose rule steps a group: AdamW for a group of `matrix_groups` without hidden matrices.

        Args:
            group: The options of the group.
        """
        return OPTIMIZERS["AdamW"] if cls.matrix is not None and group.get("adamw") is True else cls

    @classmethod
    def validate_options(cls, values: Mapping[str, Any]) -> None:
        """Raise if options exclude each other; each alone is in its range.

        Args:
            values: The options by name.

        Raises:
            InvalidValue: The options exclude each other.
        """

    @classmethod
    def state_keys(cls) -> list[str]:
        """Return the keys that a checkpoint may have for one parameter."""
        return ["step"] * cls.counts_steps + [*cls.counters, *cls.buffers]

    # --- groups and checkpoints -----------------------------------------------------------------------------

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a param group.

        Args:
            param_group: The group: `params`, and the options that differ from the defaults.

        Raises:
            InvalidType: A value or a parameter is of the wrong type.
            InvalidValue: A name is misspelled, a value is out of its range, or a parameter is in a group already.
        """
        group_checks.check_group(self, param_group)
        without_compiler(super().add_param_group)(param_group)
        fill_largest_rate(param_group)
        share_group_state(self, param_group)
        if self.state_from_start:
            for p in param_group["params"]:
                state_of(self, p, param_group)

    @property
    def state(self) -> Any:  # type: ignore[override]
        """The state of each parameter, as in torch.optim; assignments and changes take effect at the next step."""
        self._state_exposed = True
        return self._state

    @state.setter
    def state(self, state: Any) -> None:
        self._state_exposed, self._state = True, state

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        if "state" in state:
            self.state = state.pop("state")
        super().__setstate__(state)
        for group in self.param_groups:
            for name, default in declaration.defaults(type(self)).items():
                group.setdefault(name, default)
            group.update(self.rule_of(group).group_constants)
        self._step_plans = StepPlans()
        for name, value in {"_has_warned": False, "_skipped_steps": SkippedSteps()}.items():
            self.__dict__.setdefault(name, value)

    def state_dict(self) -> dict[str, Any]:
        """Return the state and the options of all groups, as torch.optim does, and a description of both.

        Returns:
            A dict with torch's keys `state` and `param_groups`, and `piste`: the kind of the optimizer, the version of
            Piste, and the name, shape and dtype of each parameter. torch.optim ignores the third.

        Example:
            >>> import torch, piste
            >>> optimizer = piste.optim.SGD(torch.nn.Linear(2, 1).named_parameters())
            >>> optimizer.state_dict()["piste"]["parameters"][0]
            {'name': 'weight', 'shape': [1, 2], 'dtype': 'float32'}
        """
        return {**without_compiler(super().state_dict)(), checkpoint.KEY: checkpoint.describe_optimizer(self)}

    def load_state_dict(
        self, state_dict: dict[str, Any], strict: bool = True, hyperparameters: str = "checkpoint"
    ) -> None:
        """Load a checkpoint from Piste or torch.optim.

        Differs from PyTorch: parameters are matched by name where both sides have names, state keeps its saved dtype,
        and it is a copy.

        Args:
            state_dict: The result of `state_dict()`.
            strict: True rejects missing and surplus parameters. False leaves them out, which takes names on both
                sides: parameters that the checkpoint lacks begin without state.
            hyperparameters: "checkpoint" takes the options of the checkpoint; "keep" keeps those of this optimizer.

        Raises:
            InvalidType: An option is of the wrong type.
            InvalidValue: The checkpoint is of another optimizer, or has other groups, names or shapes, or no parameter
                in common. The optimizer has not changed.
        """
        hooks = getattr(self, LOAD_HOOKS, {})
        for hook in hooks.values():
            state_dict = hook(self, state_dict) or state_dict  # check the dict that torch will load
        state_dict = checkpoint.match_checkpoint(self, state_dict, strict, hyperparameters)
        setattr(self, LOAD_HOOKS, {})
        try:
            without_compiler(super().load_state_dict)(state_dict)
        finally:
            setattr(self, LOAD_HOOKS, hooks)
        checkpoint.copy_loaded_state(self, state_dict)

    def check(self, model: torch.nn.Module) -> str:
        """Compare the parameters of this optimizer with those of a model.

        Args:
            model: The model that the optimizer is meant to train.

        Returns:
            A line with the number of trainable parameters held, and lines for those that are not held, frozen ones
            that are, parameters that are tied, and held ones that are not in the model.

        Raises:
            InvalidType: `model` is not a module.

        Example:
            >>> import torch, piste
            >>> model = torch.nn.Linear(2, 1)
            >>> print(piste.optim.Adam([model.weight]).check(model))
            Adam holds 1 of 2 trainable parameters.
            trainable, not held: bias
        """
        return compare_with_model(self, model)

    def explain_backend(self) -> str:
        """Return one line per param group that names its backend, with the reason for an eager step.

        Example:
            >>> import torch, piste
            >>> model = torch.nn.Linear(2, 1)
            >>> print(piste.optim.Adam(model.parameters(), fused=False).explain_backend())
            Adam, group 0: 2 of 2 parameters by the eager backend: fused=False asks for it
        """
        text = translate("{0}, group {1}: {2}")
        return "\n".join(
            text.format(type(self).__name__, index, translate(line))
            for index, group in enumerate(self.param_groups)
            for line in describe_group(
                type(self).rule_of(group), group, [existing_part(self, p, group) for p in group["params"]]
            )
        )

    explain = explain_backend
    """Alias of `explain_backend`."""

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Reset the gradients.

        Args:
            set_to_none: True sets gradients to None; False fills them with zeros.
        """
        if not set_to_none or torch.compiler.is_compiling() or is_profiling():
            super().zero_grad(set_to_none)
            return
        for group in self.param_groups:
            for p in group["params"]:
                p.grad = None

    @property
    def grad_norm(self) -> Tensor | None:
        """The norm of all gradients before clipping, a tensor on their device, of the last step that needed it."""
        return self._skipped_steps.norm

    @property
    def skipped(self) -> int:
        """The number of steps that `nonfinite="skip"` left out; waits for a GPU that counts them."""
        return self._skipped_steps.total()

    @property
    def _step_supports_amp_scaling(self) -> bool:
        """Whether a `torch.amp.GradScaler` leaves the division of gradients and bad steps to `step`."""
        return steps_on_gpu(self)

    # --- the step -------------------------------------------------------------------------------------------

    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Update every parameter that has a gradient.

        Args:
            closure: A function that recomputes the loss and its gradients and returns the loss.

        Returns:
            The result of `closure`, or None.

        Raises:
            InvalidType, InvalidValue: An option of a param group was set to an invalid value. No parameter has changed.
            Unsupported: A gradient is sparse, and the rule changes entries without a gradient.
        """
        if has_step_hooks(self) or (not torch.compiler.is_compiling() and is_profiling()):
            return _profiled_step(self, closure)
        return self._step(closure)

    if profile_hook is not None:
        step.hooked = True  # type: ignore[attr-defined]  # the wrapper of PyTorch takes longer than a small step

    def step_in_backward(self) -> AbstractContextManager[None]:
        """Step each parameter within a backward pass, as soon as its gradient is complete, and free the gradient.

        At no time do all gradients take memory. Run one backward pass in the context; gradients that earlier passes
        accumulated are part of the step. There is no `step()` and no `zero_grad()` then.

        Returns:
            The context in which to call `loss.backward()`.

        Raises:
            Unsupported: An option needs all gradients at once (`max_norm`, `nonfinite`, `differentiable`), parameters
                are sharded, or hooks are registered for steps; and, from the backward pass, if a parameter receives a
                second gradient.

        Example:
            >>> import torch, piste
            >>> model = torch.nn.Linear(2, 1)
            >>> optimizer = piste.optim.Adam(model.parameters())
            >>> with optimizer.step_in_backward():
            ...     model(torch.ones(1, 2)).sum().backward()
            >>> print(model.weight.grad)
            None
        """
        return stepping_in_backward(self)

    def _step(self, closure: Callable[[], Any] | None = None) -> Any:
        return take_step(self, closure)


def _call_step(optimizer: Optimizer, closure: Callable[[], Any] | None = None) -> Any:
    return optimizer._step(closure)


_profiled_step = _call_step if profile_hook is None else profile_hook(_call_step)
