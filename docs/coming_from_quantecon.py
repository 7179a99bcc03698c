"""Growth on thirty points of capital by QuantEcon.py, for docs/coming-from.md."""

import numpy as np
import quantecon as qe

k = np.linspace(0.05, 0.5, 30)
c = k[:, None] ** 0.3 - k[None, :]
R = np.where(c > 0, np.log(np.maximum(c, 1e-300)), -np.inf)
Q = np.broadcast_to(np.eye(30), (30, 30, 30))
v = qe.markov.DiscreteDP(R, Q, 0.95).solve(method="policy_iteration").v
print(f"{v[0]:.6f} {v[-1]:.6f}")
