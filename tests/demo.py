"""`make demo`: the protein campaign from nothing to an answer."""

import shutil
import sys
import time
from pathlib import Path

import staffa

WORKFLOW = Path(__file__).parents[1] / "workflows" / "protein"
QUESTION = """
select organism, count(*) as trials,
       round(avg("cai.mean") filter (temperature = 0.001), 4) as "CAI, frozen",
       round(avg("cai.mean") filter (temperature = 0.1), 4) as "at 0.1",
       round(avg("cai.mean") filter (temperature = 1.0), 4) as "at 1.0",
       round(avg("entropy.mean") filter (temperature = 1.0), 3) as "entropy at 1.0"
from trials group by organism order by 5 desc
"""


def main() -> int:
    began = time.time()
    sealed: list[tuple[str, int]] = []
    settled = [0]

    def watch(event) -> None:
        if event["event"] == "figures":
            settled[0] = event["settled"]
        if event["event"] == "part_sealed":
            sealed.append((event["part"], settled[0]))

    campaign = staffa.load(WORKFLOW / "campaign.yaml")
    shutil.rmtree(campaign.root, ignore_errors=True)
    run = staffa.run(campaign, listeners=[watch], allow_dirty=True)
    trials = sum(run.ended.outcomes.values())
    early = sum(1 for _, count in sealed if count < trials)
    print(
        f"\n{trials} trials in {time.time() - began:.0f} s; "
        f"{early} of {len(sealed)} parts sealed while trials still ran"
    )
    print("How well can the gene suit each organism, from frozen to warm?\n")
    print(run.query(QUESTION).to_string(index=False))
    print(f"\nresults   {run.root}/archive   (Parquet; hot Zarr beside it in {run.root}/hot)")
    print(f'ask more  staffa query {run.root} "select * from draws limit 5"')
    return run.ended.exit_code


if __name__ == "__main__":
    sys.exit(main())
