"""The HTML of the report: plain strings in, escaped markup out. No scripts, no network, light and dark."""

import base64
import html
import itertools
import math
from collections.abc import Callable, Iterable
from typing import Any

from valex.report.figures import Picture
from valex.studies.base import NOT_RUN, NOT_SUPPORTED, POOLED_TOO, SUPPORTED, UNDECIDED, Table, Verdict
from valex.studies.judge import CONFIDENCE, MIN_SEEDS, POOLED, region_text
from valex.studies.results import Row, interval_text, number, seeds_text

PIXELS = 100  # of the page per inch of a figure
SHORT = 50  # finished runs that are listed unfolded

CSS = """
:root {
  color-scheme: light dark;
  --ink: #1b1f24; --soft: #57606a; --line: #d8dee4; --paper: #ffffff; --tint: #f6f8fa; --sheet: #fff; --link: #0a58ca;
  --good: #0b6b3a; --good-bg: #dff3e6; --bad: #a3341c; --bad-bg: #fbe6df; --open: #57606a; --open-bg: #eaeef2;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ink: #e6e9ed; --soft: #9aa4af; --line: #30363d; --paper: #0f1318; --tint: #171c23; --sheet: #121212;
    --link: #7ab7ff; --good: #7fdca4; --good-bg: #12301f; --bad: #ffab91; --bad-bg: #3a1d15; --open: #aab4bf;
    --open-bg: #232a32;
  }
  img { filter: invert(0.93) hue-rotate(180deg); }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", "Liberation Sans", Arial, sans-serif;
}
main { max-width: 1180px; margin: 0 auto; padding: 2.2rem 1.25rem 5rem; }
h1 { font-size: 2rem; line-height: 1.2; margin: 0 0 .4rem; letter-spacing: -.015em; }
h2 { font-size: 1.35rem; margin: 3rem 0 .8rem; padding-bottom: .3rem; border-bottom: 2px solid var(--ink); }
h3 { font-size: 1.08rem; margin: 0 0 .25rem; }
p, li { max-width: 88ch; }
p { margin: .5rem 0; }
a { color: var(--link); }
code { font: .86em/1.5 ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; overflow-wrap: anywhere; }
.lead { font-size: 1.08rem; color: var(--soft); }
.note { color: var(--soft); font-size: .9rem; max-width: 104ch; }
.links { white-space: nowrap; }
nav { margin: 1rem 0 0; display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; font-size: .92rem; }
dl {
  display: grid; grid-template-columns: max-content 1fr; gap: .3rem 1.2rem; margin: 1.6rem 0 0; padding: 1rem 1.2rem;
  background: var(--tint); border: 1px solid var(--line); border-radius: 8px; font-size: .92rem;
}
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; margin: .8rem 0; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .38rem .7rem; border-bottom: 1px solid var(--line); vertical-align: top; }
thead th { color: var(--soft); font-weight: 600; border-bottom: 1.5px solid var(--soft); vertical-align: bottom; }
td.words { min-width: 12.5em; }
td.num, th.num { text-align: right; white-space: nowrap; }
tr.group > * { border-top: 1.5px solid var(--soft); }
tr.claim th { background: var(--tint); font-weight: 400; padding: .7rem; }
tr.claim b { margin-right: .5rem; }
tr.claim .note { display: block; max-width: none; margin-top: .15rem; }
.verdict {
  display: inline-block; padding: .05rem .55rem; border-radius: 99px; font-weight: 600; font-size: .85rem;
  white-space: nowrap;
}
.supported, .finished { color: var(--good); background: var(--good-bg); }
.not-supported, .failed { color: var(--bad); background: var(--bad-bg); }
.undecided, .interrupted, .running, .unknown { color: var(--open); background: var(--open-bg); }
summary { cursor: pointer; margin: .8rem 0 0; font-weight: 600; }
figure { margin: 1.6rem 0 2.6rem; }
figcaption { color: var(--soft); font-size: .93rem; max-width: 98ch; }
figure .scroll { border: 1px solid var(--line); border-radius: 8px; background: var(--sheet); padding: .6rem .4rem; }
img { display: block; max-width: 100%; height: auto; }
@media (max-width: 640px) {
  main { padding: 1.2rem .9rem 3rem; }
  h1 { font-size: 1.5rem; }
  dl { grid-template-columns: 1fr; gap: 0; }
  dd { margin-bottom: .5rem; }
  img { max-width: none; }
  table { min-width: 46rem; }
  tr.claim th > div { max-width: calc(100vw - 3.2rem); position: sticky; left: .7rem; }
}
"""


def text(value: object) -> str:
    """Escape a value for HTML, quotes included."""
    return html.escape(str(value), quote=True)


def section(name: str, title: str, body: str) -> str:
    """Return a section with its anchor."""
    return f'<section id="{text(name)}">\n<h2>{text(title)}</h2>\n{body}\n</section>'


