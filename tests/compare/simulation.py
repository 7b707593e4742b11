"""Simulated comparisons with known truth: the rate of wrong verdicts, and the power.

`python -m tests.compare.simulation` prints the tables of docs/compare.md.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy import stats

from piste.compare.analysis.differences import compare_with_best
from piste.compare.analysis.evidence import Evidence
from piste.compare.results import LEVEL

KINDS = (
    "normal", "accuracy", "seeds alone", "seeds change nothing", "heavy tails", "correlated", "one noisy",
    "one far worse", "own splits", "own splits, accuracy",
)  # fmt: skip
CANDIDATES, SEEDS, EXAMPLES = (2, 3, 7, 12), (3, 5, 10), (30, 300, 10_000)


@dataclass(frozen=True)
class Scenario:
    """Comparisons whose candidates are equal, other than one that is far worse where the kind says so."""

    kind: str
    candidates: int
    seeds: int
    examples: int

    def __str__(self) -> str:
        return f"{self.kind}-{self.candidates}-{self.seeds}-{self.examples}"

    def draw(self, rng: np.random.Generator, gap: float = 0.0) -> np.ndarray:
        """Scores (candidates, seeds, examples) of one comparison; the last candidate is worse by `gap`.

        A score is the sum of effects of the seed, of the candidate with this seed, of the example, of the candidate on
        this example, and of all three.
        """
        return self.draw_with_examples(rng, gap)[0]

    def draw_with_examples(self, rng: np.random.Generator, gap: float = 0.0) -> tuple[np.ndarray, np.ndarray | None]:
        """Scores, and the numbers (seeds, examples) of their examples where every seed draws a quarter of a pool."""
        if self.kind.startswith("own splits"):
            return self._draw_splits(rng, gap)
        k, j, n = self.candidates, self.seeds, self.examples
        normal = rng.standard_normal
        noise: Callable[..., np.ndarray] = normal
        if self.kind == "heavy tails":

            def noise(size):
                return rng.standard_t(3, size) / 3**0.5

        over_seeds, over_examples = noise((k, j, 1)), noise((k, 1, n))
        residual = rng.standard_normal((k, j, n), np.float32)
        shared_seeds, shared_examples = normal((1, j, 1)), 2 * normal((1, 1, n))
        if self.kind == "correlated":  # neighbours are nearly the same optimizer, and a seed matters to all
            over_seeds[1::2] = 0.95 * over_seeds[: k - k % 2 : 2] + 0.3 * over_seeds[1::2]
            shared_seeds = 5 * shared_seeds
        if self.kind == "one noisy":
            over_seeds[-1] *= 15
        if self.kind == "seeds change nothing":
            over_seeds, residual = 0.0, residual[:, :1]
        if self.kind == "seeds alone":
            over_examples, shared_examples, residual = 0.0, 0.0, np.zeros((k, j, n), np.float32)
        scale = 1 / np.sqrt(n)  # as much variation over seeds as over examples
        scores = scale * (over_seeds + shared_seeds) + over_examples + shared_examples + residual
        if self.kind == "seeds change nothing":
            scores = np.repeat(scores[:, :1], j, axis=1)
        scores[-1] -= (gap if self.kind != "one far worse" else 50.0) * scale
        return (scores > -2.5).astype(np.float32) if self.kind == "accuracy" else scores, None

    def _draw_splits(self, rng: np.random.Generator, gap: float) -> tuple[np.ndarray, np.ndarray]:
        k, j, n = self.candidates, self.seeds, self.examples
        pool = 4 * n
        picked = np.stack([rng.permutation(pool)[:n] for _ in range(j)])
        over_examples = (rng.standard_normal((k, pool)) + 2 * rng.standard_normal(pool))[:, picked]
        scale = 1 / np.sqrt(n)
        over_seeds = scale * (rng.standard_normal((k, j, 1)) + rng.standard_normal((1, j, 1)))
        scores = over_examples + over_seeds + rng.standard_normal((k, j, n), np.float32)
        scores[-1] -= gap * scale
        return (scores > -2.5).astype(np.float32) if self.kind.endswith("accuracy") else scores, picked

    @property
    def equals(self) -> int:
        return self.candidates - (self.kind == "one far worse")


def scenarios() -> Iterator[Scenario]:
    for kind, candidates, seeds, examples in itertools.product(KINDS, CANDIDATES, SEEDS, EXAMPLES):
        yield Scenario(kind, candidates, seeds, examples)


def shown_worse(scores: np.ndarray, examples: np.ndarray | None = None) -> set[int]:
    """The candidates that Piste's verdict calls worse than the best."""
    names = [str(i) for i in range(len(scores))]
    evidence = Evidence(
        dict(zip(names, scores.mean(2, dtype=float), strict=True)), dict(zip(names, scores, strict=True)), examples,
        count=scores.shape[2],
    )  # fmt: skip
    _, differences = compare_with_best(evidence, True, 0.0)
    return {int(d.name) for d in differences if d.outcome == "worse"}


