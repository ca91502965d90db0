"""The protein workflow at full strength: its proteins, its four campaigns, and a small run of each."""

import shutil
from pathlib import Path

import numpy as np
import pytest

import staffa
from staffa.errors import PluginError
from staffa.samplers.fitness.alphabets import PROTEIN, translated
from staffa.samplers.fitness.codons import spelling
from staffa.samplers.fitness.mpnn.score import Mpnn
from staffa.samplers.fitness.padded import bucket_of
from staffa.samplers.fitness.sequences import sequence_of

WORKFLOW = Path(__file__).parents[2] / "workflows" / "protein"

MASSES = {
    "G": 57.0519, "A": 71.0788, "S": 87.0782, "P": 97.1167, "V": 99.1326, "T": 101.1051, "C": 103.1388,
    "L": 113.1594, "I": 113.1594, "N": 114.1038, "D": 115.0886, "Q": 128.1307, "K": 128.1741, "E": 129.1155,
    "M": 131.1926, "H": 137.1411, "F": 147.1766, "R": 156.1875, "Y": 163.1760, "W": 186.2132,
}  # fmt: skip

PROTEINS = {
    # accession: (length, mass in dalton as UniProt gives it (of ubiquitin: ExPASy's), first and last residues)
    "P42212": (238, 26886, "MSKGEELFTG", "GITHGMDELYK"),
    "P0CG48": (76, 8565, "MQIFVKTLTG", "LHLVLRLRGG"),
    "P01308": (110, 11981, "MALWMRLLPL", "LYQLENYCN"),
    "P00698": (147, 16239, "MRSLLILVLC", "VQAWIRGCRL"),
}


def ran(name, tmp_path, workers, *overrides):
    """A smoke run: the run, and the receipts of its batches in the order they were settled.

    Without `workers` in a process of its own, which counts what it compiles.
    """
    events = []
    own = [f"storage.root={tmp_path}", "execution.workers=1", "cluster.dashboard=false"]
    run = staffa.run(
        staffa.load(WORKFLOW / f"{name}.yaml", profile=f"{name}-smoke", set=[*own, *overrides]),
        client=workers, progress=False, allow_dirty=True, listeners=[lambda event: events.append(dict(event))],
    )  # fmt: skip
    assert run.ended.exit_code == 0
    return run, [event for event in events if event["event"] == "batch_settled"]


# --- the proteins ----------------------------------------------------------------------------------


@pytest.mark.parametrize("accession", PROTEINS)
def test_proteins_are_those_of_their_accessions(accession):
    length, mass, first, last = PROTEINS[accession]
    residues = sequence_of("sequence", str(WORKFLOW / f"{accession}.fasta"))
    assert len(residues) == length
    assert residues.startswith(first) and residues.endswith(last)
    assert abs(18.0153 + sum(MASSES[residue] for residue in residues) - mass) < 1
    assert set(residues) <= set(PROTEIN)


def test_what_is_known_of_them_by_place():
    read = {name: sequence_of("sequence", str(WORKFLOW / f"{name}.fasta")) for name in PROTEINS}
    assert [n for n, residue in enumerate(read["P0CG48"], 1) if residue == "K"] == [6, 11, 27, 29, 33, 48, 63]
    lysozyme = read["P00698"][18:]  # without its signal peptide: 129 residues, catalytic Glu35 and Asp52
    assert (len(lysozyme), lysozyme[34], lysozyme[51]) == (129, "E", "D")
    cysteines = [n for n, residue in enumerate(lysozyme, 1) if residue == "C"]
    assert cysteines == [6, 30, 64, 76, 80, 94, 115, 127]  # 6-127, 30-115, 64-80, 76-94
    insulin = read["P01308"]  # signal 1-24, B chain 25-54, C peptide 57-87, A chain 90-110
    assert (insulin[24:54], insulin[89:]) == ("FVNQHLCGSHLVEALYLVCGERGFFYTPKT", "GIVEQCCTSICSLYQLENYCN")
    assert read["P42212"][64:67] == "SYG"


# --- the campaigns ---------------------------------------------------------------------------------

PLANNED = {"evolution": (240, 2 * 3 * 5), "tempering": (72, 2 * 3 * 3), "gibbs": (72, 2 * 3), "design": (24, 3 * 2)}


@pytest.mark.parametrize("name", PLANNED)
def test_a_program_for_each_bucket_organism_and_schedule(name):
    """Four proteins, two buckets: 200 residues for three of them, 400 for the fourth."""
    plan = staffa.plan(WORKFLOW / f"{name}.yaml").plan
    assert (plan.trials, plan.programs) == PLANNED[name]
    assert {group.static["organism"] for group in plan.groups} == {"e_coli", "s_cerevisiae", "h_sapiens"}
    if name != "design":
        sites = {group.experiment["target"]["bucket"] for group in plan.groups}
        assert sites == {bucket_of(length) for length, *_ in PROTEINS.values()} == {200, 400}
        assert all(group.traced["protein"] == "int" for group in plan.groups)


@pytest.mark.parametrize("name", PLANNED)
def test_profiles_are_campaigns_of_their_own(name):
    for kind in ("smoke", "production"):
        loaded = staffa.load(WORKFLOW / f"{name}.yaml", profile=f"{name}-{kind}")
        assert loaded.root.name == f"v1.0_protein-{name}-{kind}"


