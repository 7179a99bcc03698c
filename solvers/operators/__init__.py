"""Bellman operators of models, and of one policy.

Read ``base.py`` first, the interface; then ``bellman.py``, with ``model_functions.py``,
``expectation.py``, ``interpolation.py`` and ``maximum.py``, of which it is made.
``methods/choose_operator.py`` says which operator and which shortcut a model gets.
"""
