"""Digests of tensors, modules, functions and their bound arguments, which tell whether two runs are the same."""

from __future__ import annotations

import contextlib
import copyreg
import functools
import hashlib
import inspect
import logging
import random
import sys
import sysconfig
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

_OWN_PACKAGE = __name__.partition(".")[0]
MAX_DEPTH = 20
"""Objects that are nested deeper than this are identified by their type; a model counts as one object."""
FSDP_STATE = "__composable_api_state_key"
"""The first letters of the attributes in which torch.distributed keeps its state; the rest differs in each process."""
REDUCED_PACKAGES = {*sys.stdlib_module_names, "torch", "numpy"}
"""Installed packages whose objects without attributes are identified by what pickle keeps of them."""


def digest(*values: Any) -> str:
    """Sixteen hexadecimal digits that differ if the values differ in anything that can change a run.

    Functions and classes outside installed packages are identified by their code, the values that they read from
    modules and their closure, and their defaults; functions of installed packages by their name and closure; partial
    functions also by their bound arguments; models by their structure, options, weights and modes; datasets and other
    objects by their attributes, or by what pickle keeps of them; loggers by their name.

    >>> digest(functools.partial(print, sep="")) == digest(functools.partial(print, sep=","))
    False
    """
    writer = _Writer()
    for value in values:
        writer.add(value)
    return writer.hash.hexdigest()[:16]


