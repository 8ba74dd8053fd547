"""What the short names in a diagnosis of a dataset mean, in words for a reader who meets them for the first time."""

from typing import Any

METHODS = {  # the first word of a method's name: what it is
    "iql": "a value of the best that the data did (expectile regression)",
    "sarsa": "a value of whatever collected the data",
    "crl": "a value of goals, learned by telling states that followed from others",
    "awr": "cloning of the data, each action weighted by exp(alpha x its advantage)",
    "ddpg_bc": "climbs the value and is held to the data, the more so the larger alpha",
    "sfbc": "draws N actions from a clone of the data and takes the one of the highest value",
    "bc": "plain cloning of the data",
    "opex": "when it acts, moves every action by beta along the slope of the value",
    "ttt": "while it is tried, goes on training the policy on the states it visits, held to the old one by beta",
}
MARKS = {  # what stands in brackets behind a name
    "(q_norm std)": "(q_norm std): the value is divided by its standard deviation",
    "(grad_norm)": "(grad_norm): the slope is divided by its mean length",
}
NUMBERS = {  # what an alarm measures, by the name that metrics have
    "value/q_over_bound": "largest |Q| over the largest possible return",
    "q_growth": "largest |Q| over that of a quarter of training earlier",
    "policy/ess_share": "share of a batch that counts",
    "policy/clip_share": "share of weights at their bound",
    "policy/gradient_ratio": "pull of the value over that of the data",
    "policy/outside_share": "share of mean actions outside [-1, 1]",
    "action/outside": "share of actions beyond those of the data nearby",
    "fit_gap": "error on held-out trajectories over that on training ones",
}


def unit_words(unit: str) -> str:
    """Return the unit of a score; that of returns says that they are of an episode."""
    return unit.replace("return", "return per episode", 1) if unit.startswith("return") else unit


def names_sentence(d: dict[str, Any]) -> str:
    """Return what the names of all that was tried mean, each once."""
    names = [row[part] for row in d["methods"] for part in ("value", "policy", "test_time") if row[part]]
    told = [f"{word}: {METHODS[word]}" for word in dict.fromkeys(name.split()[0] for name in names)]
    told += [text for mark, text in MARKS.items() if any(mark in name for name in names)]
    return f"Names. {'; '.join(told)}."


def box_sentence(box: list[list[float]] | None) -> str:
    """Return what becomes of an action when it is played, "" where it is given as it is; box: low and high by dimension."""
    if not box:
        return ""
    low, high = ([f"{end:g}" for end in ends] for ends in box)
    flat = len(set(low)) == len(set(high)) == 1
    half = [(b - a) / 2.0 for a, b in zip(*box, strict=True)]
    same = len({round(h, 6) for h in half}) == 1 and all(abs(a + b) < 1e-6 for a, b in zip(*box, strict=True))
    ends = (
        f"[{low[0]}, {high[0]}]"
        if flat
        else f"{', '.join(f'[{a}, {b}]' for a, b in zip(low, high, strict=True))} by dimension"
    )
    how = (
        f"actions of the data times {half[0]:g}"
        if same
        else "actions of the data, -1 put at the lower end and 1 at the upper one,"
    )
    return f"The box of the environment's actions is {ends}: {how} are what the environment is given."
