"""`tombola report`: a comparison as one page, and its figures for print."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tombola.cli.options import add_study_option, make_parser, parse, split_list
from tombola.cli.show import show_others, show_text
from tombola.errors import UsageError

if TYPE_CHECKING:
    from tombola.studies import Study


def main(arguments: Sequence[str]) -> None:
    """Run the command."""
    parser = make_parser(
        "report",
        "Write a comparison as one page that needs no network, read from its directory, also while cells of it are "
        "missing: nothing is run. --figures writes its figures for print instead, or, with --out, as well.",
        "tombola report runs --out report.html",
        "DIR",
    )
    parser.add_argument("directory", metavar="DIR", type=str, help="the --out of a comparison")
    add_study_option(parser)
    parser.add_argument("--out", type=str, default="", help="the page (default: report.html in DIR)")
    parser.add_argument("--figures", type=str, default="", help="directory for the figures")
    parser.add_argument("--formats", type=str, default="svg,pdf,png", help="what figures are written as")
    parser.add_argument("--only", type=str, default="", help="names of figures to write (default: all)")
    parser.add_argument("--against", type=str, default="", help="finder that others are held against (default: first)")
    options = parse(parser, arguments)

    from tombola.storage.files import write_bytes
    from tombola.studies import read
    from tombola.studies.figures import ENDINGS, check_directory

    endings = [f".{name}" for name in split_list(options.formats)]
    if not endings or not set(endings) <= set(ENDINGS):
        raise UsageError(f"must be a list of svg, pdf, png, got {options.formats}", option="formats")
    study = read(options.directory, options.study)
    against = study.chosen(options.against)
    page = Path(options.out) if options.out else None if options.figures else study.directory / "report.html"
    if page is not None and (page.is_dir() or not page.parent.is_dir()):
        raise UsageError(f"must be a file in a directory that exists, got {page}", option="out")
    if options.figures:
        check_directory(Path(options.figures))
        _write_figures(study, against, Path(options.figures), endings, split_list(options.only))
    elif options.only:
        raise UsageError("needs --figures, the directory to write them into", option="only")
    if page is not None:
        from tombola.studies.report import report

        write_bytes(page, report(study, against, page).encode(errors="backslashreplace"))
        show_text(f"report: {page}")
    show_others(study)


def _write_figures(study: "Study", against: str, out: Path, endings: Sequence[str], names: Sequence[str]) -> None:
    from tombola.studies.figures import figures_of, write_figures

    figures = figures_of(study, against)
    known = [figure.name for figure in figures]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UsageError(f"must be some of {', '.join(known)}, got {unknown[0]}", option="only")
    for path in write_figures([f for f in figures if not names or f.name in names], out, endings):
        show_text(f"figure: {path}")