def bullets(lines: Iterable[str], nothing: str) -> str:
    """Return a list, or a paragraph that says there is nothing to list."""
    items = "".join(f"<li>{text(line)}</li>\n" for line in lines)
    return f"<ul>\n{items}</ul>" if items else f"<p>{text(nothing)}</p>"


def facts(pairs: list[tuple[str, str]]) -> str:
    """Return what was run as a definition list."""
    monospaced = {"command", "commit"}
    values = (f"<code>{text(v)}</code>" if k in monospaced else text(v) for k, v in pairs)
    rows = "".join(f"<dt>{text(k)}</dt><dd>{v}</dd>" for (k, _), v in zip(pairs, values, strict=True))
    return f"<dl>{rows}</dl>"


def table(head: list[tuple[str, bool]], body: str) -> str:
    """Return a table that scrolls sideways on a narrow screen; head = (title, numeric)."""
    cells = "".join(f'<th{" class=num" if numeric else ""} scope="col">{text(name)}</th>' for name, numeric in head)
    return f'<div class="scroll"><table><thead><tr>{cells}</tr></thead>\n<tbody>\n{body}</tbody></table></div>'


def results(rows: list[Row], arm_name: Callable[[str], str]) -> str:
    """Return the results table with a note on how to read it."""
    head = [("Environment", False), ("Arm", False), ("H", True), ("Seeds", True)]
    head += [("Final return, IQM [95 % CI]", True), ("AUC, IQM [95 % CI]", True), ("P(AUC > H = 0)", True)]
    body, previous = "", ("", "")
    for r in rows:
        new, previous = (r.task, r.arm) != previous, (r.task, r.arm)
        numbers = (interval_text(r.final), interval_text(r.auc), interval_text(r.better, 2))
        cells = "".join(f"<td class=num>{text(value)}</td>" for value in (r.horizon, seeds_text(r), *numbers))
        names = (text(r.task), text(arm_name(r.arm))) if new else ("", "")
        body += f"<tr{' class=group' if new else ''}><td>{names[0]}</td><td class=words>{names[1]}</td>{cells}</tr>\n"
    note = (
        "Units of return. IQM is the interquartile mean over seeds that finished; intervals are 95 % stratified "
        "bootstrap (percentile), which on normal data cover 90 % with 5 seeds, 93 % with 9. Final return is the last "
        "evaluation, never the best. AUC is the area under the learning curve over its length. P(AUC > H = 0) is the "
        "probability that a seed has a larger AUC than one at H = 0; 0.5 is no difference. Also in results.csv."
    )
    return f'<p class="note">{text(note)}</p>\n{table(head, body)}'


def own_results(found: Table) -> str:
    """Return the results table that a study makes itself, names written once while they repeat."""
    body, previous = "", ()
    for row in found.rows:
        new, previous = row[: found.groups] != previous, row[: found.groups]
        shown = (*(row[: found.groups] if new else ("",) * found.groups), *row[found.groups :])
        kinds = ("num" if numeric else "words" for numeric in found.numeric)
        cells = "".join(f"<td class={kind}>{text(cell)}</td>" for kind, cell in zip(kinds, shown, strict=True))
        body += f"<tr{' class=group' if new else ''}>{cells}</tr>\n"
    head = list(zip(found.head, found.numeric, strict=True))
    return f'<p class="note">{text(found.note)}</p>\n{table(head, body)}'


def chip(name: str) -> str:
    """Return a verdict or a state as a coloured word."""
    return f'<span class="verdict {text(name.replace(" ", "-"))}">{text(name)}</span>'


def verdict_row(v: Verdict) -> str:
    """Return one row of the claims table."""
    bounds = f"[{number(v.low)}, {number(v.high)}]" if math.isfinite(v.low) else ""
    seeds = f"{v.n}" + (f" ({v.failed} diverged)" if v.failed else "")
    numbers = "".join(f"<td class=num>{text(value)}</td>" for value in (number(v.value), bounds, seeds))
    words = "".join(f"<td class=words>{text(value)}</td>" for value in (v.statistic, v.reason))
    return f"<tr><td>{text(v.env)}</td><td>{chip(v.verdict)}</td>{numbers}{words}</tr>\n"


def not_run(verdicts: list[Verdict]) -> list[str]:
    """Return the ids of claims that nothing was measured for on any task, because the preset does not run what they need."""
    single = (v for v in verdicts if v.env != POOLED)
    groups = itertools.groupby(single, key=lambda v: v.claim)
    return [name for name, group in groups if all(v.reason.startswith(NOT_RUN) for v in group)]


def left_aside(study: Any, verdicts: list[Verdict], ids: list[str]) -> str:
    """Return claims that were not run, folded away: what each says and what it would need."""
    texts = {claim.id: claim.text for claim in study.claims}
    why = {v.claim: v.reason.removeprefix(NOT_RUN).removeprefix(": ") for v in reversed(verdicts) if v.env != POOLED}
    lines = [f"<li><b>{text(i)}</b> {text(texts[i])}{text(f' (needs {why[i]})' if why[i] else '')}</li>" for i in ids]
    listed = "\n".join(lines)
    return f"<details><summary>{len(ids)} claims not run in this preset</summary><ul>\n{listed}\n</ul></details>"


