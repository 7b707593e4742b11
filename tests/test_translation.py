"""Messages in Chinese: complete, with the same values, and only where the environment asks for them."""

from __future__ import annotations

import html
import json
import re
import subprocess
import sys

import pytest
import torch
from typer.testing import CliRunner

import piste
from piste import losses, optim
from piste.cli import app
from piste.compare.report import fonts
from piste.errors import InvalidValue, MissingPackage
from piste.losses import LOSSES
from piste.optim import OPTIMIZERS
from piste.translation import FIELD, VARIABLES, _Catalogue, language, read_catalogue, translate
from tools.messages import CATALOGUES, collect, written

CHINESE = read_catalogue(CATALOGUES[0])
IS_CHINESE = re.compile("[\u4e00-\u9fff]")


@pytest.fixture(autouse=True)
def in_chinese(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PISTE_LANG", "zh")


@pytest.mark.parametrize("path", CATALOGUES, ids=str)
def test_the_catalogue_has_the_messages_of_the_sources(path):
    """`python -m tools.messages` adds what is new; a translator fills it in."""
    translations = read_catalogue(path)
    missing = [message for message in collect() if not translations.get(message)]
    assert not missing
    assert path.read_text(encoding="utf-8") == written(collect(), translations, path.parts[-3])


@pytest.mark.parametrize("message", CHINESE)
def test_a_translation_has_the_values_and_the_names_of_its_message(message):
    translated = CHINESE[message]
    assert set(FIELD.findall(translated)) <= set(FIELD.findall(message))
    for name in re.findall(r"`[\w.()\[\]]+`", message):
        assert name in translated
    numbers = r"(?<![\w{])\d+(?![\w}])"
    assert sorted(re.findall(numbers, translated)) == sorted(re.findall(numbers, message))


@pytest.mark.parametrize("message", [m for m, t in CHINESE.items() if t != m and len(m) > 40])
def test_a_message_is_recognized_with_values_in_it(message):
    translated = CHINESE[message]
    for field in re.findall(r"(?<=\})\{\d+\}", message):  # a value that follows another one, such as a plural's "s"
        message, translated = message.replace(field, ""), translated.replace(field, "")

    for name in set(FIELD.findall(message)) - set(FIELD.findall(translated)):  # the end of a plural
        message = message.replace(f"{{{name}}}", "s")

    def fill(text: str) -> str:
        return FIELD.sub(lambda field: f"ab{field[1]}cd", text)

    shown, expected = translate(fill(message)), fill(translated)
    assert re.sub(r"\s", "", shown) == re.sub(r"\s", "", expected)


def message_of(call, *args, **kwargs) -> str:
    with pytest.raises(piste.errors.PisteError) as caught:
        call(*args, **kwargs)
    return str(caught.value)


P = [torch.zeros(2, requires_grad=True)]


def test_an_error_has_its_names_and_numbers_and_no_english():
    assert message_of(optim.SGD, P, lr=-1.0) == "`lr` 必须在 [0, inf) 之内；收到 lr=-1.0。"
    assert message_of(optim.Adam, [{"params": P, "lr": -1}]).endswith("收到 lr=-1.0。在参数组 0 中。")
    assert message_of(losses.MSELoss(), torch.zeros(4, 1), torch.zeros(4)) == (
        "MSELoss：`input` 和 `target` 的形状必须相同；收到 (4, 1) 和 (4,)。"
        "帮助：input.squeeze(1) 或 target.unsqueeze(1)。"
    )
    assert message_of(losses.BCELoss(), torch.tensor([0.5, -1.0]), torch.ones(2)) == (
        "BCELoss：`input` 必须是 [0, 1] 之内的值；收到 (1,) 处的 -1.0。"
        "帮助：先应用 torch.sigmoid，或把 logits 交给更精确的 BCEWithLogitsLoss。"
    )
    assert "收到 (1, 0) 处的 2.0，2 处中的第一处；偏离最远的是 (1, 1) 处的 3.0。帮助：" in message_of(
        losses.BCELoss(), torch.ones(2, 2), torch.tensor([[0.0, 1.0], [2.0, 3.0]])
    )
    assert message_of(losses.MSELoss(check="nan"), torch.tensor([1.0, float("nan")]), torch.zeros(2)) == (
        'MSELoss：`input` 含有 (1,) 处的 nan，check="nan" 不接受它。'
    )
    misspelled = message_of(optim.Adam, P, weight_deacy=0.1)
    assert misspelled.endswith("您要找的是 `weight_decay` 或 `decoupled_weight_decay` 吗？")


def test_the_help_for_values_of_other_libraries_is_chinese():
    x = torch.zeros(4, 3)
    pairs = [
        (
            message_of(losses.QuantileLoss(), x, x[:, 0]),
            "帮助：target[:, None].expand_as(input)，如果每个值用于第 1 维上的",
        ),
        (message_of(losses.QuantileLoss, quantile=[0.1]), "帮助：quantiles=torch.tensor([0.1])，此时输入对每个分位数"),
        (message_of(losses.QuantileLoss, quantile=90), "帮助：quantile=0.9，如果它是百分数。"),
        (message_of(losses.SigmoidFocalLoss, alpha=-1), "帮助：alpha=None 表示所有标签的权重相同"),
        (message_of(losses.ArcFaceLoss, margin=28.6), "帮助：margin=0.499164 是 28.6 度的弧度值，间隔以弧度为单位。"),
        (message_of(losses.DistillationLoss, divergence="kl"), '帮助："forward" 是 KL(teacher, student)，"reverse" 是'),
        (message_of(losses.GeneratorLoss, "vanilla"), '这种博弈的生成器是 "non_saturating" 或 "minimax"。'),
        (
            message_of(optim.Adam, P, lr=0.1, eps_root=1, convention="optax"),
            "帮助：optax 的另一个公式在这里没有对应。",
        ),
        (message_of(optim.Adam, P, beta1=0.1, convention="keras"), "没有选项 `beta1`；Keras 称之为 `beta_1`。"),
        (message_of(losses.ArcFaceLoss, num_classes=3), "没有参数 `num_classes`。此损失没有权重：`input` 是余弦"),
        (message_of(losses.GRPOLoss, epsilon=0.2), "GRPOLoss() 没有参数 `epsilon`。请写 `clip_low` 和 `clip_high`。"),
        (
            message_of(optim.lr_scheduler.WarmupConstantLR, optim.SGD(P), 2, option="weight_deacy"),
            "收到 'weight_deacy'，但 SGD 的参数组 0 没有这个选项。您要找的是 `weight_decay`",
        ),
    ]
    for message, words in pairs:
        assert words in message, message
        assert not re.search("[a-z]{2,} [a-z]{2,}", message), message


def test_values_of_the_user_are_not_translated():
    column = message_of(piste.compare, torch.nn.Linear(1, 1), (1, 2), loss="mse", optimizers=["the targets"])
    assert "the targets" not in CHINESE or "目标" not in column
    assert translate("`the targets` must be in [0, 1); received the targets=2.").startswith("`the targets` 必须")
    assert translate("some text of another origin") == "some text of another origin"


def test_the_arguments_of_an_error_are_english():
    error = InvalidValue("`lr` must be in [0, 1); received lr=2.")
    assert error.args == ("`lr` must be in [0, 1); received lr=2.",)
    assert IS_CHINESE.search(str(error))
    assert IS_CHINESE.search(str(MissingPackage("no Ray cluster runs here")))


def test_a_warning_is_translated():
    layer = torch.nn.Linear(1, 1)
    with pytest.warns(UserWarning, match=r"没有改变任何参数：没有参数有梯度。帮助：在 step\(\) 之前调用"):
        optim.SGD(layer.parameters()).step()


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, None),
        ({"LANG": "zh_CN.UTF-8"}, "zh"),
        ({"LANG": "C.UTF-8"}, None),
        ({"LANG": "fr_FR.UTF-8"}, None),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": "en_US.UTF-8"}, None),
        ({"LANG": "en_US.UTF-8", "LC_ALL": "zh_CN.GBK"}, "zh"),
        ({"LANGUAGE": "fr:zh_CN:en"}, "zh"),
        ({"LANGUAGE": "en:zh"}, None),
        ({"LANG": "zh_CN.UTF-8", "PISTE_LANG": "en"}, None),
        ({"LANG": "C", "PISTE_LANG": "zh"}, "zh"),
    ],
)
def test_the_first_variable_that_is_set_chooses_the_language(variables, expected, monkeypatch):
    monkeypatch.delenv("PISTE_LANG")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert language() == expected


