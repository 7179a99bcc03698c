"""Models with continuous choices that are not concave: bounds by monotone rounding, or a table."""
