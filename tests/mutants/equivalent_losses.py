"""The changes of the formulas and checks of losses that change no value, each with the reason."""

from __future__ import annotations

REGRESSION = ("L1Loss", "MSELoss", "SmoothL1Loss", "HuberLoss")
PROMOTED = "x.dtype if has_indices else torch.promote_types(x.dtype, y.dtype)"
SMOOTHED = "(1 - label_smoothing) * y + label_smoothing / size(x)"
EVEN = "the square, the absolute value or the norm is the same"
BORDER = "both sides are the same number there, and its slope is written down apart"
USUAL = f"1e-15 < eps < {1e15}"
NEAR_2 = "where(abs(u) < 0.5, loss, where(z == math.inf, z, large))"  # both are b / alpha (e^u - 1)
NEAR_0, FAR = "-0.5 * log1p(-t * t)", "d + log1p(e) - math.log(2)"
FAR_FROM_LIMIT = "the limit has the bits of the formula from far smaller numbers on"
ROUNDING = "both forms are the same number up to rounding, which a test of small differences measures"
MOVED = "None if moved_dim is None or not has_indices else functools.partial(_move_classes, moved_dim)"
AT_ONCE = "further calls go to the kernel at once by it, and have the same values without it"
UNUSED = "it stands in where the result is not used"
MASKED = "it is multiplied by 0"
DTYPE = "it gives the constant its dtype"
ALIKE = "both have the same shape and dtype"
GUARDED = "where(z == -math.inf, 0, x - z)"
SUMMAND = f"exp(z) * {GUARDED}"
OBSTACLE = "None if student.dtype == teacher.dtype else 'the kernel takes logits of one dtype'"

