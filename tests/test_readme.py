"""What the README says is true: its library lines run, its files exist, its tables list what is registered."""

import re
import shlex
from pathlib import Path

import jax
import pytest
from benches import cheap_programs  # noqa: F401

from valex import tables
from valex.actor_expansion import without_critic
from valex.cli import main
from valex.config import PRESETS
from valex.device import THREADS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_library_lines_run():
    """The block as printed; afterwards `state` holds one update and `metrics` one evaluation."""
    names: dict = {}
    code = re.findall(r"```python\n(.*?)```", README, re.DOTALL)[0]
    exec(compile(code, "README.md", "exec"), names)
    assert int(names["state"].critic_opt[0].count) == 1
    assert float(names["metrics"]["eval/episode_return"]) < 0.0
    assert int(names["run"].iterations) == 100


def test_the_lines_on_learned_models_run():
    names: dict = {}
    code = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "adding.md").read_text(), re.DOTALL)[0]
    exec(compile(code, "adding.md", "exec"), names)
    truth = names["steps"].next_obs[:5]
    assert names["said"].obs.shape == (5, 5, 3) and names["out"].obs.shape == truth.shape
    assert float(abs(names["said"].obs - truth).max()) < 0.3 and names["spread"].shape == (5,)
    assert len(names["error"]["steps"]) == 10


def test_the_lines_on_gradients_run(tmp_path, monkeypatch):
    """With a model, a policy and a critic of the reader's own; then with a critic that is zero, as the text says."""
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    code = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "adding.md").read_text(), re.DOTALL)[1]
    exec(compile(code, "adding.md", "exec"), names)
    found = names["found"]
    assert found["names"][:2] == ["dp", "lr"] and found["horizons"] == [1, 3]
    assert len(found["agreement"]["p_value"]) == 2 and found["quantities"]["relative_bias"]["dp"]["value"][1] > 0
    assert found["derivatives"]["prediction"]["value"] > 0.01 and names["page"].exists()  # gravity is wrong

    given, shrunk = names["subject"], {"height": 0.0, "rate": 0.0}
    nothing = lambda critic, theta: without_critic(lambda theta: given.view(critic, theta))(theta)  # noqa: E731
    zero = given._replace(fixed=shrunk, view=nothing)
    bare = names["valex"].gradient_diagnosis(zero, names["study"], names["jax"].random.key(2), parts=())
    assert bare["quantities"]["relative_bias"]["dp"]["value"][1] > 0.1
    assert bare["blame"]["true critic"]["low"][1] > 0.0


def test_a_policy_from_a_dataset_as_documented_is_near_the_best_action():
    names: dict = {}
    code = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "adding.md").read_text(), re.DOTALL)[2]
    exec(compile(code, "adding.md", "exec"), names)
    assert 0.25 < float(names["chosen"].mean()) < 0.75  # the data's mean action is 0, the best one 0.5
    assert float(names["about_value"]["value/q_over_bound"]) < 1.0


def test_the_lines_on_diagnosing_a_dataset_run(tmp_path, monkeypatch):
    pytest.importorskip("gymnasium")
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    code = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "adding.md").read_text(), re.DOTALL)[3]
    jax.config.update("jax_disable_most_optimizations", True)  # compiling costs more than running here
    try:
        exec(compile(code, "adding.md", "exec"), names)
    finally:
        jax.config.update("jax_disable_most_optimizations", False)
    found = names["found"]
    assert found.page.is_file() and found.numbers["about"]["env"] == "Dot-v0" and len(found.numbers["matrices"]) == 6
    assert any(line.startswith("Nothing can be told: 1 seed") for line in found.text)
    assert -40.0 <= found.numbers["methods"][0]["score"]["value"] < 0.0


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(([^)#]+)\)", README))))
def test_links_lead_somewhere(target):
    assert target.startswith("http") or (ROOT / target).exists(), target


@pytest.mark.parametrize("row", ["agents", "rules", "models", "environments", "studies"])
def test_tables_list_what_is_registered(row):
    line = next(text for text in README.splitlines() if text.startswith(f"| {row} |"))
    table = {"environments": tables.ENVS}.get(row) or getattr(tables, row.upper())
    names = [name for name in table if not name.startswith("probe_")]
    assert [n for n in names if f"`{n}`" not in line] == []


def test_presets_are_named():
    assert all(f"`{name}`" in README for name in PRESETS)


@pytest.mark.parametrize("line", re.findall(r"^    valex (.*?)(?:  +#.*)?$", README, re.MULTILINE))
def test_commands_are_understood(line, tmp_path, monkeypatch, capsys):
    """Every `valex ...` line as printed, without training: `train` and `study` plan only."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(THREADS, "1")  # and as it was afterwards: wide nets ask for all cores
    words = shlex.split(line)
    if words[0] == "report":
        assert main(words) == 2 and "runs/horizon-quick is not a folder" in capsys.readouterr().err
        return
    if words[0] == "diagnose":
        missing = {"gradients": "RUN is neither a run directory nor a preset", "dataset": "PATH: there is nothing"}
        assert main(words) == 2 and missing[words[1]] in capsys.readouterr().err
        return
    if words[:2] == ["dataset", "card"]:
        assert main(words) == 2 and "runs/datasets/maze: there is nothing" in capsys.readouterr().err
        return
    more = [w for w in ("--dry-run", "--json") if w not in words] if words[0] in ("train", "study") else []
    assert main(words + more * ("--help" not in words)) == 0, capsys.readouterr().err
