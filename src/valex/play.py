"""Policies at play: lanes of environments that go on from episode to episode, and whole episodes of a policy."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from valex.arenas import Arena

LANES = 25  # environments stepped together


class Step(NamedTuple):
    """One control step of B lanes, as it is learned from; rows of lanes that have stopped mean nothing."""

    obs: np.ndarray  # [B, obs_dim]
    action: np.ndarray  # [B, act_dim]
    reward: np.ndarray  # [B]
    next_obs: np.ndarray  # [B, obs_dim] true successor
    terminated: np.ndarray  # [B] bool
    truncated: np.ndarray  # [B] bool the clock ran out
    success: np.ndarray  # [B] bool
    goal: Any  # [B, goal_dim] or ()
    going: np.ndarray  # [B] bool, the lane took this step
    episode: np.ndarray  # [B] int, the seed of the episode


class Lanes:
    """B environments side by side; where an episode ends the next seed begins, until there are no more."""

    def __init__(self, arena: Arena, count: int, seeds: Iterable[int]):
        self.arena, self.field, self.seeds = arena, arena.build(count), iter(seeds)
        self.obs = np.zeros((count, arena.dims.obs), np.float32)
        self.goals = np.zeros((count, arena.dims.goal), np.float32)
        self.going, self.age, self.episode = np.ones(count, bool), np.zeros(count, int), np.zeros(count, int)
        for lane in range(count):
            self._begin(lane)

    @property
    def goal(self) -> Any:
        """Return the goals [B, goal_dim], () where there are none."""
        return self.goals if self.arena.dims.goal else ()

    def _begin(self, lane: int) -> None:
        seed = next(self.seeds, None)
        self.going[lane] = seed is not None
        if seed is None:
            return
        self.obs[lane], goal = self.field.reset(lane, seed)
        if self.arena.dims.goal:
            self.goals[lane] = goal
        self.age[lane], self.episode[lane] = 0, seed

    def step(self, action: np.ndarray) -> Step:
        """Take one control step of every lane that is going. Raises FloatingPointError where an action is not finite."""
        if not np.isfinite(action[self.going]).all():
            raise FloatingPointError("the policy's action is not finite")
        goal, going, episode = (
            (self.goals.copy() if self.arena.dims.goal else ()),
            self.going.copy(),
            self.episode.copy(),
        )
        moment = self.field.step(np.asarray(action, np.float32), going)
        self.age[going] += 1
        truncated = going & (self.age >= self.arena.episode_length) & ~moment.terminated
        done = Step(
            self.obs.copy(), action, moment.reward, moment.obs, moment.terminated, truncated, moment.success, goal, going, episode
        )  # fmt: skip
        self.obs[going] = moment.obs[going]
        for lane in np.flatnonzero(going & (moment.terminated | truncated)):
            self._begin(int(lane))
        return done


class Played(NamedTuple):
    """Whole episodes of a policy, in the order of their seeds, and every state that it came to."""

    returns: np.ndarray  # [E] undiscounted
    lengths: np.ndarray  # [E] control steps
    success: np.ndarray  # [E] bool, solved at some moment
    obs: np.ndarray  # [N, obs_dim] float32
    action: np.ndarray  # [N, act_dim] float32
    goal: Any  # [N, goal_dim] float32, () without goals
    episode: np.ndarray  # [N] int, which of the E


def play(arena: Arena, act: Callable, seeds: Iterable[int]) -> Played:
    """Play one episode for each seed. act: (obs [B, obs_dim], goal [B, goal_dim] or ()) -> action [B, act_dim] in [-1, 1].

    Raises FloatingPointError where an action is not finite, ValueError without seeds.
    """
    seeds = list(seeds)
    if not seeds:
        raise ValueError("seeds: none given; an average needs at least one episode")
    lanes, steps = Lanes(arena, min(len(seeds), LANES), seeds), []
    while lanes.going.any():
        steps.append(lanes.step(np.asarray(act(lanes.obs, lanes.goal))))
    flatten = lambda name: np.concatenate([getattr(step, name)[step.going] for step in steps])  # noqa: E731
    place = {seed: i for i, seed in enumerate(seeds)}
    episode = np.array([place[seed] for seed in flatten("episode")])
    order = np.argsort(episode, kind="stable")
    episode, success = episode[order], np.zeros(len(seeds), bool)
    np.logical_or.at(success, episode, flatten("success")[order])
    return Played(
        np.bincount(episode, flatten("reward")[order].astype(np.float64)),
        np.bincount(episode),
        success,
        flatten("obs")[order],
        flatten("action")[order].astype(np.float32),
        flatten("goal")[order] if arena.dims.goal else (),
        episode,
    )
