"""Weights in a run folder are numbers and text: what predicts from them is the same to the bit, and nothing that they say is run."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import write_model

from detclean.detect.yolo import list_folds, predict_out_of_fold
from detclean.detect.yolo_settings import prepare
from detclean.errors import StageError

ROOT = Path(__file__).parents[1]
SCRIPT = """
import json, pathlib, sys
import torch
from ultralytics.data import dataset as ultralytics_dataset
from ultralytics.nn.tasks import DetectionModel, load_checkpoint
from detclean.detect.yolo_weights import check_layout, describe_model, open_weights, save_whole
from detclean.errors import StageError

place, letters, tiny = map(pathlib.Path, sys.argv[1:])
said = {}

def answer(model):
    model.end2end = False
    model.fuse(verbose=False)
    torch.manual_seed(0)
    with torch.inference_mode():
        return model(torch.rand(1, 3, 64, 64))[0]

def keep(name, model):
    save_whole(describe_model(model, 96, half=True), place / name)
    model = model.half().float().eval()
    opened, imgsz = open_weights(place / name)
    alike = opened.names == model.names and model.stride.tolist() == opened.stride.tolist()
    said[name] = [torch.equal(answer(model), answer(opened)), imgsz, alike]

letters_model = load_checkpoint(str(letters))[0]
wide = DetectionModel(letters_model.yaml | {"nc": 3}, verbose=False)
wide.load(letters_model, verbose=False)  # as a training with three categories begins
assert wide.model[-1].cv3[0][-1].in_channels == letters_model.model[-1].cv3[0][-1].in_channels
keep("letters.weights", letters_model)
keep("wide.weights", wide)
keep("two-heads.weights", DetectionModel(str(tiny), nc=5, verbose=False))

good = torch.load(place / "letters.weights", weights_only=True)
def attempt(name, content=None):
    if content is not None:
        torch.save(content, place / name)
    try:
        open_weights(place / name)
        said[name] = "opened"
    except StageError as error:
        said[name] = str(error)

class Touch:
    def __reduce__(self):
        return (exec, (f"open({str(place / 'touched')!r}, 'w').close()",))

layout = good["layout"]
attempt("module.weights", good | {"state": Touch()})
attempt("plain pickle.weights")
attempt("activation.weights", good | {"layout": layout | {"activation": f"open({str(place / 'touched')!r}, 'w')"}})
first, *rest = layout["backbone"]
call = [first[0], 1, "torch_safe_load", [str(place / "plain pickle.pt")]]
attempt("layer.weights", good | {"layout": layout | {"backbone": [call, *rest]}})
nested = [first[0], 1, "DetectionModel", [str(place / "evil.yaml")]]
attempt("nested.weights", good | {"layout": layout | {"backbone": [nested, *rest]}})
attempt("shape.weights", good | {"state": {name: tensor[:1] if tensor.ndim else tensor for name, tensor in good["state"].items()}})
attempt("newer.weights", good | {"format": 99})
attempt("empty.weights")
attempt("absent.weights")

parts = [[-1, 1, "TorchVision", [8, "resnet18", *more]] for more in ([], ["DEFAULT"], ["DEFAULT", True])]
check_layout({"backbone": parts, "head": []})
said["parts"] = [part[3] for part in parts]

from detclean.detect import yolo_train
class Trainer:
    def __init__(self, job): pass
    def train(self): pass
yolo_train.train_fold({"threads": 1}, Trainer)
try:
    ultralytics_dataset.load_dataset_cache_file(place / "labels.cache")
except FileNotFoundError:
    said["cache"] = "not opened"
