"""The page of figures is filled from what the benchmark command wrote, and from nothing else."""

from pathlib import Path

from collect_benchmarks import PAGE, collect_benchmarks

TEXT = "before\n<!-- benchmark: digits -->\nold\n<!-- end -->\nbetween\n<!-- benchmark: absent -->\nstays\n<!-- end -->\n"


def test_marked_parts_are_filled_and_the_rest_stays(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "digits"
    run.mkdir(parents=True)
    (run / "benchmark.md").write_text("# Title\n\n| a | b |\n")
    (run / "benchmark.png").write_bytes(b"png")
    page = collect_benchmarks(TEXT, tmp_path / "runs", tmp_path)
    assert page.startswith(
        "before\n<!-- benchmark: digits -->\n\n### Title\n\n| a | b |\n\n![digits](benchmark-digits.png)\n\n<!-- end -->\nbetween"
    )
    assert "old" not in page
    assert page.endswith("<!-- benchmark: absent -->\nstays\n<!-- end -->\n")
    assert (tmp_path / "benchmark-digits.png").read_bytes() == b"png"
    assert collect_benchmarks(page, tmp_path / "runs", tmp_path) == page


def test_comparisons_are_collected_too(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "digits" / "compare"
    folder.mkdir(parents=True)
    (folder / "compare.md").write_text("# Does it help?\n\n## Confusion\n\nlong\n")
    (folder / "compare.png").write_bytes(b"png")
    page = collect_benchmarks("<!-- compare: digits -->\n<!-- end -->\n", tmp_path / "runs", tmp_path)
    assert page == "<!-- compare: digits -->\n\n### Does it help?\n\n![digits](compare-digits.png)\n\n<!-- end -->\n"
    assert (tmp_path / "compare-digits.png").read_bytes() == b"png"


def test_the_page_has_marks() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert text.count("<!-- benchmark: ") + text.count("<!-- compare: ") == text.count("<!-- end -->") >= 2
