"""valex diagnose gradients: on a stored run, on a fresh policy, and what it refuses."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from benches import cheap_programs  # noqa: F401
from tiny import LEARNERS, TINY

from valex import cli, store
from valex.config import run_id, to_dict
from valex.finished import load_agent, named_arrays
from valex.runner import run
from valex.train import make_program

SMALL = ["--horizons", "1", "--modes", "dp,lr", "--starts", "32", "--draws", "2", "--quiet"]
FRESH = ["--agent.hidden", "8", "--env.episode_length", "20", "--train.batch_size", "8"]
FRESH += ["--train.env_steps", "64", "--train.warmup_steps", "32"]


def test_a_stored_run_is_diagnosed(tmp_path, capsys, monkeypatch):
    """Its parts are those of `test_laboratory.py`; here the cheap ones do."""
    monkeypatch.setattr("valex.diagnose.PARTS", ("agreement", "derivatives"))
    config = LEARNERS["rpg"]
    run([config], tmp_path)
    folder = tmp_path / run_id(config)
    assert cli.main(["diagnose", "gradients", str(folder), *SMALL, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (
        found["about"]["env"] == "pendulum"
        and found["about"]["agent"] == "rpg"
        and found["about"]["model"] == "ensemble"
    )
    assert found["names"][:3] == ["dr", "dp", "lr"] and found["about"]["mode"] == "dr"  # its own way first
    assert json.loads((folder / "diagnosis" / "gradients.json").read_text()) == found
    assert (folder / "diagnosis" / "index.html").stat().st_size > 50_000
    assert store.read_run(folder).status["state"] == "finished"  # the run itself is as it was


def test_a_fresh_policy_of_a_preset_is_diagnosed(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("valex.diagnose.PARTS", ("meter", "nodes", "stretch", "landscape", "numerics"))
    out = tmp_path / "d"
    assert cli.main(["diagnose", "gradients", "ddpg", *SMALL, *FRESH, "--env.name", "ball", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "report: " in said and "Variance at h" in said
    found = json.loads((out / "gradients.json").read_text())
    assert found["names"][0] == "dp" and "lr" not in found["names"]  # no likelihood without noise
    assert found["about"]["model"].startswith("oracle") and found["about"]["truth"]


def test_an_unfinished_run_is_read_at_its_newest_whole_checkpoint(tmp_path):
    program = make_program(TINY)
    folder, states = tmp_path / run_id(TINY), []
    folder.mkdir()
    store.write_json(folder / "config.json", to_dict(TINY))
    for seed in (0, 1):
        state = program.start(jnp.uint32(seed))
        states.append(jax.device_get(state.agent))
        store.save_checkpoint(folder, 100 + seed, {k: np.asarray(v) for k, v in named_arrays(state).items()}, 2)
    jax.tree.map(np.testing.assert_array_equal, load_agent(folder)[1].agent, states[1])
    (folder / "checkpoints" / f"{101:012d}.safetensors").write_bytes(b"torn")
    jax.tree.map(np.testing.assert_array_equal, load_agent(folder)[1].agent, states[0])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["gradient", "sac"], "diagnose: 'gradient' is not known; choose gradients"),
        (["gradients", "nowhere"], "run: nowhere is neither a run directory nor a preset"),
        (["gradients", "sac", "--starts", "20"], "starts: 20 is no multiple of 16"),
        (["gradients", "sac", "--modes", "dp,pd"], "modes: 'pd' is not known"),
        (["gradients", "rpg", "--modes", "dp,alpha_order"], "modes: alpha_order needs a run whose actor.bias_budget"),
        (["gradients", "sac", "--horizons", "0,-1"], "horizons: "),
        (["gradients", "sac", "--draws", "1"], "draws: 1 is not in 2..1024"),
        (["gradients", "sac", "--batch", "-3"], "batch: -3 is below 0"),
        (["gradients", "sac", "--law", "mu"], "law"),
        (["gradients", "sac", "--gamma", "2"], "gamma"),
        (
            ["gradients", "ddqn", "--env.name", "probe_action_discrete"],
            "agent.name: a learner of discrete actions has no gradient",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["diagnose", *words]) == 2
    said = capsys.readouterr()
    assert message in said.err and said.err.count("\n") == 1 and not said.out
    assert not list(tmp_path.iterdir())  # no empty folder either


def test_help_costs_no_jax(capsys):
    assert cli.main(["diagnose", "--help"]) == 0 and "usage: valex diagnose gradients RUN" in capsys.readouterr().out
    assert cli.main(["diagnose"]) == 2
