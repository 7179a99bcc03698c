"""``dp.plot``: pictures of results with Matplotlib.

``value``, ``policy``, ``distribution``, ``variable``, ``parameters`` and ``timeline`` draw one
panel on axes, and return these (``.figure`` saves it); ``convergence`` returns a figure. The same
is drawn by ``dpsolve plot``.
"""

from .hpc.pictures.convergence import convergence as convergence
from .hpc.pictures.on_axes import distribution as distribution
from .hpc.pictures.on_axes import parameters as parameters
from .hpc.pictures.on_axes import policy as policy
from .hpc.pictures.on_axes import timeline as timeline
from .hpc.pictures.on_axes import value as value
from .hpc.pictures.on_axes import variable as variable

__all__ = [
    "convergence",
    "distribution",
    "parameters",
    "policy",
    "timeline",
    "value",
    "variable",
]