def shown_worse_over_seeds(scores: np.ndarray, examples: np.ndarray | None = None) -> set[int]:
    """The test that was used before: paired t-tests over seeds, Bonferroni, doubled, and Friedman's test in front."""
    values = scores.mean(2)
    best = int(values.mean(1).argmax())
    overall = stats.friedmanchisquare(*values).pvalue if len(values) > 2 and values.shape[1] > 1 else 0.0
    found = set()
    for other in set(range(len(values))) - {best}:
        difference = values[best] - values[other]
        p = stats.ttest_1samp(difference, 0.0).pvalue if difference.std() > 0 else float(not difference.any())
        if max(overall, 2 * (len(values) - 1) * p) < LEVEL:
            found.add(other)
    return found


def wrong_verdicts(scenario: Scenario, comparisons: int, seed: int = 0, test: Callable = shown_worse) -> int:
    """The number of comparisons that tell equal candidates apart."""
    rng = np.random.default_rng([seed, *map(ord, str(scenario))])
    return sum(bool(test(*scenario.draw_with_examples(rng)) & set(range(scenario.equals))) for _ in range(comparisons))


def power(scenario: Scenario, gap: float, comparisons: int, test: Callable = shown_worse) -> float:
    """The share of comparisons that show the last candidate, `gap` standard deviations behind, to be worse."""
    rng = np.random.default_rng([1, *map(ord, str(scenario))])
    last = scenario.candidates - 1
    return sum(last in test(*scenario.draw_with_examples(rng, gap)) for _ in range(comparisons)) / comparisons


def main(comparisons: int = 400) -> None:
    print("| wrong verdicts, % (largest over candidates and examples) | 3 seeds | 5 seeds | 10 seeds | before |")
    print("|---|---:|---:|---:|---:|")
    for kind in KINDS:
        cells, before = [], 0.0
        for seeds in SEEDS:
            rates = []
            for candidates, examples in itertools.product(CANDIDATES, EXAMPLES[:2]):
                scenario = Scenario(kind, candidates, seeds, examples)
                rates.append(100 * wrong_verdicts(scenario, comparisons) / comparisons)
                old = wrong_verdicts(scenario, comparisons // 2, test=shown_worse_over_seeds)
                before = max(before, 200 * old / comparisons)
            large = 100 * wrong_verdicts(Scenario(kind, 7, seeds, EXAMPLES[2]), comparisons // 4) / (comparisons // 4)
            cells.append(f"{np.mean(rates):.1f} ({max(*rates, large):.1f})")
        print(f"| {kind} | " + " | ".join(cells) + f" | {before:.0f} |", flush=True)
    print("\n| shown worse, % (seeds alone) | candidates | seeds | Piste | before |")
    print("|---|---:|---:|---:|---:|")
    for gap, candidates, seeds in itertools.product((2, 4), CANDIDATES, SEEDS):
        scenario = Scenario("seeds alone", candidates, seeds, 30)
        now, before = (100 * power(scenario, gap, comparisons, t) for t in (shown_worse, shown_worse_over_seeds))
        print(f"| {gap} standard deviations | {candidates} | {seeds} | {now:.0f} | {before:.0f} |", flush=True)


if __name__ == "__main__":
    main()
