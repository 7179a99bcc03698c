"""The mathematics: models, Bellman operators, solution methods, bounds, distributions.

Read ``model/model.py`` (what a user writes), ``operators/base.py`` (what a method needs of it),
``methods/discounted.py`` (the loop) and ``methods/bounds.py`` (its certificate), then
``solve/point.py``, which joins them.
"""