@pytest.mark.parametrize("message", ["", "x\n\n  y", "`lr` must be in [0, 1); received lr=2.", "Did you mean `a`?"])
def test_english_is_unchanged(message, monkeypatch):
    monkeypatch.setenv("PISTE_LANG", "en")
    assert translate(message) == message


def test_the_command_speaks_chinese():
    done = subprocess.run(
        [sys.executable, "-m", "piste", "explain", "--help"], capture_output=True, encoding="utf-8", check=True
    )
    assert "显示损失或优化器各步的算术" in done.stdout and "--target" in done.stdout
    words = done.stdout.replace("Show this message and exit.", "")  # of the package that parses the command line
    assert not re.search(r"[a-z]{3,} [a-z]{3,} [a-z]{3,}", words)
    refused = CliRunner().invoke(app, ["explain", "mse", "--target", "[1]"])
    assert refused.exit_code == 2
    assert "piste：--target 需要与 --input 一起使用。帮助：piste explain mse --input ... --target ..." in refused.output
    shown = CliRunner().invoke(app, ["explain", "mse", "--input", "[1, 2]", "--target", "[0, 0]"])
    assert "归约：mean" in shown.output
    twice = CliRunner().invoke(app, ["explain", "bce", "--input", "[1, 1]", "--target", "[2, 3]"])
    assert f"被拒绝\n  {message_of(losses.BCELoss(), torch.ones(2), torch.tensor([2.0, 3.0]))}\n" in twice.output


