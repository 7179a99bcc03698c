"""What a sweep file says, and every mistake in it.

Read ``reader.py`` first: it calls the others. ``fields.py`` says what may stand in a file.
"""
