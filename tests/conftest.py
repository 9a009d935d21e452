"""What tests of several packages share: the command line, small models, data, cluster and plan."""

import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict
from io import StringIO
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import platformdirs
import pytest
from hypothesis import settings
from hypothesis.internal.conjecture import providers

from analysis import cli
from analysis.planning import model_shapes
from d2ft_sched.model.shape import ModelShape
from made_once import made_once

# Machines are busy, and tests time nothing; what one run tries, every run tries, unless asked for
# other examples by --hypothesis-profile anew. Hypothesis also tries the constants of our modules
# imported so far, which depend on the tests that ran before in the same process: not here.
providers._get_local_constants = lambda: providers._local_constants
settings.register_profile("d2ft", deadline=None, derandomize=True)
settings.register_profile("anew", deadline=None)
settings.load_profile("d2ft")

LONGEST = (
    "analysis/finetuning",
    "analysis/studying",
    "analysis/sweeping",
    "analysis/validating",
    "analysis/commands/test_cli_runtime.py",
    "docs",
    "runtime/own_loop",
    "runtime/ranks",
    "test_examples.py",
)
"""Tests that take seconds each, and processes of their own."""

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
WORDS = ("puck", "goal", "skate", "rocket", "orbit", "moon", "the", "a", "of", "and", "is")
CONFIG = {
    "model_type": "bert",
    "vocab_size": len(SPECIAL) + len(WORDS),
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "max_position_embeddings": 12,
    "hidden_dropout_prob": 0.1,
    "pad_token_id": 0,
}

TWO_EQUAL = """
name: two
devices:
  - {name: a, compute_flops_per_s: 1e11, memory_bytes: 8 GB, memory_bandwidth_bytes_per_s: 1e12}
  - {name: b, compute_flops_per_s: 1e11, memory_bytes: 8 GB, memory_bandwidth_bytes_per_s: 1e12}
network: {kind: full_mesh, bandwidth_bytes_per_s: 1e9, latency_s: 1e-5}
"""


def pytest_configure(config: pytest.Config) -> None:
    """A cache of this run alone, which its processes share; what was dear to convert is read from
    the user's own."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        return
    known = platformdirs.user_cache_path("d2ft") / "weights"
    own = tempfile.TemporaryDirectory(prefix="d2ft-tests-", ignore_cleanup_errors=True)
    config.add_cleanup(own.cleanup)
    os.environ.setdefault("MPLCONFIGDIR", str(platformdirs.user_cache_path("matplotlib")))
    os.environ["XDG_CACHE_HOME"] = own.name
    weights = platformdirs.user_cache_path("d2ft") / "weights"
    weights.mkdir(parents=True)
    for folder in known.iterdir() if known.is_dir() else ():
        if folder.is_dir():
            (weights / folder.name).symlink_to(folder)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first, so that at the end there is enough to share among workers."""
    here = Path(__file__).parent
    items.sort(key=lambda item: not item.path.relative_to(here).as_posix().startswith(LONGEST))


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop() -> None:
    """Ranks of tests begin with what has been imported to collect these."""
    if "rank_processes" in sys.modules:
        sys.modules["rank_processes"].serve_ranks()


@pytest.fixture(scope="session", autouse=True)
def sizes_read_here() -> Iterator[None]:
    """What only a library knows of a model is read in this process, not in one of its own."""

    def ask(question: dict[str, Any]) -> ModelShape:
        from runtime.models.named_shape import named_shape

        return named_shape(**question)

    with patch.object(model_shapes, "_ask", ask):
        yield


@pytest.fixture
def tiny_bert(tmp_path: Path) -> Path:
    """A folder with ``config.json`` and ``tokenizer.json``; it has no weights."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    folder = tmp_path / "tiny-bert"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    vocabulary = {word: i for i, word in enumerate((*SPECIAL, *WORDS))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture
def write_table() -> Callable[[Path, Sequence[tuple[str, str]]], Path]:
    """Writes a table of texts as Orange does: class, then text."""

    def write(path: Path, rows: Sequence[tuple[str, str]]) -> Path:
        lines = ["Category\tText", "d\tstring", "class\t", *(f"{c}\t{text}" for c, text in rows)]
        path.write_text("\n".join(lines) + "\n")
        return path

    return write


@pytest.fixture
def two_topics() -> Callable[[int], list[tuple[str, str]]]:
    """So many texts of each of two topics, of different lengths."""

    def texts(number: int) -> list[tuple[str, str]]:
        hockey = [("hockey", "the puck is a goal " * (1 + i % 2) + "skate") for i in range(number)]
        return hockey + [
            ("space", "a rocket and the moon " + "orbit " * (i % 4)) for i in range(number)
        ]

    return texts


@pytest.fixture(scope="session")
def d2ft_code() -> Callable[..., int]:
    """Run the command line in this process; gives the exit code."""

    def call(*arguments: object) -> int:
        with (
            patch.object(sys, "argv", ["d2ft", *map(str, arguments)]),
            pytest.raises(SystemExit) as caught,
        ):
            cli.main()
        return int(caught.value.code or 0)

    return call


@pytest.fixture(scope="session")
def made_plan(
    d2ft_code: Callable[..., int], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """``made_plan(path, *options)``: the file of `d2ft plan`, planned once for the same options
    and the same content of files among them."""

    def make(path: Path, *options: object) -> Path:
        key = [o.read_text() if isinstance(o, Path) and o.is_file() else str(o) for o in options]
        name = f"plan-{hashlib.sha256(json.dumps(key).encode()).hexdigest()}"

        def plan(folder: Path) -> None:
            with redirect_stdout(StringIO()), redirect_stderr(StringIO()) as said:
                code = d2ft_code("plan", *options, "--out", folder / "plan.json")
            assert code == 0, said.getvalue()

        shutil.copy(made_once(tmp_path_factory, name, plan) / "plan.json", path)
        return path

    return make


@pytest.fixture
def d2ft(
    d2ft_code: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run the command line in this process; gives exit code, standard output, standard error."""

    def call(*arguments: object) -> tuple[int, str, str]:
        code = d2ft_code(*arguments)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture(scope="session")
def noise_pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of fourteen pictures of 32 px that nothing tells apart."""
    from PIL import Image

    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for name in ("a", "b"):
        (folder / name).mkdir()
        for i in range(14):
            pixels = rng.integers(256, size=(32, 32, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder


@pytest.fixture(scope="session")
def tiny_vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shape of a ViT with LayerScale for `noise_pictures`: 9 blocks of 3 heads."""
    from runtime.models.build import build_model, shape_of

    path = tmp_path_factory.mktemp("tiny_vit") / "shape.json"
    shape = shape_of(build_model("test_vit4", image_size=32, num_classes=2))
    path.write_text(json.dumps(asdict(shape)))
    return path


@pytest.fixture(scope="session")
def two_equal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cluster file of two equal devices."""
    path = tmp_path_factory.mktemp("two_equal") / "two.yaml"
    path.write_text(TWO_EQUAL)
    return path


@pytest.fixture(scope="session")
def even_plan(
    made_plan: Callable[..., Path],
    two_equal: Path,
    tiny_vit: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A plan of `tiny_vit` on `two_equal` at 0.7 of the dense compute, five micro-batches."""
    return made_plan(
        tmp_path_factory.mktemp("even_plan") / "plan.json", "--cluster", two_equal,
        "--model", tiny_vit, "--microbatches", 5, "--microbatch-size", 1,
        "--budget-compute", 0.7, "--placement", "every-device",
    )  # fmt: skip
