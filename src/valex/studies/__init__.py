"""Studies: what is run, which figures are drawn from it, and which claims it can settle. One file per study.

base.py             the records that a study is made of
cells.py            stored runs sorted into cells (environment, arm, horizon) and the numbers read off a run
judge.py            the decision rule of a claim: supported, not supported, undecided
results.py          the results table
horizon.py          does a longer rollout horizon pay? presets here; figures and claims in horizon_*.py
"""
