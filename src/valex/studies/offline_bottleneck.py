"""Is value learning what holds offline RL back, or reading a policy off the value, or how the policy generalises?

For every dataset a matrix: a value learned from D_v alone, a policy read off it from D_p alone. Source: Park, Frans, Levine and
Kumar 2024, "Is Value Learning Really the Main Bottleneck in Offline RL?" (arXiv 2406.09329). The datasets are our own: what
each stands for, and what is lost, its plan says.
"""

from collections.abc import Iterable
from dataclasses import replace

from valex.settings.bottleneck import MatrixConfig
from valex.settings.datasets import (
    AntMazeSettings,
    ExplorationSettings,
    LocomotionSettings,
    ManipulationSettings,
    PointMazeSettings,
)
from valex.settings.offline import ActorGoals, OPEXConfig, TestTimeKind, TTTConfig
from valex.studies.bottleneck_claims import CLAIMS, REMARKS
from valex.studies.bottleneck_figures import figures
from valex.studies.bottleneck_plans import Followed, Grid, Nets, goal_values, one_task, policies, task_values
from valex.studies.bottleneck_robust_plans import described, further, robust
from valex.studies.bottleneck_table import results
from valex.studies.offline import DataPlan, OfflineStudy

SIGMAS = (0.1, 0.2, 0.5, 1.0)  # of the noise that data are collected with


MAZE_SWEEP = {
    "stands_for": "gc-antmaze-large and adroit-pen over sigma_data",
    "lost": "the ant, and adroit-pen; the optimal policy is the exact oracle of the map",
}


def noise_sweep(plan: DataPlan, sigmas: Iterable[float]) -> list[DataPlan]:
    """Return a plan's dataset once for each amount of noise, at its largest size alone."""
    largest = replace(plan.matrix, sizes=plan.matrix.sizes[-1:], test_times=())
    name = f"{plan.name} over sigma"
    whole = replace(plan, matrix=largest, sweep=name, encodings=(), tested=())
    return [
        replace(whole, name=f"{plan.name}-sigma{s:g}".replace(".", "_"), settings=replace(plan.settings, sigma=s))
        for s in sigmas
    ]


def without(matrix: MatrixConfig, extractor: str) -> MatrixConfig:
    """Return a matrix that leaves an extractor out."""
    return replace(matrix, policies=tuple(policy for policy in matrix.policies if policy.name != extractor))


# ------------------------------------------------------------------------------------------------------------- smoke and quick


def smoke() -> tuple[DataPlan, ...]:
    """Return the least that passes through every part: ten episodes of a maze, one small layer, 50 updates. Settles no claim."""
    nets = Nets((8,), 32, 50)
    grid = Grid(awr=(3.0,), ddpg_bc=(0.3, 3.0), sfbc=(4,), behaviour="mixture")
    matrix = MatrixConfig(
        sizes=(1_000, 4_000),
        values=goal_values(nets, latent=8),
        policies=policies(nets, grid, "navigate"),
        seeds=(1, 2),
        episodes=2,
        test_times=(OPEXConfig(), TTTConfig(max_updates=10, batch_size=16)),
    )
    made = PointMazeSettings(maze="medium", episodes=10)
    lost = "nearly all of it: two numbers of state, ten episodes"
    task = one_task(nets, made, (1, 2), Followed(offline_checks=1, online_steps=40, check_every=20, episodes=1))
    maze = DataPlan("pointmaze-medium", "gc-antmaze-large", lost, "pointmaze", made, matrix, clock=100)
    return replace(maze, encodings=("steps",)), replace(task, clock=100)


QUICK = Nets((64, 64), 256, 4_000, lr=1e-3)
QUICK_SEEDS = (1, 2, 3, 4, 5)
QUICK_GRID = Grid(awr=(3.0, 10.0), ddpg_bc=(0.03, 0.3, 3.0), sfbc=(32,), behaviour="mixture")
QUICK_TESTS: tuple[TestTimeKind, ...] = (OPEXConfig(beta=0.03), OPEXConfig(beta=0.3), TTTConfig(max_updates=500))


def quick_matrix(goals: ActorGoals, grid: Grid, sizes: tuple[int, ...], episodes: int) -> MatrixConfig:
    """Return a matrix of the preset `quick`."""
    return MatrixConfig(
        sizes=sizes,
        values=task_values(QUICK) if goals == "none" else goal_values(QUICK, latent=64),
        policies=policies(QUICK, grid, goals),
        seeds=QUICK_SEEDS,
        episodes=episodes,
        test_times=QUICK_TESTS,
    )


