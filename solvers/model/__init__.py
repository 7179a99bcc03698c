"""What a user writes: models, grids, Markov chains, factories."""
