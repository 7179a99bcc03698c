"""``python -m dpsolve`` is the command ``dpsolve``."""

from dpsolve.hpc.cli.main import main

if __name__ == "__main__":
    main()
