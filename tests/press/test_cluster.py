"""Runs spread over a Ray cluster of two machines (pretended: two nodes on this one), one of which may be lost."""

import json
import signal
import threading

import psutil
import pytest

from book import chapters, cluster, execute, files, jobs, records, remote
from book.errors import PressError
from fedlib import _ray

ray = pytest.importorskip("ray")

# Each seed, and the seeds together, are computed under a name of their own; who computes what is written down.
WORK = """
import os, pathlib, time
here = pathlib.Path({root!r})
def noted(name, value):
    with (here / "calls").open("a") as calls:
        calls.write(name + " ")
    return value
def slow(s):
    noted(f"{slug}{{s}}", s)
    if s == {held}:
        (here / "{slug}.pid").write_text(str(os.getpid()))
    while s == {held} and (here / "hold").exists():
        time.sleep(0.01)
    return s
assert run.each("slow", lambda some: [slow(s) for s in some], at_once=1) == {{s: s for s in run.seeds}}
everyone = run.once("all", lambda: noted("{slug}all", list(run.seeds)))
if everyone != run.seeds:
    raise ValueError(everyone)
"""


@pytest.fixture(scope="module")
def connected():
    """Two nodes of one core; this process is connected."""
    from ray.cluster_utils import Cluster

    small = {"object_store_memory": 80 * 2**20, "include_dashboard": False}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (_ray._SETTINGS | {"OMP_NUM_THREADS": "1"}).items():
            patch.setenv(name, value)
        patch.delenv("RAY_ADDRESS", raising=False)
        made = _ray.patient(
            lambda: Cluster(initialize_head=True, head_node_args={"num_cpus": 1, **small}), ray.shutdown
        )
        made.join = lambda: _ray.patient(lambda: made.add_node(num_cpus=1, **small), lambda: None)
        made.others = [made.join()]
        ray.init(address=made.address, log_to_driver=False, logging_level="ERROR")
        yield made
        ray.shutdown()
        made.shutdown()


@pytest.fixture
def machines(connected):
    """The cluster with both its nodes, whatever the test before did to it."""
    if not connected.others:
        connected.others.append(connected.join())
    return connected


@pytest.fixture
def add(tree):
    """Add a chapter that writes down what it computes; it stops at the seed `held` while the file `hold` is there."""

    def add(slug, held=-1):
        return tree.add(slug, work=WORK.format(root=str(tree.root), slug=slug, held=held))

    return add


def calls(tree):
    return sorted((tree.root / "calls").read_text().split())


def kernel(tree, slug):
    path = tree.root / f"{slug}.pid"
    return int(path.read_text() or 0) if path.exists() else 0


def gone(pid):
    return pid and (not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)


def scores(slug, stem="quick"):
    record = records.read(slug, stem)
    assert record["status"] == "ok"
    return record["evidence"]["metrics"]["score/ours"]


def test_chapters_and_settings_are_tasks_each(tree, machines, state):
    tree.add("one")
    call = ("run", "--on", "ray", "-p", "rate=1", "-p", "rate=2.0", "-p", "seeds=2", "-p", "rate=2")
    status, output = tree.press(*call)
    assert status == 0, output
    for rate in (1.0, 2.0):
        (job,) = jobs.plan(["one"], "quick", [f"rate={rate}", "seeds=2"])
        assert scores("one", job.stem) == {"0": rate, "1": rate + 0.01}
        assert state("one", overrides={"rate": rate, "seeds": 2}) == "fresh"
        assert f"one  {job.stem}  ok" in output
    tree.pretend("one")
    tree.add("two")
    tree.pretend("two")
    assert "2 fresh" in tree.press(*call[:3])[1]
    assert "2 fresh" in tree.press(*call[:1], "one", *call[1:])[1]
    assert not list((tree.root / "_build").glob("cluster-*"))


