"""What a user writes: models, grids, factories.

Read ``model.py`` first, then ``grids.py``; ``factory_signature.py`` is how a model gets its
parameters. Shocks and Markov chains are in ``dpsolve.solvers.probability``.
"""
