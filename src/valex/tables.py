"""The tables of everything that can be chosen by name. To add a thing: one file or function, and one line here.

An entry names its target as text, `module:attribute`, so that `valex list` and `--help` need not import jax.
Tests are parametrised over these tables: what is registered is tested.
"""

from importlib import import_module
from typing import Any, NamedTuple


class Entry(NamedTuple):
    """One row of a table."""

    target: str  # "module:attribute"
    summary: str  # one line for `valex list`
    extra: str = ""  # the optional dependency group it needs, as in pip install valex[extra]


AGENTS = {
    "sac": Entry("valex.agents.sac:make_sac", "soft actor-critic, twin critics, learned temperature"),
    "rpg": Entry(
        "valex.agents.rpg:make_rpg", "SAC whose actor climbs the value along a learned model (RP-DP, RP-DR, LR)"
    ),
    "ddpg": Entry("valex.agents.ddpg:make_ddpg", "deterministic policy gradient, one or more critics"),
    "td3": Entry("valex.agents.td3:make_td3", "DDPG with delayed actor, smoothed targets and twin critics"),
    "ddqn": Entry(
        "valex.agents.ddqn:make_ddqn", "double DQN for discrete actions, vectors and grids, duelling optional"
    ),
}

RULES = {
    "td": Entry("valex.targets:TD", "one-step target"),
    "h_step": Entry("valex.targets:H_STEP", "sum of H + 1 rewards, then bootstrap (MVE, critic expansion)"),
    "td_lambda": Entry("valex.targets:TD_LAMBDA", "lambda-weighted mixture of all horizons up to H"),
    "retrace": Entry("valex.targets:RETRACE", "off-policy corrected by lambda min(1, pi/mu) (Munos et al. 2016)"),
    "mean": Entry("valex.targets:MEAN", "mean over the horizons 0..H"),
    "min": Entry("valex.targets:MIN", "minimum over the horizons 0..H"),
    "steve": Entry("valex.targets:STEVE", "horizons weighted by the inverse variance over members and critics (STEVE)"),
}

MODELS = {
    "oracle": Entry("valex.models.oracle:make_oracle", "the simulator itself, restarted from states kept in replay"),
    "noisy_oracle": Entry("valex.models.oracle:make_noisy_oracle", "the simulator with noise or bias of a chosen size"),
    "ensemble": Entry(
        "valex.models.ensemble:make_ensemble", "learned ensemble of probabilistic nets; 1 member: one net"
    ),
    "grid": Entry("valex.models.grid:make_grid", "learned ensemble of convolutional nets, for grids of flags"),
}

ENVS = {
    "pendulum": Entry("valex.envs.classic:make_pendulum", "torque-limited swing-up, native JAX"),
    "cartpole": Entry("valex.envs.classic:make_cartpole", "cart-pole swing-up, native JAX"),
    "ball": Entry("valex.envs.classic:make_ball", "torque-controlled ball rolling on a bumpy bowl, native JAX"),
    "linear_quadratic": Entry(
        "valex.envs.classic:make_linear_quadratic", "double integrator with quadratic costs: the best policy is known"
    ),
    "inverted_pendulum": Entry("valex.envs.brax:make_brax_env", "Brax, balance a pole on a cart", "brax"),
    "inverted_double_pendulum": Entry(
        "valex.envs.brax:make_brax_env", "Brax, balance two poles on a cart, one on the other", "brax"
    ),
    "hopper": Entry("valex.envs.brax:make_brax_env", "Brax, one-legged hopping", "brax"),
    "walker2d": Entry("valex.envs.brax:make_brax_env", "Brax, two-legged walking in a plane", "brax"),
    "halfcheetah": Entry("valex.envs.brax:make_brax_env", "Brax, planar cheetah", "brax"),
    "ant": Entry("valex.envs.brax:make_brax_env", "Brax, four-legged walking", "brax"),
    "minatar-asterix": Entry("valex.envs.minatar:make_minatar", "MinAtar, collect treasure, touch no enemy", "minatar"),
    "minatar-breakout": Entry("valex.envs.minatar:make_minatar", "MinAtar, keep the ball up, break bricks", "minatar"),
    "minatar-freeway": Entry("valex.envs.minatar:make_minatar", "MinAtar, cross eight lanes of cars", "minatar"),
    "minatar-seaquest": Entry("valex.envs.minatar:make_minatar", "MinAtar, a submarine short of air", "minatar"),
    "minatar-space_invaders": Entry("valex.envs.minatar:make_minatar", "MinAtar, shoot down the aliens", "minatar"),
    "probe_constant": Entry("valex.envs.probe:make_probe", "probe: reward 1, one step; V = 1"),
    "probe_obs": Entry("valex.envs.probe:make_probe", "probe: reward equals the observation; V(o) = o"),
    "probe_delay": Entry("valex.envs.probe:make_probe", "probe: reward one step later; V(first) = gamma"),
    "probe_action": Entry("valex.envs.probe:make_probe", "probe: reward depends on the action alone"),
    "probe_both": Entry("valex.envs.probe:make_probe", "probe: reward depends on action and observation"),
    "probe_clock": Entry(
        "valex.envs.probe:make_probe", "probe: reward 1 for ever under a time limit; V = 1 / (1 - gamma)"
    ),
    "probe_constant_discrete": Entry("valex.envs.probe:make_probe", "probe_constant with five actions"),
    "probe_obs_discrete": Entry("valex.envs.probe:make_probe", "probe_obs with five actions"),
    "probe_delay_discrete": Entry("valex.envs.probe:make_probe", "probe_delay with five actions"),
    "probe_action_discrete": Entry("valex.envs.probe:make_probe", "probe_action with five actions"),
    "probe_both_discrete": Entry("valex.envs.probe:make_probe", "probe_both with five actions"),
    "probe_clock_discrete": Entry("valex.envs.probe:make_probe", "probe_clock with five actions"),
}

