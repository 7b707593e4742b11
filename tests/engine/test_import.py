"""The modules that Piste loads in addition to torch: at import the standard library, and at no step a compiler."""

from __future__ import annotations

import json
import sys

from .process import python

SEEN = """
import json, sys
import torch
before = set(sys.modules)
import piste
print(json.dumps(sorted(set(sys.modules) - before)))
"""


def test_import_loads_only_piste_and_the_standard_library():
    added = json.loads(python(SEEN))
    packages = {name.split(".")[0] for name in added}
    assert packages - set(sys.stdlib_module_names) == {"piste"}
    assert not {"piste.engine.native.intrinsics", "piste.engine.native.kernels", "piste.cli"} & set(added)


USED = """
import gc, sys, weakref
import torch, piste

gc.collect()
gc.disable()
model = torch.nn.Linear(2, 2)
optimizer = piste.optim.Adam(model.parameters())
piste.losses.CrossEntropyLoss()(model(torch.ones(1, 2)), torch.tensor([0])).backward()
optimizer.step()
optimizer.zero_grad()
optimizer.load_state_dict(optimizer.state_dict())
print("torch._dynamo" in sys.modules)
watched = weakref.ref(optimizer), weakref.ref(model.weight)
del optimizer, model
print([w() for w in watched])
"""


def test_the_first_optimizer_of_a_process_loads_no_compiler_of_torch_and_is_freed():
    assert python(USED) == "False\n[None, None]"
