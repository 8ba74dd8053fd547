"""The command line as a user meets it: what it answers, with which code, and what it leaves on the disk."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny
from tiny import TINY, valex, words

from valex import __version__, cli, cli_study, store, tables
from valex.arguments import RunOptions, StudyCommand, TrainCommand, UsageError, normalize_arguments, parse
from valex.config import PRESETS, run_id
from valex.fields import CHOICES, RANGES, TYPES, flatten
from valex.settings import RunConfig


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Every command runs in an empty folder of its own."""
    monkeypatch.chdir(tmp_path)


def refused(*arguments: str) -> str:
    """Return the one line with which a command is refused as a usage error, nothing printed, nothing written."""
    said = valex(*arguments)
    assert (said.code, said.out) == (2, ""), said
    assert not list(Path().iterdir())
    (line,) = said.err.splitlines()
    return line


def in_a_process(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout


@cache
def help_text(preset: str) -> str:
    """What `valex train PRESET --help` prints, without boxes and line breaks."""
    columns, os.environ["COLUMNS"] = os.environ.get("COLUMNS"), "80"
    try:
        said = valex("train", preset, "--help")
    finally:
        os.environ.pop("COLUMNS") if columns is None else os.environ.update(COLUMNS=columns)
    assert said.code == 0 and said.err == ""
    return re.sub(r"[\s│|─╭╮╰╯]", "", said.out)


FIELDS = [
    (preset, name, default)
    for preset in tables.AGENTS
    for name, default in flatten(PRESETS[preset])
    if preset == "sac" or name.startswith("agent.")
]


def preset_with(name: str) -> str:
    """The first preset that has a field."""
    return next(preset for preset, field, _ in FIELDS if field == name)


@pytest.mark.parametrize(("preset", "name", "default"), FIELDS)
def test_help_explains_every_field(preset, name, default):
    text = help_text(preset)
    (begin,) = (found.start() for found in re.finditer(rf"--{name}(?=[A-Z{{\[])", text))
    own = text[begin : text.find("(default:", begin) + 60]
    assert re.sub(r"\s", "", tiny.documentation(preset)[name]) in own, own
    shown = "".join(map(str, default)) if isinstance(default, tuple) else str(default)
    assert f"(default:{shown}" in own


def test_help_explains_every_option():
    for option in ("seeds", *RunOptions.__dataclass_fields__):
        assert f"--{option}" in help_text("sac")
    said = valex("study", "horizon", "--help")
    assert said.code == 0 and all(f"--{field}" in said.out for field in ("preset", "out", "dry_run"))
    assert valex("report", "--help").code == 0


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ((), 2),
        (("--help",), 0),
        (("-h",), 0),
        (("train",), 2),
        (("train", "--help"), 0),
        (("study",), 2),
        (("study", "-h"), 0),
    ],
)
def test_overviews(arguments, code):
    said = valex(*arguments)
    assert said.code == code and said.err == ""
    wanted = tables.STUDIES if arguments[:1] == ("study",) else PRESETS
    assert all(name in said.out for name in wanted)


def test_version():
    said = valex("--version")
    assert said == (0, f"{__version__}\n", "")


@pytest.mark.parametrize(
    "arguments", [["--help"], ["list", "envs"], ["train", "sac", "--help"], ["train", "--help"], ["dataset", "--help"]]
)
def test_help_and_lists_do_not_import_jax(arguments):
    """They answer in under half a second because of this."""
    loaded = in_a_process(
        f"import sys; from valex.cli import main; code = main({arguments}); print('LOADED', code, *sys.modules)"
    ).splitlines()[-1].split()  # fmt: skip
    assert loaded[:2] == ["LOADED", "0"]
    assert not {"jax", "numpy", "flax", "brax", "matplotlib", "rich.progress"} & set(loaded)


