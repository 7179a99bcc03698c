"""One parameter point: from the factory to a solution, its statistics and its gradients.

Read ``point.py`` first: the program that JAX compiles; ``one_device.py`` calls it, ``gradients.py``
wraps it, ``statistics.py`` adds to it.
"""
