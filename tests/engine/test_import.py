"""What `import piste` brings along besides torch: itself and Python's own library, and nothing that has to be built."""

from __future__ import annotations

import json
import sys

from .process import python

SEEN = """
import json, sys
import torch
before = set(sys.modules)
import piste
added = sorted(set(sys.modules) - before)

parameter = torch.nn.Parameter(torch.ones(3))
optimizer = piste.optim.Adam([parameter])
loss = piste.losses.MSELoss()
built = sorted(name for name in ("numba", "llvmlite") if name in sys.modules)

parameter.grad = torch.ones(3)
optimizer.step()
print(json.dumps([added, built, optimizer.explain()]))
"""


def test_import_brings_piste_and_the_standard_library_alone():
    added, built, served = json.loads(python(SEEN))
    packages = {name.split(".")[0] for name in added}
    assert packages - set(sys.stdlib_module_names) == {"piste"}
    assert "piste.engine.intrinsics" not in added and "piste.cli" not in added
    assert built == []  # neither is a constructor reason to import the compiler
    assert "by the fused CPU kernel" in served
