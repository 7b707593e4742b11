"""Private names of PyTorch that Piste uses, each with a fallback.

Without a name Piste takes a slower path to the same result. `engine/native/torch_internals.py` has the names on which
machine code relies, and verifies them by a self-test.
"""

from __future__ import annotations

import json
import sys
import tempfile
import types
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.optim import optimizer as optimizer_module

__all__ = [
    "LOAD_HOOKS",
    "PLAIN_TYPES",
    "STEP_CALLED",
    "apply_of",
    "current_device",
    "direct_backward",
    "has_step_hooks",
    "in_loss_parallel",
    "in_transform",
    "is_batched",
    "is_compiler_on",
    "is_fake",
    "is_profiling",
    "is_rewriting",
    "is_transforming",
    "live_iterator",
    "outside_of_compiler",
    "profile_hook",
    "raw_stream",
    "record_allocations",
    "recording_in_operators",
    "storage_owners",
    "unwrap",
    "without_compiler",
]


PLAIN_TYPES = {Tensor, torch.nn.Parameter}
"""The types of tensors whose operations are PyTorch's own, as those of a subclass may not be."""


def _find(path: str, fallback: Any) -> Any:
    """Return a private name by its path from `torch`, or the fallback."""
    found: Any = torch
    for name in path.split("."):
        found = getattr(found, name, None)
        if found is None:
            return fallback
    return found


def _always(*args: object) -> bool:
    return True


# --- transforms and modes ---------------------------------------------------------------------------------------

_is_compiling = torch.compiler.is_compiling
_interpreter = _find("_C._functorch.peek_interpreter_stack", _always)
_dispatch_modes = _find("_C._len_torch_dispatch_stack", _always)
_function_modes = _find("_C._len_torch_function_stack", _always)
_function_mode = _find("_C._get_function_stack_at", None)
_is_tracing = _find("_C._is_tracing", torch.jit.is_tracing)

is_batched: Callable[[Tensor], bool] = _find("_C._functorch.is_legacy_batchedtensor", _always)
"""Whether a gradient stands for several, as with `is_grads_batched`; True if PyTorch can't tell."""


def in_transform() -> bool:
    """Return whether a transform of `torch.func` is active; True if PyTorch can't tell."""
    return _interpreter() is not None


def is_rewriting() -> bool:
    """Return whether PyTorch traces or transforms operations now; True if it can't tell."""
    return bool(
        _is_compiling() or _interpreter() is not None or _is_tracing() or getattr(forward_ad, "_current_level", 0) >= 0
    )


def is_transforming() -> bool:
    """Return whether PyTorch traces, transforms or intercepts operations now; True if it can't tell."""
    return bool(is_rewriting() or _dispatch_modes() or (_function_modes() and not _are_default_devices()))


def _are_default_devices() -> bool:
    """Return whether all modes of torch functions are default devices, which concern no call with tensors.

    CUDA graphs of torch.compile set one while they warm up.
    """
    if _function_mode is None or _function_modes is _always:
        return False
    return all(type(_function_mode(k)).__module__ == "torch.utils._device" for k in range(_function_modes()))


_is_wrapped = _find("_C._functorch.is_functorch_wrapped_tensor", None)
_is_batched_by_vmap = _find("_C._functorch.is_batchedtensor", _always)
_unwrapped = _find("_C._functorch.get_unwrapped", None)


def unwrap(x: Tensor) -> Tensor | None:
    """Return the tensor inside the wrappers of `torch.func`; None if it stands for several, or may do so."""
    if not in_transform():
        return x
    if _is_wrapped is None:
        return None
    while _is_wrapped(x):
        if _unwrapped is None or _is_batched_by_vmap(x):
            return None
        x = _unwrapped(x)
    return x


_fake_tensor = _find("_subclasses.FakeTensor", None)


def is_fake(x: Tensor) -> bool:
    """Return whether a tensor has no values; True for any subclass if PyTorch can't tell."""
    if _fake_tensor is None:
        return type(x) is not Tensor and type(x) is not torch.nn.Parameter
    return isinstance(x, _fake_tensor)


def in_loss_parallel() -> bool:
    """Return whether `torch.distributed.tensor.parallel.loss_parallel` is active; False if PyTorch can't tell."""
    handlers = _find("distributed.tensor.DTensor._op_dispatcher._custom_op_handlers", ())
    return torch.ops.aten._log_softmax_backward_data.default in handlers


# --- autograd ---------------------------------------------------------------------------------------------------

_is_verified = (2, 9) <= tuple(map(int, str(torch.__version__).split(".")[:2])) < (2, 15)
"""Whether the shortcuts below have been verified with this version: a new duty of `Function.apply` would be skipped."""


def apply_of(function: type[torch.autograd.Function]) -> Callable[..., Any]:
    """Return `function.apply` without its part for `torch.func`, for calls outside of transforms."""
    base = _find("_C._FunctionBase", None)
    if not _is_verified or base is None or "apply" not in vars(base):
        return function.apply
    return vars(base)["apply"].__get__(None, function)


def direct_backward(function: type[torch.autograd.Function]) -> type[torch.autograd.Function]:
    """Make autograd call `function.backward` at once; PyTorch first looks which kind of backward there is."""
    backward_class = getattr(function, "_backward_cls", None)
    if _is_verified and backward_class is not None:
        backward_class.apply = function.backward
    return function


_force_keys = _find("_C._ForceDispatchKeyGuard", None)
_included, _excluded = (_find(f"_C._dispatch_tls_local_{kind}_set", None) for kind in ("include", "exclude"))
_autograd_keys = [
    _find(f"_C.DispatchKey.{name}", None) for name in ("AutogradFunctionality", "AutogradOther", "AutogradNestedTensor")
]


