"""What a configuration holds: a pydantic model for the whole and one for each section.

Each field's description says what its value should be; the error for a wrong value is made from it.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, ValidationError, field_validator

from detclean.dataset import ISSUE_TYPES

ExportFormat = Literal["csv", "coco", "yolo"]
AnyPath = Annotated[Path, Field(strict=False)]  # YAML has text only
Share = Annotated[float, Field(ge=0, le=1)]
AutoCount = Literal["auto"] | Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """What all parts of the configuration have in common."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, protected_namespaces=(), allow_inf_nan=False)


class Folds(Section):
    k: int = Field(5, ge=2, description="a whole number of at least 2")
    repeats: int = Field(1, ge=1, description="a whole number of at least 1")
    seed: int = Field(0, ge=0, description="a whole number of at least 0")
    group_by: str = Field("auto", description="auto, none, or a regular expression over file names")

    @field_validator("group_by", mode="before")
    @classmethod
    def _none_is_a_word(cls, value: Any) -> Any:
        return "none" if value is None else value

    @field_validator("group_by")
    @classmethod
    def _must_compile(cls, value: str) -> str:
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(str(error)) from error
        return value


def _require_finite(value: JsonValue) -> JsonValue:
    """Raises ValueError where a number among the values is infinite or none, which no JSON can hold."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("not finite")
    for part in value if isinstance(value, list) else value.values() if isinstance(value, dict) else ():
        _require_finite(part)
    return value


Finite = Annotated[JsonValue, AfterValidator(_require_finite)]


class Train(Section):
    """Arguments of Ultralytics' training. Any other is passed through; the detect room checks the names."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True, allow_inf_nan=False)
    __pydantic_extra__: dict[str, Finite] = Field(init=False, description="text, a number, true, false, null or a list of these")

    epochs: int = Field(30, ge=1, description="a whole number of at least 1")
    imgsz: int = Field(640, ge=32, description="a whole number of pixels, at least 32")
    batch: int | float = Field(16, ge=-1, description="a number of images, -1, or a share of the GPU's memory such as 0.7")
    device: str | int | list[int] = Field("auto", description="auto, cpu, mps, a GPU's number, or several: [0, 1]")


class Predict(Section):
    conf: Share = Field(0.01, description="a number from 0 to 1")
    iou: Share = Field(0.6, description="a number from 0 to 1")
    max_det: int = Field(300, ge=1, description="a whole number of at least 1")


class Score(Section):
    planting_rounds: int = Field(40, ge=1, description="a whole number of at least 1")
    seed: int = Field(0, ge=0, description="a whole number of at least 0")
    dense: bool = Field(True, description="true or false: whether the detector's output before suppression is evidence")
    crops: bool = Field(True, description="true or false: whether what the crops look like is evidence")
    dynamics: bool = Field(True, description="true or false: whether a training's loss dynamics, where recorded, are evidence")
    engine: Literal["fast", "cleanlab"] = Field("fast", description="fast or cleanlab: who computes cleanlab's scores, to the same result")


class Issues(Section):
    target_precision: float = Field(0.8, gt=0, le=1, description="a number above 0, at most 1")
    budget: int | None = Field(None, ge=0, description="null, or a whole number of at least 0")
    types: list[str] = Field(list(ISSUE_TYPES), min_length=1, description=f"a list of some of {', '.join(ISSUE_TYPES)}")

    @field_validator("types")
    @classmethod
    def _must_be_known(cls, value: list[str]) -> list[str]:
        if unknown := set(value) - set(ISSUE_TYPES):
            raise ValueError(f"unknown: {unknown}")
        return value


class Clean(Section):
    strategy: Literal["fix", "drop_boxes", "drop_images"] = Field("fix", description="fix, drop_boxes or drop_images")
    min_probability: Share | None = Field(None, description="null, or a number from 0 to 1")
    copy_images: bool = Field(False, description="true or false")


class Export(Section):
    formats: list[ExportFormat] = Field(["csv", "coco", "yolo"], description="a list of some of csv, coco, yolo")


class Report(Section):
    pictures: int = Field(500, ge=0, description="a whole number: how many of the worst issues report.html shows as pictures")
    image_quality: bool = Field(True, description="true or false: whether cleanvision looks at every picture at the run's end")


