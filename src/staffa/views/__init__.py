"""Looking, read-only: results, progress, explanations."""
