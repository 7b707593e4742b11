"""Steps, losses and measurements are right without any one of the private names of PyTorch and CPython."""

from __future__ import annotations

import pytest
import torch

from piste import torch_internals

from .engine.process import python

CHILDREN = """
import ctypes, os, sys, traceback, warnings
import llvmlite.binding  # children share it
import torch
import torch.optim.optimizer
from torch.autograd import forward_ad

torch.set_num_threads(1)
torch.manual_seed(0)
START, GRADIENT = torch.randn(7), torch.randn(7)
LOGITS, TARGETS = torch.randn(6, 5), torch.tensor([0, 4, 2, 1, 3, 3])
IMAGE, CLASSES = torch.randn(2, 3, 4), torch.tensor([[0, 1, 2, 1], [2, 2, 0, 1]])
LARGE = torch.randn(300_000)


def results(optim, nn, without):
    seen = []
    p = torch.nn.Parameter(START.clone())
    optimizer = optim.Adam([p], lr=0.1)
    for is_hooked in (False, True, True):
        p.grad = GRADIENT.clone()
        optimizer.step()
        if not is_hooked:
            optimizer.register_step_post_hook(lambda *args: seen.append(1))
        optimizer.zero_grad()
    optimizer.load_state_dict(optimizer.state_dict())
    values = [p.detach(), torch.tensor(len(seen))]
    cross_entropy, squares = nn.CrossEntropyLoss(), nn.MSELoss(reduction="sum")
    for loss, x, y in ((cross_entropy, LOGITS, TARGETS), (squares, LOGITS, LOGITS.flip(0)),
                       (cross_entropy, IMAGE, CLASSES), (squares, LARGE, LARGE.flip(0))):
        x = x.clone().requires_grad_()
        for _ in range(3):
            value = loss(x, y)
            values += [value, *torch.autograd.grad(value, x), *torch.autograd.grad(3 * loss(x, y), x)]
        if FIRST_ORDER_ALONE:
            continue
        first, = torch.autograd.grad(loss(x, y), x, create_graph=True)
        values += [first, *torch.autograd.grad(first.square().sum(), x)]
        values.append(torch.func.grad(lambda x: loss(x, y))(x.detach()))
        values.append(torch.vmap(lambda x, y: loss(x[None], y[None]))(x.detach(), y))
        if without != "autograd.forward_ad._current_level":  # which PyTorch needs for it, too
            with forward_ad.dual_level():
                dual = loss(forward_ad.make_dual(x.detach(), x.detach().flip(0)), y)
                values.append(forward_ad.unpack_dual(dual).tangent)
    return [value.detach() for value in values]


def check(without):
    import piste

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for ours, theirs in zip(results(piste.optim, piste.losses, without), WANTED[without], strict=True):
            torch.testing.assert_close(ours, theirs)


def is_fast():
    from piste.engine.native.native_guard import native_guard

    return native_guard() is not None


def place_of(path):
    owner, _, name = path.rpartition(".")
    return sys.modules[f"torch.{owner}"], name


def removed(path):
    # PyTorch needs some of the names itself, so they are restored after the import of Piste.
    place, name = place_of(path)
    kept = getattr(place, name)
    delattr(place, name)
    import piste
    if path not in AT_RUN_TIME:
        setattr(place, name, kept)


def in_child(name, change, is_right=lambda: True):
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            change(name)
            check(name)
            assert is_right(), "right values, by another path than the expected one"
            code = 0
        except BaseException:
            print(f"without {name}:", traceback.format_exc(), file=sys.stderr, flush=True)
        finally:
            os._exit(code)
    return name if os.waitpid(pid, 0)[1] else None


def report(failed):
    if any(failed):
        sys.exit(f"wrong without {[name for name in failed if name is not None]}")


class Wanted(dict):
    def __missing__(self, without):
        key = without if without == "autograd.forward_ad._current_level" else None
        if key not in self:
            self[key] = results(torch.optim, torch.nn, key)
        return self[key]


WANTED = Wanted()
AT_RUN_TIME = ("_C._storage_Use_Count", "autograd.forward_ad._current_level")
"""

