"""Plans around the largest cells of others: what is varied there, and more datasets for the rule that picks an extractor."""

from dataclasses import replace

from valex.settings.bottleneck import MatrixConfig, Robustness
from valex.studies.bottleneck_measures import settings_of
from valex.studies.offline import DataPlan, is_default

CRITICS = 10  # of the larger ensemble
ERRORS = (0.3, 1.0, 3.0)  # in standard deviations of Q over the data


def largest(plan: DataPlan) -> MatrixConfig:
    """Return a plan's matrix of most data alone: IQL, AWR at the default alpha, DDPG+BC at the middle one of its alphas."""
    awr = next(policy for policy in settings_of(plan, "awr") if is_default(policy))
    ddpg = settings_of(plan, "ddpg_bc")
    value = next(value for value in plan.matrix.values if value.name == "iql")
    two = awr, ddpg[len(ddpg) // 2]
    return replace(plan.matrix, sizes=plan.matrix.sizes[-1:], values=(value,), policies=two)


def robust(plan: DataPlan) -> DataPlan:
    """Return a plan with other values and errors at test time around its largest cells; its dataset and cells stay."""
    matrix = largest(plan)
    value = matrix.values[0]
    around = Robustness((replace(value, num_critics=CRITICS), replace(value, hidden=())), ERRORS)
    return replace(plan, matrix=matrix, robustness=around, encodings=(), continuations=(), sweep="")


def described(plan: DataPlan) -> DataPlan:
    """Return a plan with the two policies that a rule picks from, and nothing else."""
    matrix = replace(largest(plan), test_times=())
    return replace(plan, matrix=matrix, robustness=Robustness(), encodings=(), continuations=(), sweep="")


def further(maze: DataPlan, explored: DataPlan) -> list[DataPlan]:
    """Return datasets that differ from two others in noise, in how the maze is walked, or in how long was explored.

    All of a maze are of 100,000 transitions, as the maze itself.
    """
    walks = {
        "sigma0_1": ("navigate", {"sigma": 0.1}),
        "sigma1": ("navigate", {"sigma": 1.0}),
        "stitch": ("stitch", {"type": "stitch", "episodes": 500}),
        "explore": ("explore", {"type": "explore", "episodes": 200}),
    }
    found = []
    for name, (goals, changes) in walks.items():
        seen = tuple(replace(policy, goals=goals) for policy in maze.matrix.policies)
        made, matrix = replace(maze.settings, **changes), replace(maze.matrix, policies=seen)
        found.append(replace(maze, name=f"{maze.name}-{name}", settings=made, matrix=matrix))
    short = replace(explored.settings, transitions=explored.settings.transitions // 5)
    few = replace(explored.matrix, sizes=(explored.matrix.sizes[-1] // 5,))
    return [*found, replace(explored, name=f"{explored.name}-short", settings=short, matrix=few)]
