"""Prints whom to name for the photographs that the network was trained on, from the index of a folder of them.

python training/attribution.py --photographs FOLDER > NOTICE
"""

import argparse
import json
import textwrap
from pathlib import Path

_SHARED = 3  # Of whom to name; a set with more of them is listed picture by picture.
_HEAD = """\
Cutout
Licensed under the Apache License, Version 2.0; see LICENSE.

The weights of the built-in model (cutout_server/models/builtin/network.onnx) were trained on photographs and outlines
by others, none of which are part of this distribution. They are named here as their licences ask. The licences:
CC BY 2.0 https://creativecommons.org/licenses/by/2.0/, CC BY-SA 2.0 https://creativecommons.org/licenses/by-sa/2.0/,
CC BY 4.0 https://creativecommons.org/licenses/by/4.0/, CC BY-SA 4.0 https://creativecommons.org/licenses/by-sa/4.0/,
and the MIT licence. Photographs were cropped, mixed and changed in colour. Names of 16 digits are Open Images'
own, whose tables say who took them.
"""


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", type=Path, required=True)
    parser.add_argument("--without", nargs="*", default=["ccp"], help="sets that are left out")
    arguments = parser.parse_args()
    named: dict[tuple[str, str, str], list[str]] = {}
    for line in (arguments.photographs / "index.jsonl").read_text().splitlines():
        row = json.loads(line)
        if row["split"] == "train" and row["tier"] in {"A", "A2"} and row["set"] not in arguments.without:
            named.setdefault((row["set"], row["source"], row["licence"]), []).append(row["attribution"])
    print(_HEAD)
    for (name, source, licence), whom in sorted(named.items()):
        print(f"{name}: {len(whom)} photographs from github.com/{source}. {licence}.")
        each = sorted(set(whom))
        if len(each) <= _SHARED:
            text = "; ".join(each)
        else:  # What all of them say is said once.
            text = " ".join(one.split(" (")[0].removeprefix("Open Images picture ") for one in each)
        print(textwrap.fill(text, 120, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False) + "\n")


if __name__ == "__main__":
    main()
