"""The words of the emitter in Python that Numba compiles."""

from __future__ import annotations

from functools import cache

from ..emit import INFIX, Dialect


@cache
def numba(precision: str) -> Dialect:
    """Return the dialect for "float32" or "float64"."""
    call = f"{precision}({{function}}({{operands}}))"
    words: dict[str, str | tuple[str, ...]] = {
        "constant": "{0}" if precision == "float64" else f"{precision}({{0}})",
        "inf": "math.inf",
        "nan": "math.nan",
        "neg": "-{0}",
        "invert": "not {0}",
        "abs": call.format(function="abs", operands="{0}"),
        "**": call.format(function="math.pow", operands="{0}, {1}"),
        "where": "{1} if {0} else {2}",
        "sign": ("{minus_one} if {0} < {zero} else {zero}", "{one} if {0} > {zero} else {last}"),
    }
    words |= {op: f"{{0}} {op} {{1}}" for op in INFIX}
    words |= {
        word: call.format(function=f"math.{word}", operands="{0}") for word in ("sqrt", "exp", "expm1", "log", "log1p")
    }
    for dtype in ("bfloat16", "float16"):
        words[dtype] = f"from_{dtype}(to_{dtype}({{0}}))"
        words[f"{dtype}_at_random"] = f"{dtype}_at_random({{0}}, {{1}})"
    words["noise"] = "noise({0}, {1}, {2})"
    for word, beyond in (("maximum", ">"), ("minimum", "<")):
        # A comparison with NaN is false, so NaN falls through to the result.
        words[word] = (f"{{0}} if {{0}} {beyond} {{1}} else {{1}}", "{0} if {0} != {0} else {last}")
        words[f"{word}(constant, x)"] = f"{{0}} if {{0}} {beyond} {{1}} else {{1}}"
        words[f"{word}(x, constant)"] = words[f"{word}(constant, constant)"] = (
            f"{{1}} if {{1}} {beyond} {{0}} else {{0}}"
        )
    return words
