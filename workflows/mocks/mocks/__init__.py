"""Mock catalogues of galaxies: halos, their growth, subhalos, stars and emission lines, in JAX."""
