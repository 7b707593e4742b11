"""The report of `piste.optim.port`: the call, the options that differ, and the difference of the formulas."""

from __future__ import annotations

import pytest

import piste
from piste.errors import InvalidType, InvalidValue
from piste.optim import port

from .rejections import assert_rejected, weights


def test_the_report_names_the_call_the_options_and_the_difference():
    lines = port("keras", "rmsprop", rho=0.9, epsilon=1e-6).splitlines()
    assert lines[:4] == [
        'piste.optim.RMSprop(model.parameters(), rho=0.9, epsilon=1e-06, convention="keras")',
        "lr: 0.001 (PyTorch's default: 0.01)",
        "alpha: 0.9 (PyTorch's default: 0.99)",
        "eps: 1e-06 (PyTorch's default: 1e-08)",
    ]
    percent = [float(line.split("%")[0]) for line in lines[-3:]]
    g = 1.5e-6  # the first step: Keras divides by sqrt(v + eps), PyTorch by sqrt(v) + eps
    keras, torchs = g / (0.1 * g * g + 1e-6) ** 0.5, g / ((0.1 * g * g) ** 0.5 + 1e-6)
    assert percent[2] == pytest.approx(100 * (torchs - keras) / keras, rel=0.01)
    assert percent[2] > percent[1] > percent[0] > 0


def test_the_report_says_where_the_formulas_agree():
    for text in (port("keras", "Adadelta"), port("optax", "Adam", learning_rate=0.1, b1=0.8)):
        assert text.endswith("PyTorch's formula with these numbers gives the same updates.")
    assert "betas: (0.8, 0.999) (PyTorch's default: (0.9, 0.999))" in text
    text = port("optax", "LAMB", learning_rate=0.1, b1=0.8)
    assert "betas: (0.8, 0.999) (Piste's default: (0.9, 0.999))" in text  # torch.optim has no LAMB
    assert text.endswith("Piste's formula with these numbers gives the same updates.")


def test_the_report_of_a_rule_with_rows_compares_matrices_and_lists_shared_options():
    text = port("transformers", "Adafactor", relative_step=False, lr=1e-3, weight_decay=0.1)
    assert "relative_step: False (PyTorch's default: True)" in text
    assert "PyTorch's formula with these numbers gives other updates" in text
    text = port("timm", "LAMB", weight_decay=0.1)
    assert "max_norm: 1.0 (Piste's default: None)" in text
    assert text.endswith("Piste's formula with these numbers gives the same updates.")


def test_the_lines_of_the_report_run():
    class Model:
        def parameters(self):
            return weights()

    for framework, name, options in [("keras", "Adam", {"beta_1": 0.8}), ("optax", "RMSprop", {"learning_rate": 0.1})]:
        line = port(framework, name, **options).splitlines()[0]
        assert eval(line, {"piste": piste, "model": Model()}).param_groups[0]["convention"] == framework


def test_the_report_compares_updates_of_zero():
    assert port("keras", "Adam", lr=0.0).endswith("PyTorch's formula with these numbers gives the same updates.")
    lines = port("optax", "Rprop", learning_rate=0.1).splitlines()  # optax's first step is 0, and PyTorch's is not
    assert [line.split("%")[0].strip() for line in lines[-3:]] == ["100", "100", "100"]


@pytest.mark.parametrize("option", ["fused", "foreach", "capturable", "differentiable"])
def test_the_report_takes_options_of_backends(option):
    (line, *found), expected = port("keras", "Adam", **{option: True}).splitlines(), port("keras", "Adam").splitlines()
    assert line == f'piste.optim.Adam(model.parameters(), {option}=True, convention="keras")'
    assert found[-3:] == expected[-3:]


def test_wrong_calls_of_the_report_are_rejected():
    assert_rejected(
        InvalidValue,
        lambda: port("jax", "Adam"),
        '`framework` must be one of "keras", "optax", "timm", "transformers", "pytorch_optimizer"; received',
    )
    assert_rejected(InvalidValue, lambda: port("keras", "Adan"), "received 'Adan'. Known: `SGD`")
    assert_rejected(InvalidValue, lambda: port("keras", "Adamm"), "received 'Adamm'. Did you mean `Adam`")
    assert_rejected(InvalidType, lambda: port("keras", "Adam", rho=0.9), "Adam has no option `rho`")
    assert_rejected(InvalidType, lambda: port("optax", "Adam"), "Adam needs `lr`")
    assert_rejected(InvalidType, lambda: port("keras", 3), '`name` must be the name of an optimizer, such as "Adam"')
    assert_rejected(InvalidValue, lambda: port(["keras"], "Adam"), "`framework` must be one of")
    assert_rejected(InvalidType, lambda: port("keras", "Adam", fused="no"), "`fused` must be True, False or None")
    assert_rejected(
        InvalidValue,
        lambda: port("keras", "Adam", convention="optax"),
        "`convention` must be left out, because `framework` is the convention; received convention='optax'",
    )
    assert_rejected(
        InvalidValue, lambda: port("optax", "soap"), "`Adafactor`. piste.optim.SOAP has no such convention; help(piste"
    )
