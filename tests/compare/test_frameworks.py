"""Models of Lightning and of Hugging Face, as they are; each is compared with the same model written out in torch."""

import functools
import sys

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset, TensorDataset

import piste
from piste.compare import Loop, Task, compare_task
from piste.compare.frameworks import LightningObjective
from piste.errors import InvalidValue
from tests.compare.small import data, model

OPTIONS = {"optimizers": ["SGD", "Adam"], "lr": 0.1, "seeds": 3, "progress": False}


def loader(count=48, seed=0, **options):
    return DataLoader(TensorDataset(*data(count, seed)), batch_size=16, **options)


@pytest.fixture(scope="module")
def module():
    lightning = pytest.importorskip("lightning")

    class Lines(lightning.LightningModule):
        def __init__(self, manual=False):
            super().__init__()
            self.net = model()
            self.automatic_optimization = not manual

        def forward(self, x):
            return self.net(x)

        def training_step(self, batch, batch_idx):
            x, y = batch
            loss = cross_entropy(self(x), y)
            self.log("train_loss", loss)
            return {"loss": loss, "extra": 3}

        def validation_step(self, batch, batch_idx):
            x, y = batch
            self.log_dict({"val_acc": (self(x).argmax(1) == y).float().mean(), "batch": len(x)})

        def configure_optimizers(self):
            raise AssertionError("a comparison makes the optimizer")

    return Lines


def plain(metric="accuracy"):
    return Task(model, loader(), loader(40, 1), loss="cross_entropy", metric=metric, epochs=6)


def numbers(found):
    return [(r.candidate, r.seed, r.losses, r.metrics) for r in found.results]


@pytest.mark.parametrize("metric", ["accuracy", "loss", ("val_acc", "max")], ids=str)
def test_a_lightning_module_gives_the_table_of_its_torch_model(module, metric, recwarn):
    found = compare_task(Task(module, loader(), loader(40, 1), metric=metric, epochs=6), **OPTIONS)
    expected = compare_task(plain("accuracy" if isinstance(metric, tuple) else metric), **OPTIONS)
    for (*mine, losses, metrics), (*theirs, theirs_losses, theirs_metrics) in zip(
        numbers(found), numbers(expected), strict=True
    ):
        assert mine == theirs
        assert losses == pytest.approx(theirs_losses, rel=1e-6)
        assert metrics == pytest.approx(theirs_metrics, rel=1e-6)
    assert not [w for w in recwarn if "self.log" in str(w.message)]


def test_metrics_of_torchmetrics_start_again_with_each_batch(module):
    torchmetrics = pytest.importorskip("torchmetrics")

    class Metered(module):
        def __init__(self):
            super().__init__()
            self.accuracy = torchmetrics.Accuracy("multiclass", num_classes=2)

        def validation_step(self, batch, batch_idx):
            x, y = batch
            self.accuracy(self(x), y)
            self.log("val_acc", self.accuracy)

    given = {"metric": ("val_acc", "max"), "epochs": 3}
    found = compare_task(Task(Metered, loader(), loader(40, 1), **given), **OPTIONS)
    expected = compare_task(Task(module, loader(), loader(40, 1), **given), **OPTIONS)
    assert [r.metrics for r in found.results] == [pytest.approx(r.metrics) for r in expected.results]


def test_the_lines_for_a_lightning_module_are_its_method(module):
    task = Task(module, loader(), loader(40, 1), metric=("val_acc", "max"), epochs=6, loop=Loop(schedule="cosine"))
    found = compare_task(task, **OPTIONS)
    lines = found.verdict.code.split("\n")
    assert lines[0] == "def configure_optimizers(self):"
    assert lines[2].startswith("    optimizer = piste.optim.") and "(self.parameters(), lr=0.1)" in lines[2]
    assert lines[3] == "    scheduler = loop.new_scheduler(optimizer, self.trainer.estimated_stepping_batches)"
    names = {"piste": piste, "Loop": Loop}
    exec(found.verdict.code, names)
    lightning = sys.modules["lightning"]
    whole = type("Whole", (module,), {"configure_optimizers": names["configure_optimizers"]})()
    trainer = lightning.Trainer(
        max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        accelerator="cpu",
    )  # fmt: skip
    before = [p.detach().clone() for p in whole.parameters()]
    trainer.fit(whole, loader(), loader(40, 1))
    assert any(not torch.equal(a, b) for a, b in zip(before, whole.parameters(), strict=True))


def test_a_lightning_module_without_the_needed_parts_is_rejected_before_training(module):
    class Dicts(Dataset):
        def __len__(self):
            return 32

        def __getitem__(self, i):
            return {"x": torch.zeros(2), "y": 1}

    for options, words in [
        ({"metric": ("val_f1", "max")}, "validation_step does not log `val_f1`; it logs val_acc, batch."),
        ({"model": functools.partial(module, manual=True)}, "steps its optimizers itself (automatic_optimization=Fals"),
        ({"loss": "cross_entropy"}, "training_step does not call its argument `loss`"),
        ({"validation": Dicts(), "metric": "accuracy"}, 'Help: give metric=("NAME", "max" or "min"), a value that'),
    ]:
        given = {"model": module, "train": loader(), "validation": loader(40, 1), **options}
        with pytest.raises(InvalidValue) as caught:
            compare_task(Task(**given), **OPTIONS)
        assert words in str(caught.value)


