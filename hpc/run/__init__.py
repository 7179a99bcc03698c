"""A sweep from beginning to end, in this process."""
