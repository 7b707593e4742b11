"""Checkpoints in files of the safetensors format: numbers and text alone, never code.

The format is a header (its length in 8 bytes, then JSON) and the bytes of the tensors. The tree of the checkpoint is
JSON in the metadata of the header, with the names of tensors in the place of tensors.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from torch import Tensor

from ..errors import InvalidType, InvalidValue
from .checkpoint import KEY
from .optimizer import Optimizer

__all__ = ["load", "save"]

_TYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_DTYPES = {word: dtype for dtype, word in _TYPES.items()}


def save(optimizer: Optimizer, path: str | os.PathLike[str]) -> None:
    """Write the checkpoint of an optimizer to a file of the safetensors format.

    The new file replaces the old one in one operation, after its bytes are on the disk: a crash at any moment leaves
    one of the two whole.

    Args:
        optimizer: The optimizer.
        path: The file, usually named `*.safetensors`.

    Raises:
        InvalidType: The checkpoint holds an object that is not a tensor, a number, text, or a list, tuple or dict of
            these.

    Example:
        >>> import torch, piste
        >>> optimizer = piste.optim.Adam(torch.nn.Linear(2, 1).parameters(), lr=0.01)
        >>> path = getfixture("tmp_path") / "optimizer.safetensors"
        >>> piste.optim.save(optimizer, path)
        >>> other = piste.optim.Adam(torch.nn.Linear(2, 1).parameters())
        >>> piste.optim.load(other, path)
        >>> other.param_groups[0]["lr"]
        0.01
    """
    tensors: dict[str, Tensor] = {}
    tree = _encode(optimizer.state_dict(), "", tensors)
    header: dict[str, Any] = {"__metadata__": {KEY: json.dumps(tree)}}
    end = 0
    for name, tensor in tensors.items():
        begin, end = end, end + tensor.nbytes
        header[name] = {
            "dtype": _TYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8 bytes
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        with temporary.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for tensor in tensors.values():
                file.write(tensor.reshape(-1).view(torch.uint8).numpy().data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def load(
    optimizer: Optimizer,
    path: str | os.PathLike[str],
    strict: bool = True,
    hyperparameters: str = "checkpoint",
) -> None:
    """Load a file that `piste.optim.save` wrote.

    Args:
        optimizer: The optimizer, which then goes on as the saved one, bit for bit.
        path: The file.
        strict: As in `Optimizer.load_state_dict`.
        hyperparameters: As in `Optimizer.load_state_dict`.

    Raises:
        InvalidValue: The file is damaged or no checkpoint, or does not fit the optimizer, which has not changed.

    Example:
        >>> import torch, piste
        >>> weight = torch.ones(2, requires_grad=True)
        >>> path = getfixture("tmp_path") / "optimizer.safetensors"
        >>> piste.optim.save(piste.optim.Adam([weight], lr=0.01), path)
        >>> optimizer = piste.optim.Adam([weight], lr=0.5)
        >>> piste.optim.load(optimizer, path, hyperparameters="keep")
        >>> optimizer.param_groups[0]["lr"]
        0.5
    """
    data = bytearray(Path(path).read_bytes())
    size = int.from_bytes(data[:8], "little")
    try:
        if size > len(data) - 8:
            raise ValueError(f"its header has {size} bytes, and the file {len(data)}")
        header = json.loads(data[8 : 8 + size])
        tree = json.loads(header.pop("__metadata__")[KEY])
        tensors = {name: _read(data, 8 + size, entry) for name, entry in header.items()}
        state_dict = _decode(tree, tensors)
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise InvalidValue(
            f"{os.fspath(path)} must be a whole file written by piste.optim.save; received {len(data)} bytes that are "
            f"none ({type(error).__name__}: {error}). Help: optimizer.load_state_dict(torch.load(path)) loads a file "
            "of torch.save."
        ) from None
    optimizer.load_state_dict(state_dict, strict=strict, hyperparameters=hyperparameters)


def _encode(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """Return a value as JSON has it; tensors are added to `tensors` by name."""
    if isinstance(value, Tensor):
        dense = value.detach().to_dense() if value.layout != torch.strided else value.detach()
        pairs = torch.view_as_real(dense.resolve_conj()) if dense.is_complex() else dense
        if pairs.dtype not in _TYPES:
            raise InvalidType(f"piste.optim.save can't write {name} of dtype {value.dtype}.")
        tensors[name] = pairs.cpu().resolve_neg().contiguous()
        return {"complex" if dense.is_complex() else "tensor": name}
    if isinstance(value, dict):
        return {"dict": [[k, _encode(v, f"{name}/{k}".lstrip("/"), tensors)] for k, v in value.items()]}
    if isinstance(value, (list, tuple)):
        items = [_encode(v, f"{name}/{i}", tensors) for i, v in enumerate(value)]
        return {"tuple": items} if isinstance(value, tuple) else items
    if value is None or type(value) in (bool, int, float, str):
        return value
    raise InvalidType(
        f"piste.optim.save writes tensors, numbers and text; received {name} of type {type(value).__name__}. "
        "Help: remove it from the param group, or use torch.save."
    )


def _decode(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_decode(v, tensors) for v in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "dict":
        return {k: _decode(v, tensors) for k, v in content}
    if kind == "tuple":
        return tuple(_decode(v, tensors) for v in content)
    if kind == "complex":
        return torch.view_as_complex(tensors[content])
    return tensors[content]


def _read(data: bytearray, start: int, entry: dict[str, Any]) -> Tensor:
    begin, end = entry["data_offsets"]
    part = data[start + begin : start + end]
    if len(part) != end - begin:
        raise ValueError(f"it ends before byte {start + end}")
    dtype, shape = _DTYPES[entry["dtype"]], entry["shape"]
    return torch.frombuffer(part, dtype=dtype).reshape(shape) if part else torch.empty(shape, dtype=dtype, device="cpu")
