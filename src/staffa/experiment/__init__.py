"""How one trial is done: the protocol a scientist writes to, and the engine's compiled loop. JAX lives here."""
