"""Where models are trained: the device is checked before training, and batches follow the model."""

import pytest
import torch

import piste
from piste.compare import compare_task
from piste.compare.plan import make_plan
from piste.errors import InvalidValue
from tests.compare.small import data, model, task

OPTIONS = {"optimizers": ["SGD", "Adam"], "lr": 0.1, "seeds": 2, "progress": False}


@pytest.mark.parametrize("device", ["cuda:99", "gpu"])
def test_a_device_that_is_not_there_is_rejected(device):
    with pytest.raises(InvalidValue) as caught:
        piste.compare(model, (data(), data()), device=device, **OPTIONS)
    words = f"`device` must be a device of this machine, such as cpu, cuda or mps; received '{device}' ("
    assert str(caught.value).startswith(words)


def test_the_cpu_by_name_changes_nothing():
    named, plain = compare_task(task(device="cpu"), **OPTIONS), compare_task(task(), **OPTIONS)
    assert [r.metrics for r in named.results] == [r.metrics for r in plain.results]


def test_model_loss_and_batches_are_moved():
    """The device without memory stands for a GPU: shapes and devices are all that it has."""
    given = task(loss=torch.nn.CrossEntropyLoss(weight=torch.ones(2)))
    given.device = torch.device("meta")
    net, loss = given.new_pair(0, given.loss)
    assert {p.device.type for p in net.parameters()} == {loss.weight.device.type} == {"meta"}
    assert given.loss.weight.device.type == "cpu"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_comparison_on_cuda_has_its_models_and_memory_there():
    plan = make_plan(task(device="cuda"))
    assert {batch[0].device.type for batch in plan.data.validation} == {"cuda"}
    found, here = compare_task(task(device="cuda"), **OPTIONS), compare_task(task(), **OPTIONS)
    for mine, theirs in zip(found.results, here.results, strict=True):
        assert mine.losses == pytest.approx(theirs.losses, rel=1e-3)
    assert found.settings["device"] == "cuda"
    assert all(row.peak_bytes > 0 for row in found.rows)