def _prose(line: str) -> list[str]:
    """Return the English words of a line that follow each other, without code and the words of expressions."""
    code = r"piste compare|`[^`]*`|torch\.\S+|piste\.\S+|[\w']+ = \S+|\b(if|else|and|or|not in|in|for)\b"
    return re.findall(r"[A-Za-z]{3,}[,.:]? [A-Za-z]{2,}", re.sub(code, "#", line))


@pytest.mark.parametrize("name", LOSSES)
def test_the_arithmetic_of_a_loss_is_explained_without_english(name):
    torch.manual_seed(0)
    shown = str(piste.explain(name, *eval(f"({LOSSES[name].example},)", {"torch": torch})))
    assert IS_CHINESE.search(shown)
    assert not [line for line in shown.split("\n") if _prose(line)]
    assert not re.search("^(Formula|Elements|Rows|Samples|Counts|Result|Gradient)$", shown, re.MULTILINE)


@pytest.mark.parametrize("name", [name for name, cls in OPTIMIZERS.items() if cls.elementwise])
def test_the_arithmetic_of_a_step_is_explained_without_english(name):
    shown = str(piste.explain(name, grad=[0.5] * 13))
    assert "公式\n" in shown and "第 1 步\n" in shown and "其中 p = 参数, g = 它的梯度" in shown
    assert not [line for line in shown.split("\n") if _prose(line)]


def test_an_explanation_has_its_english_text_too():
    worked = piste.explain("huber", [1.0, 5.0], [0.0, 0.0])
    assert worked.text.startswith("HuberLoss()\n\nFormula\n")
    assert "其中 x = input, y = target, delta = 1\n" in str(worked)
    assert "二次，d <= delta：2 中的 1；线性：1" in str(worked)
    assert "(二次，因为 1 <= 1 为 true)" in str(worked)


def test_parentheses_that_enclose_no_message_stay_as_they_are():
    shown = str(piste.explain("smooth_l1", [[1.0]], [[0.0]]))
    assert "  (0, 0)  d = |1 - 0| = 1;  1 - 0.5 * 1 = 0.5; (线性，因为 1 < 1 为 false)\n" in shown
    assert "（除以元素的个数）" in shown


class Named(torch.nn.Module):
    """A model whose parameters have names that are words of the catalogue."""

    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.Embedding(9, 4)
        self.group = torch.nn.Linear(4, 4)
        self.loss = torch.nn.Parameter(torch.ones(2), requires_grad=False)
        self.vector = torch.nn.Parameter(torch.ones(2))