STUDIES = {
    "horizon": Entry(
        "valex.studies.horizon:HORIZON", "does a longer rollout horizon pay? critic and actor expansion, Retrace"
    ),
    "trust-your-model": Entry(
        "valex.studies.trust_your_model:TRUST_YOUR_MODEL",
        "does value expansion want a better model? learned against oracle, and models of a chosen error",
    ),
    "compounding-error": Entry(
        "valex.studies.compounding_error:COMPOUNDING_ERROR",
        "does a model that is right for one step stay right? dynamics models of a ball alone",
    ),
    "combine-horizons": Entry(
        "valex.studies.combine_horizons:COMBINE_HORIZONS",
        "how are horizons best combined? one, mean, minimum, TD(lambda), STEVE; single models and ensembles",
    ),
    "rp-gradients": Entry(
        "valex.studies.rp_gradients:RP_GRADIENTS",
        "what limits a policy gradient through a model? spectral normalisation, DP and DR, variance and bias by horizon",
    ),
    "discrete-horizon": Entry(
        "valex.studies.discrete_horizon:DISCRETE_HORIZON",
        "does a longer horizon pay with discrete actions? double DQN on MinAtar, oracle and learned model, Retrace",
    ),
    "offline-bottleneck": Entry(
        "valex.studies.offline_bottleneck:OFFLINE_BOTTLENECK",
        "what holds offline RL back? values, policies read off them and their generalisation, on datasets of our own",
        "offline",
    ),
}

VALUES = {
    "iql": Entry(
        "valex.offline.values:make_iql", "expectile of Q over the data's actions, towards the best of them (IQL)"
    ),
    "sarsa": Entry(
        "valex.offline.values:make_sarsa", "value of the policy that collected the data, with Q or V behind it"
    ),
    "crl": Entry("valex.offline.values:make_crl", "log-ratio of reaching a goal, by contrast within the batch (CRL)"),
}

EXTRACTORS = {
    "bc": Entry("valex.offline.extraction:make_bc", "behaviour cloning: a Gaussian, a mixture or a flow"),
    "awr": Entry("valex.offline.extraction:make_awr", "cloning weighted by exp(alpha A): alpha 0 is BC (AWR)"),
    "ddpg_bc": Entry("valex.offline.extraction:make_ddpg_bc", "climb Q, tethered to the data: alpha infinite is BC"),
    "sfbc": Entry("valex.offline.extraction:make_sfbc", "the best of N candidates of a cloned policy (SfBC)"),
}

FORMATS = {
    "native": Entry("valex.datasets.native:NATIVE", "our own folder: safetensors and a card"),
    "ogbench": Entry("valex.datasets.ogbench:OGBENCH", "OGBench's npz, final observations kept"),
    "minari": Entry("valex.datasets.minari:MINARI", "Minari's HDF5 folder, final observations kept", "offline"),
    "d4rl": Entry("valex.datasets.d4rl:D4RL", "D4RL's HDF5 with terminals and timeouts", "offline"),
}

GENERATORS = {
    "pointmaze": Entry(
        "valex.datasets.generate.pointmaze:generate", "OGBench's point maze by its exact oracle", "offline"
    ),
    "antmaze": Entry(
        "valex.datasets.generate.antmaze:generate", "OGBench's ant maze by an ant that is trained here", "offline"
    ),
    "locomotion": Entry(
        "valex.datasets.generate.locomotion:generate",
        "our own trained agents on our tasks or Gymnasium's: random, medium, replay, expert, noise",
    ),
    "exploration": Entry(
        "valex.datasets.generate.exploration:generate", "novelty alone (RND), rewards put on afterwards"
    ),
    "manipulation": Entry(
        "valex.datasets.generate.manipulation:generate", "OGBench's cube and scene by its scripted oracles", "offline"
    ),
}


def load(table: dict[str, Entry], name: str) -> Any:
    """Return the object that `name` stands for in `table`; KeyError if it is not registered."""
    module, attribute = table[name].target.split(":")
    return getattr(import_module(module), attribute)
