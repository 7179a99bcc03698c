"""Many points in one compiled program."""
