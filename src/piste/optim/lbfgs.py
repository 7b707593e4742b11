from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import Tensor

from ..errors import InvalidType, InvalidValue, Unsupported
from ..torch_internals import outside_of_compiler
from ..translation import translate
from . import validation
from .clipping import reduces_gradients, scaling_of_step
from .declaration import MISSING
from .line_search import Point, find_wolfe_point
from .optimizer import Optimizer
from .options import Choice, Integer, Number, rate
from .shards import is_sharded
from .stepping import refuse_capture


class LBFGS(Optimizer):
    """L-BFGS: the quasi-Newton method with limited memory (Nocedal and Wright 2006, algorithm 7.5).

    A step minimizes the loss that `closure` computes for up to `max_iter` iterations. An iteration moves along -H g,
    where H is the inverse Hessian that the last `history_size` changes of parameters and gradients give; by lr, or
    with `line_search_fn="strong_wolfe"` as far as the strong Wolfe conditions hold. All parameters are one vector, in
    one param group.

    Differs from PyTorch: numbers of the state are Python numbers, and its key `al` of temporary values is left out.

    Example:
        >>> import torch, piste
        >>> w = torch.tensor([1.0, 5.0], requires_grad=True)
        >>> optimizer = piste.optim.LBFGS([w], line_search_fn="strong_wolfe")
        >>> def closure():
        ...     optimizer.zero_grad()
        ...     loss = (w - torch.tensor([2.0, -1.0])).square().sum()
        ...     loss.backward()
        ...     return loss
        >>> print(f"{optimizer.step(closure):g}")
        37
        >>> w.round(decimals=3).tolist()
        [2.0, -1.0]
    """

    options = {
        "lr": rate(1.0, "the learning rate: the first distance that the line search tries"),
        "max_iter": Integer(20, "the largest number of iterations in a step", low=1),
        "max_eval": Integer(None, "the largest number of evaluations in a step; None for 1.25 max_iter", optional=True),
        "tolerance_grad": Number(1e-7, "a step ends where no component of the gradient is larger"),
        "tolerance_change": Number(1e-9, "a step ends where loss and parameters change by less"),
        "history_size": Integer(100, "the number of changes that are kept", low=1),
        "line_search_fn": Choice(None, (None, "strong_wolfe"), "the line search; None moves by lr"),
    }
    counts_steps = False
    elementwise = False
    refused = {
        "max_norm": "its line search and its curvature need the gradient of the loss",
        "max_value": "its line search and its curvature need the gradient of the loss",
        "capturable": "it reads the loss on the host, to decide how often it evaluates",
        "differentiable": "it reads the loss as a number",
        "fused": "it consists of products of vectors, for which torch has kernels",
        "precision": "its parameters are added to as they are",
        "state_dtype": "its state is in the dtype of the parameters",
        "cautious": "its line search moves all parameters along one direction",
    }

    def __init__(self, params: Any = MISSING, *args: Any, **kwargs: Any) -> None:
        super().__init__(params, *args, **kwargs)
        for group in (self.defaults, *self.param_groups):
            if group["max_eval"] is None:
                group["max_eval"] = group["max_iter"] * 5 // 4

    @classmethod
    def state_keys(cls) -> list[str]:
        """Return the keys that a checkpoint may have for one parameter, which is the first."""
        return [
            *("func_evals", "n_iter", "d", "t", "old_dirs", "old_stps", "ro", "H_diag", "prev_flat_grad"),
            *("prev_loss", "al"),
        ]

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add the only param group.

        Args:
            param_group: The group: `params`, and the options that differ from the defaults.

        Raises:
            InvalidValue: There is a group already.
            Unsupported: A parameter is sharded.
        """
        if self.param_groups:
            raise InvalidValue(
                "LBFGS doesn't support per-parameter options (parameter groups), because all parameters are one "
                "vector; received a second param group. Help: pass all parameters in one list."
            )
        super().add_param_group(param_group)
        for i, p in enumerate(self.param_groups[0]["params"]):
            if is_sharded(p):
                raise Unsupported(
                    f"LBFGS takes all parameters as one vector; received parameter {i}, which is sharded. Help: AdamW "
                    "steps sharded parameters."
                )

    def explain_backend(self) -> str:
        """Return one line that names the backend."""
        count = len(self.param_groups[0]["params"])
        return translate(f"LBFGS, group 0: {count} of {count} parameters by torch operations on one vector of all")

    explain = explain_backend

    def step_in_backward(self) -> NoReturn:
        """Raise: a step takes the gradients of all parameters, several times.

        Raises:
            Unsupported: Always.
        """
        raise Unsupported(
            "LBFGS takes the gradients of all parameters as one vector, so no parameter can be stepped within the "
            "backward pass. Help: call step(closure)."
        )

    def _step(self, closure: Callable[[], Any] | None = None) -> Any:
        return (_step_outside if torch.compiler.is_compiling() else LBFGS._take_step)(self, closure)

    def _take_step(self, closure: Callable[[], Any] | None) -> Any:
        if closure is None:
            raise InvalidType(
                "LBFGS.step needs a closure, because it evaluates the loss several times; received none. Help: "
                "optimizer.step(closure) with a function that calls zero_grad() and backward() and returns the loss."
            )
        validation.check_changed(self, 0, None)
        refuse_capture(self)
        with torch.enable_grad():
            loss = closure()
        group = self.param_groups[0]
        if not reduces_gradients(group) or scaling_of_step(self) is not None:
            with torch.no_grad():
                self._minimize(group, closure, float(loss))
        return loss

    def _minimize(self, group: dict[str, Any], closure: Callable[[], Any], first_loss: float) -> None:
        """Iterate from the parameters, whose loss and gradients have been computed."""
        params: list[Tensor] = group["params"]
        sign = -1.0 if group["maximize"] else 1.0
        state = self._state[params[0]]
        for key in ("func_evals", "n_iter"):
            state.setdefault(key, 0)
        state["func_evals"] += 1
        loss, g, used = sign * first_loss, _flat_gradient(params, sign), 1
        if g.abs().max() <= group["tolerance_grad"]:
            return
        d, t = state.get("d"), float(state.get("t") or 0.0)
        changes, moves = list(state.get("old_dirs") or []), list(state.get("old_stps") or [])
        inverses, scale = [*map(float, state.get("ro") or [])], float(state.get("H_diag", 1.0))
        previous_g, previous_loss = state.get("prev_flat_grad"), state.get("prev_loss")
        lr, tolerance = float(group["lr"]), group["tolerance_change"]
        for iteration in range(1, group["max_iter"] + 1):
            state["n_iter"] += 1
            if d is None or previous_g is None:
                d, t = -g, lr * min(1.0, 1.0 / g.abs().sum().item())
            else:
                change, move = g - previous_g, d * t
                curvature = change.dot(move).item()
                if curvature > 1e-10:
                    drop = len(changes) == group["history_size"]
                    changes, moves = [*changes[drop:], change], [*moves[drop:], move]
                    inverses, scale = [*inverses[drop:], 1.0 / curvature], curvature / change.dot(change).item()
                d, t = _direction(g, changes, moves, inverses, scale), lr
            previous_g, previous_loss = g, loss
            slope = g.dot(d).item()
            if slope > -tolerance:
                break
            new = 0
            if group["line_search_fn"] is not None:
                evaluate = _evaluator(params, closure, d, sign)
                start, reach = Point(0.0, loss, g, slope), d.abs().max().item()
                point, new = find_wolfe_point(evaluate, start, t, reach, tolerance, group["max_eval"] - used)
                t, loss, g = point.t, point.loss, point.gradient
                _move(params, t, d)
            else:
                _move(params, t, d)
                if iteration != group["max_iter"]:  # no later iteration needs the gradient
                    loss, g, new = *_evaluate(params, closure, sign), 1
            used, state["func_evals"] = used + new, state["func_evals"] + new
            if iteration == group["max_iter"] or used >= group["max_eval"]:
                break
            if g.abs().max() <= group["tolerance_grad"]:
                break
            if (d * t).abs().max() <= tolerance or abs(loss - previous_loss) < tolerance:
                break
        state.update(
            d=d, t=t, old_dirs=changes, old_stps=moves, ro=inverses, H_diag=scale, prev_flat_grad=previous_g,
            prev_loss=previous_loss,
        )  # fmt: skip


_step_outside = outside_of_compiler(
    LBFGS._take_step,
    translate(
        "LBFGS reads losses and gradients on the host, so torch.compile runs its step and the closure outside of the "
        "graph. Help: fullgraph=False, and compile the model."
    ),
)


def _direction(g: Tensor, changes: list[Tensor], moves: list[Tensor], inverses: list[float], scale: float) -> Tensor:
    """Return -H g, by two loops over the changes of the gradient and the moves that led to them."""
    d, shares = -g, []
    for change, move, inverse in zip(reversed(changes), reversed(moves), reversed(inverses), strict=True):
        shares.append(move.dot(d).item() * inverse)
        d.add_(change, alpha=-shares[-1])
    d = d * scale
    for change, move, inverse, share in zip(changes, moves, inverses, reversed(shares), strict=True):
        d.add_(move, alpha=share - change.dot(d).item() * inverse)
    return d


def _evaluator(params: list[Tensor], closure: Callable[[], Any], d: Tensor, sign: float) -> Callable[[float], Point]:
    """Return a function that evaluates the loss at a distance along d, and leaves the parameters as they are."""
    start = [p.clone() for p in params]

    def evaluate(t: float) -> Point:
        _move(params, t, d)
        loss, g = _evaluate(params, closure, sign)
        for p, value in zip(params, start, strict=True):
            p.copy_(value)
        return Point(t, loss, g, g.dot(d).item())

    return evaluate


def _evaluate(params: list[Tensor], closure: Callable[[], Any], sign: float) -> tuple[float, Tensor]:
    """Return the loss that is minimized, and its gradient as one vector."""
    with torch.enable_grad():
        loss = closure()
    return sign * float(loss), _flat_gradient(params, sign)


def _flat_gradient(params: list[Tensor], sign: float) -> Tensor:
    """Return the gradients of all parameters as one new vector of real numbers; missing ones are 0."""
    parts = []
    for p in params:
        g = torch.zeros_like(p) if p.grad is None else p.grad.to_dense() if p.grad.is_sparse else p.grad
        parts.append((torch.view_as_real(g.resolve_conj()) if g.is_complex() else g).reshape(-1))
    g = torch.cat(parts)
    return g if sign > 0 else g.neg_()


def _move(params: list[Tensor], t: float, d: Tensor) -> None:
    """Add t d to the parameters."""
    sizes = [p.numel() * (2 if p.is_complex() else 1) for p in params]
    for p, part in zip(params, d.split(sizes), strict=True):
        values = torch.view_as_real(p) if p.is_complex() else p
        values.add_(part.view_as(values), alpha=t)