def quick() -> tuple[DataPlan, ...]:
    """Return the study for half an hour on two CPU cores: three datasets, 3 x 3 sizes, 5 seeds, nets of 2 x 64.

    Traded for time: 4,000 updates of 256 rows, each three times as large, instead of a million of 1,024; sets of 50,000 to
    100,000 transitions, episodes of 400 steps of the maze and 250 of hopper, 5 or 10 episodes for a trial, two alphas of AWR
    and one N of SfBC, with a mixture behind it. Kept: five seeds, below which every verdict is undecided, and three alphas of
    DDPG+BC, whose best one should lie between two others. The maze's are those around the one that OGBench found for it,
    which is a hundredth of the usual.
    """
    maze = quick_matrix("navigate", QUICK_GRID._replace(ddpg_bc=(0.003, 0.03, 0.3)), (3_000, 15_000, 75_000), 10)
    hopper = LocomotionSettings(
        env="hopper",
        type="medium",
        transitions=50_000,
        hidden=(64, 64),
        train_steps=60_000,
        checks=60,
        episode_length=250,
        reference_episodes=16,
    )
    cheetah = ExplorationSettings(
        env="dm_control/cheetah", transitions=80_000, hidden=(64, 64), warmup_steps=2_000, update_every=4
    )
    return (
        DataPlan(
            "pointmaze-medium",
            "gc-antmaze-large",
            "the ant: a point with two numbers of state generalises without effort, so little is left of B3",
            "pointmaze",
            PointMazeSettings(maze="medium", episodes=100),
            maze,
            clock=400,
            encodings=("steps",),
        ),
        DataPlan(
            "hopper-medium",
            "d4rl-hopper",
            "D4RL's simulator and agent, most of the training and of the episode, so its scores",
            "locomotion",
            hopper,
            quick_matrix("none", QUICK_GRID, (1_500, 7_500, 37_500), 10),
        ),
        DataPlan(
            "cheetah-rnd",
            "exorl-cheetah",
            "most of the exploration: 80,000 steps instead of ten million",
            "exploration",
            cheetah,
            quick_matrix("none", QUICK_GRID, (4_000, 16_000, 64_000), 5),
        ),
        replace(
            one_task(QUICK, PointMazeSettings(maze="medium", episodes=100), QUICK_SEEDS, Followed(4, 4_000, 1_000, 10)),
            clock=400,
        ),
    )


def quick_coverage() -> tuple[DataPlan, ...]:
    """Return two sweeps over the noise of collection: the maze of `quick`, and its hopper as an expert; ten minutes or so.

    The least noise of the hopper is none. SfBC has no part in what is claimed of noise and is left out.
    """
    maze, hopper = (replace(plan, matrix=without(plan.matrix, "sfbc")) for plan in quick()[:2])
    return (
        *noise_sweep(replace(maze, **MAZE_SWEEP), SIGMAS),
        *noise_sweep(
            replace(
                hopper,
                name="hopper",
                stands_for="adroit-pen over sigma_data",
                lost="the hand and the pen: an expert of our own that hops",
                settings=replace(hopper.settings, type="noise"),
            ),
            (0.0, *SIGMAS[1:]),
        ),
    )


def quick_robustness() -> tuple[DataPlan, ...]:
    """Return what is varied around the largest cells of `quick`, and the rule over eight datasets: a quarter of an hour or so.

    Datasets and cells that both presets have are the same, so what `quick` made can be copied into the new folder first: its
    datasets, values, policies and trials.
    """
    plans = [plan for plan in quick() if plan.alone]
    return (*map(robust, plans), *map(described, further(plans[0], plans[2])))


# --------------------------------------------------------------------------------------------------------------------- paper

PAPER = Nets((512, 512, 512), 1_024, 1_000_000)
PAPER_GRID = Grid(awr=(1.0, 3.0, 10.0), ddpg_bc=(0.03, 0.1, 0.3, 1.0, 3.0), sfbc=(4, 16, 64), behaviour="flow")
PAPER_TESTS: tuple[TestTimeKind, ...] = (
    *(OPEXConfig(beta=beta) for beta in (0.01, 0.03, 0.1, 0.3)),
    *(TTTConfig(beta=beta, max_updates=100_000) for beta in (0.1, 1.0, 10.0)),
)
PAPER_SIZES = (100_000, 200_000, 400_000, 800_000)


