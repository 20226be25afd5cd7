"""`distillery evaluate pie-bench`: zero-shot edits and students on PIE-Bench."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from flows.cli.options import TEACHER_OPTIONS, refuse_without_effect, study_out_option, teacher_options
from flows.cli.results import print_line, print_text
from flows.evaluation.contenders import DO_NOTHING, METHODS, STUDENT
from flows.orchestration.environment import prepare

if TYPE_CHECKING:
    from synth.settings import TeacherSettings


@click.command("pie-bench")
@click.option(
    "--data",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    required=True,
    help="Read the benchmark from this folder: mapping_file.json and annotation_images/.",
)
@click.option(
    "--method",
    "methods",
    type=click.Choice(METHODS),
    multiple=True,
    default=("dds",),
    show_default=True,
    help="Measure this method; again for another one.",
)
@click.option(
    "--model",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="With --method student: the model file. It edits the images that ask for one of its edits.",
)
@click.option(
    "--category",
    "categories",
    type=click.IntRange(0, 9),
    multiple=True,
    help="Take the images of this category alone, 0 to 9; again for another one. (default: all)",
)
@click.option("--clip", help="Measure CLIP's similarity with this model; openai/clip-vit-large-patch14 is published.")
@click.option("--dino", help="Measure the structure distance with this model; facebook/dino-vitb8 is published.")
@click.option("--lpips", is_flag=True, help="Measure LPIPS; needs torchvision's SqueezeNet, downloaded once.")
@study_out_option
@teacher_options
def pie_bench(
    data: Path,
    methods: tuple[str, ...],
    model: Path | None,
    categories: tuple[int, ...],
    clip: str | None,
    dino: str | None,
    lpips: bool,
    teacher: "TeacherSettings",
    out: Path,
) -> None:
    """Measure edits on PIE-Bench: the table of its papers, and the same over the kept pixels alone.

    \b
    distillery evaluate pie-bench --data PIE-Bench_v1 --method dds --method sds --out pie
    distillery evaluate pie-bench --data PIE-Bench_v1 --method student --model runs/sofas/model.onnx --out pie
    """
    if (STUDENT in methods) != (model is not None):
        raise click.UsageError("--method student needs --model, and --model has no effect without it")
    if set(methods) <= {DO_NOTHING, STUDENT}:
        refuse_without_effect(TEACHER_OPTIONS, f"on --method {' and '.join(methods)}")
    prepare()
    from distill.pie_bench.cases import read_cases
    from distill.pie_bench.metrics import JudgeNames
    from flows.evaluation.contenders import contenders
    from flows.evaluation.pie_bench import run_pie_bench, tables

    cases = read_cases(data, categories)
    judges = JudgeNames(clip, dino, lpips)
    rows = run_pie_bench(cases, contenders(methods, teacher, model), judges, out)
    print_text(f"{tables(rows)}\n")
    for line in judges.missing():
        print_line(line)
    for name in ("table.md", "sheet.png", "rows.parquet"):
        print_line(f"{Path(name).stem:6} {out / name}")
