"""What a user writes: models, grids, Markov chains, factories.

Read ``model.py`` first, then ``grids.py`` and ``markov.py``; ``factory_signature.py`` is how a
model gets its parameters.
"""
