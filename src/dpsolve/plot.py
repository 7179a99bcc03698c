"""``dp.plot``: pictures of results, as figures of Matplotlib.

A sweep's store is drawn by ``dpsolve plot``. What is drawn here is what Python alone returns.
"""

from .hpc.plot_convergence import convergence as convergence

__all__ = ["convergence"]
