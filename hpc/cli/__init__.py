"""The command line.

Read ``main.py`` first; each other module holds the commands of one kind.
"""