def test_an_unknown_residue_is_refused_at_plan_with_its_place(tmp_path):
    shutil.copytree(WORKFLOW, tmp_path / "protein")
    (tmp_path / "protein" / "P01308.fasta").write_text(">own\nMALBMRLL\n")
    with pytest.raises(PluginError, match=r"sequence: 'B'|sequence: B"):
        staffa.plan(tmp_path / "protein" / "gibbs.yaml")


# --- a small run of each ---------------------------------------------------------------------------


def test_three_proteins_of_a_bucket_are_compiled_once(tmp_path, monkeypatch):
    """evolution: each batch has one protein, and only the first batch of a schedule to begin compiles anything."""
    monkeypatch.setenv("STAFFA_CACHE", str(tmp_path / "cache"))
    run, receipts = ran("evolution", tmp_path, None, "execution.batch=2")
    compiles = {}
    for receipt in receipts:
        compiles.setdefault(receipt["batch"].partition("/")[0], []).append(receipt["compiles"])
    assert [np.count_nonzero(found) for found in compiles.values()] == [1, 1]
    assert {len(found) for found in compiles.values()} == {3}

    rows = run.query(
        'select protein, "experiment.schedule.use" as schedule, count(*) as n, min("mean_fitness.sites") as least, '
        'max("mean_fitness.sites") as most, max(beta) as beta, bool_and(ess between 0.99 and 16.01) as ess '
        "from draws group by 1, 2 order by 1, 2"
    )
    assert rows["protein"].tolist() == [1, 1, 2, 2, 3, 3]
    assert rows["schedule"].tolist() == ["adaptive", "linear"] * 3
    assert rows["n"].tolist() == [20] * 6
    for sites in (rows["least"], rows["most"]):  # weighted means, of numbers that are all the same
        assert sites.round().tolist() == [228, 228, 330, 330, 441, 441]
    assert rows["beta"].tolist()[1::2] == [1.0] * 3 and rows["ess"].all()
    assert 0 < min(rows["beta"]) <= max(rows["beta"]) <= 1


def test_parallel_tempering_runs(tmp_path, workers):
    run, receipts = ran("tempering", tmp_path, workers)
    assert {word: count for receipt in receipts for word, count in receipt["outcomes"].items()} == {"ok": 6}
    rows = run.query('select protein, chain, draw, fitness, "fitness.cai" as cai, "fitness.nk" as nk, '
                     '"fitness.stops" as stops, beta from draws')  # fmt: skip
    assert len(rows) == 3 * 2 * 2 * 20
    residues = rows["protein"].map({1: 76, 2: 110, 3: 147})
    expected = residues * (rows["cai"] + rows["nk"]) - 10 * rows["stops"]
    np.testing.assert_allclose(rows["fitness"], expected, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(rows["beta"][0], [0.1, 0.4, 0.7, 1.0], rtol=1e-6)


def test_gibbs_runs_and_leaves_no_stop_codons(tmp_path, workers):
    run, _ = ran("gibbs", tmp_path, workers)
    rows = run.query('select protein, sequence, "fitness.stops" as stops, "fitness.sites" as sites from draws '
                     "where draw = 4")  # fmt: skip
    assert len(rows) == 3 * 2 * 2
    # exp(-10) a stop: less than one in 10,000 of 1,332 codons
    assert rows["stops"].sum() == 0
    for row in rows.itertuples():
        gene = "".join("ACGT"[state] for state in row.sequence[: row.sites])
        assert len(row.sequence) == 600 and "*" not in translated(gene)


def test_genes_are_designed_for_a_backbone(tmp_path, monkeypatch):
    monkeypatch.setenv("STAFFA_CACHE", str(tmp_path / "cache"))
    run, receipts = ran("design", tmp_path, None, "execution.batch=1")
    # ProteinMPNN is compiled with the sampler, once for the bucket of its backbone.
    assert [receipt["compiles"] > 0 for receipt in receipts] == [True, False]
    rows = run.query(
        'select mutation_rate, draw, mean_fitness, max_fitness, "mean_fitness.fold" as fold, ess, '
        '"mean_fitness.cai" as cai, "mean_fitness.fold_recovery" as recovery, "mean_fitness.stops" as stops, '
        "ancestors, best_sequence, site_entropy from draws order by 1, 2"
    )
    assert len(rows) == 2 * 4 and sum(receipt["outcomes"]["ok"] for receipt in receipts) == 2
    expected = 217 * (rows["fold"] + rows["cai"]) - 10 * rows["stops"]
    np.testing.assert_allclose(rows["mean_fitness"], expected, rtol=1e-4)
    # they begin with the native sequence in the most frequent codons of E. coli
    native = Mpnn("tmtools/data/2gtl.cif", "M", sequence="native")
    best, letters = spelling("e_coli"), "".join(native.alphabet[state] for state in native.start)
    gene = np.array(["ACGT".index(letter) for letter in "".join(best[residue] for residue in letters)])
    assert all(np.mean(np.asarray(found) != gene) < 0.05 for found in rows["best_sequence"])
    assert rows["recovery"].min() > 0.9 and rows["cai"].min() > 0.8
    assert all(set(found) <= set(range(4)) for found in rows["ancestors"])
    # all four begin alike and drift apart: at most ln 4 a site, were they ever all different
    assert rows["site_entropy"].between(0, 0.2).all() and rows["site_entropy"].max() > 0
