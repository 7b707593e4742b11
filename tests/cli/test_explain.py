"""`piste explain`: what it shows of losses and optimizers, and every refusal in a sentence."""

import pytest
import torch

import piste


def test_explain_shows_the_tutorial_s_first_case(run):
    done = run("explain", "l1", "--input", "[[1,1],[1,1]]", "--target", "[[0,1],[2,3]]")
    assert done.exit_code == 0
    assert "4 / 4 = 1" in done.output


@pytest.mark.parametrize("loss", ["mse", "smooth_l1", "bce", "cross_entropy", "nll"])
def test_explain_serves_the_tutorial_s_other_cases(run, loss):
    done = run("explain", loss, "--input", "[[1,1],[1,1]]", "--target", "[[0,1],[2,3]]")
    assert done.exit_code == 0
    assert "Traceback" not in done.output
    expected = piste.losses.named(loss)
    assert expected.__name__ in done.output


def test_explain_takes_class_indices(run):
    done = run("explain", "cross_entropy", "--input", "[[2,1,0],[0,1,2]]", "--target", "[0,2]")
    assert done.exit_code == 0
    value = torch.nn.functional.cross_entropy(torch.tensor([[2.0, 1, 0], [0, 1, 2]]), torch.tensor([0, 2])).item()
    assert f"{value:.3f}"[:4] in done.output


def test_explain_takes_further_operands_in_order(run):
    done = run("explain", "triplet_margin", "--input", "[[1,2]]", "--target", "[[1,0]]", "--more", "[[0,0]]")
    value = torch.nn.functional.triplet_margin_loss(*torch.tensor([[[1.0, 2]], [[1, 0]], [[0, 0]]])).item()
    assert done.exit_code == 0 and f"Result\n  {value:.6g}" in done.output
    lengths = "--more", "[2]", "--more", "[1]"
    done = run("explain", "ctc", "--input", "[[[-1,-1,-1]],[[-1,-1,-1]]]", "--target", "[[1]]", *lengths)
    assert done.exit_code == 0 and "sample 0:  0.901388 for 1 label\n" in done.output  # -log(3 paths of exp(-2))


@pytest.mark.parametrize("loss", ["triplet_margin", "cosine_embedding", "margin_ranking", "ctc"])
def test_explain_names_the_operands_that_are_missing(run, loss):
    done = run("explain", loss, "--input", "[[1,2],[3,4]]", "--target", "[[1,0],[2,2]]")
    assert done.exit_code == 2 and "Traceback" not in done.output
    names = piste.losses.named(loss).arguments
    listed = ", ".join(f"`{name}`" for name in names)
    flags = "--input ... --target ..." + " --more ..." * (len(names) - 2)
    words = f"here {listed}, as numbers or JSON arrays; received 2. Help: piste explain {loss} {flags}"
    assert words in " ".join(done.output.split())


def test_explain_works_a_rejected_call_through_with_its_checks_off(run):
    call = "explain", "bce", "--input", "[[1,1],[1,1]]", "--target", "[[0,1],[2,3]]"
    assert "Refused" in run(*call).output
    done = run(*call, "--check", "off")
    assert done.exit_code == 0 and "Refused" not in done.output and "Result\n  -50" in done.output
    assert "`check` must be one of" in run(*call, "--check", "no").output


def test_explain_refuses_what_is_no_json_and_no_loss(run):
    done = run("explain", "l1", "--input", "[[1,1],[1,1", "--target", "[[0,1],[2,3]]")
    assert done.exit_code == 2
    assert "piste: --input must be a JSON array of numbers, such as [[1, 1], [1, 1]]; received" in done.output
    done = run("explain", "l1", "--input", "[[1,1],[1]]", "--target", "[[0,1],[2,3]]")
    assert "piste: --input must be a JSON array of numbers" in done.output
    done = run("explain", "l3", "--input", "[1]", "--target", "[1]")
    assert done.exit_code == 2
    assert "Did you mean" in done.output


def test_explain_takes_the_aliases_that_people_use(run):
    done = run("explain", "l2", "--input", "[3]", "--target", "[1]")
    assert done.exit_code == 0
    assert "MSELoss()" in done.output and "d = 3 - 1 = 2;  2 * 2 = 4" in done.output


def test_explain_works_the_steps_of_an_optimizer_through(run):
    done = run("explain", "adam", "--grad", "0.5", "--lr", "0.1", "--betas", "0.9,0.99", "--steps", "2")
    assert done.exit_code == 0
    assert "Adam(lr=0.1, betas=(0.9, 0.99))" in done.output
    assert "m' = 0.9 * 0.05 + (1 - 0.9) * 0.5 = 0.095\n" in done.output and "Result\n  p = 0.8\n" in done.output
    done = run("explain", "sgd", "--param", "[1,2]", "--grad", "[1,1]", "--momentum=0.5", "--nesterov", "--lr", "1")
    assert done.exit_code == 0 and "Result\n  p = [-0.5, 0.5]" in done.output


def test_explain_takes_the_options_of_a_loss_by_flags(run):
    done = run("explain", "huber", "--input", "[3]", "--target", "[0]", "--delta", "2", "--reduction", "sum")
    assert done.exit_code == 0 and "HuberLoss(delta=2, reduction='sum')" in done.output
    assert "Result\n  4\n" in done.output
    call = "explain", "cross_entropy", "--input", "[[1,2]]", "--target", "[0]", "--weight", "[1,2]"
    assert "CrossEntropyLoss(weight=tensor of shape (2,))" in run(*call).output


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["adam"], "an optimizer needs a gradient to step by. Help: piste explain adam --grad 0.5"),
        (["adam", "--grad", "1", "--lr", "-1"], "`lr` must be in [0, inf); received lr=-1.0."),
        (["adam", "--grad", "1", "--lt", "1"], "Adam has no option `lt`; did you mean `lr`?"),
        (["adam", "--grad", "x"], "--grad must be a JSON array of numbers"),
        (["adam", "--grad", "1", "lr", "1"], "an option must begin with --; received 'lr'. Help: --lr 0.1."),
        (["adm"], "there is no loss or optimizer named 'adm'. Did you mean `adam`"),
        (["adm", "--grad", "1"], "there is no loss or optimizer named 'adm'. Did you mean `adam`"),
        (["l1", "--target", "1"], "--target needs --input. Help: piste explain l1 --input ... --target ..."),
        (
            ["l1"],
            "a loss needs its operands, here `input`, `target`, as numbers or JSON arrays. Help: piste explain l1 "
            "--input ... --target ...",
        ),
        (
            ["triplet_margin", "--input", "[[1,1]]", "--target", "[[0,1]]"],
            "here `anchor`, `positive`, `negative`, as numbers or JSON arrays; received 2. Help: piste explain "
            "triplet_margin --input ... --target ... --more ...",
        ),
        (["l1", "--input", "1", "--target", "2", "--more", "3"], "received 3. Help: piste explain l1 --input ... --ta"),
        (["adam", "--input", "1"], "an optimizer needs a gradient to step by. Help: piste explain adam --grad 0.5"),
        (["generator"], "here `fake`, as numbers or JSON arrays. Help: piste explain generator --input ..."),
        (["triplet_margin"], "Help: piste explain triplet_margin --input ... --target ... --more ..."),
        (["ctc"], "Help: piste explain ctc --input ... --target ... --more ... --more ..."),
    ],
)
def test_explain_names_what_is_wrong_with_a_call(run, words, told):
    done = run("explain", *words)
    assert done.exit_code == 2 and "Traceback" not in done.output
    assert told in " ".join(done.output.split())