EQUIVALENT: dict[str, dict[str, str]] = {
    "piste.losses.regression": {
        **{f"{name}.formula: x - y -> {other}": EVEN for name in REGRESSION for other in ("y - x", "-(x - y)")},
        "SmoothL1Loss.formula: d < beta -> d <= beta": BORDER,
        "HuberLoss.formula: d <= delta -> d < delta": BORDER,
        "HuberLoss.derivatives: delta * sign(d) -> delta / sign(d)": "the sign is 1 or -1 on that side",
    },
    "piste.losses.adversarial": {
        "DiscriminatorLoss.formula: r >= 1 -> r > 1": BORDER,
        "DiscriminatorLoss.formula: f <= -1 -> f < -1": BORDER,
        **{f"DiscriminatorLoss.derivatives: {a} -> {b} (number {n})": DTYPE for a, b in ("rf", "fr") for n in (3, 5)},
    },
    "piste.losses.policies": {
        f"clipped: r {a} -> r {b}": BORDER for a, b in (("> high", ">= high"), ("< low", "<= low"))
    },
    "piste.losses.penalties": {
        **{f"gradient_penalty: real -> fake (number {n})": ALIKE for n in (2, 3, 4, 5)},
        **{
            f"gradient_penalty: torch.linalg.vector_norm(g, dim=1) - 1 -> {other}": EVEN
            for other in ("1 - torch.linalg.vector_norm(g, dim=1)", "-(torch.linalg.vector_norm(g, dim=1) - 1)")
        },
    },
    "piste.losses.preferences": {
        "log_probability: help -> argument": "the message alone changes",
        "DPOLoss.formula: h - 1 / (2 * beta) -> 1 / (2 * beta) - h": EVEN,
        "DPOLoss.formula: h - 1 / (2 * beta) -> -(h - 1 / (2 * beta))": EVEN,
        "DPOLoss.formula: z >= 1 -> z > 1": BORDER,
        "DPOLoss.derivatives: -beta * one_like(z) -> -beta / one_like(z)": "it divides by 1",
    },
    "piste.losses.words": {f"softplus: z > 0 -> z >= 0{nth}": BORDER for nth in ("", " (number 2)")},
    "piste.losses.distillation": {
        "divergence_from: 0 -> 1": "it is multiplied by 0",
        "DistillationLoss.formula: 1 -> 2 (number 2)": "it is multiplied by 0",
        **{
            f"DistillationLoss.rows: {change}": "the eager backend has the same values"
            for change in (
                f"{OBSTACLE} -> 'the kernel takes logits of one dtype' if student.dtype == teacher.dtype else None",
                f"{OBSTACLE} -> None",
                f"{OBSTACLE} -> 'the kernel takes logits of one dtype'",
                "student.dtype == teacher.dtype -> student.dtype != teacher.dtype",
            )
        },
    },
    "piste.losses.angular": {
        "ArcFaceLoss.formula: 1 -> 0 (number 2)": "it stands in at an angle of 0, and what is made of it is not used",
        "ArcFaceLoss.formula: 1 -> 2 (number 2)": "it stands in at an angle of 0, and what is made of it is not used",
        "ArcFaceLoss.formula: c > -math.cos(margin) -> c >= -math.cos(margin)": BORDER,
        "AngularLoss.check_input: pick(x, k) -> -pick(x, k)": EVEN,
    },
    "piste.losses.regions": {
        "share: 1 -> 2 (number 2)": UNUSED,
        "FocalTverskyLoss.formula: 1 -> 0 (number 2)": UNUSED,
        "FocalTverskyLoss.formula: 1 -> 2 (number 2)": UNUSED,
        "RegionLoss.rows: 0 -> 1 (number 2)": ALIKE,
    },
    "piste.losses.robust_regression": {
        **{
            f"{name}Loss.formula: x - y -> {other}": EVEN
            for name in ("LogCosh", "Charbonnier", "GeneralRobust")
            for other in ("y - x", "-(x - y)")
        },
        "GeneralRobustLoss.formula: (x - y) / scale -> -((x - y) / scale)": EVEN,
        **{
            f"GeneralRobustLoss.{part}: alpha - 2 -> {other}": EVEN
            for part in ("formula", "derivatives")
            for other in ("2 - alpha", "-(alpha - 2)")
        },
        **{f"GeneralRobustLoss.derivatives: alpha - 2 -> {x} (number 2)": EVEN for x in ("2 - alpha", "-(alpha - 2)")},
        **{
            f"GeneralRobustLoss.{part}: {change}": FAR_FROM_LIMIT
            for part in ("formula", "derivatives")
            for change in ("abs(alpha) > LIMIT -> abs(alpha) >= LIMIT", "alpha > 0 -> alpha >= 0", "0 -> 1")
        },
        "GeneralRobustLoss.formula: abs(alpha) < 1 / LIMIT -> abs(alpha) <= 1 / LIMIT": FAR_FROM_LIMIT,
        "GeneralRobustLoss.formula: 1 -> 2 (number 3)": FAR_FROM_LIMIT,
        "GeneralRobustLoss.formula: 0.5 * factor -> 0.5 / factor": "it is 1 or -1",
        **{
            f"GeneralRobustLoss.formula: {change}": "z / b is below the smallest number in single precision alone"
            for change in (
                "abs(alpha) > STEEP -> abs(alpha) >= STEEP",
                "abs(alpha) > STEEP -> abs(alpha) < STEEP",
                "abs(alpha) -> alpha (number 3)",
                "abs(alpha) -> -abs(alpha) (number 3)",
                "alpha -> scale (number 8)",
                "where(z < 1e-18, 0.5 * alpha / b * z, u) -> u",
                "z < 1e-18 -> z <= 1e-18",
                "1e-18 -> 2e-18",
                "1e-18 -> 0",
            )
        },
        "GeneralRobustLoss.derivatives: abs(alpha) > STEEP -> abs(alpha) >= STEEP": ROUNDING,
        "CharbonnierLoss.formula: d / unit -> -(d / unit)": EVEN,
        **{
            f"unit_of: {change}": ROUNDING
            for change in (
                f"(1.0, eps) if {USUAL} else (eps, 1.0) -> (eps, 1.0)",
                f"{USUAL} -> 1e-15 <= eps < {1e15}",
                f"{USUAL} -> 1e-15 < eps <= {1e15}",
                "1e-15 -> 2e-15",
                f"{1e15} -> {2e15}",
                f"{1e15} -> 0",
            )
        },
        "LogCoshLoss.formula: (1 - e) / (1 + e) -> -((1 - e) / (1 + e))": EVEN,
        **{f"LogCoshLoss.formula: 1 - e -> {other}": EVEN for other in ("e - 1", "-(1 - e)")},
        "LogCoshLoss.formula: 1 + e -> -(1 + e)": EVEN,
        f"LogCoshLoss.formula: where(d < 1, {NEAR_0}, {FAR}) -> {FAR}": ROUNDING,
        "LogCoshLoss.formula: d < 1 -> d <= 1": BORDER,
        "LogCoshLoss.formula: 1 -> 0 (number 3)": ROUNDING,
        "LogCoshLoss.formula: 1 -> 2 (number 3)": ROUNDING,
        "GeneralRobustLoss.formula: abs(u) < 0.5 -> abs(u) <= 0.5": BORDER,
        "GeneralRobustLoss.formula: 0.5 -> 1.0 (number 6)": ROUNDING,
        **{
            f"GeneralRobustLoss.formula: {change}": ROUNDING
            for change in (
                f"{NEAR_2} -> where(abs(u) < 0.5, where(z == math.inf, z, large), loss)",
                f"{NEAR_2} -> where(z == math.inf, z, large)",
                f"{NEAR_2} -> loss",
                "abs(u) < 0.5 -> abs(u) > 0.5",
                "abs(u) -> u",
                "abs(u) -> -abs(u)",
                "0.5 -> 0 (number 6)",
            )
        },
        "GeneralRobustLoss.formula: 1.99 < alpha < 2.01 -> 1.99 <= alpha < 2.01": ROUNDING,
        "GeneralRobustLoss.formula: 1.99 < alpha < 2.01 -> 1.99 < alpha <= 2.01": ROUNDING,
        "GeneralRobustLoss.formula: 1.99 -> 3.98": ROUNDING,
        "GeneralRobustLoss.formula: 2.01 -> 4.02": ROUNDING,
        "GeneralRobustLoss.formula: 2.01 -> 0": ROUNDING,
        "ExpectileLoss.formula: d >= 0 -> d > 0": BORDER,
    },
    "piste.losses.focal": {
        "SigmoidFocalLoss.derivatives: 1 -> 2 (number 2)": "it multiplies a loss of 0",
        "SigmoidFocalLoss.derivatives: p * u -> -(p * u)": "both are 0 at once",
        "AsymmetricLoss.formula: 1 -> 0": "it multiplies a loss of 0",
        "AsymmetricLoss.formula: 1 -> 2": "it multiplies a loss of 0",
        "AsymmetricLoss.derivatives: 1 -> 2": "it multiplies a loss of 0",
        "AsymmetricLoss.derivatives: p > margin -> p >= margin (number 3)": BORDER,
        "FocalLoss.soft_formula: 0 -> 1 (number 2)": MASKED,
        **{
            f"AsymmetricLoss.{part}: p > margin -> p >= margin{nth}": BORDER
            for part in ("formula", "derivatives")
            for nth in ("", " (number 2)")
        },
    },
    "piste.losses.binary": {
        f"BCEWithLogitsLoss.formula: 0 -> 1 (number {k})": "a label of 0 multiplies it, and so does 1 - y of 1"
        for k in (2, 4)
    },
    "piste.losses.distributions": {
        "PoissonNLLLoss.derivatives: y > 1 -> y >= 1": "n is 1 either way",
        "PoissonNLLLoss.derivatives: 1 -> 0 (number 2)": UNUSED,
        "PoissonNLLLoss.derivatives: 1 -> 0 (number 3)": UNUSED,
        "PoissonNLLLoss.derivatives: 1 -> 2 (number 3)": UNUSED,
        **{f"GaussianNLLLoss.formula: x - y -> {other}": EVEN for other in ("y - x", "-(x - y)")},
    },
    "piste.losses.margins": {
        "HingeEmbeddingLoss.derivatives: 0 * y + 1 -> 1": DTYPE,
        **{f"HingeEmbeddingLoss.derivatives: 0 * y -> {other}": DTYPE for other in ("0 / y", "0", "-(0 * y)")},
        "SoftMarginLoss.formula: z > 0 -> z >= 0": BORDER,
    },
    "piste.losses.class_loss": {
        f"ClassLoss.rows: {PROMOTED} -> torch.promote_types(x.dtype, y.dtype)": "integers promote nothing",
        f"ClassLoss.rows: {MOVED} -> None": AT_ONCE,
        "ClassLoss.rows: not has_indices -> has_indices (number 2)": AT_ONCE,
        "ClassLoss.check_values: 0 -> 1": UNUSED,
        "ClassLoss.prepared: 0 -> 1": UNUSED,
        "ClassLoss.prepared: 0 -> 1 (number 2)": UNUSED,
    },
    "piste.losses.class_checks": {
        "check_probabilities: (sums - 1).abs() > slack -> (sums - 1).abs() >= slack": "no such sum",
        **{f"check_probabilities: sums - 1 -> {other}": EVEN for other in ("1 - sums", "-(sums - 1)")},
    },
    "piste.losses.rowwise": {
        "RowwiseLoss.prepared: x if x is None or kind in ('index', 'labels') else x.to(working) -> x": (
            "the checks run in float64, which is its own working dtype"
        ),
        "RowwiseLoss.prepared: 0 -> 1": ALIKE,
    },
    "piste.losses.classification": {
        f"CrossEntropyLoss.soft_formula: y if label_smoothing == 0 else {SMOOTHED} -> {SMOOTHED}": "by 0 it is y",
        "CrossEntropyLoss.soft_formula: x -> y (number 2)": ALIKE,
        "CrossEntropyLoss.soft_formula: 0 -> 1 (number 4)": MASKED,
        "CrossEntropyLoss.soft_formula: 0 -> 1 (number 6)": MASKED,
        "CrossEntropyLoss.formula: 0 -> 1 (number 3)": "without z_loss 0 z^2 is added",
        "CrossEntropyLoss.formula: pick(x, k) - pick(p, k) -> pick(p, k) - pick(x, k)": EVEN,
        "CrossEntropyLoss.formula: pick(x, k) - pick(p, k) -> -(pick(x, k) - pick(p, k))": EVEN,
        f"CrossEntropyLoss.soft_formula: total({SUMMAND}) -> -total({SUMMAND})": EVEN,
        f"CrossEntropyLoss.soft_formula: {SUMMAND} -> -({SUMMAND})": EVEN,
        "CrossEntropyLoss.soft_formula: exp(z) -> -exp(z)": EVEN,
        f"CrossEntropyLoss.soft_formula: {GUARDED} -> -{GUARDED}": EVEN,
        "CrossEntropyLoss.soft_formula: x - z -> z - x": EVEN,
        "CrossEntropyLoss.soft_formula: x - z -> -(x - z)": EVEN,
    },
    "piste.losses.multilabel": {
        "MultiLabelMarginLoss.formula: x -> k (number 2)": ALIKE,
        "MultiLabelSoftMarginLoss.formula: 0 -> 1 (number 3)": MASKED,
        "MultiLabelSoftMarginLoss.formula: 0 -> 1 (number 6)": MASKED,
        "MultiLabelSoftMarginLoss.formula: x -> y (number 10)": ALIKE,
    },
    "piste.losses.embeddings": {
        **{f"TripletMarginLoss.formula: {d} + eps -> -({d} + eps)": EVEN for d in ("a - b", "a - c", "b - c")},
        "TripletLoss.rows: 0 -> 1": ALIKE,
        "distance: a -> b": ALIKE,
        "distance: a -> b (number 3)": ALIKE,
    },
    "piste.formula.operations": {"_listed_against_others: 0 -> 1 (number 3)": UNUSED},
    "piste.losses.reduction": {
        "Reduction.of: 1 -> 2": "the sum that it divides is 0",
        "Reduction.of: total * math.nan -> total / math.nan": "NaN either way",
        "Reduction.of: total * math.nan -> -(total * math.nan)": "NaN either way",
    },
}
"""By module: changes that change nothing, and why."""
