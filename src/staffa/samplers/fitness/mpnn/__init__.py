"""ProteinMPNN in JAX (Dauparas et al., Science 378:49, 2022), with the weights its authors published.

`weights` reads them, `features` and `network` are the model, `score` is the fitness function.
"""
