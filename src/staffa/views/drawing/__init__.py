"""How figures look, and the few kinds there are: the only home of matplotlib."""
