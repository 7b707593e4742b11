"""The launch of machine code through the CUDA driver: the arguments as the driver reads them, and its errors."""

from __future__ import annotations

import ctypes
import struct
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from piste.engine.gpu import device, driver, native_launch

KINDS = ("*i64", "i64", "fp32", "fp64", "i32")
NULLS = 4
OWN, OTHERS = 1 << 40, 1 << 41  # contexts of the device, and of another one
RELAXED = 2
_POINTER, _UINT = ctypes.c_void_p, ctypes.c_uint
LAUNCH_KERNEL = ctypes.CFUNCTYPE(ctypes.c_int, _POINTER, *[_UINT] * 7, _POINTER, ctypes.POINTER(_POINTER), _POINTER)


class Library:
    """Stands for the driver: it reads the arguments of a launch as cuLaunchKernel does, a function of C."""

    def __init__(self, results: list[int], *, context: int | None = OWN, refusal: int = 201) -> None:
        self.context, self.refusal, self.mode = context, refusal, 0
        self.results, self.launches, self.loaded, self.contexts = results, [], [], []
        self.cuLaunchKernel = LAUNCH_KERNEL(self._launch_kernel)

    def cuModuleLoadData(self, module: Any, image: bytes) -> int:
        self.loaded.append(image)
        return 0 if self.mode == RELAXED else 900  # as if a CUDA graph were captured

    def cuModuleGetFunction(self, function: Any, module: Any, name: bytes) -> int:
        self.loaded.append(name)
        function._obj.value = 77
        return 0

    def _launch_kernel(self, function: int, *rest: Any) -> int:
        *sizes, stream, pointers, extra = rest
        words = [ctypes.string_at(pointers[k], 8) for k in range(len(KINDS) + NULLS)]
        self.launches.append((function, sizes, stream, words))
        assert extra is None
        if self.context != OWN:
            return self.refusal
        return self.results.pop(0) if self.results else 0

    def cuThreadExchangeStreamCaptureMode(self, mode: Any) -> int:
        self.mode, mode._obj.value = mode._obj.value, self.mode
        return 0

    def cuDevicePrimaryCtxRetain(self, context: Any, device: int) -> int:
        self.contexts.append(device)
        context._obj.value = OWN
        return 0

    def cuCtxGetCurrent(self, context: Any) -> int:
        context._obj.value = self.context
        return 0

    def cuCtxSetCurrent(self, context: Any) -> int:
        self.contexts.append("current")
        self.context = context.value
        return 0

    def cuGetErrorName(self, result: int, name: Any) -> int:
        name._obj.value = b"CUDA_ERROR_ILLEGAL_ADDRESS"
        return 0


def kernel(**facts: Any) -> Any:
    known = {"target": SimpleNamespace(backend="cuda"), "shared": 0, "num_ctas": 1, "num_warps": 4, "name": "step"}
    return SimpleNamespace(metadata=SimpleNamespace(**(known | facts)), asm={"cubin": b"\x7fELF"})


@pytest.fixture(params=["native", "ctypes"])
def launch_on(monkeypatch, request) -> Callable[..., Any]:
    if request.param == "ctypes":
        monkeypatch.setattr(native_launch, "native_guard", lambda: None)
    else:
        assert native_launch.native_guard(), "the self-test of the native guard fails on this machine"

    def made(library: Library | None, **facts: Any) -> Any:
        monkeypatch.setattr(driver, "_driver", lambda: library)
        return driver.driver_launch(kernel(**facts), KINDS, 2)

    return made


def test_the_driver_finds_each_argument_in_its_type_and_null_scratch_memory_behind_them(launch_on):
    library = Library([])
    launch_on(library)(5, 9, (2**63 + 8, -3, 0.5, 0.25, -1))
    ((function, sizes, stream, words),) = library.launches
    assert library.loaded == [b"\x7fELF", b"step"]
    assert (function, sizes, stream) == (77, [5, 1, 1, 128, 1, 1, 0], 9)
    formats = ("=Q", "=q", "=f4x", "=d", "=i4x")
    values = [struct.unpack(kind, word)[0] for kind, word in zip(formats, words[:5], strict=True)]
    assert values == [2**63 + 8, -3, 0.5, 0.25, -1]
    assert words[5:] == [bytes(8)] * 4


def test_a_number_beyond_the_largest_float32_is_infinite(launch_on):
    library = Library([])
    launch_on(library)(1, 0, (1, 2, -1e39, 1e39, 3))
    words = library.launches[0][3]
    assert struct.unpack("=f4x", words[2]) == (float("-inf"),) and struct.unpack("=d", words[3]) == (1e39,)


@pytest.mark.parametrize("refusal", [201, 400], ids=["invalid context", "invalid handle"])
@pytest.mark.parametrize("context", [None, OTHERS], ids=["none", "another's"])
def test_a_thread_without_the_context_of_the_device_gets_it(launch_on, context, refusal):
    library = Library([], context=context, refusal=refusal)
    launch_on(library)(1, 9, (1, 2, 3.0, 4.0, 5))
    assert library.contexts == [2, "current"]
    assert library.launches[-1][3][:2] == [struct.pack("=q", 1), struct.pack("=q", 2)]


def test_an_error_of_the_driver_is_raised_by_its_name(launch_on):
    launch = launch_on(Library([700, 700]))
    with pytest.raises(RuntimeError, match=r"could not run a kernel: CUDA_ERROR_ILLEGAL_ADDRESS \(700\)"):
        launch(1, 0, (1, 2, 3.0, 4.0, 5))


def test_machine_code_is_loaded_and_memory_pinned_while_a_graph_is_captured(launch_on, monkeypatch):
    library = Library([])
    assert launch_on(library) is not None  # the library refuses in the mode of a capture
    seen = []
    monkeypatch.setattr(device, "PinnedTable", lambda words: seen.append(library.mode))
    device.Cuda(0).pinned(3)
    assert seen == [RELAXED] and library.mode == 0


def test_another_thread_runs_during_a_launch(launch_on):
    library, seen = Library([]), []
    entered, answered = threading.Event(), threading.Event()

    def wait(*_: Any) -> int:
        entered.set()
        seen.append(answered.wait(10))
        return 0

    library.cuLaunchKernel = LAUNCH_KERNEL(wait)
    launch = launch_on(library)
    other = threading.Thread(target=lambda: entered.wait(10) and answered.set())
    other.start()
    launch(1, 0, (1, 2, 3.0, 4.0, 5))
    other.join()
    assert seen == [True]


@pytest.mark.parametrize(
    "facts",
    [
        {"shared": 65536},
        {"num_ctas": 2},
        {"global_scratch_size": 16},
        {"launch_cooperative_grid": True},
        {"target": SimpleNamespace(backend="hip")},
    ],
    ids=str,
)
def test_kernels_with_further_needs_are_left_to_tritons_launcher(launch_on, facts):
    assert launch_on(Library([]), **facts) is None


def test_without_the_driver_tritons_launcher_runs_kernels(launch_on):
    assert launch_on(None) is None