def claims(study: Any, verdicts: list[Verdict]) -> str:
    """Return the claims table of a study of any kind: a heading per claim, under it one row per task and one pooled.

    Claims that the preset does not run are listed behind it.
    """
    by_id, aside = {claim.id: claim for claim in study.claims}, not_run(verdicts)
    own = any(claim.scope != POOLED_TOO for claim in study.claims)  # not every value is an IQM over seeds
    head = [(study.task, False), ("Verdict", False), ("Value" if own else "IQM", True), ("Interval", True)]
    head += [("n" if own else "Seeds", True)]
    head += [("Quantity that decides", False), ("Why", False)]
    body = ""
    for name, group in itertools.groupby((v for v in verdicts if v.claim not in aside), key=lambda v: v.claim):
        claim = by_id[name]
        detail = f"{claim.source} · measured: {claim.statistic} · claim holds if {region_text(claim.region)}"
        title = f'<b>{text(name)}</b>{text(claim.text)}<span class="note">{text(detail)}</span>'
        body += f'<tr class="claim"><th colspan="{len(head)}" scope="colgroup"><div>{title}</div></th></tr>\n'
        body += "".join(map(verdict_row, group))
    rule = (
        f"A claim is {SUPPORTED} if its whole interval lies inside what it says, {NOT_SUPPORTED} if the whole interval "
        f"lies outside, and {UNDECIDED} otherwise, always below {MIN_SEEDS} finished seeds. Intervals hold together "
        f"with {100 * CONFIDENCE:g} % over all quantities of a claim (Bonferroni) and are expanded for few seeds "
        "(Hesterberg 2015), so they are wider than those of the figures. Seeds are paired. If runs diverged, a verdict "
        "on returns stands only if it is the same with them counted at the lowest return seen. Pooled means over "
        "environments, each a stratum of the bootstrap. Also in claims.csv."
    )
    if own:
        rule += (
            " A value is the IQM over n seeds unless its claim says what it is; then n counts what the interval resamples, or "
            "the settings that are counted."
        )
    lines = (*study.remarks, f"Sources: {study.sources}.")
    remarks = "\n".join(f'<p class="note">{text(line)}</p>' for line in lines)
    shown = table(head, body) if body else ""
    folded = left_aside(study, verdicts, aside) if aside else ""
    return f'<p class="note">{text(rule)}</p>\n{shown}\n{folded}\n{remarks}'


def figure(name: str, title: str, caption: str, picture: Picture) -> str:
    """Return a figure with its picture inside the page (base64 PNG) and links to the files beside it."""
    files = f'<a href="{text(name)}.png">PNG</a> · <a href="{text(name)}.csv">CSV</a>'
    data = base64.b64encode(picture.untitled).decode()
    width = round(PIXELS * picture.width)
    image = f'<img alt="{text(title)}" style="width:{width}px" src="data:image/png;base64,{data}">'
    return (
        f'<figure id="{text(name)}"><h3>{text(title)}</h3>\n'
        f'<figcaption>{text(caption)} <span class="links">{files}</span></figcaption>\n'
        f'<div class="scroll">{image}</div></figure>'
    )


def runs(rows: list[tuple[str, str, str, str]], reached: str = "Environment steps") -> str:
    """Return the runs, (name, state, how far it came, message): those that did not finish first, the others folded."""
    head = [("Run", False), ("State", False), (reached, True), ("Message", False)]

    def body(part: list[tuple[str, str, str, str]]) -> str:
        return "".join(
            f"<tr><td><code>{text(name)}</code></td><td>{chip(state)}</td><td class=num>{text(steps)}</td>"
            f"<td>{text(said)}</td></tr>\n"
            for name, state, steps, said in part
        )

    done = [row for row in rows if row[1] == "finished"]
    rest = [row for row in rows if row[1] != "finished"]
    first = table(head, body(rest)) if rest else "<p>Every run finished.</p>"
    opened = " open" if len(done) <= SHORT else ""
    folded = f"<details{opened}><summary>{len(done)} finished</summary>{table(head, body(done))}</details>"
    return first + (folded if done else "")


def document(title: str, folder: str, lead: list[str], sections: dict[str, str]) -> str:
    """Return the whole page: a lead, of which the first paragraph is the summary, and the sections by their anchors."""
    nav = "".join(f'<a href="#{name}">{name.replace("-", " ").capitalize()}</a>' for name in sections if name)
    summary, *rest = lead
    told = "".join(f"<p>{text(line)}</p>\n" for line in rest)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{text(title)} · {text(folder)}</title>\n<style>{CSS}</style>\n</head>\n<body>\n<main>\n"
        f"<h1>{text(title)}</h1>\n<p class=lead>{text(summary)}</p>\n{told}"
        f"<nav>{nav}</nav>\n" + "\n".join(sections.values()) + "\n</main>\n</body>\n</html>\n"
    )