def test_an_optimizer_and_a_loss_name_their_backend_in_chinese():
    layer = torch.nn.Linear(3, 2)
    assert optim.SGD(layer.parameters()).explain() == (
        "SGD，第 0 组：2 个参数中的 2 个由融合 CPU 内核更新，全部在一遍中完成"
    )
    assert optim.Adam(layer.parameters(), fused=False).explain_backend() == (
        "Adam，第 0 组：2 个参数中的 2 个由 eager 后端更新：fused=False 要求如此"
    )
    assert optim.LBFGS(layer.parameters()).explain() == (
        "LBFGS，第 0 组：2 个参数中的 2 个由 torch 运算处理，所有参数为一个向量"
    )
    assert optim.LAMB(layer.parameters()).explain().endswith("更新，全部一起用 2 遍完成")
    assert optim.Prodigy(layer.parameters()).explain().endswith("；对所有参数的求和由融合 CPU 内核完成")
    assert optim.Muon([layer.weight]).explain().endswith("；矩阵阶段由 torch 运算完成")
    x = torch.zeros(3)
    assert losses.MSELoss(check="nan").explain_backend(x, x) == (
        'MSELoss：由 eager 后端计算：check="nan" 检查每一个值。'
        "在 torch.compile 下，它被逐个运算地追踪：它的公式会与相邻的运算融合"
    )
    assert losses.CrossEntropyLoss().explain_backend() == (
        "CrossEntropyLoss：由融合 CPU 内核计算，梯度在同一遍中得到。在 torch.compile 下，它是算子 piste::loss"
    )


def test_param_groups_are_tables_in_chinese_with_the_names_of_parameters():
    assert str(optim.param_groups(Named(), weight_decay=0.1)).splitlines() == [
        "组  weight_decay  张量数  元素  参数",
        "0   0.1           3       54    vector, embedding.weight, group.weight",
        "1   0             1       4     group.bias",
    ]
    model = torch.nn.Sequential(torch.nn.Embedding(9, 4), torch.nn.Linear(4, 4), torch.nn.Linear(4, 9))
    assert str(optim.matrix_groups(model)).splitlines() == [
        "组  更新方式  形状    参数      原因",
        "0   1 个矩阵  (4, 4)  1.weight  隐藏层矩阵",
        "1   AdamW     (9, 4)  0.weight  嵌入层",
        "1   AdamW     (4,)    1.bias    向量",
        "1   AdamW     (9, 4)  2.weight  输出层",
        "1   AdamW     (9,)    2.bias    向量",
    ]


def test_a_check_of_parameters_is_in_chinese_with_their_names():
    model = Named()
    optimizer = optim.SGD([model.group.weight, model.loss])
    assert optimizer.check(model).splitlines() == [
        "SGD 持有 4 个可训练参数中的 1 个。",
        "可训练，未持有：vector, embedding.weight, group.bias",
        "持有，已冻结：loss",
    ]


def test_a_port_is_in_chinese():
    assert optim.port("keras", "RMSprop", rho=0.9, epsilon=1e-6).splitlines() == [
        'piste.optim.RMSprop(model.parameters(), rho=0.9, epsilon=1e-06, convention="keras")',
        "lr：0.001（PyTorch 的默认值：0.01）",
        "alpha：0.9（PyTorch 的默认值：0.99）",
        "eps：1e-06（PyTorch 的默认值：1e-08）",
        "用这些数值，PyTorch 的公式给出不同的更新，差别最大为",
        "  4.56e-05%，当梯度为 1 时",
        "  133%，当梯度为 0.001 时",
        "  6.77e+04%，当梯度为 1e-06 时",
    ]
    same = optim.port("keras", "SGD", learning_rate=0.1).splitlines()
    assert same[-1] == "用这些数值，PyTorch 的公式给出相同的更新。"


def test_the_catalogue_has_the_reasons_against_a_backend():
    """They are strings of the engine, whose other strings are code."""
    found = collect()
    for reason in (
        "its gradient is sparse",
        "it is not contiguous, and its rule reduces over rows or columns",
        "Triton is not installed",
        "the kernel of a loss could not be made ({0})",
        "there are more than {0} classes",
        'check="nan" inspects every value',
    ):
        assert reason in found


