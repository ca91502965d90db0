"""What to try next: spaces, objectives, fronts, strategies, and studies that ask and tell."""
