"""Models with a continuous choice: a policy between grid points, and bounds on the true value."""