def test_parts_share_the_seeds_out(tree, machines, add):
    """One of them ends early, for want of a seed that the chapter has; that costs what it had left to do, no more."""
    source = add("demo")
    tree.edit(source, "everyone = run.once", "dict.fromkeys(run.seeds)[seed]\neveryone = run.once")
    status, output = tree.press("run", "demo", "--on", "ray", "--parts", "2")
    assert status == 0, output
    assert "demo  quick-1of2  ok" in output
    assert "demo  quick-2of2  partly" in output
    assert "ended early (KeyError: 0); the chapter computes the rest" in output
    assert "1 ok in" in output
    assert calls(tree) == ["demo0", "demo1", "demo2", "demoall", "demoall"], "each seed once"
    assert scores("demo") == {"0": 0.5, "1": 0.51, "2": 0.52}
    left = {path.name for path in chapters.executed_path("demo", "quick").parent.iterdir()}
    assert left == {"quick.ipynb", "quick.json"}
    assert not execute.resume_folder("demo", "quick").exists()
    status, output = tree.press("run", "demo", "--on", "ray", "--parts", "2")
    assert (status, len(calls(tree))) == (0, 5), "it is fresh"


def test_a_chapter_that_fails_is_not_tried_again(tree, machines, add, state):
    source = add("bad")
    add("good")
    tree.edit(source, "everyone = run.once", "1 / 0\neveryone = run.once")
    status, output = tree.press("run", "--on", "ray")
    assert status == 1
    assert "ZeroDivisionError: division by zero" in output
    assert state("good") == "fresh"
    assert state("bad") == "failed"
    assert calls(tree).count("bad0") == 1


def test_machines_that_do_not_share_the_tree_get_a_copy(tree, machines, add, monkeypatch, state):
    """The sign by which a machine knows the tree is taken away; `here` in the chapter is only where calls are noted."""

    class Apart(cluster._Cluster):
        def __init__(self, ray):
            super().__init__(ray)
            self.sign.unlink()

    monkeypatch.setattr(cluster, "_Cluster", Apart)
    add("demo")
    tree.edit(
        chapters.chapter_path("demo"), "everyone =", "where = os.environ['FEDBOOK_ROOT']\nprint(where)\neveryone ="
    )
    status, output = tree.press("run", "demo", "--on", "ray", "--parts", "2")
    assert status == 0, output
    assert calls(tree) == ["demo0", "demo1", "demo2", *["demoall"] * 3]
    assert scores("demo") == {"0": 0.5, "1": 0.51, "2": 0.52}
    assert state("demo") == "fresh"
    text = chapters.executed_path("demo", "quick").read_text()
    assert "fedbook-" in text
    assert str(tree.root) not in json.loads(text)["cells"][-1]["source"]
    tree.edit(chapters.chapter_path("demo"), "print(where)", "1 / 0")
    assert tree.press("run", "demo", "--on", "ray")[0] == 1
    assert "1 / 0" in chapters.executed_path("demo", "quick").with_suffix(".traceback.txt").read_text()
    tree.edit(chapters.chapter_path("demo"), "1 / 0", "print(where)")
    assert state("demo") == "fresh", "the last good run was not forgotten"


def test_an_interrupted_press_ends_its_tasks(tree, machines, add, until, monkeypatch, state):
    """The press as a process of its own, which finds the cluster by its address."""
    monkeypatch.setenv("RAY_ADDRESS", machines.address)
    add("demo", held=1)
    (tree.root / "hold").touch()
    press = tree.start("run", "demo", "--on", "ray")
    try:
        until(lambda: kernel(tree, "demo"), "the kernel is at work")
        press.send_signal(signal.SIGINT)
        output, _ = press.communicate(timeout=60)
    finally:
        press.kill()
    assert press.returncode == 130, output
    assert "the same call goes on from here" in output
    assert "Traceback" not in output
    until(lambda: gone(kernel(tree, "demo")), "the kernel has ended")
    assert calls(tree) == ["demo0", "demo1"]
    assert state("demo") == "never"
    assert len(found(tree)) == 1, "seed 0 is there for the next call"


