"""L-BFGS of many functions in lockstep: their gradients come together, all else is each one's own.

Minus the direction is `H g` with the inverse Hessian in compact form (Byrd, Nocedal, Schnabel,
Math. Programming 63, 129 (1994), equation 3.1):

    H = c I + [S  c Y] [ R^-T (D + c Y'Y) R^-1   -R^-T ] [S' ; c Y']
                       [ -R^-1                     0   ]

with steps S, changes of the gradient Y, R the upper triangle of S'Y, D its diagonal, c = s'y/y'y of
the last pair. As products of matrices, it runs over the batch without a loop. Only gradients are
needed: a step is judged by the slope at its end.
"""

import numpy as np
from numpy.typing import NDArray

__all__ = ["BatchedLBFGS"]

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

_OVERSHOOT = 0.9  # a step is accepted unless the slope along it turned up by more than this share
_LEAST_CURVATURE = 1e-10  # of a pair that is worth remembering


class BatchedLBFGS:
    """Minimise n functions of d variables each, from `observe` to `observe` at `trial`.

    Attributes:
        x: positions accepted last, (n, d).
        gradient: there, (n, d); NaN until the first `observe`.
        trial: where the next gradient is wanted, (n, d).
        failed: the very first gradient is not finite, (n,).

    Args:
        x: where to start, (n, d).
        free: which variables may change, (n, d).
        group: variables of one atom, whose displacement is limited together.
        longest_step: of any atom in one step.
        curvature: second derivative to assume before there is a pair.
        memory: pairs kept; when there are so many, the older half is dropped.
    """

    def __init__(
        self,
        x: Array,
        free: Mask,
        *,
        longest_step: float,
        curvature: float,
        group: int = 3,
        memory: int = 60,
    ) -> None:
        n, d = x.shape
        self.x, self.trial = x, x
        self.free = free
        self.gradient = np.full((n, d), np.nan)
        self.failed = np.zeros(n, dtype=bool)
        self._group, self._longest_step, self._memory = group, longest_step, memory
        self._steepest = 1 / curvature
        self._direction = np.zeros((n, d))
        self._scale = np.ones(n)
        self._c = np.full(n, self._steepest)
        self._pairs = 0
        self._s, self._y = np.zeros((n, memory, d)), np.zeros((n, memory, d))
        self._r_inverse, self._yy = np.zeros((n, memory, memory)), np.zeros((n, memory, memory))
        self._sy = np.zeros((n, memory))

    def observe(self, gradient: Array) -> None:
        """Take the gradient at `trial`: accept the step or shorten it, and set the next trial."""
        gradient = np.where(self.free, gradient, 0.0)
        first = np.isnan(self.gradient).any(1)
        finite = np.isfinite(gradient).all(1)
        self.failed |= first & ~finite
        slope = (self.gradient * self._direction).sum(1)
        new_slope = (gradient * self._direction).sum(1)
        accept = finite & (first | (new_slope <= _OVERSHOOT * np.abs(slope)))
        # Back to the zero of the slope, by the secant and within limits.
        secant = np.full(len(slope), 0.1)
        np.divide(slope, slope - new_slope, out=secant, where=~accept & finite)
        self._scale = np.where(accept, 1.0, self._scale * np.clip(secant, 0.1, 0.5))
        moved = (accept & ~first)[:, None]
        self._remember(
            np.where(moved, self.trial - self.x, 0.0),
            np.where(moved, gradient - self.gradient, 0.0),
        )
        self.x = np.where(accept[:, None], self.trial, self.x)
        self.gradient = np.where(accept[:, None], gradient, self.gradient)
        self._direction = np.where(accept[:, None], self._newton_step(), self._direction)
        self.trial = self.x + self._scale[:, None] * self._direction

    def keep(self, rows: Mask) -> None:
        """Go on with some of the functions only."""
        for name, value in vars(self).items():
            if isinstance(value, np.ndarray):
                setattr(self, name, value[rows])

    def _remember(self, s: Array, y: Array) -> None:
        sy = (s * y).sum(1)
        good = sy > _LEAST_CURVATURE
        if not good.any():
            return
        if self._pairs == self._memory:
            half = self._memory // 2
            for values in (self._s, self._y, self._sy):
                values[:, :-half] = values[:, half:].copy()
            for values in (self._r_inverse, self._yy):
                values[:, :-half, :-half] = values[:, half:, half:].copy()
            self._pairs -= half
        # A function without a good pair gets zeros, which change nothing.
        s, y = np.where(good[:, None], s, 0.0), np.where(good[:, None], y, 0.0)
        old, new = slice(self._pairs), self._pairs
        pivot = np.where(good, sy, 1.0)
        above = self._r_inverse[:, old, old] @ (self._s[:, old] @ y[..., None])
        self._r_inverse[:, new, : new + 1] = 0.0
        self._r_inverse[:, old, new] = -above[..., 0] / pivot[:, None]
        self._r_inverse[:, new, new] = 1 / pivot
        self._s[:, new], self._y[:, new] = s, y
        self._sy[:, new] = np.where(good, sy, 0.0)
        self._pairs += 1
        products = (self._y[:, : self._pairs] @ y[..., None])[..., 0]
        self._yy[:, new, : self._pairs] = self._yy[:, : self._pairs, new] = products
        np.divide(sy, (y * y).sum(1), out=self._c, where=good)

    def _newton_step(self) -> Array:
        """Downhill, and no atom too far. (n, d)"""
        kept = slice(self._pairs)
        g, c = self.gradient[..., None], self._c[:, None, None]
        s, y, r_inverse = self._s[:, kept], self._y[:, kept], self._r_inverse[:, kept, kept]
        w = r_inverse @ (s @ g)
        u = self._sy[:, kept, None] * w + c * (self._yy[:, kept, kept] @ w - y @ g)
        u = r_inverse.transpose(0, 2, 1) @ u
        step = c * g + s.transpose(0, 2, 1) @ u - c * (y.transpose(0, 2, 1) @ w)
        downhill = (step * g).sum(1) > 0
        step = np.where(downhill, step[..., 0], self._steepest * self.gradient)
        atoms = step.reshape(len(step), -1, self._group)
        longest = np.sqrt((atoms * atoms).sum(2)).max(1)
        limit = self._longest_step / np.maximum(longest, self._longest_step)
        return -step * limit[:, None]
