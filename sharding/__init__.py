"""One call over many points and many devices."""