@pytest.mark.parametrize("name", cli.TABLES)
def test_lists(name):
    said = valex("list", name)
    assert said.code == 0 and [line.split()[0] for line in said.out.splitlines()] == list(cli.TABLES[name])
    assert json.loads(valex("list", name, "--json").out).keys() == cli.TABLES[name].keys()
    assert all(entry.summary in said.out for entry in cli.TABLES[name].values())


@pytest.mark.parametrize("arguments", [("list",), ("list", "envz"), ("list", "envs", "rules")])
def test_an_unknown_list_is_refused(arguments):
    assert "agents, envs, models, rules, studies" in refused(*arguments)


# ---- fields ---------------------------------------------------------------------------------------------------------


def spell(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


@pytest.mark.parametrize("name", RANGES)
def test_a_number_outside_its_range_is_one_line(name):
    low, high, low_in, _ = RANGES[name]
    value = -1 if low == 0 else low - 1 if low_in else low
    if name == "agent.target_entropy_per_dim":
        value = "inf"
    line = refused("train", preset_with(name), f"{name}={value}")
    assert line.startswith(f"valex: {name}: ") and f"{low}, {high}" in line


@pytest.mark.parametrize("name", CHOICES)
def test_an_unknown_name_is_one_line(name):
    line = refused("train", preset_with(name), f"--{name}", "foo")
    choices = ["preset"] if name == "agent.name" else CHOICES[name]  # which chooses the learner
    assert name in line and "foo" in line and all(choice in line for choice in choices)


@pytest.mark.parametrize("name", [n for n, hint in TYPES.items() if hint is not str and n != "env.backend"])
def test_a_word_of_another_type_is_one_line(name):
    line = refused("train", preset_with(name), f"{name}=maybe")
    assert name in line and "maybe" in line
    assert any(word in line for word in ("INT", "FLOAT", "True", "one of", "Expected")), line


@pytest.mark.parametrize("name", ["critic.horizon", "agent.hidden", "gamma"])
def test_a_missing_value_is_one_line(name):
    if name == "agent.hidden":
        assert "agent.hidden" in refused("train", "sac", f"--{name}")
    else:
        assert name in refused("train", "sac", f"--{name}") and name in refused("train", "sac", f"--{name}", "seed=3")


@pytest.mark.parametrize(
    ("wrong", "near"),
    [("critic.horizn", "critic.horizon"), ("agent.hiden", "agent.hidden"), ("train.utdd", "train.utd")],
)
def test_an_unknown_field_suggests_the_near_one(wrong, near):
    for spelling in ([f"{wrong}=3"], [f"--{wrong}=3"], [f"--{wrong}", "3"]):
        line = refused("train", "sac", *spelling)
        assert f"--{wrong}: unknown field" in line and f"did you mean --{near}" in line


@pytest.mark.parametrize(
    ("arguments", "pattern"),
    [
        (["bogus"], "command: 'bogus' .*train, study"),
        (["train", "sacc"], "preset: 'sacc' .*sac-retrace"),
        (["train", "--seed", "3"], "preset: '--seed' .*sac-retrace"),
        (["train", "sac", "stray"], "stray: unknown field"),
        (["train", "sac", "--seeds", "1", "-1"], "seed: -1 is outside"),
        (["train", "sac", "--device", "tpu"], "'tpu' .*--device.*auto.*cpu.*cuda"),
        (["train", "sac", "--workers", "-1"], "workers: -1"),
        (["train", "sac", "critic.horizon=3"], "critic.horizon: rule td"),
        (["train", "sac", "env.name=probe_clock", "env.action_repeat=2"], "env.action_repeat: got 2"),
        (["train", "sac", "env.backend=bullet"], "env.backend: .*bullet"),
        (["train", "sac", "env.sticky_actions=0.1"], "env.sticky_actions: got 0.1, pendulum has no .*; leave it out"),
        (["study", "horizons"], "study: 'horizons' .*horizon"),
        (["study", "horizon", "--preset", "huge"], "preset: 'huge' .*smoke, quick, paper"),
        (["study", "horizon", "--seed", "3"], "--seed: unknown field"),
        (["report"], "[Mm]issing .*PATH Folder that holds the run directories"),
        (["report", "nowhere"], "root: nowhere is not a folder"),
        (["report", "/proc/self"], "root: /proc/self holds no run directories"),
        (["doctor", "--loud"], "doctor: "),
    ],
)
def test_what_cannot_be_is_one_line(arguments, pattern):
    assert re.search(pattern, refused(*arguments)), refused(*arguments)


@pytest.mark.parametrize("preset", ["sac-ae"])
def test_an_actor_horizon_needs_a_differentiable_backend(preset, monkeypatch):
    """The line names the backends that are."""
    from valex.envs.classic import make_pendulum

    def make_stiff(config):
        env = make_pendulum(replace(config, name="pendulum"))
        return env._replace(spec=env.spec._replace(differentiable=False))

    monkeypatch.setattr(tiny, "make_stiff", make_stiff, raising=False)
    monkeypatch.setitem(tables.ENVS, "pendulum", tables.Entry("tiny:make_stiff", "no gradients"))
    assert re.search("actor.horizon: .*spring", refused("train", preset))


def parsed(*arguments: str) -> TrainCommand:
    return parse(TrainCommand, list(arguments), TrainCommand(RunConfig(), RunOptions()), "valex train sac")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("critic.horizon", 5),
        ("agent.hidden", (64, 64)),
        ("agent.hidden", (7,)),
        ("diagnostics.target_horizons", (0, 1, 3)),
        ("agent.target_entropy_per_dim", -1.5),
        ("agent.actor_lr", 1e-05),
        ("env.episode_length", 20),
        ("env.backend", "spring"),
        ("env.sticky_actions", 0.25),
        ("env.difficulty_ramping", False),
        ("env.difficulty_ramping", True),
        ("actor.divide_by_length", False),
        ("diagnostics.overhead", True),
        ("gamma", 0.5),
    ],
)
def test_three_spellings_of_a_field_are_one(name, value):
    text = spell(value)
    found = [
        dict(flatten(parsed(*a).config))[name] for a in ([f"{name}={text}"], [f"--{name}={text}"], [f"--{name}", text])
    ]
    assert found == [value] * 3
    dashed = name.replace("_", "-")
    assert dict(flatten(parsed(f"--{dashed}={text}", "seed=3").config))[name] == value
    if isinstance(value, tuple):
        assert dict(flatten(parsed(f"--{name}", *map(str, value), "seed=3").config))[name] == value
    if isinstance(value, bool):
        assert dict(flatten(parsed(f"{name}={text.lower()}").config))[name] == value


