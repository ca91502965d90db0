"""Getting it done: the graphs, the workers' side of them, and the loop that drives them. Dask lives here."""
