"""What a compiled program is keyed by: all that its factory reads.

Read ``fingerprint.py`` first; the others tell it what code reads, what is installed, and what
arrays hold.
"""