def test_a_logged_metric_needs_a_lightning_module():
    with pytest.raises(InvalidValue, match="`val_acc` is a value that a LightningModule logs, and the model is none"):
        compare_task(plain(("val_acc", "max")), **OPTIONS)


def test_logged_values_need_no_lightning_to_be_read():
    class Logs(nn.Linear):
        def validation_step(self, batch, batch_idx):
            self.log("size", torch.tensor(3.0), prog_bar=True)

    net = Logs(1, 1)
    assert LightningObjective().measure("size", net, (), None) == 3.0
    assert "log" not in vars(net)


class Rows(Dataset):
    """Token sequences with labels, and a column that no model takes."""

    def __init__(self, count, seed, label):
        self.tokens = torch.randint(20, (count, 6), generator=torch.Generator().manual_seed(seed))
        self.label = label

    def __len__(self):
        return len(self.tokens)

    def __getitem__(self, i):
        return {"input_ids": self.tokens[i], **self.label(self.tokens[i]), "id": i, "text": f"{i}"}


def of_class(tokens):
    return {"label": (tokens[0] > 9).long()}


def bert(kind="BertForSequenceClassification", **options):
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, num_labels=2,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, **options,
    )  # fmt: skip
    return getattr(transformers, kind)(config)


def rows(label, count=48, seed=0):
    return Rows(count, seed, label)


@pytest.mark.parametrize("loss", [None, "cross_entropy"])
def test_a_model_of_hugging_face_gives_the_table_of_its_steps_written_out(loss):
    pytest.importorskip("transformers")
    given = {"batch_size": 16, "epochs": 3, "metric": "accuracy"}
    found = compare_task(Task(bert, rows(of_class), rows(of_class, 40, 1), loss=loss, **given), **OPTIONS)

    def training_step(net, batch, loss):
        return cross_entropy(net(batch["input_ids"]).logits, batch["label"])

    def validation_step(net, batch, loss):
        return net(batch["input_ids"]).logits, batch["label"]

    steps = {"training_step": training_step, "validation_step": validation_step}
    expected = compare_task(Task(bert, rows(of_class), rows(of_class, 40, 1), **steps, **given), **OPTIONS)
    for mine, theirs in zip(found.results, expected.results, strict=True):
        assert mine.losses == pytest.approx(theirs.losses, rel=1e-4)
        assert mine.metrics == pytest.approx(theirs.metrics, abs=0.03)
    assert found.rows[0].loss == ("the model's loss" if loss is None else "cross_entropy")
    assert found.baseline_meaning == "the most frequent class"


def test_labels_of_tokens_and_ignored_ones_are_judged_by_token():
    pytest.importorskip("transformers")

    def of_tokens(tokens):
        return {"labels": (tokens > 9).long().where(tokens > 1, -100)}

    token = functools.partial(bert, "BertForTokenClassification")
    task = Task(token, rows(of_tokens), rows(of_tokens, 40, 1), batch_size=16, epochs=12, metric="accuracy")
    found = compare_task(task, optimizers=["Adam"], lr=0.05, seeds=1, progress=False)
    assert found.rows[0].metric > 0.95


def test_a_causal_language_model_is_judged_by_the_next_token():
    transformers = pytest.importorskip("transformers")

    def gpt():
        return transformers.GPT2LMHeadModel(
            transformers.GPT2Config(
                vocab_size=20, n_embd=8, n_layer=1, n_head=2, n_positions=8, bos_token_id=0, eos_token_id=0
            )
        )

    class Counting(Dataset):
        def __len__(self):
            return 64

        def __getitem__(self, i):
            tokens = (torch.arange(6) + i) % 20
            return {"input_ids": tokens, "labels": tokens}

    metrics = ["accuracy", "log_loss", "loss"]
    task = Task(gpt, Counting(), Counting(), metric=metrics, batch_size=16, epochs=40)
    found = compare_task(task, optimizers=["Adam"], lr=0.05, seeds=1, progress=False)
    assert found.rows[0].metric > 0.9
    assert found.rows[0].also["log_loss"] == pytest.approx(found.rows[0].also["loss"], rel=0.01)


def test_batches_without_labels_are_rejected_with_the_way_out():
    pytest.importorskip("transformers")
    with pytest.raises(InvalidValue, match="a batch of the training data must have `labels`; received input_ids, id"):
        compare_task(Task(bert, rows(lambda tokens: {}), rows(of_class), metric="accuracy"), **OPTIONS)
