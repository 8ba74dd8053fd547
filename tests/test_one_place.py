"""One idea, one place: the target recursion, the discount, the tables, the clock."""

import ast
import re
from pathlib import Path

import pytest

from valex import tables

SOURCE = Path(__file__).parents[1] / "src" / "valex"
TABLES = {
    name: table
    for name, table in vars(tables).items()
    if name.isupper() and isinstance(table, dict) and all(isinstance(e, tables.Entry) for e in table.values())
}


def files_matching(pattern: str) -> set[str]:
    return {
        str(path.relative_to(SOURCE))
        for path in SOURCE.rglob("*.py")
        if re.search(pattern, path.read_text(), re.MULTILINE)
    }


def test_there_is_one_rollout():
    """Whatever follows a model step by step uses the step of windows.py; the others take a single step."""
    wraps = {f"models/{name}.py" for name in ("segments", "passing", "swap")}
    single = ("model_derivatives", "model_error", "swap", "derivative_errors", "surroundings")
    alone = wraps | {f"diagnostics/{name}.py" for name in single}
    assert files_matching(r"model\.step\(") - alone == {"windows.py"}


def test_no_agent_names_gamma():
    assert not [name for name in files_matching(r"\bgamma\b") if name.startswith("agents/")]


def test_the_recursion_is_written_once():
    assert files_matching(r"lax\.scan\(.*reverse=True") == {"targets.py"}


def test_the_discount_is_made_in_windows_only():
    """gamma * (1 - terminated), the place where termination and truncation are told apart."""
    assert files_matching(r"gamma \* \(1\.0 - ") == {"windows.py"}


def test_truncation_is_decided_in_one_place():
    """One clock for batches on the device, one for environments on the host."""
    assert files_matching(r"truncated = ") == {"envs/base.py", "play.py"}


def test_log_det_of_tanh_is_written_once():
    assert files_matching(r"softplus\(-2") == {"distributions.py"}


def test_rules_are_folded_only_through_the_table():
    assert files_matching(r"^def (td|h_step|td_lambda|retrace|mean|minimum|steve)\(x: ReturnInputs") == {"targets.py"}
    assert not [name for name in files_matching(r"backward_return\(") if name.startswith("agents/")]


@pytest.mark.parametrize(("table", "name"), [(t, n) for t in TABLES for n in TABLES[t]])
def test_every_entry_resolves(table, name):
    entry = TABLES[table][name]
    module, attribute = entry.target.split(":")
    path = SOURCE / Path(*module.split(".")[1:]).with_suffix(".py")
    defined = {
        target
        for node in ast.parse(path.read_text()).body
        for target in (
            [node.name] if isinstance(node, (ast.FunctionDef, ast.ClassDef))
            else [t.id for t in node.targets if isinstance(t, ast.Name)] if isinstance(node, ast.Assign)
            else [node.target.id] if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
            else []
        )
    }  # fmt: skip
    assert attribute in defined, f"{table}[{name}] points at {entry.target}, which is not there"
    assert entry.summary and "\n" not in entry.summary