class _Writer:
    def __init__(self) -> None:
        self.hash = hashlib.sha256()
        self._seen: dict[int, int] = {}
        self._kept: list[Any] = []  # an id is unique only while the object lives
        self._slots: dict[type, list[str]] = {}
        self._depth = 0

    def write(self, *words: Any) -> None:
        self.hash.update(repr(words).encode())

    def add(self, value: Any) -> None:
        if value is None or isinstance(value, (bool, int, float, complex, str, bytes, torch.dtype, torch.device)):
            self.write(type(value).__name__, value)
            return
        if id(value) in self._seen:
            self.write("seen", self._seen[id(value)])
            return
        self._seen[id(value)] = len(self._seen)
        self._kept.append(value)
        self._depth += 1
        if self._depth > MAX_DEPTH:
            self.write("deep", type(value).__qualname__)
        else:
            self._add_object(value)
        self._depth -= 1

    def _add_object(self, value: Any) -> None:
        if isinstance(value, torch.Tensor):
            self._add_tensor(value)
        elif isinstance(value, Mapping):
            self.write(type(value).__name__, len(value))
            for key, item in value.items():
                self.add(key)
                self.add(item)
        elif isinstance(value, torch.nn.Module):
            self._add_modules(value)
        elif isinstance(value, (tuple, list)):
            self.write(type(value).__name__, len(value))
            for item in value:
                self.add(item)
        elif isinstance(value, (set, frozenset)):
            self.write("set", sorted(map(self._digest_apart, value)))
        elif isinstance(value, functools.partial):
            self.write("partial")
            for part in (value.func, value.args, value.keywords):
                self.add(part)
        elif isinstance(value, types.MethodType):
            self.write("method")
            self.add(value.__func__)
            self.add(value.__self__)
        elif isinstance(value, types.FunctionType):
            self._add_function(value)
        elif isinstance(value, types.CodeType):
            self._add_code(value)
        elif isinstance(value, types.ModuleType):
            self._add_module(value)
        elif isinstance(value, type):
            self._add_class(value)
        elif hasattr(value, "__array_interface__"):
            self._add_array(np.asarray(value))
        elif isinstance(value, torch.Generator):
            self.add(value.get_state())
        elif isinstance(value, random.Random):
            self.add(value.getstate())
        elif isinstance(value, np.random.Generator):
            self.add(value.bit_generator.state)
        elif isinstance(value, logging.Logger):  # it refers to all others
            self.write("logger", value.name)
        else:
            self.add(type(value))
            name = getattr(value, "__qualname__", "")  # of a function that is not written in Python
            self.write(name if isinstance(name, str) else "")
            if _is_of_place(type(value).__module__):
                return
            if hasattr(value, "__dict__"):
                self._add_attributes(value)
            else:
                self._add_reduced(value)

    def _add_tensor(self, tensor: torch.Tensor) -> None:
        self.write("tensor", tensor.dtype, tuple(tensor.shape), tensor.requires_grad)
        if torch.nn.parameter.is_lazy(tensor):
            return
        if tensor.layout is not torch.strided:
            self._add_reduced(tensor.detach())
            return
        whole = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor  # of a sharded parameter
        data = whole.detach().cpu().contiguous()
        self.hash.update(data.reshape(-1).view(torch.uint8).numpy().data if data.numel() else b"")

    def _digest_apart(self, item: Any) -> str:
        """Return the digest of an item whose place among others has no meaning."""
        writer = _Writer()
        writer._seen, writer._kept, writer._depth = dict(self._seen), self._kept, self._depth
        writer.add(item)
        return writer.hash.hexdigest()

    def _add_modules(self, root: torch.nn.Module) -> None:
        """Add a model, module after module: the depth of a module in it does not count."""
        for name, module in root.named_modules(remove_duplicate=False):
            self.write(name)
            if module is not root and id(module) in self._seen:
                self.write("seen", self._seen[id(module)])
                continue
            self._seen.setdefault(id(module), len(self._seen))
            self._kept.append(module)
            self.add(type(module))
            self._add_attributes(module, without="_modules")

    def _add_array(self, array: np.ndarray[Any, Any]) -> None:
        self.write("array", array.dtype.str, array.shape)
        if array.dtype.hasobject:
            self.add(array.tolist())
        else:
            self.hash.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)

    def _add_function(self, function: types.FunctionType) -> None:
        self.write("function", function.__qualname__)
        if _is_of_place(function.__module__):
            self.write(function.__module__)
            return
        for cell in function.__closure__ or ():
            try:
                self.add(cell.cell_contents)
            except ValueError:  # not assigned yet
                self.write("empty")
        if _is_installed(function.__module__):
            self.write(function.__module__)
            return
        self._add_code(function.__code__)
        self.add(function.__defaults__)
        self.add(function.__kwdefaults__)
        self._add_globals(function)

    def _add_globals(self, function: types.FunctionType) -> None:
        """Add what a function reads from its module, and from others that are not installed."""
        names, spaces = _names(function.__code__), [function.__globals__]
        imported = {name: sys.modules[name] for name in names if name in sys.modules and not _is_installed(name)}
        spaces.append(imported)
        for space in spaces:  # grows by the modules that are found
            for name in names:
                if name not in space:
                    continue
                value = space[name]
                self.write(name)
                self.add(value)
                is_own = isinstance(value, types.ModuleType) and not _is_installed(value.__name__)
                if is_own and all(vars(value) is not known for known in spaces):
                    spaces.append(vars(value))

    def _add_code(self, code: types.CodeType) -> None:
        self.write("code", code.co_code, code.co_names, code.co_varnames)
        for constant in code.co_consts:
            self.add(constant)

    def _add_module(self, module: types.ModuleType) -> None:
        self.write("module", module.__name__)
        if not _is_installed(module.__name__):
            with contextlib.suppress(OSError, TypeError):  # a module without a file
                self.write(inspect.getsource(module))

    def _add_class(self, kind: type) -> None:
        self.write("class", kind.__qualname__)
        if _is_installed(kind.__module__):
            self.write(kind.__module__)
            return
        for base in kind.__bases__:
            self.add(base)
        for name, value in vars(kind).items():
            if name.startswith("__") and not callable(value):
                continue
            self.write(name)
            function = getattr(value, "__func__", None) or getattr(value, "fget", None)
            self.add(function or value)

    def _add_reduced(self, value: Any) -> None:
        """Add what pickle keeps of an object without attributes: a date, a range, a built-in function."""
        module = type(value).__module__
        if _is_installed(module) and module.partition(".")[0] not in REDUCED_PACKAGES:
            return  # its data may be larger than memory
        reduce = copyreg.dispatch_table.get(type(value))
        try:
            parts = value.__reduce_ex__(2) if reduce is None else reduce(value)
        except Exception:  # a file, a lock, a generator
            return
        if isinstance(parts, str):
            self.write(getattr(value, "__module__", ""), parts)
            return
        for part in parts:
            self.add(list(part) if isinstance(part, Iterator) else part)

    def _slots_of(self, kind: type) -> list[str]:
        """Return the names of the attributes that a class keeps outside the dict of an object."""
        if kind not in self._slots:
            members = inspect.getmembers_static(kind, inspect.ismemberdescriptor)
            self._slots[kind] = [name for name, _ in members if not name.startswith("__")]
        return self._slots[kind]

    def _add_attributes(self, value: Any, without: str = "") -> None:
        attributes = dict(vars(value))
        attributes |= {name: getattr(value, name) for name in self._slots_of(type(value)) if hasattr(value, name)}
        if isinstance(value, DataLoader):
            attributes = {n: v for n, v in attributes.items() if not n.startswith("_iterator")}
        for name, item in attributes.items():
            if name in ("__orig_class__", without) or name.startswith(("_piste", FSDP_STATE)):
                continue
            self.write(name)
            self.add(item)


def _names(code: types.CodeType) -> list[str]:
    """Return the names that the code and the functions within it may read from the module."""
    names = list(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names += _names(constant)
    return list(dict.fromkeys(names))


@functools.cache
def _is_of_place(module: str | None) -> bool:
    """Return whether a module spreads a model over processes: the place of a run, which is no part of it."""
    return module is not None and f"{module}.".startswith("torch.distributed.")


def _is_installed(module: str | None) -> bool:
    """Return whether a version identifies the module: the standard library, an installed package, or Piste."""
    root = (module or "builtins").partition(".")[0]
    if root == _OWN_PACKAGE:
        return True
    file = getattr(sys.modules.get(root), "__file__", None)
    if root in sys.builtin_module_names or file is None:
        return root in sys.builtin_module_names
    path = Path(file)
    folder = path.parents[1] if path.stem == "__init__" else path.parent
    return file.startswith(_installed_folders()) or any(folder.glob("*.dist-info"))  # as pip install --target makes


@functools.cache
def _installed_folders() -> tuple[str, ...]:
    """Return the folders of installed packages; asked for late, as `sysconfig` reads a large module first."""
    return tuple(sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib", "purelib", "platlib"))
