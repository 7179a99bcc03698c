"""Where next states lie on a grid."""

import jax.numpy as jnp
import numpy as np

import dpsolve as dp


def test_a_next_state_at_a_grid_point_has_one_segment_however_often_it_is_computed():
    # 1.2 m - c is a grid point at many pairs, but for rounding. XLA may compute it anew for its
    # segment and for its weight, and one segment with the other's weight is a whole step off.
    def spent(share):
        return jnp.where(share == 1.0, 2.0, 0.0 + share * (2.0 - 0.0))

    def left(m, share):
        return 1.2 * m - spent(share)

    model = dp.Model(
        states={"m": dp.grid(1.0, 2.0, 30)},
        choices={"share": dp.grid(0.0, 1.0, 401)},
        transition={"m": left},
        feasible=lambda m, share: (
            jnp.asarray(True) & ~((left(m, share) < 1.0 - 1e-12) | (left(m, share) > 2.0 + 1e-12))
        ),
        reward=spent,
        discount=0.9,
    )
    found = [dp.solve(model, method=method) for method in ("pi", "vi")]
    assert [s.status for s in found] == ["solved", "solved"]
    np.testing.assert_allclose(found[0].value, found[1].value, atol=2e-6)
