"""Scale and shift of a model's logit, fitted on rows it was not trained on (Platt scaling)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from model.head import TargetAwareHead

F64 = npt.NDArray[np.float64]
_STEPS = 50


def scale_and_shift(logit_M: F64, label_M: npt.NDArray[np.float32]) -> tuple[float, float]:
    """The (a, b) for which a * logit + b has the least cross-entropy, held to (1, 0) by the weight of about one row.

    Minimises sum of BCE(a z + b) + ((a - 1)^2 + b^2) / 2 by Newton's method with halved steps; that is convex: there is one answer. a is at
    least .1, so that no order is turned around.
    """
    design = np.stack([logit_M, np.ones(len(logit_M))], axis=1)
    prior = np.array([1.0, 0.0])

    def loss(at: F64) -> float:
        z = design @ at
        return float((np.logaddexp(0, z) - label_M * z).sum() + np.square(at - prior).sum() / 2)

    found = prior.copy()
    for _ in range(_STEPS):
        probability = np.exp(-np.logaddexp(0, -(design @ found)))
        gradient = design.T @ (probability - label_M) + found - prior
        curvature = (design * (probability * (1 - probability))[:, None]).T @ design + np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        while np.abs(step).max() > 1e-9 and loss(found - step) > loss(found):
            step = step / 2
        found = found - step
        if np.abs(step).max() < 1e-9:
            break
    return max(float(found[0]), 0.1), float(found[1])


def rescale(head: TargetAwareHead, scale: float, shift: float) -> None:
    """Fold logit -> scale * logit + shift into the head's last layer."""
    head.last.weight.data.mul_(scale)
    head.last.bias.data.mul_(scale).add_(shift)
