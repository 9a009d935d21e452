"""Shapes of models by every name that runs: asked of the library once, without torch here."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from analysis.planning import model_shapes
from analysis.planning.model_shapes import model_shape
from d2ft_sched.errors import InputError
from d2ft_sched.model.shape import ModelShape
from d2ft_sched.model.shape_file import load_model_shape
from d2ft_sched.plan.plan_file import load_plan
from runtime.models.build import build_on_meta, shape_of
from runtime.models.named_shape import named_shape

SIZES = {"image_size": 32, "num_tokens": None, "num_classes": 3}


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """What d2ft keeps for its user stays out of the user's own folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names that the library was asked for, in this process to save the time of another."""
    names: list[str] = []

    def ask(question: dict) -> ModelShape:
        names.append(question["name"])
        return named_shape(**question)

    monkeypatch.setattr(model_shapes, "_ask", ask)
    return names


def test_a_name_is_planned_in_a_process_that_has_no_torch(two_equal: Path, tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from analysis.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "assert not {'torch', 'timm', 'transformers'} & set(sys.modules)\n"
    )
    command = [
        sys.executable, "-c", code, "plan", "--cluster", str(two_equal), "--out", "plan.json",
        "--model", "test_vit.r160_in1k", "--image-size", "32", "--num-classes", "3",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Read the sizes of test_vit.r160_in1k" in done.stderr
    shape = load_plan(tmp_path / "plan.json").workload.shape
    assert shape == shape_of(build_on_meta("test_vit.r160_in1k", **SIZES))
    assert shape.name == "test_vit.r160_in1k"


def test_an_answer_is_kept_until_the_library_or_the_question_changes(
    asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = model_shape("test_vit2", image_size=32)
    assert model_shape("test_vit2", image_size=32) == first
    assert len(asked) == 1
    assert model_shape("test_vit2", image_size=48).num_tokens > first.num_tokens
    assert model_shape("test_vit2", image_size=32, num_classes=7) != first
    assert len(asked) == 3
    monkeypatch.setattr(model_shapes, "package_version", lambda package: "99")
    assert model_shape("test_vit2", image_size=32) == first
    assert len(asked) == 4


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"name": "x"}', "\0"])
def test_a_damaged_answer_is_asked_for_again(asked: list[str], damage: str) -> None:
    first = model_shape("test_vit4", image_size=32)
    folder = Path(model_shapes.platformdirs.user_cache_dir("d2ft"))
    (kept,) = folder.rglob("*.json")
    kept.write_text(damage)
    assert model_shape("test_vit4", image_size=32) == first
    assert len(asked) == 2
    assert json.loads(kept.read_text())["name"] == "test_vit4"


def test_without_a_cache_folder_it_goes_on(
    asked: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert model_shape("test_vit", image_size=32).num_blocks == 6
    assert asked == ["test_vit"]


def test_a_folder_of_a_bert_is_planned_and_read_anew_when_it_changes(
    asked: list[str], tiny_bert: Path
) -> None:
    shape = model_shape(str(tiny_bert), num_tokens=8)
    assert (shape.num_blocks, shape.num_tokens, shape.name) == (2, 8, str(tiny_bert))
    config = json.loads((tiny_bert / "config.json").read_text())
    (tiny_bert / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    assert model_shape(str(tiny_bert), num_tokens=8).num_blocks == 3
    assert model_shape(str(tiny_bert), num_tokens=8).num_blocks == 3
    assert len(asked) == 2


def test_shipped_tables_and_files_ask_nobody(asked: list[str], tiny_vit: Path) -> None:
    model_shape("vit_small_patch16_224")
    model_shape("minilm-l6", num_tokens=16)
    model_shape(str(tiny_vit))
    assert not asked


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ({"image_size": 32}, "image size 32"),
        ({"num_tokens": 16}, "number of tokens 16"),
        ({"num_classes": 10}, "number of classes 10"),
    ],
)
def test_sizes_beside_a_file_of_sizes_are_refused(
    tiny_vit: Path, sizes: dict[str, int], said: str
) -> None:
    for read in (model_shape, load_model_shape):
        with pytest.raises(InputError, match=f"is a file of sizes, .* and {said} is given"):
            read(str(tiny_vit), **sizes)


def test_what_the_library_refuses_is_refused_in_its_words(
    d2ft: Callable, asked: list[str], two_equal: Path, tmp_path: Path
) -> None:
    for name, said in (("roberta-base", "hub BERTs can run"), ("resnet18", "is a ResNet")):
        code, _, err = d2ft(
            "plan", "--cluster", two_equal, "--model", name, "--out", tmp_path / "p.json"
        )
        assert code == 2
        assert said in err
        assert len(err.splitlines()) == 1
    assert not (tmp_path / "p.json").exists()
