"""One parameter point, from the factory to a solution."""