def recording_in_operators() -> AbstractContextManager[Any] | None:
    """Return a context in which autograd records operations inside an operator; None if PyTorch can't do that.

    PyTorch turns autograd off there.
    """
    if None in (_force_keys, _included, _excluded, *_autograd_keys):
        return None
    excluded = _excluded()
    for key in _autograd_keys:
        excluded = excluded.remove(key)
    context: AbstractContextManager[Any] = _force_keys(_included(), excluded)
    return context


_storage_owners = _find("_C._storage_Use_Count", None)


def storage_owners(x: Tensor) -> int | None:
    """Return how many tensors, saved ones included, share the memory of a tensor; None if PyTorch can't tell.

    A tensor that is saved as the operand of an operation, and not as its result, is not counted again.
    """
    if _storage_owners is None:
        return None
    storage = x.untyped_storage()  # an owner itself
    return int(_storage_owners(storage._cdata)) - 1


# --- optimizers -------------------------------------------------------------------------------------------------

is_profiling: Callable[[], bool] = _find("autograd._profiler_enabled", _always)
"""Whether a profiler records operations; True if PyTorch can't tell."""
_global_hooks = [getattr(optimizer_module, f"_global_optimizer_{kind}_hooks", (True,)) for kind in ("pre", "post")]


def has_step_hooks(optimizer: torch.optim.Optimizer) -> bool:
    """Return whether hooks are registered for the steps of an optimizer, or of all; True if PyTorch can't tell."""
    before, after = _global_hooks
    return bool(
        getattr(optimizer, "_optimizer_step_pre_hooks", True)
        or getattr(optimizer, "_optimizer_step_post_hooks", True)
        or before
        or after
    )


profile_hook: Callable[[Callable[..., Any]], Callable[..., Any]] | None = getattr(
    torch.optim.Optimizer, "profile_hook_step", None
)
"""The wrapper of `step` that runs its hooks and shows it to profilers; None if PyTorch wraps it in another way."""


def without_compiler(method: Callable[..., Any]) -> Callable[..., Any]:
    """Return a bound method without the wrapper that hides it from torch.compile.

    The first call of the wrapper imports the compiler, which takes more than a second, and keeps the caller's local
    variables alive until the garbage collector runs.
    """
    if _is_compiling() or not isinstance(method, types.MethodType):
        return method
    wrapper = method.__func__
    hidden = getattr(wrapper, "__wrapped__", None) if wrapper.__globals__["__name__"] == "torch._compile" else None
    return method if hidden is None else types.MethodType(hidden, method.__self__)


_disable_dynamo = _find("_disable_dynamo", None)


def outside_of_compiler(function: Callable[..., Any], reason: str) -> Callable[..., Any]:
    """Return a function that torch.compile does not trace; with fullgraph=True it fails and shows the reason.

    `torch.compiler.disable` does the same, and imports the compiler at once, which takes more than a second.
    """
    if _disable_dynamo is not None:
        hidden: Any = _disable_dynamo(function)
    else:

        def hidden(*args: Any) -> Any:
            return torch.compiler.disable(function, reason=reason)(*args)

    hidden._torchdynamo_disable, hidden._torchdynamo_disable_msg = True, reason
    return hidden  # type: ignore[no-any-return]


_frame_callback = _find("_C._dynamo.eval_frame.get_eval_frame_callback", None)


def is_compiler_on() -> bool:
    """Return whether torch.compile traces the caller, or would take the functions that are called now."""
    if _is_compiling():
        return True
    return "torch._dynamo" in sys.modules if _frame_callback is None else callable(_frame_callback())


LOAD_HOOKS = "_optimizer_load_state_dict_pre_hooks"
"""The attribute of an optimizer that holds the hooks which run before a checkpoint is loaded."""

STEP_CALLED = "_opt_called"
"""The attribute of an optimizer by which schedulers know that it has stepped; without it they warn of their order."""


# --- devices ----------------------------------------------------------------------------------------------------

raw_stream: Callable[[int], int] | None = _find("_C._cuda_getCurrentRawStream", None)
"""Returns the handle of the current stream of a CUDA device; None where the public function must be asked."""
current_device: Callable[[], int] = _find("_C._cuda_getDevice", torch.cuda.current_device)
"""Returns the index of the current CUDA device, once CUDA is in use."""


# --- data and memory --------------------------------------------------------------------------------------------


def live_iterator(loader: torch.utils.data.DataLoader) -> Any:
    """Return the iterator of a DataLoader with persistent workers, or None."""
    return getattr(loader, "_iterator", None)


def record_allocations(action: Callable[[], Any]) -> list[int]:
    """Run `action` and return the bytes of each allocation, in order; those of a release are negative.

    The public profiler takes seconds to start its GPU library and writes to the terminal, so it is the fallback.
    """
    try:
        from torch._C._profiler import _ExperimentalConfig
        from torch.autograd import ProfilerConfig, ProfilerState, _disable_profiler_legacy, _enable_profiler_legacy

        settings = ProfilerConfig(ProfilerState.CPU, False, True, False, False, False, _ExperimentalConfig())
        _enable_profiler_legacy(settings)
    except (ImportError, AttributeError, TypeError):
        return _traced_allocations(action)
    records: Any = ()
    try:
        action()
    finally:
        records = _disable_profiler_legacy()
    return [r.cpu_memory_usage() for thread in records for r in thread if r.kind() == "memory_alloc"]


def _traced_allocations(action: Callable[[], Any]) -> list[int]:
    """Do the same by PyTorch's public profiler and the trace that it exports."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        action()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "trace.json")
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    records = [event for event in events if event.get("name") == "[memory]" and event["args"]["Device Type"] == 0]
    return [record["args"]["Bytes"] for record in sorted(records, key=lambda record: record["ts"])]
