"""Pictures of results: ``dpsolve plot`` and ``dp.plot``."""
