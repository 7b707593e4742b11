"""The changes to formulas of optimizers that change nothing, each with the reason."""

from __future__ import annotations

NAMES = "only the names of the letters are read there, and no option's default is None"
UNUSED = "it stands in while the average is short, and what is made of it is not used then"

TALL = (
    "x.shape[1] > x.shape[2] -> x.shape[1] >= x.shape[2]",
    "x.shape[1] > x.shape[2] -> x.shape[1] < x.shape[2]",
    "1 -> 0",
    "1 -> 2",
    "2 -> 1",
)

EQUIVALENT: dict[str, dict[str, str]] = {
    "piste.optim.rmsprop": {
        "RMSprop.update: b -> m (number 2)": "a buffer that is not kept: both are None, and the base drops it",
    },
    "piste.optim.radam": {
        "RAdam.update: rho > 5 -> rho >= 5": "no step count makes rho 5 exactly",
        "RAdam.update: 6.0 -> 12.0": UNUSED,
        "RAdam.update: 6.0 -> 12.0 (number 2)": UNUSED,
        "RAdam.update: 6.0 -> 0 (number 2)": UNUSED,
    },
    "piste.optim.adabelief": {
        f"AdaBelief.update: g - m -> {other}": "its square alone is used" for other in ("m - g", "-(g - m)")
    },
    "piste.optim.adan": {"Adan.update: g + beta2 * d -> -(g + beta2 * d)": "its square alone is used"},
    "piste.optim.convention_formulas": {
        **dict.fromkeys(
            (
                "rms: alpha * m + (1 - alpha) * g -> alpha * m - (1 - alpha) * g",
                "rms: (1 - alpha) * g -> -((1 - alpha) * g) (number 2)",
                "rms: 1 - alpha -> alpha - 1 (number 2)",
                "rms: 1 - alpha -> -(1 - alpha) (number 2)",
            ),
            "the square of m alone is used",
        ),
        **dict.fromkeys(
            ("optax_adabelief: g - m -> m - g", "optax_adabelief: g - m -> -(g - m)"), "its square alone is used"
        ),
        "optax_adan: g + (1 - beta2) * d -> -(g + (1 - beta2) * d)": "its square alone is used",
        "optax_rprop: turn > 0 -> turn >= 0": "at a turn of 0 the step size stays",
        "optax_radam: rho >= 5 -> rho > 5": "no step of a run has a length of exactly 5",
        **dict.fromkeys(
            (
                "optax_radam: where(long, rho, 6.0) -> rho",
                "optax_radam: 6.0 -> 12.0",
                "optax_radam: where(long, rho_inf, 6.0) -> rho_inf",
                "optax_radam: 6.0 -> 12.0 (number 2)",
                "optax_radam: 6.0 -> 0 (number 2)",
            ),
            "the rectification of a short average is not used",
        ),
        "rms: b -> m (number 2)": "a buffer that is not kept: the base drops it",
        **dict.fromkeys(
            (
                "pytorch_optimizer_lamb: (size > 0) & (length > 0) -> size > 0",
                "pytorch_optimizer_lamb: length > 0 -> length >= 0",
            ),
            "a length of 0 is that of a step of 0, which no ratio moves, and eps is added to the length",
        ),
        "keras_adafactor: m -> p": "a buffer that is not kept: the base drops it",
        "_added_epsilon: mean(q, over='row') -> -mean(q, over='row')": "the ratio of r to its mean alone is used",
    },
    "piste.optim.conventions": {
        "CONVENTIONS: True -> False (number 9)": "AdamW decouples its weight decay by itself",
        "CONVENTIONS: True -> False (number 10)": "AdamW decouples its weight decay by itself",
    },
    "piste.optim.muon": {
        **{f"orthogonalize: {change}": "either product costs more or less, with one result" for change in TALL},
        **dict.fromkeys(
            (
                "orthogonalize: (x[0], torch.addmm) if len(x) == 1 else (x, torch.baddbmm) -> (x, torch.baddbmm)",
                "orthogonalize: 1 -> 0 (number 2)",
            ),
            "the product of a batch of one is that of its matrix",
        ),
        **dict.fromkeys(
            (
                "Muon.matrix: x if scale == 1 else x.to(u.dtype).mul_(scale) -> x.to(u.dtype).mul_(scale)",
                "Muon.matrix: 1 -> 0 (number 6)",
            ),
            "a product with 1",
        ),
    },
    "piste.optim.soap": {
        "SOAP.matrix: m -> v": "both are 0 before the first step",
        "SOAP.matrix: gg -> q (number 3)": "rows without numbers are returned as they were",
        "SOAP.matrix: gg -> q": "both have one dtype",
        "SOAP.matrix: rms + LEAST -> rms - LEAST": "no root mean square other than 0 is as small",
        **{
            f"SOAP.matrix: {change}": "the remainder is 0 for the same steps"
            for change in (
                "(t - 1) % precondition_frequency -> -((t - 1) % precondition_frequency)",
                "t - 1 -> 1 - t (number 3)",
                "t - 1 -> -(t - 1) (number 3)",
            )
        },
        "SOAP.matrix: u -> m (number 4)": "m has the shape of u by then",
        "_multiplied: matrices @ _along(x, k) -> -(matrices @ _along(x, k))": "a turn and its reverse",
        **dict.fromkeys(("_multiplied: 3 -> 6", "_multiplied: 3 -> 0"), "matrices are a case of the general product"),
        "SOAP.matrix: m -> v (number 2)": "both have one dtype",
        "SOAP.matrix: (None, None) if is_own else (m, v) -> (m, v)": "None stands for what was renewed in place",
    },
    "piste.optim.prodigy": {
        "Prodigy.finish: d -> d_max (number 3)": "while d is d0, so is d_max",
    },
    "piste.optim.state": {
        "_first_value: p if group['differentiable'] else p.detach() -> p": "without autograd both are copied alike",
        "_first_value: group -> dtype (number 5)": "rows, columns and the first dimension don't depend on the options",
        "_filled_like: start -> dtype": "a state of 0 is filled with 0 again",
    },
    "piste.optim.ademamix": dict.fromkeys(
        (
            "AdEMAMix.per_step: where(risen < 1, _rise(beta1, beta3, risen), beta3) -> _rise(beta1, beta3, risen)",
            "AdEMAMix.per_step: risen < 1 -> risen <= 1",
            "AdEMAMix.per_step: risen -> beta1",
            "AdEMAMix.per_step: 1 -> 2 (number 3)",
        ),
        "_rise ends at beta3, but for a rounding that `where` leaves out",
    ),
    "piste.optim.schedule_free": dict.fromkeys(
        (
            "_PER_STEP: where(W > 0, w / where(W > 0, W, 1), 0) -> w / where(W > 0, W, 1)",
            "_PER_STEP: W > 0 -> W >= 0",
            "_PER_STEP: W -> w (number 2)",
            "_PER_STEP: where(W > 0, W, 1) -> W",
            "_PER_STEP: W > 0 -> W >= 0 (number 2)",
            "_PER_STEP: W -> w (number 3)",
            "_PER_STEP: 1 -> 0 (number 3)",
            "_PER_STEP: 1 -> 2 (number 3)",
            "_PER_STEP: 0 -> 1 (number 3)",
        ),
        "W is 0 only while every rate was 0: w is 0 too, and p is z; the guard is for autograd",
    ),
    "piste.optim.composition": {
        "compose: o.default if o.default is not None else 0 -> o.default": NAMES,
        "compose: 0 -> 1": NAMES,
        "compose: p -> g (number 15)": "the terms of sums alone are read, not the parameter next to them",
    },
}
"""By module: changes that change nothing, and why."""
