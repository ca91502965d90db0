"""Encodings that come with the package, each offered by an entry point as anybody's is."""
