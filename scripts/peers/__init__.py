"""Other solvers beside ours, each installed from its package: ``scripts/bench peers``.

A peer is imported inside the function that runs it, so that a machine without it still runs the
others. ``timing.py`` compares, ``machine.py`` measures what the machine can do at best,
``work.py`` counts what was done, ``report.py`` writes the table.
"""