def test_a_comparison_is_reported_in_chinese(tmp_path):
    words = ["compare", "line", "--optimizers", "sgd,adam", "--lr", "0.01", "--seeds", "2", "--epochs", "1"]
    done = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert "| 候选 | lr |" in done.output and "与最佳者的差距" in done.output
    verdict = done.output[done.output.index("| 候选 |") :]
    assert not re.search(r"[a-z]{3,} [a-z]{3,} [a-z]{3,}", verdict), verdict


def test_the_report_and_its_pictures_are_in_chinese(tmp_path):
    words = ["compare", "line", "--optimizers", "sgd,adam", "--trials", "2", "--seeds", "2", "--epochs", "1"]
    done = CliRunner().invoke(app, [*words, "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "搜索 lr 0." in done.output
    assert '<html lang="zh">' in page and "{{" not in page.partition("<script")[0]
    shown = re.sub(r"<script.*?</script>|<style.*?</style>|<pre.*?</pre>", "", page, flags=re.DOTALL)
    shown = re.sub(r"<[^>]*>", "\n", shown)
    assert "训练损失，mse" in shown and "所有候选" in shown and "候选" in shown and "与最佳者的差距" in shown
    assert not [line for line in html.unescape(shown).split("\n") if _prose(line)]
    report = (tmp_path / "report.md").read_text(encoding="utf-8").partition("```")[0]
    assert "| 候选 |" in report and "## 设置与版本" in report
    assert not [line for line in report.split("\n") if _prose(line)]
    plots = re.search(r"^const plots = (.*);$", page, re.MULTILINE)[1]
    titles = re.findall(r'"title": \{"text": "([^"]*)"', json.dumps(json.loads(plots), ensure_ascii=False))
    assert {"训练损失", "rmse", "步", "秒", "学习率", "下降占比", "均匀度"} <= set(titles)
    assert (tmp_path / "results.json").read_text(encoding="utf-8").count('"sentence": "') == 1
    assert not IS_CHINESE.search((tmp_path / "runs.csv").read_text(encoding="utf-8"))


def test_a_list_of_sentences_is_translated_to_its_end():
    assert translate(
        "To decide, if the differences are as observed: SGD takes about 14 seeds or 500 validation examples; Adam "
        "takes about 8 seeds; Lion takes more than 100 seeds, or more of both."
    ) == (
        "若差异如所观察到的那样，要作出判定：SGD 大约需要 14 个随机种子或 500 个验证样本；Adam 大约需要 8 个随机种子；"
        "Lion 需要多于 100 个随机种子，或两者都更多。"
    )
    assert translate("8 (1.77 ms, 2 of 3)") == "8（1.77 ms，3 中的 2）"


def test_lists_of_options_of_several_mistakes_are_translated():
    message = message_of(optim.SGD, P, zzz=1, qqq=2)
    assert message.count("；已知的有：`lr`, ") == 2 and message.endswith("`lr_max`。请写 SGD(model.parameters())。")


def test_the_period_of_a_number_ends_no_part_of_a_message():
    catalogue = _Catalogue({"took {0} s.{1}": "{1}用了 {0} 秒。"})
    assert catalogue.translate("took 1 s.5") == "took 1 s.5"
    assert catalogue.translate("took 1 s.`a`") == "`a` 用了 1 秒。"


def test_a_picture_is_in_chinese_where_a_font_has_the_characters(monkeypatch):
    monkeypatch.setattr(fonts, "_is_drawn", lambda character: True)
    assert fonts.translated("learning rate") == "学习率"
    assert fonts.translated("true line") == "true line"
    monkeypatch.setattr(fonts, "_is_drawn", lambda character: False)
    assert fonts.translated("learning rate") == "learning rate"


def test_lines_of_a_picture_break_between_chinese_characters():
    text = "固定训练样本上的损失，验证集上的 accuracy；平均。"  # no line begins with the comma
    assert fonts.wrap(text, 20) == ["固定训练样本上的损", "失，验证集上的", "accuracy；平均。"]