def paper_matrix(goals: ActorGoals) -> MatrixConfig:
    """Return the matrix of the specification: 4 x 4 sizes, 8 seeds, 50 episodes, every alpha."""
    return MatrixConfig(
        sizes=PAPER_SIZES,
        values=task_values(PAPER) if goals == "none" else goal_values(PAPER, latent=512),
        policies=policies(PAPER, PAPER_GRID, goals),
        seeds=tuple(range(1, 9)),
        episodes=50,
        test_times=PAPER_TESTS,
    )


def ants(task: MatrixConfig, goals: MatrixConfig) -> list[DataPlan]:
    """Return the ant mazes: with goals, and with one task."""
    return [
        DataPlan(
            "antmaze-large",
            "gc-antmaze-large",
            "D4RL's ant and map: OGBench's, walked by an ant trained here",
            "antmaze",
            AntMazeSettings(),
            goals,
        ),
        DataPlan(
            "antmaze-large-task1",
            "antmaze-large",
            "D4RL's ant, map and goal, and so how hard it is",
            "antmaze",
            AntMazeSettings(task=1),
            replace(task, values=task_values(PAPER, "maze")),
        ),
    ]


def tables(goals: MatrixConfig) -> list[DataPlan]:
    """Return the robot arm at its tables: a scene for the kitchen, a cube for roboverse."""
    scene = DataPlan(
        "scene-play",
        "kitchen",
        "the robot, the human who plays and the task: scripts play, and goals are drawn in hindsight",
        "manipulation",
        ManipulationSettings(env="scene"),
        goals,
        env="scene-v0",
    )
    cube = DataPlan(
        "cube-single-play",
        "gc-roboverse",
        "the pixels, and with them most of the generalisation that is hard there; the robot",
        "manipulation",
        ManipulationSettings(env="cube-single"),
        goals,
        env="cube-single-v0",
    )
    return [scene, cube]


def paper() -> tuple[DataPlan, ...]:
    """Return the published grid on what can be made here: nets of 3 x 512, a million updates of 1,024 rows, 8 seeds.

    Weeks on a CPU. The exploration is a million steps, not ten; the point maze comes on top of the paper's eight.
    """
    task, goals = paper_matrix("none"), paper_matrix("navigate")
    small = DataPlan(
        "pointmaze-large",
        "gc-antmaze-large",
        "the ant: a point with two numbers of state generalises without effort, so little is left of B3",
        "pointmaze",
        PointMazeSettings(),
        goals,
        encodings=("steps",),
    )
    locomotion = [
        DataPlan(
            f"{env}-medium",
            f"d4rl-{env}",
            "D4RL's simulator and agent, so its scores",
            "locomotion",
            LocomotionSettings(env=env),
            task,
        )
        for env in ("hopper", "walker2d")
    ]
    explored = [
        DataPlan(
            f"{domain}-rnd",
            f"exorl-{domain}",
            "seeds and length of the exploration: one million steps",
            "exploration",
            ExplorationSettings(env=f"dm_control/{domain}"),
            task,
        )
        for domain in ("walker", "cheetah")
    ]
    online = one_task(PAPER, PointMazeSettings(), goals.seeds, Followed(10, 500_000, 50_000, 50))
    return (
        *ants(task, goals),
        small,
        *locomotion,
        *explored,
        *tables(goals),
        online,
        *noise_sweep(replace(small, **MAZE_SWEEP), SIGMAS),
    )


def paper_robustness() -> tuple[DataPlan, ...]:
    """Return what is varied around the largest cells of `paper`; the sweep over noise takes part in the rule alone."""
    plans = paper()
    return (*(robust(p) for p in plans if p.alone), *(described(p) for p in plans if p.sweep))


OFFLINE_BOTTLENECK = OfflineStudy(
    name="offline-bottleneck",
    title="Is it the value, the extraction or the generalisation?",
    summary=(
        "Offline RL on datasets of our own: values learned from more and more data, policies read off them from more and more "
        "data, by weighted cloning (AWR), a behaviour-constrained policy gradient (DDPG+BC) and the best of N samples (SfBC)."
    ),
    presets={
        "smoke": smoke,
        "quick": quick,
        "quick-coverage": quick_coverage,
        "quick-robustness": quick_robustness,
        "paper": paper,
        "paper-robustness": paper_robustness,
    },
    figures=figures,
    claims=CLAIMS,
    remarks=REMARKS,
    table=results,
)
