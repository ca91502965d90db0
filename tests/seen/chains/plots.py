"""What the campaign adds to its report."""

from matplotlib.figure import Figure


def spread(results, bins: int = 20):
    """A figure with a caption."""
    values = results.trials.to_pandas(["energy.mean"])["energy.mean"].dropna()
    figure = Figure(figsize=(5, 3))
    figure.subplots().hist(values, bins=bins)
    return figure, f"Mean energy of {len(values)} trials in {bins} bins"


class Averages:
    """A table, made by a class with options."""

    def __init__(self, of: str = "energy"):
        self.of = of

    def __call__(self, results):
        return results.query(f'select temperature, avg("{self.of}.mean") as mean from trials group by 1 order by 1')


def broken(results):
    """One that cannot be made."""
    return results.trials.to_pandas(["enrgy"])
