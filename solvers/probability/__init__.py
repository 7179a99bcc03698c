"""What is random in a model: distributions of shocks, Markov chains, and their probabilities."""
