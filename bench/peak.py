"""The peak memory of cross entropy over many classes, forward and backward, each side in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

SHAPE = (4096, 32000)
_SCRIPT = """
import torch, {module}
def of_process(what):
    line = next(x for x in open("/proc/self/status") if x.startswith(what))
    return int(line.split()[1]) / 1024
loss = {module}.{path}CrossEntropyLoss()
small = torch.randn(2, 3, requires_grad=True)
loss(small, torch.tensor([0, 1])).backward()  # what comes with the first call
x = torch.randn({shape}).requires_grad_()
k = torch.randint({classes}, ({rows},))
before = of_process("VmRSS")
loss(x, k).backward()
print(before, of_process("VmHWM"))
"""


def peaks() -> Iterator[str]:
    """A line for each side: what forward and backward add to the logits at most, in buffers of their size."""
    logits = 4 * SHAPE[0] * SHAPE[1] / 2**20
    yield f"Cross entropy of {SHAPE}, float32: the logits are {logits:.0f} MB."
    for name, module, path in (("Piste", "piste", "losses."), ("torch", "torch", "nn.")):
        script = _SCRIPT.format(module=module, path=path, shape=SHAPE, rows=SHAPE[0], classes=SHAPE[1])
        out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
        before, peak = map(float, out.split())
        yield f"{name}: {peak - before:.0f} MB more at the peak, {(peak - before) / logits:.2f} times the logits."
