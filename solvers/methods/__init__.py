"""Solution methods and the bounds that certify them."""