def test_a_machine_that_is_lost_loses_nothing(tree, machines, add, until, state):
    """Both nodes are at work when one of them dies; its chapter goes on elsewhere from what had been kept."""
    add("one", held=1)
    add("two", held=1)
    (tree.root / "hold").touch()
    lost = []

    def kill():
        try:
            until(lambda: kernel(tree, "one") and kernel(tree, "two"), "both are at work")
            machines.remove_node(machines.others.pop(), allow_graceful=False)
            until(lambda: gone(kernel(tree, "one")) or gone(kernel(tree, "two")), "a kernel has died with its machine")
            lost.append("one" if gone(kernel(tree, "one")) else "two")
        finally:
            (tree.root / "hold").unlink()  # or the press would never end

    killer = threading.Thread(target=kill)
    killer.start()
    status, output = tree.press("run", "--on", "ray")
    killer.join()
    assert status == 0, output
    for slug in ("one", "two"):
        assert scores(slug) == {"0": 0.5, "1": 0.51, "2": 0.52}
        assert state(slug) == "fresh"
        assert len(list(chapters.executed_path(slug, "quick").parent.iterdir())) == 2, "a notebook and a record"
    again = [c for c in set(calls(tree)) if calls(tree).count(c) > 1]
    assert again == [f"{lost[0]}1"], "only what was in the making is computed again"


# --- without a cluster ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--on", "moon"], "only 'ray' is known"),
        (["--parts", "2"], "add --on ray"),
        (["--on", "ray", "--jobs", "2"], "--jobs is for this machine"),
    ],
)
def test_options_that_do_not_go_together(tree, arguments, message):
    tree.add("demo")
    status, output = tree.press("run", "demo", *arguments)
    assert status == 2
    assert message in output


def test_a_cluster_that_does_not_answer(tree, monkeypatch):
    tree.add("demo")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    status, output = tree.press("run", "demo", "--on", "ray")
    assert status == 2
    assert "no Ray cluster answers at RAY_ADDRESS=127.0.0.1:1" in output
    assert "Traceback" not in output


class Pretended:
    """A Ray of which only the machines are asked."""

    def __init__(self, *machines):
        self.machines = machines

    def nodes(self):
        return [{"Alive": True, "Resources": m} for m in self.machines] + [{"Alive": False, "Resources": {"GPU": 8}}]

    def put(self, thing):
        return thing


@pytest.mark.parametrize(
    ("profile", "gpu", "machines", "expected"),
    [
        ("quick", False, [{"CPU": 16}], (1, 0)),
        ("real", False, [{"CPU": 16}], (1, 0)),
        ("full", False, [{"CPU": 4}, {"CPU": 16}], (16, 0)),
        ("full", True, [{"CPU": 64}, {"CPU": 32, "GPU": 4}], (8, 1)),
        ("full", True, [{"CPU": 1, "GPU": 4}], (1, 1)),
    ],
)
def test_a_task_says_what_it_needs(tree, monkeypatch, profile, gpu, machines, expected):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    job = jobs.Job("demo", profile, {}, 1.0, gpu)
    assert cluster._Cluster(Pretended(*machines)).needs(job) == expected


def test_a_need_that_no_machine_meets_is_an_error_before_anything_runs(tree):
    with pytest.raises(PressError, match="a CPU and a GPU to give"):
        cluster._Cluster(Pretended({"CPU": 8}, {"GPU": 1})).needs(jobs.Job("demo", "full", {}, 1.0, gpu=True))


def test_a_copy_is_enough_and_leaves_nothing(tree, tmp_path, monkeypatch):
    """The errand itself, without Ray: its machine has the packages and nothing else."""
    tree.add("demo")
    monkeypatch.setenv("MPLBACKEND", "nothing")
    monkeypatch.setattr(remote.tempfile, "tempdir", str(tmp_path))
    made = cluster._Cluster(Pretended({"CPU": 1}))
    (job,) = jobs.plan(["demo"], "smoke", [])
    name = "_build/executed/demo/smoke.json"
    errand = remote.Errand(job.order, "/nowhere", "/nowhere", "sign", [name, "missing"], jobs.UNWANTED)
    answer = remote.run(errand, made.common, cluster._own(job))
    made.stop()
    assert answer.status == 0, answer.output
    assert list(answer.files) == [name]
    assert json.loads(answer.files[name])["evidence"]["metrics"]["score/ours"] == {"0": 0.5}
    assert not list(tmp_path.glob("fedbook-*"))


