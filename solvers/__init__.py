"""The mathematics: models, Bellman operators, solution methods, bounds, distributions."""
