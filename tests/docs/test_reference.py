"""The reference is made from the classes: their formulas as in the papers, their arguments and their state."""

from __future__ import annotations

import re

import pytest
import torch

from piste.losses import LOSSES
from piste.losses.elementwise import ElementwiseLoss
from piste.optim import OPTIMIZERS, Adagrad, Adam, Optimizer
from piste.optim.options import rate
from tools.docs import reference
from tools.docs.formulas import code_of_stage, loss_variants, optimizer_formula, optimizer_variants
from tools.docs.groups import LOSSES_BY_TASK, OPTIMIZERS_BY_KIND
from tools.docs.libraries import read_libraries
from tools.docs.pictures import best_rate, draw_loss, path, valley
from tools.docs.reference import _index, _loss_page, _optimizer_page, _sections


def test_the_formula_of_adam_is_that_of_its_paper():
    assert optimizer_formula(Adam) == [
        r"m_{t} = \beta_{1} \, m_{t-1} + \left(1 - \beta_{1}\right) \, g_{t}",
        r"\hat{m} = \frac{m_{t}}{1 - \beta_{1}^{t}}",
        r"v_{t} = \beta_{2} \, v_{t-1} + \left(1 - \beta_{2}\right) \, g_{t}^{2}",
        r"\hat{v} = \frac{v_{t}}{1 - \beta_{2}^{t}}",
        r"d = \frac{\hat{m}}{\sqrt{\hat{v}} + \epsilon}",
        r"\theta_{t} = \theta_{t-1} - \mathrm{lr} \, d",
    ]


def test_the_formula_of_adagrad_is_that_of_torch():
    assert optimizer_formula(Adagrad)[1:] == [
        r"s_{t} = s_{t-1} + g_{t}^{2}",
        r"d = \frac{g_{t}}{\sqrt{s_{t}} + \epsilon}",
        r"\theta_{t} = \theta_{t-1} - \mathrm{lr}' \, d",
    ]


@pytest.mark.parametrize("name", [name for name, rule in OPTIMIZERS.items() if rule.elementwise])
def test_a_letter_of_a_formula_has_one_meaning(name):
    for equations in optimizer_variants(OPTIMIZERS[name]).values():
        left = [equation.partition(" = ")[0] for equation in equations]
        assert len(left) == len(set(left))


def test_the_formula_of_adafactor_reduces_over_rows_and_columns():
    found = optimizer_variants(OPTIMIZERS["Adafactor"])
    mean = r"\left(\operatorname{%s\,mean}\left(g_{t}^{2}\right) - %s_{t-1}\right)"
    assert rf"r_{{t}} = r_{{t-1}} + \mathrm{{share}} \, {mean % ('row', 'r')}" in found[""]
    assert rf"c_{{t}} = c_{{t-1}} + \mathrm{{share}} \, {mean % ('column', 'c')}" in found[""]
    vector = found["Of a parameter with fewer than two dimensions"]
    assert r"v_{t} = v_{t-1} + \mathrm{share} \, \left(g_{t}^{2} - v_{t-1}\right)" in vector


def test_a_rule_of_matrices_has_its_formulas_and_the_code_of_its_stage():
    assert optimizer_formula(OPTIMIZERS["Muon"]) == [
        r"b_{t} = \mu \, b_{t-1} + \left(1 - \mu\right) \, g_{t}",
        r"u = \mu \, b_{t} + \left(1 - \mu\right) \, g_{t}",
        r"o = \operatorname{matrix}\left(u\right)",
        r"\theta_{t} = \theta_{t-1} \, \left(1 - \mathrm{lr} \, \mathrm{weight\_decay}\right) - \mathrm{lr} \, o",
    ]
    code = "\n".join(code_of_stage(OPTIMIZERS["Muon"]))
    assert "    def matrix(\n" in code and "        y = x @ x.mT\n" in code and "Args:" not in code
    assert code_of_stage(Adam) == []


def test_a_step_by_adamw_has_the_formula_of_adamw():
    found = optimizer_formula(OPTIMIZERS["NorMuon"], adamw=True)
    assert found == optimizer_formula(OPTIMIZERS["AdamW"], weight_decay=0.0)


@pytest.mark.parametrize("name", [name for name, rule in OPTIMIZERS.items() if not rule.elementwise])
def test_every_optimizer_has_a_formula_and_a_path(name):
    page = _optimizer_page(OPTIMIZERS[name])
    assert "## Formula" in page and ("$$" in page or "The direction, as it runs" in page)
    assert "## Path\n" in page and '<figure data-figure="' in page


def test_the_step_of_adabelief_is_not_its_difference():
    found = optimizer_formula(OPTIMIZERS["AdaBelief"])
    assert found[1] == r"d = g_{t} - m_{t}"
    assert found[-1] == r"\theta_{t} = \theta_{t-1} - \mathrm{lr} \, \Delta"