def test_words_that_are_no_fields_are_left_alone():
    assert parsed("--out", "a=b", "-q", "seed=3") == parsed("--out=a=b", "--quiet", "true", "--seed", "3")
    assert parsed("out=runs/a,b").options.out == Path("runs/a,b") and parsed("out=true").options.out == Path("true")
    assert parsed("--diagnostics.overhead", "--json", "--dry-run", "seed=3").config.diagnostics.overhead
    assert parsed("env.backend=none").config.env.backend is None
    assert parsed("--env.difficulty_ramping", "none").config.env.difficulty_ramping is None
    assert parsed("--env.difficulty_ramping", "seed=3").config.env.difficulty_ramping is True
    assert parsed("--seeds", "1,2", "3").seeds == parsed("seeds=1,2,3").seeds == (1, 2, 3)
    assert normalize_arguments(["-q"]) == ["--quiet", "True"]
    with pytest.raises(UsageError):
        parsed("-x")


def test_a_switch_of_the_study():
    default = StudyCommand(RunOptions())
    command = parse(StudyCommand, ["--dry-run", "--preset", "smoke", "workers=2"], default, "valex study horizon")
    assert command == StudyCommand(RunOptions(workers=2, dry_run=True), "smoke")


# ---- runs -----------------------------------------------------------------------------------------------------------


