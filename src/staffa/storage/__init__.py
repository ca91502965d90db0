"""Where everything stays: workspace, ledger, hot store, archive, provenance."""
