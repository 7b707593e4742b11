"""The package metadata, and the messages where optional packages are not installed."""

import json
import re
import subprocess
import sys
import tomllib
from functools import partial
from pathlib import Path

import pytest

import hatch_build
import piste
from piste.compare import requirements
from piste.errors import MissingPackage, PisteError

from .engine.process import python

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

HIDE = """
import sys
for name in {hidden!r}:
    sys.modules[name] = None
"""


def names(requirements_):
    return [re.match(r"[\w-]+", line)[0] for line in requirements_]


def test_the_core_needs_only_torch_numpy_and_numba():
    assert names(PROJECT["dependencies"]) == ["torch", "numpy", "numba"]


def test_the_extra_compare_is_the_list_that_is_checked():
    assert names(PROJECT["optional-dependencies"]["compare"]) == list(requirements.PACKAGES.values())


def test_the_version_is_stated_once():
    assert "version" in PROJECT["dynamic"]
    assert "version" not in PROJECT
    assert re.fullmatch(r"\d+\.\d+\.\d+", piste.__version__)


@pytest.mark.parametrize(
    ("remote", "address"),
    [
        ("https://git.example/team/piste.git", "https://git.example/team/piste"),
        ("https://name:token@git.example/team/piste", "https://git.example/team/piste"),
        ("git@git.example:team/piste.git", "https://git.example/team/piste"),
        ("ssh://git@git.example:2222/team/piste.git", "https://git.example/team/piste"),
        ("../piste", None),
        ("/srv/git/piste.git", None),
        ("", None),
    ],
)
def test_the_address_of_the_project_is_that_of_its_remote(remote, address):
    assert hatch_build.web_address(remote) == address


def test_a_package_has_addresses_and_a_readme_with_absolute_links(tmp_path):
    (tmp_path / "README.md").write_text("[a](docs/a.md#b) ![c](c.svg) [d](https://d.example) [e](#e)")
    git = partial(subprocess.run, cwd=tmp_path, check=True)
    git(["git", "init", "-q"])
    git(["git", "remote", "add", "origin", "git@git.example:team/piste.git"])
    metadata = {}
    hatch_build.ProjectMetadata(str(tmp_path), {}).update(metadata)
    address = "https://git.example/team/piste"
    assert metadata["readme"] == {
        "content-type": "text/markdown",
        "text": f"[a]({address}/blob/HEAD/docs/a.md#b) ![c]({address}/raw/HEAD/c.svg) [d](https://d.example) [e](#e)",
    }
    assert metadata["urls"]["Repository"] == address
    assert metadata["urls"]["Changelog"] == f"{address}/blob/HEAD/CHANGELOG.md"


def test_every_link_of_the_readme_can_be_made_absolute():
    text = hatch_build.with_absolute_links((ROOT / "README.md").read_text(encoding="utf-8"), "https://git.example/p")
    assert "https://git.example/p/raw/HEAD/docs/assets/gallery/digits.svg" in text
    assert not re.findall(r"\]\((?!https://|#)", text)


def test_a_package_of_a_checkout_without_a_remote_has_the_readme_as_it_is(tmp_path):
    (tmp_path / "README.md").write_text("[a](docs/a.md)")
    metadata = {}
    hatch_build.ProjectMetadata(str(tmp_path), {}).update(metadata)
    assert metadata == {"readme": {"content-type": "text/markdown", "text": "[a](docs/a.md)"}}


def test_the_license_is_apache_2():
    assert PROJECT["license"] == "Apache-2.0"
    assert "Apache License" in (ROOT / "LICENSE").read_text()


def test_compare_names_every_missing_package_before_it_trains():
    code = HIDE.format(hidden=["optuna", "sklearn"]) + (
        "import piste, torch\n"
        "x = torch.ones(8, 1)\n"
        "try:\n"
        "    piste.compare(torch.nn.Linear(1, 1), ((x, x), (x, x)))\n"
        "except ImportError as error:\n"
        "    print(error)\n"
    )
    assert python(code) == (
        "`piste.compare` needs optuna and scikit-learn, which are not installed. Help: pip install 'piste[compare]'."
    )


@pytest.mark.parametrize(
    ("words", "feature"),
    [(["compare", "digits"], "`piste compare`"), (["compare", "t.csv", "--target", "y"], "`table`")],
    ids=["task", "table"],
)
def test_the_command_says_what_to_install(words, feature, tmp_path):
    code = HIDE.format(hidden=["sqlalchemy"]) + (
        "import contextlib, io\n"
        "from piste.__main__ import main\n"
        f"sys.argv = ['piste', *{words!r}]\n"
        "said = io.StringIO()\n"
        "with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):\n"
        "    try:\n"
        "        main()\n"
        "    except SystemExit as done:\n"
        "        code = done.code\n"
        "print(code, said.getvalue())\n"
    )
    assert python(code) == (
        f"2 piste: {feature} needs sqlalchemy, which is not installed. Help: pip install 'piste[compare]'."
    )


def test_the_command_without_typer_says_what_to_install():
    code = HIDE.format(hidden=["typer"]) + (
        "import contextlib, io\n"
        "from piste.__main__ import main\n"
        "said = io.StringIO()\n"
        "with contextlib.redirect_stderr(said):\n"
        "    try:\n"
        "        main()\n"
        "    except SystemExit as done:\n"
        "        print(done.code, said.getvalue())\n"
    )
    assert python(code) == (
        "2 piste: The command `piste` needs typer, which is not installed. Help: pip install 'piste[compare]'."
    )


def test_losses_optimizers_and_explain_work_without_the_extra():
    code = HIDE.format(hidden=list(requirements.PACKAGES)) + (
        "import json, torch, piste\n"
        "p = torch.nn.Parameter(torch.ones(3))\n"
        "optimizer = piste.optim.Adam([p], lr=0.5)\n"
        "piste.losses.MSELoss()(p, torch.zeros(3)).backward()\n"
        "optimizer.step()\n"
        "shown = str(piste.explain('l1', [[1.0, 1.0]], [[0.0, 1.0]]))\n"
        "print(json.dumps([p.tolist(), shown]))\n"
    )
    moved, shown = json.loads(python(code))
    assert moved == pytest.approx([0.5] * 3)
    assert "0.5" in shown


def test_python_m_piste_is_the_command():
    assert (
        python(
            "import runpy, sys\n"
            "sys.argv = ['piste', '--version']\n"
            "try:\n"
            "    runpy.run_module('piste', run_name='__main__')\n"
            "except SystemExit as done:\n"
            "    assert not done.code\n"
        )
        == f"piste {piste.__version__}"
    )


def test_a_missing_package_is_an_import_error_and_a_refusal_of_piste(monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly", None)
    with pytest.raises(MissingPackage) as caught:
        requirements.require("The page")
    assert isinstance(caught.value, ImportError) and isinstance(caught.value, PisteError)
