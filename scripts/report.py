"""Rebuild the report of a sweep from its finished runs: CSV, Markdown table, figures, and one HTML page.

python scripts/report.py runs/fig4
"""

import argparse

from px_seg.errors import one_line_errors
from px_seg.paths import user_path
from px_seg.report import report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="of the sweep; the report is written to report/ in it")
    report(user_path(parser.parse_args().folder, "the folder"))


if __name__ == "__main__":
    with one_line_errors():
        main()
