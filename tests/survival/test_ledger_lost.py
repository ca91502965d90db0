"""The ledger damaged or gone: what is committed stays, what is missing is found from the stores."""

import shutil

from survival.accidents import assert_same, assert_whole, hot_files, status, stores


def committed(root):
    """Files of committed batches with bytes and times."""
    found = {}
    for store in stores(root):
        for name, batch in status(root):
            if name == store.name:
                for chunk in store.glob(f"*/c.{batch}*"):
                    whole = chunk.name == f"c.{batch}" or chunk.name.startswith(f"c.{batch}.")
                    is_data = chunk.parent.name in ("x", "energy", "status", "checksum", "seconds")
                    if whole and is_data and chunk.suffix != ".partial":
                        found[chunk] = (chunk.read_bytes(), chunk.stat().st_mtime_ns)
    return found


def test_journal_cut_summary_gone_ledger_gone(lab, undisturbed):
    driver = lab.start("run", lab.campaign("Gated"))
    for number, damage in enumerate((cut_the_last_line, delete_the_summary, delete_the_ledger)):
        name = f"commit-{number}"
        if number:
            lab.trap(name, "worker", r"/status/c\.\d+$", skip=3)
            driver = lab.start("resume", lab.root)
        else:
            driver.end()
            lab.trap(name, "worker", r"/status/c\.\d+$", skip=3)
            driver = lab.start("run", lab.workflow / "campaign.yaml")
        lab.caught(name)
        lab.until(lambda number=number: len(lab.settled()) >= 1, "a receipt")
        driver.kill()
        driver.end()
        damage(lab)
        before = committed(lab.root)
        assert len(before) >= 3 * (number + 1)
        if number == 2:
            lab.complete()
        for path, (data, time) in before.items():
            assert path.read_bytes() == data and path.stat().st_mtime_ns == time, path
    assert hot_files(lab.root)
    assert_whole(lab.root, 64)
    assert_same(lab.root, undisturbed("Gated"))


def cut_the_last_line(lab):
    journal = next((lab.root / "ledger").glob("events-*.jsonl"))
    data = journal.read_bytes()
    journal.write_bytes(data[: data.rstrip(b"\n").rfind(b"\n") + 20])


def delete_the_summary(lab):
    (lab.root / "ledger" / "summary.json").unlink()


def delete_the_ledger(lab):
    shutil.rmtree(lab.root / "ledger")
