"""What a diagnosis of a dataset says, in sentences made from its numbers."""

from typing import Any

from valex.report.dataset_terms import NUMBERS, box_sentence, names_sentence, unit_words
from valex.studies.results import number

PARTS = {"value": "Value", "extraction": "Extraction", "generalisation": "Generalisation"}
KINDS = {
    "value": "more value data help",
    "policy": "more policy data help",
    "both": "more data of both kinds help",
    "worse": "more data of one kind hurt",
    "unclear": "between two classes, which these seeds cannot tell apart",
    "saturated": "neither kind of data can be told to help",
}
UNEXPLAINED, OVERLAP = "Unexplained", "The gains overlap by"
FALLS = "too few updates for them, or noise"
ENOUGH = 5  # seeds, as in `offline.shortfall`


def known(found: dict[str, Any] | None) -> bool:
    """Return whether an interval has a value."""
    return bool(found) and found["value"] is not None


def said(found: dict[str, Any] | None, digits: int | None = None) -> str:
    """Return a value with its interval."""
    if not found or found["value"] is None:
        return "not known"
    parts = [found[name] for name in ("value", "low", "high") if found[name] is not None]
    value, *ends = (number(part if digits is None else round(part, digits) + 0.0, digits) for part in parts)  # no -0.0
    return f"{value} [{', '.join(ends)}]" if ends else value


def percent(found: dict[str, Any] | None) -> str:
    """Return a share in percent with its interval, "" where it is not known."""
    if not found or found["value"] is None:
        return ""
    whole = lambda share: str(round(100 * share)).replace("-", "−")  # noqa: E731
    text = f"{whole(found['value'])} %"
    return text if found["low"] is None else f"{text} [{whole(found['low'])}, {whole(found['high'])}]"


def counted(seeds: int) -> str:
    """Return a number of seeds in words."""
    return f"{seeds} seed{'' if seeds == 1 else 's'}"


def best_name(part: dict[str, Any], seeds: int) -> str:
    """Return the best swap of a part, and how it was chosen."""
    how = "honestly chosen" if seeds > 1 else "chosen and judged on one seed"
    return f"best of these, {how}: {part['setting']}"


def method_name(row: dict[str, Any]) -> str:
    """Return value, extractor and what is done at test time of a method."""
    return " + ".join(part for part in (row["value"], row["policy"], row["test_time"]) if part)


def few(d: dict[str, Any]) -> bool:
    """Return whether there are too few seeds to tell anything apart."""
    return (d["verdict"] or d["about"])["seeds"] < ENOUGH


def bare(found: Any) -> Any:
    """Return numbers without their intervals, all the way down."""
    if isinstance(found, dict):
        inner = {key: bare(value) for key, value in found.items()}
        return inner | {"low": None, "high": None} if {"low", "high"} <= set(found) else inner
    return [bare(value) for value in found] if isinstance(found, list) else found


def shown(d: dict[str, Any]) -> dict[str, Any]:
    """Return what may be shown of a diagnosis: with few seeds no intervals, directions and shares, which read like results."""
    if not few(d):
        return d
    why = {"direction": None, "no_direction": f"fewer than {ENOUGH} seeds show none"}
    return {**bare(d), "matrices": [bare(one) | why for one in d["matrices"]], "variance": None}


def sentences(d: dict[str, Any]) -> list[str]:
    """Return what the diagnosis says, in the order in which a reader asks: what to try, why, what went wrong, what is missing."""
    d = shown(d)
    lines = verdict_sentences(d) if d["verdict"] else unplayed_sentences(d)
    lines += direction_sentences(d)
    lines += [variance_sentence(d), error_sentence(d), *alarm_sentences(d), failed_sentence(d), card_sentence(d)]
    if d["missing"]:
        lines.append("Not known: " + "; ".join(d["missing"]) + ".")
    lines.append(names_sentence(d))
    return [line for line in lines if line]


def card_sentence(d: dict[str, Any]) -> str:
    """Return what the data cover and how good they are, and what reading them changed."""
    card = d["card"]
    sizes, covers, scores = card["sizes"], card["coverage"], card["optimality"]
    text = (
        f"Dataset {d['about']['data']}: {sizes['transitions']:,} transitions in {sizes['trajectories']:,} trajectories"
    )
    if scores["min_return"] == scores["max_return"]:
        text += f", all of return {number(scores['max_return'])}"
    else:
        text += f" of mean return {number(scores['mean_return'])} per trajectory (best {number(scores['max_return'])})"
    if scores.get("normalised") is not None:
        text += f", {scores['normalised']:.0f} % of the expert's"
    if covers.get("knn_radius") is not None:
        text += (
            f"; a state lies {number(covers['knn_radius'])} from the 10th nearest of {covers['knn_reference']:,} others "
            "(median distance, in units of the observation)"
        )
    notes = "; ".join(note.rstrip(".") for note in card["notes"])
    read = (
        f"Noted when it was made or read: {notes}."
        if notes
        else "Nothing was derived, rescaled or clipped in reading it."
    )
    return f"{text}. {read} {box_sentence(d['about']['box'])}".rstrip()