def train(*more: str) -> tiny.Said:
    return valex("train", "sac", *words(TINY), *more)


def test_dry_run_names_the_runs_and_writes_nothing():
    said = train("--dry-run", "--seeds", "0", "1", "1")
    names = [f"runs/train/{run_id(replace(TINY, seed=seed))}" for seed in (0, 1)]
    assert said == (0, "".join(f"{name}\n" for name in names), "")
    assert json.loads(train("--dry-run", "--json").out) == {"runs": [{"run": names[0]}]}
    assert not list(Path().iterdir())


def test_train_twice():
    first = train()
    path = Path("runs/train") / run_id(TINY)
    assert first.code == 0 and first.out.startswith(f"{path}  finished  final return -")
    memory, line = first.err.splitlines()
    assert re.fullmatch(r"memory: a replay of up to [\d.]+ MB per run, runs at once: 1; .*", memory)
    assert re.fullmatch(rf"\[1/1 +\d+ s\] {path.name}: finished", line)
    before = {p: p.stat().st_mtime_ns for p in path.rglob("*") if p.is_file()}
    again = train("-q", "--json")
    (row,) = json.loads(again.out)["runs"]
    assert again.code == 0 and again.err == "" and row["state"] == "finished"
    assert row["episode_return"] == store.read_run(path).metrics["eval/episode_return"][-1]
    assert {p: p.stat().st_mtime_ns for p in path.rglob("*") if p.is_file()} == before


def test_stdout_is_for_results(monkeypatch):
    """Importing mjx prints on stdout, which would break --json."""
    from valex.envs.classic import make_pendulum

    def make_chatty(config):
        print("Failed to import warp")
        return make_pendulum(config)

    monkeypatch.setattr(tiny, "make_chatty", make_chatty, raising=False)
    monkeypatch.setitem(tables.ENVS, "pendulum", tables.Entry("tiny:make_chatty", "prints"))
    said = train("--json", "--dry-run")
    assert list(json.loads(said.out)) == ["runs"] and said.err == "Failed to import warp\n"


def test_a_diverged_run_is_code_3_and_not_run_again():
    """An absurd learning rate: the first bad quantity and its step are said."""
    for _ in range(2):
        said = train("agent.critic_lr=1e30", "-q")
        (line,) = said.err.splitlines()
        found = re.fullmatch(r"(\S+): failed: (\w+/\w+) is not finite from env step (\d+) on", line)
        assert said.code == 3 and found and 41 <= int(found[3]) <= 45, line
        assert f"{found[1]}  failed  no evaluation yet" in said.out
    status = tiny.status(Path("runs/train") / found[1])
    assert status["state"] == "failed" and f"{found[2]} is not finite" in status["message"]