def test_options_that_change_the_formula_have_a_formula_of_their_own():
    found = optimizer_variants(Adam)
    assert list(found) == [
        "",
        "With `amsgrad=True`",
        "With `decoupled_weight_decay=True` and `weight_decay` above 0",
        "With `weight_decay` above 0",
    ]
    assert r"w_{t} = \max\left(w_{t-1}, v_{t}\right)" in found["With `amsgrad=True`"]


def test_a_new_optimizer_has_a_page_without_further_code():
    class Doubling(Optimizer):
        """A step of twice the gradient."""

        options = {"lr": rate(0.25)}

        def update(g):
            return 2 * g

    page = _optimizer_page(Doubling)
    assert r"\theta_{t} = \theta_{t-1} - \mathrm{lr} \, d" in page
    assert r"d = 2 \, g_{t}" in page
    assert "| `lr` | `0.25` |" in page


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_page_of_an_optimizer_lists_its_arguments_and_its_state(name):
    cls = OPTIMIZERS[name]
    page = _optimizer_page(cls)
    for option in (*cls.options, "max_norm", "nonfinite"):
        assert f"| `{option}` |" in page
    for option in ("maximize", "foreach", "capturable", "differentiable", "fused"):
        assert f"| `{option}` |" not in page and f"`{option}`" in page
    for key in cls.state_keys():
        assert f"| `{key}` |" in page
    known = ", ".join(f'"{name}"'.replace("_", r"\_") for name in ("torch", *cls.conventions))
    assert (f"| `convention` | `'torch'` | one of {known} |" in page) == bool(cls.conventions)


@pytest.mark.parametrize(
    ("name", "key", "exists", "size", "numbers"),
    [
        ("Adam", "exp_avg_sq", "always", "that of the parameter", 15),
        ("SGD", "momentum_buffer", "with `momentum`", "that of the parameter", 15),
        ("ASGD", "mu", "always", "one number", 1),
        ("Adafactor", "row_var", "of a matrix", "one number for each row", 3),
        ("Adafactor", "col_var", "of a matrix", "one number for each column", 5),
        ("Adafactor", "variance", "of no matrix", "that of the parameter", None),
        ("NorMuon", "second_momentum_buffer", "of a matrix", "one number for each index of the first dimension", 3),
        ("SOAP", "Q", "always", "the squares of the dimensions that have an eigenbasis, added", 9 + 25),
    ],
)
def test_a_page_states_the_size_of_the_state(name, key, exists, size, numbers):
    cls = OPTIMIZERS[name]
    (row,) = (line for line in _optimizer_page(cls).splitlines() if line.startswith(f"| `{key}` | `"))
    cells = [cell.strip() for cell in row.split("|")]
    assert (cells[3], cells[5]) == (exists, size)
    w = torch.ones(3, 5, requires_grad=True)
    w.grad = torch.ones(3, 5)
    optimizer = cls([w], **({"momentum": 0.9} if name == "SGD" else {}))
    optimizer.step()
    assert (optimizer.state[w][key].numel() if key in optimizer.state[w] else None) == numbers


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_has_its_formula_or_is_computed_by_torch(name):
    variants = loss_variants(LOSSES[name])
    assert (variants == {}) == (name == "CTCLoss")
    for equations, _ in variants.values():
        assert equations[-1].startswith(r"\ell = ")


@pytest.mark.parametrize("name", LOSSES)
def test_every_page_of_a_loss_has_a_curve_and_its_arguments(name):
    page = _loss_page(LOSSES[name])
    assert '<figure data-figure="' in page
    for option in (*LOSSES[name].options, "reduction", "check"):
        assert f"| `{option}` |" in page


def test_operands_of_a_loss_without_a_target_are_named_at_its_curve():
    assert "real (fake 0)" in draw_loss(LOSSES["DiscriminatorLoss"])
    assert "chosen (rejected -1, reference_chosen -1, reference_rejected -1)" in draw_loss(LOSSES["DPOLoss"])
    ratio = draw_loss(LOSSES["GRPOLoss"])
    assert "input (old -1)" in ratio and "advantage -1" in ratio and "advantage 1" in ratio


def test_the_derivative_of_cross_entropy_is_softmax_minus_one_hot():
    (_, slopes) = loss_variants(LOSSES["CrossEntropyLoss"])[""]
    assert slopes == [r"\frac{\partial \ell}{\partial x_{i}} = e^{p_{i}} - [i = k]"]


def test_the_page_of_a_loss_has_the_sections_of_its_docstring():
    page = _loss_page(LOSSES["HuberLoss"])
    assert "## Differences from PyTorch\n\ntorch.nn.HuberLoss broadcasts operands" in page
    assert re.search(r"\| `delta` \| `1.0` \| \(0, inf\) \|", page)
    assert '`"huber"` in `piste.compare`' in page


def test_a_docstring_is_split_into_its_sections():
    text = _sections(LOSSES["L1Loss"])
    assert text["summary"][0] == "The absolute difference, |x - y|."
    assert text["differs from torch"] == ["torch.nn.L1Loss broadcasts operands of different shapes."]


