"""The doctor: what it finds, what it finds missing, and that it does not fail where something is."""

import json
import os
import subprocess
import sys
import warnings
from importlib.metadata import version
from pathlib import Path

import jax
import pytest
from tiny import valex

from valex import __version__, device, doctor


def without(monkeypatch, *names: str) -> None:
    """Have distributions be missing."""

    def installed(name: str) -> str | None:
        return None if name in names else version("valex")

    monkeypatch.setattr(doctor, "installed", installed)


def test_json_is_one_object():
    said = valex("doctor", "--json")
    found = json.loads(said.out)
    assert said.code == 0 and found["valex"] == __version__ and found["cores"] == len(device.available_cores())
    assert found["devices"] == [f"{d.platform} ({d.device_kind})" for d in jax.devices()]
    assert found["installed"]["jax"] == jax.__version__ and Path(found["compilation_cache"]).is_dir()


def test_text_says_the_same():
    said, found = valex("doctor"), json.loads(valex("doctor", "--json").out)
    assert said.code == 0
    assert found["devices"][0] in said.out and f"jax {jax.__version__}" in said.out
    for name, remedy in found["missing"].items():
        assert f"{name}: {remedy}" in said.out


def test_what_is_missing_comes_with_its_pip_line(monkeypatch):
    without(monkeypatch, "optax", "mujoco", "tensorboardX", "wandb")
    missing = doctor.findings()["missing"]
    assert missing["optax"].startswith("pip install 'optax") and ">=" in missing["optax"]
    assert missing["extra brax"] == "pip install 'valex[brax]' (mujoco)"
    assert missing["extra tensorboard"].startswith("pip install 'valex[tensorboard]'")
    assert missing["extra wandb"].startswith("pip install 'valex[wandb]'")
    assert valex("doctor", "--json").code == 1, "valex cannot do without optax"
    without(monkeypatch, "wandb")
    assert valex("doctor", "--json").code == 0, "it can do without a tracker"


@pytest.mark.parametrize("name", doctor.CORE)
def test_requirements_are_those_that_valex_declares(name):
    line = doctor.requirement(name)
    wanted = "jax" if name == "jaxlib" else name  # jax brings the jaxlib that fits it
    assert line.startswith(wanted) and line != wanted and line[len(wanted)] in "<>=!~"


def test_a_distribution_that_is_not_declared_is_its_own_line():
    assert doctor.requirement("brax") == "brax" and doctor.requirement("left-pad") == "left-pad"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import sys; sys.modules['jax'] = None", "ModuleNotFoundError"),
        (
            "import os; os.environ['JAX_PLATFORMS'] = 'cuda'; os.environ['CUDA_VISIBLE_DEVICES'] = ''",
            "JAX_PLATFORMS=cuda: jax finds no such device",
        ),
    ],
)
def test_the_doctor_answers_where_jax_does_not(code, said):
    code += "; from valex.cli import main; code = main(['doctor', '--json']); sys = __import__('sys'); sys.exit(code)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    found = json.loads(done.stdout)
    assert found["devices"] == [] and said in found["missing"]["device"]


# ---- device ---------------------------------------------------------------------------------------------------------


def test_where_the_compilation_cache_lies(monkeypatch, tmp_path):
    monkeypatch.setenv("VALEX_CACHE_DIR", str(tmp_path / "own"))
    folder = device.cache_folder()
    assert folder is not None and folder.parent == tmp_path / "own" and version("jaxlib") in folder.name
    monkeypatch.delenv("VALEX_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert device.cache_folder() == tmp_path / "xdg" / "valex" / folder.name
    monkeypatch.setenv("XDG_CACHE_HOME", "")  # empty counts as not set, or the cache lay in the working directory
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert device.cache_folder() == tmp_path / "home" / ".cache" / "valex" / folder.name


def test_no_home_and_no_place_to_write_are_done_without(monkeypatch, tmp_path):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    before = jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]
    (tmp_path / "file").touch()
    monkeypatch.setenv("VALEX_CACHE_DIR", str(tmp_path / "file" / "below"))
    device.set_up_jax()
    assert "cannot be written" in doctor.cache()
    monkeypatch.delenv("VALEX_CACHE_DIR")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    assert device.cache_folder() is None and "VALEX_CACHE_DIR" in doctor.cache()
    device.set_up_jax()
    assert jax.config.jax_compilation_cache_dir == before  # pyright: ignore[reportAttributeAccessIssue]


