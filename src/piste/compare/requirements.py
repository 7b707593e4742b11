"""The packages of `piste[compare]`, and the sentence that names the missing ones before any training starts."""

from __future__ import annotations

from importlib.util import find_spec

from ..errors import MissingPackage

PACKAGES = {
    "cloudpickle": "cloudpickle",
    "matplotlib": "matplotlib",
    "optuna": "optuna",
    "plotly": "plotly",
    "rich": "rich",
    "sklearn": "scikit-learn",
    "sqlalchemy": "sqlalchemy",
    "typer": "typer",
}
"""Import name -> name on the package index, for everything that the extra `compare` in pyproject.toml installs."""


def require(feature: str, modules: tuple[str, ...] = tuple(PACKAGES)) -> None:
    """Check that the packages behind a feature are installed.

    Args:
        feature: The feature, as the message names it, such as "`piste.compare`".
        modules: Import names, each a key of `PACKAGES`.

    Raises:
        MissingPackage: A package is missing; the message lists all missing ones and the command that installs them.
    """
    missing = [PACKAGES[module] for module in modules if find_spec(module) is None]
    if missing:
        listed = missing[0] if len(missing) == 1 else f"{', '.join(missing[:-1])} and {missing[-1]}"
        verb = "is" if len(missing) == 1 else "are"
        raise MissingPackage(
            f"{feature} needs {listed}, which {verb} not installed. Help: pip install 'piste[compare]'."
        )