NAMES = """
from importlib import machinery, util
from pathlib import Path

# Each child imports Piste itself, from code that is compiled once.
FOLDER = util.find_spec("piste").submodule_search_locations[0]
FILES = Path(FOLDER).rglob("*.py")
COMPILED = {str(path): compile(path.read_bytes(), path, "exec", dont_inherit=True) for path in FILES}
source_to_code = machinery.SourceFileLoader.source_to_code
machinery.SourceFileLoader.source_to_code = lambda self, data, path, **options: (
    COMPILED.get(str(path)) or source_to_code(self, data, path, **options)
)

FIRST_ORDER_ALONE = False
WANTED[None], WANTED["autograd.forward_ad._current_level"]
PATHS = (
    "_C._functorch.peek_interpreter_stack", "_C._functorch.is_legacy_batchedtensor",
    "_C._functorch.is_functorch_wrapped_tensor", "_C._functorch.is_batchedtensor", "_C._functorch.get_unwrapped",
    "_C._len_torch_dispatch_stack", "_C._len_torch_function_stack", "_C._get_function_stack_at", "_C._FunctionBase",
    "_subclasses.FakeTensor",
    "optim.optimizer._global_optimizer_pre_hooks", "optim.optimizer._global_optimizer_post_hooks",
    "autograd._profiler_enabled", *AT_RUN_TIME,
)

def newer(name):
    torch.__version__ = "2.99.0"

def wrapped_otherwise(name):
    # PyTorch wraps `step` under a new name, and marks it with another attribute.
    cls = torch.optim.Optimizer
    cls.wrap_step = staticmethod(cls.profile_hook_step)
    del cls.profile_hook_step

    def patch(self):
        step = type(self).step
        if not hasattr(step, "wrapped"):
            type(self).step = self.wrap_step(step)
            type(self).step.wrapped = True

    cls._patch_step_function = patch

def hidden_otherwise(name):
    # PyTorch hides methods from its compiler by another wrapper.
    for method in ("add_param_group", "state_dict", "load_state_dict"):
        hidden = getattr(torch.optim.Optimizer, method)
        setattr(torch.optim.Optimizer, method, lambda self, *args, hidden=hidden: hidden(self, *args))

failed = [in_child(path, removed) for path in PATHS]
failed += [in_child("a verified version", newer), in_child("profile_hook_step", wrapped_otherwise)]
failed.append(in_child("torch._compile", hidden_otherwise))
report(failed)
"""

SYMBOLS = """
FIRST_ORDER_ALONE = True
WANTED[None]
import piste  # the symbols are resolved at first use, in a child
from piste.engine.native.torch_internals import SYMBOLS

def instead(symbol, other):
    real = ctypes.CDLL.__getattr__

    def look_up(library, name):
        if name == symbol and other is None:
            raise AttributeError(name)
        return real(library, other if name == symbol else name)

    ctypes.CDLL.__getattr__ = look_up

def missing(name):
    instead(SYMBOLS[name][1], None)

def exchanged(name):
    one, other = name.split(" by ")
    instead(SYMBOLS[one][1], SYMBOLS[other][1])

def without_fast_path(name):
    os.environ["PISTE_FAST_PATH"] = "0"

slow = lambda: not is_fast()
failed = [in_child("nothing missing", lambda name: None, is_fast)]
failed += [in_child("PISTE_FAST_PATH", without_fast_path, slow)]
failed += [in_child(name, missing, slow) for name in SYMBOLS]
# The self-test detects a symbol whose answers have changed.
failed += [in_child(name, exchanged, slow) for name in (
    "is_neg by is_conj", "is_conj by is_neg", "requires_grad by has_storage", "has_storage by requires_grad",
    "device_index by device",
    "device by layout", "layout by device", "dtype by dim", "dim by dtype", "sizes by strides", "strides by sizes",
    "address by sizes", "is_grad_enabled by get_num_threads", "bump_version by is_neg",
)]
report(failed)
print(len(SYMBOLS))
"""


def test_steps_and_losses_are_right_without_any_one_private_name_of_pytorch():
    assert python(CHILDREN + NAMES) == ""


def test_steps_and_losses_are_right_without_any_one_symbol_of_libtorch_or_with_a_wrong_one():
    assert python(CHILDREN + SYMBOLS) == "17"


def test_without_the_private_profiler_allocations_are_recorded_by_the_public_one(monkeypatch):
    def action() -> None:
        x = torch.zeros(1000)
        y = x.exp()
        del x
        y.exp()

    wanted = torch_internals.record_allocations(action)
    assert [n for n in wanted if n > 0] == [4000] * 3
    calls = []
    traced = torch_internals._traced_allocations
    monkeypatch.setattr(torch_internals, "_traced_allocations", lambda f: (calls.append(1), traced(f))[1])
    for name in ("ProfilerConfig", "ProfilerState", "_enable_profiler_legacy"):
        with monkeypatch.context() as patch:
            patch.delattr(torch.autograd, name)
            assert torch_internals.record_allocations(action) == wanted
    assert calls == [1, 1, 1]


def test_hooks_are_assumed_where_torch_hides_them():
    optimizer = torch.optim.SGD([torch.zeros(1)])
    assert not torch_internals.has_step_hooks(optimizer)
    del optimizer._optimizer_step_pre_hooks
    assert torch_internals.has_step_hooks(optimizer)


@pytest.mark.parametrize("name", ["_is_wrapped", "_unwrapped"])
def test_a_tensor_that_cannot_be_unwrapped_is_not_read(monkeypatch, name):
    seen = []

    def look(x):
        seen.append(torch_internals.unwrap(x))
        return x

    torch.func.grad(lambda x: look(x).sum())(torch.ones(2))
    monkeypatch.setattr(torch_internals, name, None)
    torch.func.grad(lambda x: look(x).sum())(torch.ones(2))
    assert seen[0].tolist() == [1, 1] and seen[1] is None
