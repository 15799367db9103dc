"""The configuration: what is accepted, and the one line for each way to get it wrong."""

from pathlib import Path

import pytest

from detclean.config import OWN_TRAIN_ARGUMENTS, Config, config_as_yaml, read_config
from detclean.errors import ConfigError


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory `here`, and a folder `there` with a data set and room for configurations."""
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "data.yaml").write_text("names: [a]\n")
    (tmp_path / "there" / "found.json").write_text("[]")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path


def read(place: Path, text: str = "data: data.yaml\n", *overrides: str) -> Config:
    path = place / "there" / "birds.yaml"
    path.write_text(text, encoding="utf-8")
    return read_config(path, overrides)


def refuse(place: Path, text: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read(place, text, *overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(str(place / "there") + "/", "")


def test_defaults(place: Path) -> None:
    config = read(place)
    assert config.name == "birds"
    assert config.folder == Path("runs/birds")
    assert config.train == {"epochs": 30, "imgsz": 640, "batch": 16, "device": "auto"}
    assert (config.folds.k, config.folds.group_by, config.predict.conf) == (5, "auto", 0.01)
    assert config.issues.types == ["overlooked", "badloc", "swap", "spurious", "duplicate"]
    assert (config.model, config.split, config.workers, config.answers) == ("yolo26n.pt", "train", "auto", None)


def test_yaml_and_overrides(place: Path) -> None:
    text = "data: data.yaml\nfolds: {k: 3}\ntrain: {epochs: 9, lr0: 1e-3, mosaic: 0.5}\nissues:\n"
    config = read(
        place, text, "train.epochs=20", "model=yolo11s.pt", "issues.types=[swap, badloc]", "issues.budget=7", "train.device=[0,1]"
    )
    assert config.folds.k == 3
    assert config.train == {"epochs": 20, "imgsz": 640, "batch": 16, "device": [0, 1], "lr0": 0.001, "mosaic": 0.5}
    assert config.model == "yolo11s.pt"
    assert (config.issues.types, config.issues.budget, config.issues.target_precision) == (["swap", "badloc"], 7, 0.8)


@pytest.mark.parametrize(
    ("override", "section", "key", "value"),
    [
        ("train.lr0=1e-4", "train", "lr0", 1e-4),
        ("train.optimizer=AdamW", "train", "optimizer", "AdamW"),
        ("train.cos_lr=True", "train", "cos_lr", True),
        ("train.classes=None", "train", "classes", None),
        ("train.cache='null'", "train", "cache", "null"),
        ("train.resume_note=a: b #c", "train", "resume_note", "a: b #c"),
        ("train.since=2026-01-31", "train", "since", "2026-01-31"),
    ],
)
def test_override_values(place: Path, override: str, section: str, key: str, value: object) -> None:
    found = getattr(read(place, "data: data.yaml", override), section)[key]
    assert found == value
    assert type(found) is type(value)


def test_override_text_stays_text(place: Path) -> None:
    folder = place / "here" / "a #1: [x]"
    folder.mkdir()
    config = read(place, "data: data.yaml", "data=a #1: [x]", "name=2026", "folds.group_by=[a-z]+_\\d")
    assert config.data == folder
    assert (config.name, config.folds.group_by) == ("2026", "[a-z]+_\\d")


def test_a_whole_section_can_be_overridden(place: Path) -> None:
    assert read(place, "data: data.yaml\nfolds: {k: 3, seed: 4}", "folds={k: 2}").folds.model_dump() == {
        "k": 2,
        "repeats": 1,
        "seed": 0,
        "group_by": "auto",
    }


def test_paths_are_found_here_first_and_beside_the_yaml_second(place: Path) -> None:
    text = "data: data.yaml\nimages: pictures\nmodel: w.pt\nanswers: key.json\npredictions: found.json\n"
    for name in ("pictures", "w.pt", "key.json", "found.json"):
        (place / "there" / name).touch()
    config = read(place, text)
    beside = place / "there"
    assert config.data == beside / "data.yaml"
    assert (config.images, config.model) == (beside / "pictures", str(beside / "w.pt"))
    assert (config.answers, config.predictions) == (beside / "key.json", beside / "found.json")

    (place / "here" / "data.yaml").touch()
    (place / "here" / "w.pt").touch()
    config = read(place, text)
    assert config.data == place / "here" / "data.yaml"
    assert config.model == str(place / "here" / "w.pt")


def test_images_none_is_a_word(place: Path) -> None:
    assert read(place, "data: data.yaml\nimages: none\npredictions: found.json\n").images == "none"
    assert read(place, "data: data.yaml\nimages: null\n").images is None


def test_resolved_yaml_reads_back_the_same(place: Path) -> None:
    config = read(place, "data: data.yaml\ntrain: {lr0: 1e-5, name_like: '012', flag: 'no'}\nfolds: {group_by: '^(.*)_[0-9]+'}\n")
    again = read(place, config_as_yaml(config))
    assert again == config
    assert again.train["name_like"] == "012"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data: data.yaml\nmodle: x.pt\n", "birds.yaml:2: unknown key 'modle'; did you mean 'model'?"),
        ("data: data.yaml\nfolds:\n  k: 3\n  repeat: 2\n", "birds.yaml:4: unknown key 'folds.repeat'; did you mean 'folds.repeats'?"),
        ("data: data.yaml\nepochs: 3\n", "birds.yaml:2: unknown key 'epochs'; did you mean 'train.epochs'?"),
        ("data: data.yaml\n12: 3\n", "birds.yaml:2: unknown key '12'; known here: name, runs"),
        ("data: data.yaml\n\nfolds: {k: 1}\n", "birds.yaml:3: folds.k is 1, but should be a whole number of at least 2"),
        ("data: data.yaml\nfolds: {k: five}\n", "birds.yaml:2: folds.k is 'five', but should be a whole number"),
        ("data: data.yaml\nfolds: {k: 5.0}\n", "birds.yaml:2: folds.k is 5.0, but should be a whole number"),
        ("data: data.yaml\nfolds: {k: true}\n", "birds.yaml:2: folds.k is true, but should be a whole number"),
        ("data: data.yaml\nfolds: 5\n", "birds.yaml:2: folds is 5, but should be a section"),
        ("data: data.yaml\nfolds: {group_by: '('}\n", "birds.yaml:2: folds.group_by is '(', but should be auto, none, or a regular"),
        ("data: data.yaml\ntrain: 5\n", "birds.yaml:2: train is 5, but should be a section"),
        ("data: data.yaml\ntrain: {epochs: 0}\n", "birds.yaml:2: train.epochs is 0, but should be a whole number of at least 1"),
        (
            "data: data.yaml\nissues: {types: [swap, swop]}\n",
            "birds.yaml:2: issues.types is ['swap', 'swop'], but should be a list of some",
        ),
        (
            "data: data.yaml\nissues: {target_precision: 80}\n",
            "birds.yaml:2: issues.target_precision is 80, but should be a number above 0",
        ),
        ("data: data.yaml\nissues: {target_precision: 0}\n", "birds.yaml:2: issues.target_precision is 0, but should be a number above 0"),
        ("data: data.yaml\nissues: {budget: -1}\n", "birds.yaml:2: issues.budget is -1, but should be null, or a whole number"),
        ("data: data.yaml\nclean: {strategy: repair}\n", "birds.yaml:2: clean.strategy is 'repair', but should be fix, drop_boxes or"),
        ("data: data.yaml\nclean: {min_probability: 1.5}\n", "birds.yaml:2: clean.min_probability is 1.5, but should be null, or"),
        ("data: data.yaml\nexport: {formats: [xml]}\n", "birds.yaml:2: export.formats is 'xml', but should be a list of some of csv"),
        ("data: data.yaml\nworkers: 0\n", "birds.yaml:2: workers is 0, but should be auto, or"),
        ("data: data.yaml\nexecutor: {kind: slurm}\n", "birds.yaml:2: executor.kind is 'slurm', but should be local or ray"),
        ("data: data.yaml\nexecutor: {adress: auto}\n", "birds.yaml:2: unknown key 'executor.adress'; did you mean 'executor.address'?"),
        (
            "data: data.yaml\nexecutor: {address: head}\n",
            "birds.yaml:2: executor.address is 'head', but should be auto, local, HOST:PORT or",
        ),
        ("data: data.yaml\nexecutor: {gpus: 2}\n", "birds.yaml:2: executor.gpus is 2, but should be the share of a GPU"),
        (
            "data: data.yaml\nsplit: null\n",
            "birds.yaml:2: split is null, but should be the part to clean: train, val, test or all; did you mean split: all",
        ),
        ("data: data.yaml\nname: a/b\n", "birds.yaml:2: name is 'a/b', but should be a plain folder name"),
        ("data: data.yaml\nname: ..\n", "birds.yaml:2: name is '..', but should be a plain folder name"),
        ("data: 12\n", "birds.yaml:1: data is 12, but should be a data.yaml, a COCO"),
        ("data: [a\n", "birds.yaml:2: not YAML:"),
        ("data: data.yaml\n\tfolds: 3\n", "birds.yaml:2: not YAML:"),
        ("data: data.yaml\ndata: b\n", "birds.yaml:2: 'data' stands twice"),
        ("data: data.yaml\ntrain: {epochs: 3, epochs: 4}\n", "birds.yaml:2: 'epochs' stands twice"),
        ("data: !!python/name:os.system\n", "birds.yaml:1: not YAML:"),
        ("- data\n", "birds.yaml: should be lines of `key: value`"),
        ("", "birds.yaml: data is missing"),
        ("folds: {k: 3}\n", "birds.yaml: data is missing"),
        ("data: nowhere.yaml\n", "birds.yaml:1: data: no such file or folder: nowhere.yaml, neither here nor beside the configuration"),
        ("data: data.yaml\n\npredictions: nowhere.json\n", "birds.yaml:3: predictions: no such file or folder: nowhere.json"),
        ("data: data.yaml\nimages: none\n", "birds.yaml:2: images is none, and nothing can be trained without pictures; name predictions"),
        ("data: data.yaml\nimages: none\npredictions: found.json\ncrops: always\n", "birds.yaml:4: crops is always, but images is none"),
        ("data: data.yaml\nimages: /no/where\n", "birds.yaml:2: images: no such file or folder: /no/where; correct"),
        ("train: x\nval: y\nnames: [a, b]\n", "birds.yaml: this is a data set's data.yaml; write a configuration"),
    ],
)
def test_bad_yaml_is_one_line_with_file_and_place(place: Path, text: str, message: str) -> None:
    assert refuse(place, text).startswith(message)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("modle=x", "command line: unknown key 'modle'; did you mean 'model'?"),
        ("folds.kk=3", "command line: unknown key 'folds.kk'; did you mean 'folds.k'?"),
        ("data.x=1", "command line: unknown key 'data.x'; 'data' has no keys below it"),
        ("nothing.x=1", "command line: unknown key 'nothing'; known here: name, runs"),
        ("folds.k=1", "command line: folds.k is 1, but should be a whole number of at least 2"),
        ("train.epochs=many", "command line: train.epochs is 'many', but should be a whole number"),
        (
            "split=null",
            "command line: split is null, but should be the part to clean: train, val, test or all; did you mean split=all",
        ),
        ("data=nowhere", "command line: data: no such file or folder: nowhere"),
        ("issues.types=[swap,badloc", "command line: 'issues.types=[swap,badloc' has a broken list"),
        ("epochs", "command line: 'epochs' is no override; write key=value"),
        ("train.epochs=", "command line: 'train.epochs=' is no override; write key=value"),
        ("=3", "command line: '=3' is no override; write key=value"),
        ("train.epochs= 3", "command line: 'train.epochs= 3' is no override; write key=value without spaces"),
        ("train..epochs=3", "command line: 'train..epochs=3' is no override; write key=value"),
    ],
)
def test_bad_override_is_one_line(place: Path, override: str, message: str) -> None:
    assert refuse(place, "data: data.yaml\nfolds: {k: 3}\n", override).startswith(message)


def test_an_override_mends_a_bad_line(place: Path) -> None:
    assert read(place, "data: nowhere\nfolds: {k: 1}\n", "data=data.yaml", "folds.k=2").folds.k == 2


@pytest.mark.parametrize("name", OWN_TRAIN_ARGUMENTS)
def test_arguments_that_detclean_sets_are_refused(place: Path, name: str) -> None:
    assert refuse(place, f"data: data.yaml\ntrain:\n  {name}: x\n").startswith(f"birds.yaml:3: train.{name} is set by detclean")


def test_missing_large_and_strange_files(place: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: no such file"):
        read_config("nowhere.yaml")
    with pytest.raises(ConfigError, match="no such file"):
        read_config(place / "here")
    large = place / "coco.json"
    large.write_text("[" + "1, " * 400_000 + "1]")
    with pytest.raises(ConfigError, match="too large for a configuration"):
        read_config(large)
    latin = place / "latin.yaml"
    latin.write_bytes("data: V\xf6gel\n".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"latin\.yaml: not UTF-8 text \(byte 7\)"):
        read_config(latin)


def test_a_byte_order_mark_and_odd_names_are_no_trouble(place: Path) -> None:
    folder = place / "there" / "V\u00f6gel #1 [a]"
    folder.mkdir()
    assert read(place, "\ufeffdata: 'V\u00f6gel #1 [a]'\n").data == folder


def test_other_machines_are_named_as_they_are_called(place: Path) -> None:
    assert read(place, "data: data.yaml\n").executor.kind == "local"
    for address in ("auto", "local", "10.20.30.40:6379", "ray://head:10001", "1:20"):
        executor = read(place, "data: data.yaml\nexecutor: {kind: ray}\n", f"executor.address={address}", "executor.cpus=4").executor
        assert (executor.kind, executor.address, executor.cpus, executor.gpus) == ("ray", address, 4, 1.0)
