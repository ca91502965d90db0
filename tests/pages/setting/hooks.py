"""The hooks of the page that tells of them."""


def prepare(event):
    """Before the run."""


def tidy(event):
    """After it."""


def started(trial):
    """For each trial that was handed out."""


def settled(trial):
    """For each trial that came back."""
