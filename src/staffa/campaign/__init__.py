"""What is wanted, as pure values: the declaration, the parameter space, the plan."""