def test_curves_are_drawn_where_the_input_is_valid():
    svg = draw_loss(LOSSES["BCELoss"])
    assert "target 0" in svg and "target 1" in svg and "target 3" not in svg
    assert issubclass(LOSSES["BCELoss"], ElementwiseLoss)


def test_the_best_rate_is_the_one_with_the_lowest_path():
    def mean(lr):
        return float(valley(path(OPTIMIZERS["SGD"], valley, lr=lr)).mean())

    best = best_rate(OPTIMIZERS["SGD"], valley)
    assert mean(best) < min(mean(best * 10**0.25), mean(best * 10**-0.25))


def test_recorded_signatures_have_a_version():
    for library in read_libraries().values():
        assert re.match(r"\d+\.\d+", library["version"])
        assert "learning_rate" in library["optimizers"]["Adam"]["arguments"]


@pytest.mark.parametrize(("groups", "table"), [(LOSSES_BY_TASK, LOSSES), (OPTIMIZERS_BY_KIND, OPTIMIZERS)])
def test_the_index_has_every_page_in_one_group(groups, table):
    grouped = [name for names in groups.values() for name in names]
    assert len(grouped) == len(set(grouped)) and set(grouped) <= set(table)
    linked = re.findall(r"^\| \[(\w+)\]\((\w+)\.md\)", _index(), re.MULTILINE)
    assert [name for name, _ in linked if name in table].count(grouped[0]) == 1
    assert {name for name, page in linked if page == name.lower()} >= set(table)


def test_a_rule_without_a_group_is_listed_last(monkeypatch):
    monkeypatch.setitem(reference.OPTIMIZERS_BY_KIND, "Whole matrices", ("Muon",))
    assert "### Others\n\n| | |\n|---|---|\n| [NorMuon](normuon.md) | " in _index()


def test_arguments_of_other_libraries_stand_next_to_those_they_set():
    page = _optimizer_page(OPTIMIZERS["RMSprop"])
    assert "| `alpha=0.99` | `alpha=0.99` | `rho=0.9` | `decay=0.9` |" in page
    assert "| `lr=0.01` | `lr=0.01` | `learning_rate=0.001` | `learning_rate`, required |" in page
    assert "| without a counterpart |  |  | `initial_scale`, `eps_in_sqrt`, `nesterov`, `bias_correction` |" in page
    two = "`beta_1=0.9`, `beta_2=0.999` | `b1=0.9`, `b2=0.999`"
    assert f"| `betas=(0.9, 0.999)` | `betas=(0.9, 0.999)` | {two} |" in _optimizer_page(Adam)


def test_losses_of_other_libraries_are_listed_without_their_operands():
    page = _loss_page(LOSSES["HuberLoss"])
    assert "| `keras.losses.Huber` | 3.15.1 | `delta=1.0, reduction='sum_over_batch_size'` |" in page
    assert "| `optax.losses.huber_loss` | 0.2.8 | `delta=1.0` |" in page
    assert "| `torch.nn.HuberLoss` | " in page


def test_backends_are_those_of_the_cpu_and_of_a_gpu():
    adam, lamb = _optimizer_page(Adam), _optimizer_page(OPTIMIZERS["LAMB"])
    assert (
        "| CPU | by the fused CPU kernel, all in one pass |\n| CUDA, ROCm | by the fused GPU kernel, all in one" in adam
    )
    assert "| CUDA, ROCm | by the fused GPU kernel, all together, in 3 launches |" in lamb
    for name, line in {
        "Adafactor": "| CUDA, ROCm | by the fused GPU kernel, all together, in 3 passes |",
        "Prodigy": "| CUDA, ROCm | by the fused GPU kernel, all in one launch; the sums over all parameters by the "
        "fused GPU kernel |",
        "SparseAdam": "| CPU | by the eager backend: its gradient is sparse |",
    }.items():
        assert line in _optimizer_page(OPTIMIZERS[name])
    page = _loss_page(LOSSES["CLIPLoss"])
    assert "| CUDA, ROCm | by the eager backend: all pairs are scored by torch operations, in chunks |" in page
    assert "| `torch.compile` | the operator piste::loss |" in page
    assert "| `torch.compile` | traced: its formula is fused with the operations next to it |" in (
        _loss_page(LOSSES["MSELoss"])
    )


def test_measured_speed_is_that_of_the_rule():
    assert re.search(r"## Speed\n\nOn a CPU, of a step alone.*\n\n.*\n.*\n\| 1 x 25M \| 1 \| ", _optimizer_page(Adam))
    assert "| 4096x32000 | 1 | " in _loss_page(LOSSES["CrossEntropyLoss"])
    lamb = _optimizer_page(OPTIMIZERS["LAMB"])
    assert "faster. `reference` is the implementation in pytorch_optimizer. [All" in lamb
    assert "`reference` is" not in _optimizer_page(Adam)
    assert re.search(r"\n\| 16x1x256x256, sigmoid \| 1 \| .* \|\n", _loss_page(LOSSES["DiceLoss"]))
    assert "## Speed" not in _loss_page(LOSSES["CTCLoss"])  # not measured
