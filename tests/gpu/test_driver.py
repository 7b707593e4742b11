"""The launch of machine code through the CUDA driver: the arguments as the driver reads them, and its errors."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from piste.engine.gpu import driver

KINDS = ("*i64", "i64", "fp32", "fp64", "i32")


class Library:
    """Stands for the driver: it reads the arguments of a launch as cuLaunchKernel does."""

    def __init__(self, results: list[int]) -> None:
        self.results, self.launches, self.loaded, self.contexts = results, [], [], []

    def cuModuleLoadData(self, module: Any, image: bytes) -> int:
        self.loaded.append(image)
        return 0

    def cuModuleGetFunction(self, function: Any, module: Any, name: bytes) -> int:
        self.loaded.append(name)
        function._obj.value = 77
        return 0

    def cuLaunchKernel(self, function: Any, *rest: Any) -> int:
        *sizes, stream, pointers, _ = rest
        words = [ctypes.string_at(pointer, 8) for pointer in pointers]
        self.launches.append((function.value, sizes, stream, words))
        return self.results.pop(0) if self.results else 0

    def cuDevicePrimaryCtxRetain(self, context: Any, device: int) -> int:
        self.contexts.append(device)
        return 0

    def cuCtxSetCurrent(self, context: Any) -> int:
        self.contexts.append("current")
        return 0

    def cuGetErrorName(self, result: int, name: Any) -> int:
        name._obj.value = b"CUDA_ERROR_ILLEGAL_ADDRESS"
        return 0


def kernel(**facts: Any) -> Any:
    known = {"target": SimpleNamespace(backend="cuda"), "shared": 0, "num_ctas": 1, "num_warps": 4, "name": "step"}
    return SimpleNamespace(metadata=SimpleNamespace(**(known | facts)), asm={"cubin": b"\x7fELF"})


@pytest.fixture
def launch_on(monkeypatch) -> Callable[..., Any]:
    def made(library: Library | None, **facts: Any) -> Any:
        monkeypatch.setattr(driver, "_driver", lambda: library)
        return driver.driver_launch(kernel(**facts), KINDS, 2)

    return made


def test_the_driver_finds_each_argument_in_its_type_and_null_scratch_memory_behind_them(launch_on):
    library = Library([])
    launch_on(library)(5, 9, (2**63 + 8, -3, 0.5, 0.25, -1))
    ((function, sizes, stream, words),) = library.launches
    assert library.loaded == [b"\x7fELF", b"step"]
    assert (function, sizes, stream.value) == (77, [5, 1, 1, 128, 1, 1, 0], 9)
    formats = ("=Q", "=q", "=f4x", "=d", "=i4x")
    values = [struct.unpack(kind, word)[0] for kind, word in zip(formats, words[:5], strict=True)]
    assert values == [2**63 + 8, -3, 0.5, 0.25, -1]
    assert words[5:] == [bytes(8)] * 4


def test_a_number_beyond_the_largest_float32_is_infinite(launch_on):
    library = Library([])
    launch_on(library)(1, 0, (1, 2, -1e39, 1e39, 3))
    words = library.launches[0][3]
    assert struct.unpack("=f4x", words[2]) == (float("-inf"),) and struct.unpack("=d", words[3]) == (1e39,)


def test_a_thread_without_a_context_gets_that_of_the_device(launch_on):
    library = Library([201, 201])
    launch_on(library)(1, 0, (1, 2, 3.0, 4.0, 5))
    assert library.contexts == [2, "current"]


def test_an_error_of_the_driver_is_raised_by_its_name(launch_on):
    launch = launch_on(Library([700, 700]))
    with pytest.raises(RuntimeError, match=r"could not run a kernel: CUDA_ERROR_ILLEGAL_ADDRESS \(700\)"):
        launch(1, 0, (1, 2, 3.0, 4.0, 5))


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
