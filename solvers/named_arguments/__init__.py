"""What an argument of a model's function can stand for, beside a state, a choice or a shock."""
