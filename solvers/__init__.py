"""The mathematics: models, grids, Bellman operators, solution methods, certified bounds."""
