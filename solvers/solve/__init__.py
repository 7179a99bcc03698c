"""One parameter point: from the factory to a solution, its statistics and its gradients."""
