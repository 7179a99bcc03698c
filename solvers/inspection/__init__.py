"""What can be told of a model before it is solved: faults, sizes, memory."""
