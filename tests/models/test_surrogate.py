import numpy as np
import pytest

from molflowctl.models.surrogate import predict, train


@pytest.fixture(scope="module")
def noisy():
    """y = 3 sin(2 x) + 10 with noise of 0.1 on the left and 0.6 on the right."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (3000, 1)).astype(np.float32)
    y = 3 * np.sin(2 * x[:, 0]) + 10 + rng.normal(size=3000) * np.where(x[:, 0] < 0, 0.1, 0.6)
    return train(x, y, width=32, epochs=30, lr=5e-3, members=3, dropout=0.0)


def test_mean_and_noise_are_learned(noisy):
    x = np.linspace(-0.9, 0.9, 91, dtype=np.float32)[:, None]
    mean, deviation = predict(noisy, x)
    assert np.abs(mean - 3 * np.sin(2 * x[:, 0]) - 10).mean() < 0.15
    quiet, loud = (deviation[side].mean() for side in (x[:, 0] < -0.3, x[:, 0] > 0.3))
    assert loud == pytest.approx(0.6, rel=0.15)
    assert quiet == pytest.approx(0.1, rel=0.5)  # that the mean is not exact counts as well


def test_members_disagree_where_nothing_was_seen(noisy):
    near, far = (predict(noisy, np.array([[x]], np.float32))[1][0] for x in (-0.5, -6.0))
    assert far > 3 * near


def test_a_row_has_one_prediction_whatever_the_batch(noisy):
    x = np.linspace(-2, 2, 33, dtype=np.float32)[:, None]
    together = predict(noisy, x)
    alone = [predict(noisy, row[None]) for row in x]
    for part in (0, 1):
        assert together[part] == pytest.approx(np.concatenate([p[part] for p in alone]), rel=1e-12)


def test_scale_of_the_target_is_a_scale():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(400, 2)).astype(np.float32)
    y = x[:, 0] - x[:, 1]
    mean, deviation = predict(train(x, y, width=16, epochs=3, seed=4), x)
    for factor, shift in ((1e-3, 0.0), (1e4, -7e5)):
        other = predict(train(x, factor * y + shift, width=16, epochs=3, seed=4), x)
        assert (other[0] - shift) / factor == pytest.approx(mean, abs=2e-2)
        assert other[1] / factor == pytest.approx(deviation, rel=2e-2)


def test_same_seed_same_weights():
    x = np.random.default_rng(1).normal(size=(200, 2)).astype(np.float32)
    one, same, other = (train(x, x[:, 0], width=8, epochs=2, seed=s) for s in (3, 3, 5))
    for name in one:
        assert np.array_equal(one[name], same[name])
    assert not np.array_equal(one["weight0"], other["weight0"])
