"""Which backend computes an optimizer or a loss, for the pages of the reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from piste.engine.gpu.backend import GpuBackend
from piste.engine.hoisting import has_lines
from piste.losses import Loss
from piste.optim import Optimizer
from piste.optim.composition import step_spec
from piste.optim.shards import existing_part

__all__ = ["WITHOUT_GPU_KERNEL", "loss_backends", "optimizer_backends"]

_PAIRS = ("InfoNCELoss", "NTXentLoss", "SupConLoss", "CLIPLoss", "SigLIPLoss")
WITHOUT_GPU_KERNEL = {
    **dict.fromkeys(_PAIRS, "all pairs are scored by torch operations, in chunks"),
    **dict.fromkeys(("LovaszHingeLoss", "LovaszSoftmaxLoss"), "the errors are sorted by torch operations"),
    "CTCLoss": "it has no kernel",
    "TripletMarginWithDistanceLoss": (
        "the kernel has no word for its formula (no kernel can be made of the word `distance`)"
    ),
}
"""The losses that the eager backend computes on a GPU, and the reason that they state."""


def optimizer_backends(example: Optimizer) -> list[str]:
    """Return the backends of an optimizer with float32 matrices: the lines of `explain_backend`."""
    if type(example).sparse_only:
        line = "by the eager backend: its gradient is sparse"
        return ["Of sparse gradients:", "", *_table([line], [line], "by the eager backend")]
    lines = [line.partition(": ")[2] for line in example.explain_backend().splitlines()]
    shown = [line.partition(" parameters ")[2] for line in lines]
    return [
        "Of float32 matrices, without sparse gradients:",
        "",
        *_table(shown, [_on_gpu(line, example) for line in shown], "by the eager backend"),
    ]


def _on_gpu(line: str, example: Optimizer) -> str:
    """Return the line of a GPU for that of the CPU: a launch, and two more for each level of reductions.

    The backend of the GPU states why it has no kernel for the step, or for sums over all parameters. A step that
    reduces over rows or columns has as many passes as on the CPU, with launches between them.
    """
    reduces_lines = False
    if not hasattr(example, "update"):  # no kernel has a part of the rule that depends on the device
        reason = adding = None
    else:
        (group,) = example.param_groups
        (p,) = group["params"]
        spec, state = step_spec(type(example), group).of(p), existing_part(example, p, group)
        reduces_lines = has_lines(spec)
        reason = GpuBackend().why_not_step(spec, state, group)
        adding = spec.sums and GpuBackend().why_not_step(spec.sums, replace(state, counters=[]), group)
    if reason is not None:
        return f"by the eager backend: {reason}"
    if adding is not None:
        line = line.replace("all parameters by the fused CPU kernel", "all parameters by torch operations")
    line = line.replace("the fused CPU kernel, all in one pass", "the fused GPU kernel, all in one launch")
    for passes in () if reduces_lines else (2, 3, 4):
        line = line.replace(
            f"the fused CPU kernel, all together, in {passes} passes",
            f"the fused GPU kernel, all together, in {2 * passes - 1} launches",
        )
    return line.replace("the fused CPU kernel", "the fused GPU kernel")


def loss_backends(cls: type[Loss]) -> list[str]:
    """Return the backends of a loss at its defaults."""
    line, _, compiled = cls().explain_backend().partition(": ")[2].partition(". Under torch.compile it is ")
    reason = WITHOUT_GPU_KERNEL.get(cls.__name__)
    gpu = line.replace("CPU", "GPU") if reason is None else f"by the eager backend: {reason}"
    return ["At the defaults, of float32:", "", *_table([line], [gpu], compiled)]


def _table(cpu: Sequence[str], gpu: Sequence[str], compiled: str) -> list[str]:
    rows = [f"| CPU | {line} |" for line in cpu] + [f"| CUDA, ROCm | {line} |" for line in gpu]
    rows += ["| other devices | by the eager backend |", f"| `torch.compile` | {compiled} |"]
    return ["| device | computed |", "|---|---|", *rows]
