"""What a sweep file says, and every mistake in it."""
