"""A compiled loss on the GPU: the launches of a call, and of its backward pass."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from ...formula.expression import is_number
from ..backend import Computed, Declined, LossKernel
from ..layout import alike
from ..native.operands import make_operand_check
from ..specs import LossArguments, LossKernelSpec
from .driver import Launch
from .loss_divisor import divisor_source
from .loss_elements import BLOCK, ITERATIONS, elements_source
from .loss_factor import factor_source
from .loss_lines import FEW_ROWS, MOST_BLOCKS, OF_FEW, workspace_words
from .loss_rows import RowLayout, row_layout, rows_source
from .reports import raise_reported, reports_of
from .step_kernel import KernelSource
from .workspaces import workspace

__all__ = ["GpuLossKernel"]

MOST_CLASSES = 1 << 24  # that float32 can count
MOST_PLANS = 1000  # of a kernel
_empty_like = torch.empty_like
_address = Tensor.data_ptr
_ANY_LAYOUT = RowLayout(1, 1024, True, 1, True, 4)


class GpuLossKernel(LossKernel):
    """The kernels of a loss for operands of some dtypes on a device.

    Args:
        spec: the loss.
        device: launches kernels and allocates memory.
    """

    def __init__(self, spec: LossKernelSpec, device: Any) -> None:
        super().__init__(spec)
        self._device = device
        self._dtypes = [getattr(torch, c.storage) for c in spec.operands]
        self._options = [float(value) for _, value in spec.options if is_number(value)]
        self._index = next((i for i, c in enumerate(spec.operands) if c.kind == "index"), None)
        self._is_row = spec.derivatives is None
        self._has_checks = bool(spec.checks) or spec.classes is not None
        self._words = workspace_words(1 + len(spec.checks))
        self._plans: dict[tuple[Any, ...], _Plan] = {}
        self._latest: _Plan | None = None
        self._scalar: Tensor | None = None  # of the dtype of the loss, on the device, without memory
        self._divide: Launch | None = None
        # A formula with a word that no kernel has fails here.
        if self._is_row:
            self._sources_of(_ANY_LAYOUT)
        else:
            self._sources = elements_source(spec), elements_source(spec, True)

    def compute(self, operands: Sequence[Tensor], arguments: LossArguments) -> Computed:
        """Return the loss and its gradients."""
        raise_reported()
        plan = self._planned(operands, arguments)
        made = self._compute(plan, operands, arguments, map(_empty_like, self.select(operands)))
        if plan is not self._latest:
            self._latest = plan
        elif plan.is_like is None:  # the second call of its kind in a row, and perhaps of many
            check = make_operand_check(operands, self.spec.grad_flags)
            plan.is_like, plan.call = check or _is_unknown, arguments[:4]
            if check is not None:
                self.max_fast_elements = sys.maxsize
        return made

    def compute_fast(self, operands: tuple[Tensor, ...], arguments: LossArguments) -> Computed | None:
        """Return the loss and its gradients where the operands are like those of the latest call, or None."""
        plan = self._latest
        if plan is None or plan.is_like is None or plan.call != arguments[:4] or not plan.is_like(operands):
            return None
        raise_reported()
        return self._compute(plan, operands, arguments, map(_empty_like, self.select(operands)))

    def compute_in_place(self, operands: Sequence[Tensor], arguments: LossArguments) -> Computed:
        """Return the loss and its gradients, of which that by the first operand replaces it in memory."""
        raise_reported()
        _, *others = self.select(operands)
        plan = self._planned(operands, arguments)
        made = self._compute(plan, operands, arguments, [operands[0].detach(), *map(_empty_like, others)])
        torch.autograd.graph.increment_version(operands[0])
        return made

    def _compute(
        self, plan: _Plan, operands: Sequence[Tensor], arguments: LossArguments, memory: Iterable[Tensor]
    ) -> Computed:
        """Return the loss, and its gradients in some memory."""
        first = operands[0]
        if self.is_sum:
            if self._scalar is None:
                self._scalar = _without_memory(first.new_empty(()))
            out = _empty_like(self._scalar)
        else:
            out = first.new_empty(first.shape[:-1]) if self._is_row else _empty_like(first)
        gradients = _Gradients(memory)
        gradients.plan = plan
        self._device.run(self._launch, operands, arguments, gradients, out)
        return out, gradients

    def scale(
        self,
        gradients: tuple[Tensor, ...],
        grad: Tensor,
        operands: Callable[[], Sequence[Tensor]],
        arguments: LossArguments,
    ) -> tuple[Tensor, ...]:
        """Multiply the gradients; a kernel that finds a factor of 1 returns at once, and others compute them again.

        A product with gradients of 16 bits would lose what a loss is scaled up for.
        """
        if not self.is_sum:
            return super().scale(gradients, grad, operands, arguments)
        assert isinstance(gradients, _Gradients)
        self._device.run(self._launch_again, operands(), gradients, grad.resolve_neg())
        return gradients

    def multiply(self, gradients: tuple[Tensor, ...], grad: Tensor) -> tuple[Tensor, ...]:
        """Multiply the gradients in place; a kernel that finds a factor of 1 returns at once."""
        if not self.is_sum:
            return super().multiply(gradients, grad)
        self._device.run(self._launch_products, gradients, grad.resolve_neg())
        return gradients

    # --- launches, while the device is the current one ----------------------------------------------------------------

    def _launch(self, operands: Sequence[Tensor], arguments: LossArguments, gradients: _Gradients, out: Tensor) -> None:
        """Launch the kernel of the loss with its gradients."""
        device, plan = self._device, gradients.plan
        stream, is_capturing = device.stream(), device.is_capturing()
        given = [*map(_address, operands), *map(_address, gradients), *plan.places, out.data_ptr()]
        divisor = plan.divisor
        if divisor is None:
            by = gradients.kept = self._denominator(operands, arguments, stream, is_capturing)
            divisor = by.data_ptr()
        gradients.divisor = divisor
        if self.is_sum or self._has_checks:
            words = workspace(device, stream, self._words, is_capturing=is_capturing)
            given.append(words.data_ptr())
        if self._has_checks:
            reports = reports_of(device)
            given += reports.address, reports.add(plan.checks, is_capturing=is_capturing)
        launch = plan.launch
        if launch is None:
            launch = plan.launch = device.launcher(plan.source)
        launch(plan.blocks, stream, (*given, *plan.numbers, divisor, *self._options))

    def _launch_again(self, operands: Sequence[Tensor], gradients: _Gradients, grad: Tensor) -> None:
        """Launch the kernel that computes the gradients again unless the incoming one is 1."""
        plan = gradients.plan
        launch = plan.launch_again
        if launch is None:
            launch = plan.launch_again = self._device.launcher(plan.again)
        given = (*map(_address, operands), *map(_address, gradients), *plan.places, grad.data_ptr())
        launch(plan.blocks, self._device.stream(), (*given, *plan.numbers, gradients.divisor, *self._options))

    def _launch_products(self, gradients: Sequence[Tensor], grad: Tensor) -> None:
        """Launch the kernel that multiplies the gradients."""
        launch, stream = self._device.launcher(factor_source(self.spec.storage)), self._device.stream()
        for gradient in gradients:
            count = gradient.numel()
            launch(-(-count // (BLOCK * ITERATIONS)), stream, (gradient.data_ptr(), grad.data_ptr(), count))

    def _denominator(
        self, operands: Sequence[Tensor], arguments: LossArguments, stream: int, is_capturing: bool
    ) -> Tensor:
        """Return the denominator on the device: the given one, the count of the rows not ignored, or their weights."""
        if arguments.divisor_tensor is not None:
            given: Tensor = self._device.local(arguments.divisor_tensor)
            return given.to(torch.float64).resolve_neg()
        assert self._index is not None
        index, weights = operands[self._index], operands[-1]
        rows = index.numel()
        by: Tensor = self._device.doubles(1)
        iterations = -(-rows // (1024 * 1024))
        if self._divide is None:
            self._divide = self._device.launcher(divisor_source(self.spec.divisor, self.spec.operands[-1].storage))
        words = workspace(self._device, stream, self._words, is_capturing=is_capturing)
        addresses = (index.data_ptr(), weights.data_ptr(), by.data_ptr(), words.data_ptr(), arguments.ignored)
        numbers = (operands[0].shape[-1], rows, iterations, int(arguments.is_nothing_nan))
        self._divide(-(-rows // (1024 * iterations)), stream, (*addresses, *numbers))
        return by

    # --- plans --------------------------------------------------------------------------------------------------------

    def _planned(self, operands: Sequence[Tensor], arguments: LossArguments) -> _Plan:
        """Return the plan of a launch; decline operands that the kernel can't walk."""
        device = self._device.index
        key: list[Any] = [arguments.divisor, arguments.ignored, arguments.is_nothing_nan, arguments.in_place]
        for x, dtype in zip(operands, self._dtypes, strict=True):
            if x.dtype is not dtype or x.get_device() != device:
                raise Declined("its operands differ in device, or in dtype")
            if x.layout is not torch.strided or x.is_neg():
                raise Declined("an operand is sparse, or a lazy negative")
            key += x.shape, x.stride(), x.data_ptr() & 15
        found = tuple(key)
        plan = self._plans.get(found)
        if plan is None:
            plan = self._make_plan(operands, arguments)
            if len(self._plans) >= MOST_PLANS:  # sizes that differ in every step
                self._plans.clear()
            self._plans[found] = plan
        return plan

    def _make_plan(self, operands: Sequence[Tensor], arguments: LossArguments) -> _Plan:
        first = operands[0]
        if not first.numel():
            raise Declined("there are no elements")
        rows = first.numel() // (first.shape[-1] if self._is_row else 1)
        divisor: float | None = None
        if self._counts_few(rows):
            divisor = int(arguments.is_nothing_nan)
        elif self.spec.divisor == "given":
            divisor = float(arguments.divisor or rows) if self.is_sum else 1.0
        launched = (self._row_plan if self._is_row else self._element_plan)(operands, arguments)
        return _Plan(*launched, divisor, self._checks(tuple(first.shape)))

    def _element_plan(self, operands: Sequence[Tensor], arguments: LossArguments) -> _Launched:
        first = operands[0]
        if any([x.shape != first.shape for x in operands]) or not _lie_alike(operands):
            raise Declined("its operands lie in memory in different orders")
        count = first.numel()
        iterations = max(1, min(ITERATIONS, count >> 20), -(-count // (BLOCK * MOST_BLOCKS)))
        return -(-count // (BLOCK * iterations)), (), (count, iterations), self._sources

    def _row_plan(self, operands: Sequence[Tensor], arguments: LossArguments) -> _Launched:
        first, classes = operands[0], operands[0].shape[-1]
        rows = [x for x, c in zip(operands, self.spec.operands, strict=True) if c.kind == "row"]
        groupings = [grouping(x) for x in rows]
        shared = groupings[0]
        if shared is None or classes > MOST_CLASSES or any(g is None or g[:3] != shared[:3] for g in groupings):
            raise Declined("its rows have too many classes, or lie in memory in several steps")
        for x, column in zip(operands, self.spec.operands, strict=True):
            expected = first.shape if column.kind in ("row", "labels") else first.shape[:-1]
            expected = first.shape[-1:] if column.kind == "shared" else expected
            if x.shape != expected or (column.kind != "row" and not x.is_contiguous()):
                raise Declined("an operand has another shape, or is not contiguous")
        for x in self.select(operands):
            if not _lie_alike([x]):
                raise Declined("an operand has gaps in memory")
        groups, inner, classes_last = shared[:3]
        layout = row_layout(classes, self._unit(rows, groupings), classes_last)
        if layout is None:
            raise Declined("the classes of its rows are too many to be far apart in memory")
        layout = layout._replace(in_place=arguments.in_place)
        tiles = groups * -(-inner // layout.rows)
        iterations = -(-tiles // MOST_BLOCKS)
        places = [stride // layout.unit for g in groupings for stride in g[3:]]  # type: ignore[index]
        ignored = () if self._index is None else (arguments.ignored,)
        numbers = (*ignored, inner, groups, classes // layout.unit, tiles, iterations)
        sources = self._sources_of(layout, is_few=self._counts_few(groups * inner))
        return -(-tiles // iterations), tuple(places), numbers, sources

    def _counts_few(self, rows: int) -> bool:
        """Return whether each block finds the denominator from all rows."""
        return self.spec.divisor in ("count", "weights") and rows <= FEW_ROWS

    def _sources_of(self, layout: RowLayout, *, is_few: bool = False) -> tuple[KernelSource, KernelSource]:
        """Return the kernel of the loss with its gradients, and that of the gradients times a factor."""
        spec = self.spec._replace(divisor=OF_FEW + self.spec.divisor) if is_few else self.spec
        return rows_source(spec, layout), rows_source(spec, layout, True)

    def _unit(self, rows: Sequence[Tensor], groupings: Sequence[Any]) -> int:
        """Return the elements of an access of 16 bytes where all rows are aligned, or 1."""
        unit = 16 // rows[0].element_size()
        strides = [stride for g in groupings for stride in g[3:]]
        aligned = all(x.data_ptr() % 16 == 0 for x in rows) and rows[0].shape[-1] % unit == 0
        return unit if aligned and all(stride % unit == 0 for stride in strides) else 1

    def _checks(self, shape: tuple[int, ...]) -> list[Any]:
        """Return, for each check, its error, the shape of the first operand, and whether the values are integers."""
        found: list[Any] = []
        if self.spec.classes is not None:
            found.append((self.spec.index_error, shape, True))
        return found + [(check.error, shape, False) for check in self.spec.checks]


_Launched = tuple[int, tuple[int, ...], tuple[int, ...], tuple[KernelSource, KernelSource]]
"""The blocks of a launch, the arguments between the addresses and those in front of the denominator, the kernels."""


class _Plan:
    """What is the same in every launch for operands of some shapes and strides.

    Attributes:
        blocks: the number of blocks.
        places: the arguments between the addresses of operands and gradients, and that of the loss.
        numbers: the arguments in front of the denominator.
        source: the kernel of the loss with its gradients.
        again: the kernel of the gradients times a factor.
        divisor: the denominator; where each block finds it, whether the mean of no rows is NaN; None where the device
            holds it.
        checks: the value checks, as reports take them.
        launch: launches `source`; None before the first launch.
        launch_again: launches `again`.
        is_like: returns whether a tuple of operands is like those of the plan; None before the second call in a row.
        call: what `LossArguments` says of the denominator and of rows left out, where `is_like` is set.
    """

    __slots__ = (
        "again", "blocks", "call", "checks", "divisor", "is_like", "launch", "launch_again", "numbers", "places",
        "source",
    )  # fmt: skip

    def __init__(
        self,
        blocks: int,
        places: tuple[int, ...],
        numbers: tuple[int, ...],
        sources: tuple[KernelSource, KernelSource],
        divisor: float | None,
        checks: list[Any],
    ) -> None:
        self.blocks, self.places, self.numbers, (self.source, self.again) = blocks, places, numbers, sources
        self.divisor, self.checks = divisor, checks
        self.launch: Launch | None = None
        self.launch_again: Launch | None = None
        self.is_like: Callable[[object], bool] | None = None
        self.call: tuple[Any, ...] = ()


class _Gradients(tuple[Tensor, ...]):
    """Gradients with the launch that computed them: its plan, its denominator, and the tensor that holds that one."""

    plan: _Plan
    divisor: float
    kept: Tensor


def _without_memory(x: Tensor) -> Tensor:
    """Free the memory of a tensor whose dtype and device alone are needed; see `Cuda.lasting_zeros`."""
    x.untyped_storage().resize_(0)
    return x


def _is_unknown(operands: object) -> bool:
    return False


def _lie_alike(tensors: Sequence[Tensor]) -> bool:
    return all([x.is_contiguous() for x in tensors]) or alike(tensors)


def grouping(x: Tensor) -> tuple[int, int, bool, int, int] | None:
    """Return how the rows of a tensor lie, the classes being its last dimension; None for more than two strides.

    Returns:
        The groups of rows, the rows of a group, whether the classes lie side by side, and the distances of groups and
        of the rows of a group.
    """
    runs: list[tuple[int, int]] = []
    for size, stride in zip(reversed(x.shape[:-1]), reversed(x.stride()[:-1]), strict=True):
        if size == 1:
            continue
        if runs and stride == runs[-1][0] * runs[-1][1]:
            runs[-1] = size * runs[-1][0], runs[-1][1]
        else:
            runs.append((size, stride))
    if len(runs) > 2:
        return None
    (inner, step), (groups, outer) = [*runs, (1, 0), (1, 0)][:2]
    if x.stride(-1) == 1 or x.shape[-1] == 1:
        return groups, inner, True, outer, step
    return (groups, inner, False, outer, x.stride(-1)) if step == 1 else None
