"""Fitness functions of sequences, offered in the family `fitness`: `target: {use: NAME, …}`.

| name | is |
|---|---|
| `cai` | codon adaptation index of a gene in an organism |
| `nk` | Kauffman's NK landscape |
| `mpnn` | ProteinMPNN: how likely a sequence is, given a backbone |
| `weighted` | a weighted sum of others, each read in the alphabet it understands |

A fitness of your own is a subclass of `staffa.samplers.target.Discrete`. It may offer, too:

- `fitness_one_hot(p, params)`: a scalar for p of (length, states), each row a distribution; equal to
  `fitness` where p is one-hot, and differentiable. Missing where there is none. A row may sum
  to less than 1 where `unknown` is true.
- `unknown = True`: it also takes the state number `states`, for a letter outside of its alphabet (a stop
  codon, say). Without it, such a letter is refused when the sum is made.
- `start`: int32 (length,), where sampling may begin; None for anywhere.

**The slot `esm`.** Protein language models (ESM-2, ESM-C) make good fitness functions, but their weights
may not be shipped with this package. Whoever has them offers a class under the name `esm`: `length` residues,
`states = 20`, `alphabet` in the order of the model's own tokens, and as `fitness` the mean over residues of
ln p(residue | the others), higher is better. With the entry point `staffa.fitness: esm = mine:Esm` (or
`staffa.Registry().register("fitness", "esm", Esm)`) it takes part wherever a fitness does:

    target:
      use: weighted
      cai: {use: cai, organism: e_coli, length: 714}
      esm: {use: esm, length: 238}

Sums translate its genes for it, and it gets a recorded column `fitness.esm`.
"""
