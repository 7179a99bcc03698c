"""Distributions under a policy: stationary, over time, and their moments.

Read ``stationary.py`` (what a user calls), ``stationary_search.py`` (the rounds), then its methods
and ``certificate.py``; ``path.py``, ``initial.py`` and ``moments.py`` are apart.
"""
