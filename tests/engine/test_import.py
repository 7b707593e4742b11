"""The modules that `import piste` loads in addition to torch: Piste and the standard library, no compiler."""

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