class Executor(Section):
    kind: Literal["local", "ray"] = Field("local", description="local or ray")
    address: str = Field("auto", pattern=r"^(auto|local|(ray://)?[^\s:/]+:\d+)$", description="auto, local, HOST:PORT or ray://HOST:PORT")
    cpus: AutoCount = Field("auto", description="auto, or a whole number of at least 1: the threads of each task")
    gpus: float = Field(1.0, gt=0, le=1, description="the share of a GPU for each task, above 0, at most 1")


class Benchmark(Section):
    seeds: list[Annotated[int, Field(ge=0)]] = Field([0, 1, 2], min_length=1, description="a list of different whole numbers")
    rate: float = Field(0.04, gt=0, le=0.15, description="a number above 0, at most 0.15")
    styles: list[Literal["standard", "varied"]] = Field(["standard"], min_length=1, description="a list of some of standard, varied")
    variants: dict[str, dict[str, JsonValue]] = Field(
        {}, description="names of letters, digits and spaces, each with settings of score: {few rounds: {planting_rounds: 4}}"
    )

    @field_validator("seeds", "styles")
    @classmethod
    def _must_differ(cls, value: list[Any]) -> list[Any]:
        if len(set(value)) < len(value):
            raise ValueError("one stands twice")
        return value

    @field_validator("variants")
    @classmethod
    def _must_be_settings_of_score(cls, value: dict[str, dict[str, JsonValue]]) -> dict[str, dict[str, JsonValue]]:
        for name, settings in value.items():
            if not re.fullmatch(r"[A-Za-z0-9]+( [A-Za-z0-9]+)*", name):
                raise ValueError(f"no name: {name}")
            if "seed" in settings:  # the boxes that the detectors were asked about were drawn with the one of `score`
                raise ValueError(f"{name}: the seed cannot differ")
            try:
                Score.model_validate(settings)
            except ValidationError as error:  # as it is, it would speak of keys that do not stand where it looks
                raise ValueError(str(error)) from error
        return value


class Config(Section):
    """All that a run depends on. Paths are absolute, but `runs`, and `model` where it is a name for Ultralytics to find."""

    name: str = Field(pattern=r"^[^/\\\x00-\x1f]+$", description="a plain folder name, without / or \\")
    runs: AnyPath = Field(Path("runs"), description="a folder")
    data: AnyPath = Field(description="a data.yaml, a COCO .json or a Pascal VOC folder")
    images: Literal["none"] | AnyPath | None = Field(
        None, description="null, the folder of a COCO file's images, or none if there are none"
    )
    split: str = Field("train", min_length=1, description="the part to clean: train, val, test or all")
    model: str = Field("yolo26n.pt", min_length=1, description="a detection model, .pt or .yaml")
    predictions: AnyPath | None = Field(None, description="null, COCO results, or a folder of YOLO label files with confidences")
    method: Literal["kfold", "loss", "both"] = Field("kfold", description="kfold, loss or both")
    crops: Literal["auto", "always", "never"] = Field("auto", description="auto, always or never")
    votes: Literal["out_of_fold", "all"] = Field("out_of_fold", description="out_of_fold or all")
    folds: Folds = Field(Folds(), description="a section of key: value")
    train: dict[str, Any] = Field(Train().model_dump(), description="a section of key: value")
    predict: Predict = Field(Predict(), description="a section of key: value")
    score: Score = Field(Score(), description="a section of key: value")
    issues: Issues = Field(Issues(), description="a section of key: value")
    clean: Clean = Field(Clean(), description="a section of key: value")
    export: Export = Field(Export(), description="a section of key: value")
    report: Report = Field(Report(), description="a section of key: value")
    benchmark: Benchmark = Field(Benchmark(), description="a section of key: value")
    answers: AnyPath | None = Field(None, description="null, or an answer key such as data/digits/answers.json")
    workers: AutoCount = Field("auto", description="auto, or a whole number of at least 1")
    executor: Executor = Field(Executor(), description="a section of key: value")

    @field_validator("name")
    @classmethod
    def _must_stay_below_runs(cls, value: str) -> str:
        if value.strip(" .") == "":
            raise ValueError(f"no folder name: {value}")
        return value

    @property
    def folder(self) -> Path:
        """The run folder, RUNS/NAME."""
        return self.runs / self.name


SECTIONS: dict[str, type[Section]] = {
    "folds": Folds,
    "train": Train,
    "predict": Predict,
    "score": Score,
    "issues": Issues,
    "clean": Clean,
    "export": Export,
    "report": Report,
    "benchmark": Benchmark,
    "executor": Executor,
}
