import errno
import fcntl
import json
import math
import os
import subprocess
import sys

import pytest

from rlrazor.runtime import workdir
from rlrazor.runtime.workdir import ResultsFile, json_lines, open_workdir, write_whole

CONFIG = {"batch_size": 64, "arms": ("sft1", "grpo"), "sweep": {"seeds": 5, "low": 3e-6}}


@pytest.fixture(autouse=True)
def no_git(monkeypatch):
    """`git describe` costs more than all the rest; one test below asks for it."""
    monkeypatch.setattr(
        workdir, "describe_run", lambda config: {"config": config, "commit": "", "command": ""}
    )


def snapshot(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


@pytest.fixture
def used(tmp_path):
    """A workdir in which something was recorded."""
    with open_workdir(tmp_path / "run", CONFIG) as folder:
        ResultsFile(folder / "results.jsonl").append([{"step": 1}])
    return folder


def refuses(folder, match, config=CONFIG, **options):
    before = snapshot(folder)
    with pytest.raises(ValueError, match=match), open_workdir(folder, config, **options):
        pytest.fail("must not open")
    assert snapshot(folder) == before


def test_a_new_folder_is_made_with_its_parents_and_its_record(tmp_path):
    with open_workdir(tmp_path / "a" / "b", CONFIG) as folder:
        assert folder == tmp_path / "a" / "b"
        record = json.loads((folder / "run.json").read_text())
    assert record["config"] == {**CONFIG, "arms": ["sft1", "grpo"]}


def test_the_record_says_how_to_run_it_again(monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(sys, "argv", ["/somewhere/razor.py", "--config.batch_size=64"])
    record = workdir.describe_run({"batch_size": 64})
    assert record["config"] == {"batch_size": 64}
    assert record["command"] == "razor.py --config.batch_size=64"
    assert record["python"] == ".".join(map(str, sys.version_info[:3]))
    assert set(record["packages"]) == set(workdir.PACKAGES)
    assert record["commit"]
    monkeypatch.setenv("PATH", "")
    assert workdir.describe_run({})["commit"] == "unknown (not a git checkout)"


def test_the_same_config_reopens_and_leaves_the_record_alone(used):
    before = snapshot(used)
    with open_workdir(used, CONFIG):
        pass
    assert snapshot(used) == before


def test_another_config_is_refused_and_named_field_by_field(used):
    for change, message in [
        ({"batch_size": 32}, "batch_size was 64, now 32"),
        ({"sweep": {"seeds": 4, "low": 3e-6}}, "sweep.seeds was 5, now 4"),
        ({"arms": ("sft1",)}, r"arms was \['sft1', 'grpo'\], now \['sft1'\]"),
        ({"new_field": 1}, "new_field was None, now 1"),
        ({"a": 1, "b": 1, "c": 1, "d": 1}, r"c was None, now 1 \.\.\."),
    ]:
        refuses(used, f"made with another config: .*{message}", {**CONFIG, **change})
    refuses(used, "sweep.low was 3e-06, now None", {**CONFIG, "sweep": {"seeds": 5}})


def test_fields_that_do_not_touch_the_results_may_differ(used):
    with open_workdir(used, {**CONFIG, "mesh": {"data": 2}}, ignore=("mesh",)):
        pass
    refuses(used, "mesh was None, now {'data': 2}", {**CONFIG, "mesh": {"data": 2}})
    refuses(used, "batch_size", {**CONFIG, "mesh": 1, "batch_size": 1}, ignore=("mesh",))


def test_a_first_command_that_failed_does_not_claim_the_folder(tmp_path):
    with (
        pytest.raises(ValueError, match="batch_size too large"),
        open_workdir(tmp_path, {**CONFIG, "batch_size": 10**9}),
    ):
        raise ValueError("batch_size too large")
    with open_workdir(tmp_path, CONFIG) as folder:
        assert json.loads((folder / "run.json").read_text())["config"]["batch_size"] == 64


def test_a_folder_of_empty_files_is_claimed_by_none(tmp_path):
    """A study that failed when it began has made its files and written nothing."""
    with open_workdir(tmp_path / "new", CONFIG) as folder:
        (folder / "results.jsonl").touch()
        (folder / "checkpoints").mkdir()
    other = {**CONFIG, "batch_size": 32}
    with open_workdir(folder, other):
        pass
    (folder / "checkpoints" / "1").mkdir()
    refuses(folder, "batch_size was 32, now 64")


def test_a_start_that_was_killed_does_not_claim_the_folder(tmp_path):
    (tmp_path / ".lock").touch()
    (tmp_path / "run.json.partial").write_text('{"config": {"batc')
    with open_workdir(tmp_path, CONFIG) as folder:
        assert json.loads((folder / "run.json").read_text())["config"]["batch_size"] == 64


@pytest.mark.parametrize("name", ["thesis.tex", "results.jsonl", "checkpoints"])
def test_a_foreign_folder_is_refused_untouched(tmp_path, name):
    (tmp_path / name).write_text("years of work")
    refuses(tmp_path, f"holds files that are not a run of ours .{name}.; choose an empty")
    (tmp_path / ".lock").write_text("somebody else's")
    refuses(tmp_path, "not a run of ours")


@pytest.mark.parametrize(
    "text", ['{"config": {"batch', "", "[]", "3", '{"commit": "x"}', '{"config": 5}', "\xff\xfe"]
)
def test_a_record_that_cannot_be_read_is_refused_untouched(used, text):
    (used / "run.json").write_bytes(text.encode("latin-1"))
    refuses(used, "run.json is not a run record")


def test_a_path_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with (
            pytest.raises(ValueError, match=r"file.*cannot be written \(.+\); choose a folder"),
            open_workdir(path, CONFIG),
        ):
            pytest.fail("must not open")


def test_a_second_process_is_refused_until_the_first_ends(used):
    program = (
        "import sys; from rlrazor.runtime.workdir import open_workdir\n"
        f"with open_workdir({str(used)!r}, {CONFIG!r}): print('open', flush=True); input()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout.readline() == "open\n"
        refuses(used, "is in use by another process; wait for it")
    finally:
        holder.kill()  # the lock goes with the process, however it ends
        holder.communicate()
    with open_workdir(used, CONFIG):
        pass


def test_the_lock_is_released_when_the_body_fails(used):
    def fail():
        with (used / ".lock").open("a") as lock, pytest.raises(OSError, match="unavailable"):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        raise KeyError

    with pytest.raises(KeyError), open_workdir(used, CONFIG):
        fail()
    with open_workdir(used, CONFIG):
        pass


def test_results_are_appended_cut_and_read(tmp_path):
    results = ResultsFile(tmp_path / "results.jsonl")
    assert results.read() == []
    lines = [{"run": "a", "step": step, "value": 0.1 * step, "none": None} for step in range(4)]
    lengths = [results.append(lines[:1]), results.append(lines[1:3]), results.append(lines[3:])]
    assert lengths[-1] == (tmp_path / "results.jsonl").stat().st_size
    assert results.read() == lines
    results.cut(lengths[1])
    assert results.read() == lines[:3]
    assert ResultsFile(tmp_path / "results.jsonl").append(lines[3:]) == lengths[-1]
    assert results.read() == lines
    results.cut(0)
    assert results.read() == []


def test_a_line_cut_off_in_the_middle_goes_with_the_cut(tmp_path):
    results = ResultsFile(tmp_path / "results.jsonl")
    length = results.append([{"step": 1}])
    with (tmp_path / "results.jsonl").open("a") as file:
        file.write('{"step": 2, "va')
    results.cut(length)
    assert results.read() == [{"step": 1}]


def test_results_shorter_than_the_checkpoint_remembers_are_refused(tmp_path):
    results = ResultsFile(tmp_path / "results.jsonl")
    length = results.append([{"step": 1}])
    with pytest.raises(ValueError, match=f"has {length} bytes but .* remembers {length + 1}"):
        results.cut(length + 1)
    assert results.read() == [{"step": 1}]


def no_space(fd):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_leaves_whole_lines_behind(tmp_path, monkeypatch):
    results = ResultsFile(tmp_path / "results.jsonl")
    length = results.append([{"step": 1}])
    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match="No space left"):
        results.append([{"step": 2}])
    results.cut(length)
    assert results.read() == [{"step": 1}]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_json_lacks_are_refused_before_anything_is_written(tmp_path, value):
    results = ResultsFile(tmp_path / "results.jsonl")
    with pytest.raises(ValueError, match="not JSON compliant"):
        results.append([{"step": 1}, {"step": value}])
    assert results.read() == []


def test_floats_survive_json_to_the_bit():
    values = [0.1, 1 / 3, 1e-300, 5e-324, -0.0, 1.7976931348623157e308]
    (line,) = map(json.loads, json_lines([{"values": values}]).splitlines())
    assert [v.hex() for v in line["values"]] == [v.hex() for v in values]


def test_write_whole_replaces_or_leaves_the_old(tmp_path, monkeypatch):
    path = tmp_path / "file.json"
    write_whole(path, "old")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", no_space)
        with pytest.raises(OSError, match="No space left"):
            write_whole(path, "new")
    assert path.read_text() == "old"
    write_whole(path, "new")
    assert path.read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["file.json"]


def test_a_bucket_is_refused_and_no_folder_of_its_name_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"'gs://mine/run' must be a folder of the file system"):
        open_workdir("gs://mine/run", CONFIG).__enter__()
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_is_not_the_writer_leaves_everything_alone(tmp_path, monkeypatch):
    (tmp_path / "thesis.tex").touch()  # for which the writer refuses the folder
    monkeypatch.setattr(workdir, "is_writer", lambda: False)
    with open_workdir(tmp_path, CONFIG) as folder:
        results = ResultsFile(folder / "results.jsonl")
        assert results.append([{"step": 1}]) == 0
        results.cut(17)
        assert results.read() == []
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]