def test_the_device_is_chosen_also_where_jax_is_imported_already():
    """The variable JAX_PLATFORMS is read at import; worker processes inherit it."""
    code = (
        "import jax, os; from valex.device import set_up_jax; set_up_jax('cpu')\n"
        "print(jax.config.jax_platforms, os.environ['JAX_PLATFORMS'])"
    )
    environment = {name: value for name, value in os.environ.items() if name != "JAX_PLATFORMS"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.split() == ["cpu", "cpu"]


def test_the_threads_of_xla(monkeypatch):
    """The variable is read by XLA alone; what jax was set up with can be asked for afterwards."""
    code = "from valex import device; device.set_up_jax('cpu', {}); print(device.cpu_threads())"
    for asked, expected in ((1, 1), (3, 3)):
        done = subprocess.run([sys.executable, "-c", code.format(asked)], capture_output=True, text=True, check=True)
        assert int(done.stdout) == expected
    for unusable in ("", "0", "many"):
        monkeypatch.setenv(device.THREADS, unusable)
        assert device.cpu_threads() == len(device.available_cores())


def test_a_torn_entry_of_the_cache_is_removed(monkeypatch, tmp_path):
    """jax writes entries in place: a kill or a full disk tears one, and jax then warns and compiles at every start."""
    monkeypatch.setenv("VALEX_CACHE_DIR", str(tmp_path))
    code = (
        "import jax; from valex import device; device.set_up_jax()\n"
        "jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)\n"
        "def torn(x): return x @ x + 1.0\n"
        "with device.compiling(): jax.jit(torn).lower(jax.ShapeDtypeStruct((8, 8), 'float32')).compile()"
    )

    def compile_it() -> str:
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stderr

    def entries() -> list[Path]:
        return list(tmp_path.glob("*/jit_torn-*"))

    assert compile_it() == ""
    (entry,) = entries()
    whole = entry.read_bytes()
    entry.write_bytes(whole[: len(whole) // 2])
    (line,) = compile_it().splitlines()
    assert line.startswith("warning: compilation cache, reading jit_torn: ") and not entries()
    assert compile_it() == "" and len(entries()) == 1


def test_other_warnings_of_a_compilation_are_passed_on(capsys):
    with pytest.warns(UserWarning, match="unheard of"), device.compiling():
        warnings.warn("unheard of", stacklevel=1)
    with pytest.raises(KeyError), pytest.warns(UserWarning, match="before the error"), device.compiling():
        warnings.warn("before the error", stacklevel=1)
        raise KeyError
    with device.compiling():
        warnings.warn("Error writing persistent compilation cache entry for 'jit_a': full", stacklevel=1)
    assert capsys.readouterr().err == "warning: compilation cache, writing jit_a: full\n"


def test_metadata_names_what_a_run_was_made_with():
    found = device.metadata()
    assert found["versions"]["jax"] == jax.__version__ and found["device"].startswith(jax.devices()[0].platform)
    assert found["cores"] == len(device.available_cores())


def test_the_commit_is_that_of_the_source_tree(monkeypatch, tmp_path):
    """An installed package must not report the commit of the repository that its virtual environment lies in."""
    git = ["git", "-c", "user.name=a", "-c", "user.email=b", "-C", str(tmp_path)]
    subprocess.run([*git[:1], "init", "-q", str(tmp_path)], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "m"], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    monkeypatch.setattr(device, "__file__", str(tmp_path / "src" / "valex" / "device.py"))
    assert device.commit() == head
    monkeypatch.setattr(device, "__file__", str(tmp_path / ".venv" / "lib" / "site-packages" / "valex" / "device.py"))
    assert device.commit() == "unknown"
    monkeypatch.setattr(device, "__file__", str(tmp_path / "src" / "valex" / "device.py"))
    monkeypatch.setenv("PATH", os.devnull)
    assert device.commit() == "unknown", "no git is no error"