print("said:", json.dumps(said))
"""


class Touch:
    """A pickle that leaves a file behind when it is opened."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, (f"open({str(self.path)!r}, 'w').close()",)


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What one child, which alone may import Ultralytics, says of good and of evil weights."""
    place = tmp_path_factory.mktemp("weights")
    for name in ("plain pickle.weights", "plain pickle.pt", "labels.cache"):
        (place / name).write_bytes(pickle.dumps(Touch(place / "touched")))
    (place / "evil.yaml").write_text("nc: 1\nactivation: open('touched', 'w')\nbackbone: []\nhead: []\n")
    (place / "empty.weights").touch()
    tiny = write_model(place / "tiny-yolo26n.yaml", "26")
    environment = os.environ | {"YOLO_CONFIG_DIR": str(place), "MPLCONFIGDIR": str(place), "OMP_NUM_THREADS": "1", "YOLO_OFFLINE": "true"}
    environment["PYTHONPATH"] = str(ROOT)
    command = [sys.executable, "-c", SCRIPT, str(place), str(ROOT / "data" / "letters.pt"), str(tiny)]
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answer: dict[str, object] = json.loads(done.stdout.split("said:")[1])
    answer["touched"] = (place / "touched").exists()
    pickle.loads((place / "plain pickle.pt").read_bytes())  # so it is the reading that keeps it from being run
    assert (place / "touched").exists()
    return answer


@pytest.mark.parametrize("name", ["letters.weights", "wide.weights", "two-heads.weights"])
def test_a_kept_model_predicts_the_same_to_the_bit(said: dict[str, object], name: str) -> None:
    assert said[name] == [True, 96, True]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("module.weights", "holds more than numbers"),
        ("plain pickle.weights", "holds more than numbers"),
        ("activation.weights", "its activation is"),
        ("layer.weights", "'torch_safe_load', which is no layer"),
        ("nested.weights", "'DetectionModel', which is no layer"),
        ("shape.weights", "is damaged"),
        ("newer.weights", "written by a newer detclean"),
        ("empty.weights", "is damaged"),
        ("absent.weights", "is gone"),
    ],
)
def test_nothing_else_is_opened(said: dict[str, object], name: str, words: str) -> None:
    assert words in str(said[name])
    assert name in str(said[name])
    assert ("remove the folder" in str(said[name])) == (name != "newer.weights")


def test_nothing_that_they_say_is_run(said: dict[str, object]) -> None:
    assert said["cache"] == "not opened"
    assert said["touched"] is False


def test_no_part_of_a_layout_is_fetched(said: dict[str, object]) -> None:
    """What is not said is Ultralytics' word for pretrained."""
    assert said["parts"] == [[8, "resnet18", None], [8, "resnet18", None], [8, "resnet18", None, True]]


def test_weights_of_an_older_version_are_refused_and_not_opened(tmp_path: Path) -> None:
    from test_detect import FOLDS, make_dataset

    dataset, train = make_dataset(tmp_path / "data"), tmp_path / "train-0123456789ab"
    (train / "weights").mkdir(parents=True)
    for part in list_folds(FOLDS):
        part.weights(train).with_suffix(".pt").write_bytes(pickle.dumps(Touch(tmp_path / "touched")))
    with pytest.raises(StageError, match=r"fold-0\.pt: is of an older detclean and not opened .*remove the folder .*train-0123456789ab"):
        predict_out_of_fold(dataset, FOLDS, train, tmp_path / "detect", looks=dataset.annotations, predict={}, device="cpu")
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize(
    ("name", "words"),
    [("evil.pt", "set ULTRALYTICS_SAFE_LOAD=false in the environment if you trust it"), ("evil.yaml", "its activation is")],
)
def test_a_model_that_a_configuration_names_is_opened_without_running_what_it_says(tmp_path: Path, name: str, words: str) -> None:
    """The configuration may be that of somebody else's run folder."""
    from test_detect import make_dataset

    layout = write_model(tmp_path / "evil.yaml").read_text()
    (tmp_path / "evil.yaml").write_text(f"activation: open({str(tmp_path / 'touched')!r}, 'w')\n{layout}")
    (tmp_path / "evil.pt").write_bytes(pickle.dumps(Touch(tmp_path / "touched")))
    with pytest.raises(StageError, match=words):
        prepare(make_dataset(tmp_path / "data"), tmp_path / "train", str(tmp_path / name), {"epochs": 1})
    assert not (tmp_path / "touched").exists()
