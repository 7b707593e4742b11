"""What `import piste` brings along besides torch: itself and Python's own library, and no compiler."""

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
