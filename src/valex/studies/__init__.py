"""Studies: what is run, which figures are drawn from it, and which claims it can settle. One file per study.

base.py             the records that a study is made of
naming.py           arms: the key that a run is compared under, and its name for people
cells.py            stored runs sorted into cells (environment, arm, horizon) and the numbers read off a run
judge.py            the decision rule of a claim: supported, not supported, undecided
results.py          the results table
series.py           building blocks of figures: points and bands over seeds
return_figures.py   figures that any study of returns against the horizon can show
horizon.py          does a longer rollout horizon pay? presets here; figures, measures and claims in horizon_*.py
trust_your_model.py does value expansion want a better model? figures and claims in trust_*.py
combine_horizons.py how are horizons best combined? figures and claims in combine_*.py
discrete_horizon.py does a longer horizon pay with discrete actions? MinAtar
"""
