"""What processes that tests start do with signals."""

import signal


def interruptible() -> None:
    """For `preexec_fn`: what a shell starts in the background ignores Ctrl-C, and so would its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