def verdict_sentences(d: dict[str, Any]) -> list[str]:
    """Return the shortfall, what makes it, and what to try first."""
    v, about = d["verdict"], d["about"]
    seeds = counted(v["seeds"])
    lead = (
        f"{about['method']} on all {about['sizes'][-1]:,} training transitions scores {said(v['reference'], 1)} in "
        f"{unit_words(v['unit'])}. "
        f"{number(v['best'], 1)} is the aim ({v['best_from']}), so it falls short by {said(v['shortfall'], 1)}."
    )
    parts = [part_sentence(name, part, v["by_construction"]) for name, part in v["parts"].items()]
    name, rest = rest_of(v)
    ends = f"Means over {seeds}, too few for intervals." if few(d) else f"Intervals: 95 % each, over {seeds}."
    left = f"{name}: {said(rest, 1)}. " if name == UNEXPLAINED else f"{name} {said(rest, 1)}. "
    left += f"Each part is swapped by itself; gains may overlap and need not add up to the shortfall. {ends}"
    return [*worse_sentences(v), first_sentence(v), lead, *parts, left]


def rest_of(v: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return what the gains leave of the shortfall, with its name; where they are larger than it, by how much they overlap."""
    rest = v["unexplained"]
    if rest["value"] is None or rest["value"] >= 0.0:
        return UNEXPLAINED, rest
    turned = {"value": "value", "low": "high", "high": "low"}
    return OVERLAP, {key: None if rest[end] is None else -rest[end] for key, end in turned.items()}


def worse_sentences(v: dict[str, Any]) -> list[str]:
    """Return that everything that was tried is worse than the data, where it is; and that something beats a stated aim."""
    tried, own, lines = v["tried"], v["data_score"], []
    if own is not None and own > tried["score"]:
        lines.append(
            f"EVERY METHOD IS WORSE THAN THE DATA: the best of all that was tried, {tried['name']}, scores "
            f"{number(tried['score'], 1)}, the data's own trajectories {number(own, 1)}."
        )
    over = max(tried["score"], tried["score"] if own is None else own)
    if over > v["best"]:
        what = "the data's own trajectories score" if over > tried["score"] else f"{tried['name']} scores"
        lines.append(f"The aim is too low: {what} {number(over, 1)}, the aim is {number(v['best'], 1)}.")
    return lines


def first_sentence(v: dict[str, Any]) -> str:
    """Return what to try first, or that nothing can be told."""
    if v["first"]:
        part = v["parts"][v["first"]]
        how = "" if part["measured"] else " (worked out from a slope, not tried)"
        return f"Try first: {part['setting']}{how}; {v['first']} is what can be told to gain most, {said(part['gain'], 1)}."
    seeds = v["seeds"]
    if seeds < ENOUGH:
        return f"Nothing can be told: {counted(seeds)}, at least {ENOUGH} are needed; try --seeds 8."
    if v["shortfall"]["high"] is not None and v["shortfall"]["high"] <= 0.0:
        return "Nothing is short: the reference method reaches the aim, and no swap can be told to gain on it."
    return f"Nothing can be told: with {seeds} seeds no swap gains more than chance; try --seeds {max(8, 2 * seeds)}."


def part_sentence(name: str, part: dict[str, Any], by_construction: list[str]) -> str:
    """Return what one part costs; by_construction: the part and the swap whose score is the aim, [] for none."""
    if not part["setting"]:
        return f"{PARTS[name]}: not known, every swap failed."
    share = percent(part["share"])
    gain, sure = said(part["gain"], 1), "" if part["known"] else "; it cannot be told from 0"
    how = "" if part["measured"] else " (an extrapolation)"
    share = f", {share} of the shortfall" if share else ""
    made = f" {construction(by_construction[1])}" if by_construction[:1] == [name] else ""
    return f"{PARTS[name]}: the best swap, {part['setting']}{how}, gains {gain}{share}{sure}.{made}"


def construction(setting: str) -> str:
    """Return why no share is told of a part, one of whose swaps is the aim."""
    return f"The aim is the score of {setting}: the share of this part is 100 % by construction, so none is told."


def direction_sentences(d: dict[str, Any]) -> list[str]:
    """Return where the score of the reference method rises."""
    if not d["matrices"]:
        return []
    own = d["matrices"][0]
    name, found = f"{own['value']} + {own['policy']}", own["direction"]
    falls = f" For {falling(d['matrices'][:1])}." if falling(d["matrices"][:1]) else ""
    if few(d):
        return [
            f"Data: {counted(d['about']['seeds'])} cannot tell which data help; at least {ENOUGH} are needed.{falls}"
        ]
    if found is None:
        why = own.get("no_direction") or "it takes two amounts of data"
        return [f"Data: no direction of {name} can be fitted: {why.removeprefix('direction: ')}."]
    angle = f"angle {said(found['angle'], 0)} degrees (0 value, 90 policy)"
    return [
        f"Data, for {name}: {KINDS[found['kind']]}. A tenfold of value data changes the score by {said(found['value'], 1)}, a "
        f"tenfold of policy data by {said(found['policy'], 1)}; {angle}.{falls}"
    ]


def falls_with(one: dict[str, Any]) -> str:
    """Return with which data the scores of a matrix fall, "" where with none: its mean slopes, or its ends for want of these."""
    found, mean = one["direction"], one["mean"]
    if not found:
        first, last = mean[0][0], mean[-1][-1]
        return "more data" if len(mean) > 1 and None not in (first, last) and last < first else ""
    down = [side for side in ("value", "policy") if found[side]["value"] < 0.0]
    sure = [side for side in down if (found[side]["high"] or 0.0) < 0.0]
    sides = sure or (down if len(down) == 2 or found["kind"] == "worse" else [])
    return "more data" if len(sides) == 2 else "".join(f"more {side} data" for side in sides)


def falling(matrices: list[dict[str, Any]]) -> str:
    """Return which matrices fall with more data, and what that comes from; "" for none."""
    groups: dict[str, list[str]] = {}
    for one in matrices:
        groups.setdefault(falls_with(one), []).append(f"{one['value']} + {one['policy']}")
    told = [f"{', '.join(names)} the score falls with {what}" for what, names in groups.items() if what]
    return f"{'; for '.join(told)}: {FALLS}" if told else ""


def variance_sentence(d: dict[str, Any]) -> str:
    """Return which choice matters, over the whole grid."""
    if not d["variance"]:
        return ""
    shares = {**d["variance"]["factors"], "interactions": d["variance"]["interactions"]}
    listed = ", ".join(f"{name} {percent(share)}" for name, share in shares.items() if known(share))
    rest = percent(d["variance"]["residual"]).split(" [")[0]
    return (
        f"Of the variance of all scores (epsilon squared, jackknife intervals): {listed}; seeds {rest}."
        if listed
        else ""
    )


def error_sentence(d: dict[str, Any]) -> str:
    """Return how the reference method errs where it goes, against where it was trained; or the proxy of it."""
    row = d["methods"][0]
    if d["expert"] and known(row["error/eval"]):
        train, val, visited = (said(row[f"error/{name}"]) for name in ("train", "val", "eval"))
        far = not few(d) and (row["error/eval"]["low"] or 0.0) > (row["error/val"]["high"] or 0.0)
        verdict = (
            "it errs more where it goes than on held-out states"
            if far
            else ("too few seeds to compare them" if few(d) else "it does not clearly err more where it goes")
        )
        return (
            f"Error of {method_name(row)} to the optimal policy: {train} on training states, {val} on held-out ones, "
            f"{visited} on those it visits: {verdict}."
        )
    if known(row["radius/eval"]) and known(row["radius/val"]):
        away = row["radius/eval"]["value"] / max(row["radius/val"]["value"], 1e-9)
        return (
            f"Proxy of generalisation (no optimal policy is declared): states that {method_name(row)} visits lie {away:.1f} "
            f"times as far from its training states as held-out ones do. It sees states alone, not whether the policy errs there."
        )
    return ""


def unplayed_sentences(d: dict[str, Any]) -> list[str]:
    """Return what can be said without an environment, and what cannot."""
    if d["about"]["env"]:
        return [f"No verdict: {d['about']['method']} ended without a score on every seed."]
    lines = [
        "No verdict: without an environment no policy was played, so nothing is known of returns, of where the score rises, or "
        "of which part to change. What follows are hints from the data alone."
    ]
    for row in d["gaps"]:
        own = f"{row['value']} + {row['policy']}" == d["about"]["method"] and row["size"] == d["about"]["sizes"][-1]
        if own and known(row["fit/val"]):
            ratio = row["fit/val"]["value"] / max(row["fit/train"]["value"], 1e-9)
            lines.append(
                f"Hint, {d['about']['method']} on all data: its error to actions of held-out trajectories is {ratio:.1f} "
                f"times that of training ({said(row['fit/val'])} against {said(row['fit/train'])})."
            )
        if own and known(row["policy/ess_share"]):
            lines.append(
                f"Hint: the effective sample size of {d['about']['method']} is {said(row['policy/ess_share'])} of its batch."
            )
    return lines


def alarm_sentences(d: dict[str, Any]) -> list[str]:
    """Return the alarms, worst kinds first, one line for each kind; the page lists all."""
    if not d["alarms"]:
        return ["Alarms: none."]
    told: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for alarm in d["alarms"]:
        told.setdefault((alarm["what"], alarm["remedy"]), []).append(alarm)
    lines = []
    for (what, remedy), group in told.items():
        first = group[0]
        more = f" and {len(group) - 1} more" if len(group) > 1 else ""
        name = NUMBERS.get(first["number"], first["number"])
        measured = f"{name} {number(first['value'])}, {first['side']} {first['threshold']:g}"
        lines.append(f"Alarm: {what} ({first['where']} on {first['size']:,} transitions{more}: {measured}): {remedy}.")
    return lines


def failed_sentence(d: dict[str, Any]) -> str:
    """Return how many cells have no trial."""
    count = len(d["failed"])
    if not count:
        return ""
    first = d["failed"][0]
    return f"{count} of {d['about']['cells']} cells did not end in a score, first {first['cell']}: {first['message']}."