def pretended_parts(tree, count, kept, **changes):
    """A chapter of which parts are done, and these."""
    tree.add("demo")
    (whole,) = jobs.plan(["demo"], "quick", [])
    parts = whole.split(count)
    record = tree.pretend("demo")
    for part, results in zip(parts, kept, strict=True):
        records.write("demo", part.stem, record | {"kept": results} | changes)
    return whole, parts


def found(tree):
    folder = execute.resume_folder("demo", "quick")
    return {path.name: path.read_text() for path in folder.rglob("*.json")}


def test_a_part_without_a_seed_is_done_at_once(tree, add):
    add("demo")
    record = tree.run("demo", overrides={"seeds": 1}, part=(2, 2))
    assert (record["status"], record["kept"], record["evidence"]) == ("ok", {}, None)
    assert not (tree.root / "calls").exists()


@pytest.mark.parametrize("force", [False, True])
def test_merged_results_stay_and_older_ones_go_when_a_run_is_forced(tree, add, force):
    whole, parts = pretended_parts(tree, 1, [{"0.json": "new"}])
    older = execute.resume_folder("demo", "quick") / "older" / "1.json"
    files.write(older, "old")
    whole.force = force
    cluster._merge(whole, parts)
    assert older.exists() != force
    assert "0.json" in found(tree)
    assert json.loads(whole.order) | {"force": force, "merged": True} == json.loads(whole.order)


def test_a_forced_run_takes_up_what_was_merged_for_it(tree, add):
    add("demo")
    tree.monkeypatch.setattr(execute, "_execute", lambda *_: (None, {"type": "E", "message": "", "traceback": ""}))
    tree.monkeypatch.setattr(execute, "_store", lambda *_: None)
    kept = execute.resume_folder("demo", "quick") / "0.json"
    for merged in (True, False):
        files.write(kept, "1")
        tree.run("demo", force=True, merged=merged)
        assert kept.exists() == merged


def test_what_parts_have_of_single_seeds_is_merged(tree):
    whole, parts = pretended_parts(tree, 2, [{"0.json": "a"}, {"1.json": "c"}])
    cluster._merge(whole, parts)
    assert found(tree) == {"0.json": "a", "1.json": "c"}


def test_a_part_keeps_what_belongs_to_single_seeds(tree, add):
    add("demo")
    kept = tree.run("demo", part=(1, 2))["kept"]
    assert sorted(json.loads(text)["key"] for text in kept.values()) == ["slow/0", "slow/2"]


def test_parts_of_other_code_are_not_merged(tree):
    whole, parts = pretended_parts(tree, 2, [{"0.json": "a"}, {"1.json": "c"}])
    tree.edit("fedlib/toy.py", "0.01", "0.02")
    cluster._merge(whole, parts)
    assert found(tree) == {}


def test_the_record_says_what_all_parts_took_and_where_they_ran(tree):
    tree.add("demo")
    own = tree.pretend("demo", device="x86", versions={"python": "3.11", "torch": "2"}, executors={"one": 2})
    part = own | {"seconds": 10.0, "peak_memory_mb": 9999.0}
    part["evidence"] = own["evidence"] | {
        "device": "H100",
        "precision": "float32, tf32",
        "versions": {"python": "3.12"},
        "executors": {"two": 1, "one": 3},
    }
    idle = own | {"evidence": None, "seconds": 1.0}
    credit = cluster._credit(own, [part, idle])
    assert credit["seconds"] == pytest.approx(own["seconds"] + 11, abs=0.01)
    assert credit["peak_memory_mb"] == 9999.0
    assert credit["evidence"]["device"] == "x86 + H100"
    assert credit["evidence"]["precision"] == "float32, tf32"
    assert credit["evidence"]["versions"] == {"python": "3.11 + 3.12", "torch": "2"}
    assert credit["evidence"]["executors"] == {"one": 5, "two": 1}
    assert own["evidence"]["device"] == "x86"
