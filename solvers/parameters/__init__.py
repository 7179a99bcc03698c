"""Parameters that are arrays: what a signature says of them, and what they are given."""