@pytest.fixture
def small_disk(tmp_path):
    """A disk of one megabyte with little room left; yields (folder, function that makes room)."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True).returncode:
        folder.rmdir()
        pytest.skip("mounting a tmpfs is not permitted here; test_runner.py simulates a full disk")
    ballast = folder / "ballast"
    ballast.write_bytes(b"0" * 980_000)
    yield folder, ballast.unlink
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_one_line_and_the_command_goes_on(small_disk, tmp_path):
    folder, make_room = small_disk
    said = train(f"out={folder}", "-q")
    (line,) = said.err.splitlines()
    assert said.code == 1 and "No space left on device" in line and str(folder) in line
    path = folder / run_id(TINY)
    assert not [p.name for p in path.rglob("*") if p.name.endswith(".part")]
    make_room()
    assert train(f"out={folder}", "-q").code == 0
    assert train(f"out={tmp_path / 'elsewhere'}", "-q").code == 0
    assert tiny.metrics(path) == tiny.metrics(tmp_path / "elsewhere" / run_id(TINY))


def test_a_disk_that_is_full_from_the_start_is_no_usage_error(monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "mkdir", full)
    with pytest.raises(OSError, match="No space"):
        cli.make_root(Path("out"))


@pytest.mark.parametrize("where", ["file", "file/below", "/proc/valex", "read-only"])
def test_an_out_that_cannot_be_written_is_refused(where, tmp_path):
    (tmp_path / "file").write_text("precious")
    (tmp_path / "read-only").mkdir()
    if where == "read-only":  # permission bits do not bind root
        mount = ["mount", "-t", "tmpfs", "-o", "size=1m,ro", "tmpfs", str(tmp_path / where)]
        if subprocess.run(mount, capture_output=True).returncode:
            pytest.skip("mounting a read-only tmpfs is not permitted here")
    before = sorted(tmp_path.rglob("*"))
    try:
        said = train("--out", where)
        assert (said.code, said.out) == (2, "")
        (line,) = said.err.splitlines()
        assert line.startswith("valex: out: ") and where in line and "name a" in line
        assert sorted(tmp_path.rglob("*")) == before and (tmp_path / "file").read_text() == "precious"
    finally:
        if where == "read-only":
            subprocess.run(["umount", str(tmp_path / where)], check=True)


def test_cuda_fails_loudly_where_there_is_none():
    """In a process of its own: the choice is made once per process."""
    environment = dict(os.environ) | {"CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "valex.cli", "train", "sac", "--device", "cuda"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert (
        done.returncode == 2
        and "valex: --device cuda: jax finds no such device; pip install 'valex[cuda12]'" in done.stderr
    )
    assert not list(Path().iterdir())


@pytest.fixture
def study(monkeypatch):
    """A study of one tiny run, and a report that only says where it lies."""
    fake = SimpleNamespace(
        presets={"quick": lambda: [TINY], "bad": lambda: [replace(TINY, gamma=2.0)]}, agents=(), adapt=list
    )
    monkeypatch.setattr(cli_study, "load", lambda table, name: fake)
    monkeypatch.setattr(cli_study, "make_report", lambda root, out: ("THE TABLE", root / "report" / "index.html"))


def test_a_study_runs_and_reports(study):
    said = valex("study", "horizon", "-q")
    assert said == (0, "THE TABLE\nreport: runs/horizon-quick/report/index.html\n", "")
    assert tiny.status(Path("runs/horizon-quick") / run_id(TINY))["state"] == "finished"
    found = json.loads(valex("study", "horizon", "--json").out)
    assert found["report"].endswith("index.html") and [row["state"] for row in found["runs"]] == ["finished"]
    plan = json.loads(valex("study", "horizon", "--dry-run", "--json").out)
    assert plan == {"runs": [{"run": f"runs/horizon-quick/{run_id(TINY)}"}]}


def test_the_learners_of_a_study_can_be_chosen():
    said = valex("study", "horizon", "--preset", "smoke", "--agents", "ddpg,td3", "--dry-run", "--json")
    names = [Path(row["run"]).name for row in json.loads(said.out)["runs"]]
    assert said.code == 0 and {name.split("__")[1].split("-")[0] for name in names} == {"ddpg", "td3"}
    assert "ddqn" in refused("study", "horizon", "--agents", "ddqn")
    assert "no choice" in refused("study", "compounding-error", "--agents", "sac")
    for line in (refused("train", "sac", "agent.policy_delay=3"), refused("train", "sac", "agent.name=td3")):
        assert "preset of" in line


def test_a_study_with_a_config_that_cannot_be_is_refused(study):
    assert refused("study", "horizon", "--preset", "bad").startswith("valex: gamma: 2.0 is outside")


def test_a_study_whose_runs_end_with_an_error_still_reports(study):
    path = Path("runs/horizon-quick") / run_id(TINY)
    path.mkdir(parents=True)
    store.write_json(path / "config.json", {})
    (path / "status.json").write_text("{")
    said = valex("study", "horizon", "-q")
    assert said.code == 1 and "THE TABLE" in said.out and "status.json: not JSON" in said.err


def test_an_error_is_one_line_and_a_traceback_on_request(monkeypatch):
    def broken(arguments):
        raise RuntimeError("first line\nsecond line")

    monkeypatch.setattr(cli, "doctor", broken)
    assert valex("doctor") == (1, "", "valex: RuntimeError: first line\n")
    monkeypatch.setenv("VALEX_TRACEBACK", "1")
    with pytest.raises(RuntimeError, match="second line"):
        valex("doctor")


def test_a_reader_that_has_seen_enough():
    """valex list envs | head -1"""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "valex.cli", "list", "envs"], stdout=writer, stderr=subprocess.PIPE, text=True
    )
    os.close(writer)
    assert done.stderr == "" and done.returncode == 141


@pytest.mark.parametrize("command", ["list", "doctor"])
def test_every_command_has_help(command):
    said = valex(command, "--help")
    assert said.code == 0 and said.out.startswith(f"usage: valex {command}") and said.err == ""


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_tracker_that_is_not_installed_is_refused(name, monkeypatch):
    monkeypatch.setitem(cli.SINKS, name, "surely_not_installed")
    said = train(f"--{name}")
    assert said == (2, "", f"valex: {name}: surely_not_installed is not installed; pip install 'valex[{name}]'\n")
    assert not list(Path().iterdir())


def test_an_environment_that_computes_while_it_is_built(monkeypatch):
    """Brax reads numbers of its arrays: nothing may build an environment inside a trace."""
    import jax.numpy as jnp

    from valex.envs.classic import make_pendulum

    def make_reading(config):
        assert float(jnp.ones(()) + 1.0) == 2.0
        return make_pendulum(config)

    monkeypatch.setattr(tiny, "make_reading", make_reading, raising=False)
    monkeypatch.setitem(tables.ENVS, "pendulum", tables.Entry("tiny:make_reading", "reads"))
    assert train().code == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("train", "ddqn", "--env.difficulty_ramping", "maybe"), "'maybe' for argument '--env.difficulty_ramping'"),
        (("train", "ddqn", "--agent.dueling", "2"), "'2' for argument '--agent.dueling'"),
        (("train", "ddqn", "--env.sticky_actions", "foo"), "'foo' is neither None nor a number"),
        (("train", "sac-ae", "--env.name", "minatar-breakout"), "agent.name: sac needs continuous actions"),
        (("train", "sac-mve", "--env.name", "minatar-breakout"), "agent.name: sac needs continuous actions"),
        (("train", "model", "--env.name", "minatar-breakout"), "model-grid"),
        (("study", "discrete-horizon", "--agents", "ddqn"), "leave --agents out"),
    ],
)
def test_the_first_thing_that_does_not_fit_is_named(words, said, tmp_path):
    found = valex(*words, "--out", str(tmp_path / "runs"))
    assert found.code == 2 and said in found.err and found.err.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_a_report_that_cannot_be_written_names_the_folder(tmp_path, monkeypatch):
    from valex.report import html

    def refuse(root, out):
        raise PermissionError(13, "Permission denied", "report/results.csv")

    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "config.json").write_text("{}")
    monkeypatch.setattr(html, "make_report", refuse)
    found = valex("report", str(tmp_path))
    assert found.code == 2 and "out: report/results.csv cannot be written" in found.err


def test_a_plan_names_the_learner_where_there_are_several():
    lines = valex("study", "horizon", "--preset", "smoke", "--agents", "sac,td3", "--dry-run").out.splitlines()
    assert any(line.startswith("pendulum · SAC") for line in lines)
    assert any(line.startswith("pendulum · TD3") for line in lines)
