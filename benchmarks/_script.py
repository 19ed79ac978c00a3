"""What the scripts share beside the timing: options, tables, report, exit status.

Importing it puts this checkout first on the path: the one that is reported runs.
"""

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

from _harness import progress

HERE = Path(__file__).resolve().parent
OURS, PEER = "jaxarch", "neural-tangents"
sys.path.insert(0, str(HERE.parent))


# --- options ----------------------------------------------------------------------


def parser(doc, *, repeats, repeats_help="timed repetitions"):
    """A parser of the options that every script has."""
    made = argparse.ArgumentParser(description=doc.split("\n\n")[0])
    made.add_argument("--repeats", type=at_least(1), default=repeats, help=repeats_help)
    made.add_argument("--output", type=Path, help="write the report here, as JSON")
    return made


def add_cases(parser, names, groups=()):
    """Adds `--cases`: names of cases or of groups, all where none is given."""
    known = [*names, *(group for group in groups if group not in names)]

    def read(text):
        wanted = [name for name in text.split(",") if name]
        if unknown := [name for name in wanted if name not in known]:
            raise argparse.ArgumentTypeError(f"{unknown} not among {known}")
        return wanted or known

    note = f"of: {', '.join(names)}" + ("; or their groups" if groups else "")
    parser.add_argument("--cases", type=read, default="", help=note)


def add_sides(parser, ours, *, one_peer=True):
    """Adds what says where peers are, and `--serve` for the processes of `ours`."""
    parser.add_argument(
        "--peers",
        type=Path,
        default=HERE / ".venv-peers",
        metavar="DIR",
        help="where the peers' environments are (benchmarks/.venv-peers)",
    )
    parser.add_argument(
        "--setup-peers", action="store_true", help="first build those environments"
    )
    if one_peer:
        note = "an interpreter that has the peer"
        parser.add_argument("--peer-python", type=Path, help=note)
    parser.add_argument("--serve", choices=ours, help=argparse.SUPPRESS)


def at_least(low):
    """Reads an integer that is not below `low`."""

    def read(text):
        if (number := int(text)) < low:
            raise argparse.ArgumentTypeError(f"must be at least {low}, got {number}")
        return number

    read.__name__ = "int"  # what argparse calls it where the text is none
    return read


# --- the sides --------------------------------------------------------------------


def commands(args, script, ours, peer):
    """How each side is started: `ours` by `script --serve`, then the peer's script."""
    sides = {side: [sys.executable, script, "--serve", side] for side in ours}
    python = args.peer_python or peer_python(args, "neural_tangents")
    if python.exists():
        sides[PEER] = [python, HERE / "peers" / peer]
    return sides


def peer_python(args, environment):
    """The interpreter of an environment, which is built first if that is wanted."""
    requirements = HERE / "peers" / f"{environment}.txt"
    directory = args.peers / environment
    if args.setup_peers:
        progress(f"the environment of peers: {directory}")
        make_environment(directory, requirements)
    python = directory / "bin" / "python"
    if not python.exists():
        progress(f"no peer: {python} is missing (--setup-peers builds it)")
    return python


def make_environment(directory, requirements):
    """Builds a virtual environment with `requirements`; returns its interpreter.

    One that was built from the same requirements is left as it is.
    """
    directory, requirements = Path(directory), Path(requirements)
    python, stamp = directory / "bin" / "python", directory / "requirements.txt"
    wanted = requirements.read_text()
    if python.exists() and stamp.exists() and stamp.read_text() == wanted:
        return python
    subprocess.run([sys.executable, "-m", "venv", "--clear", directory], check=True)
    install = [python, "-m", "pip", "install", "--quiet", "-r", requirements]
    subprocess.run(install, check=True)
    stamp.write_text(wanted)
    return python


# --- the report -------------------------------------------------------------------


def machine():
    """The machine, in words, and the date."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    cores = os.cpu_count()
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": model,
        "cores": cores,
        "load_average": os.getloadavg() if hasattr(os, "getloadavg") else None,
    }


def commit():
    """The commit of the checkout, `+` if files differ from it, None outside git."""
    try:
        run = {"cwd": HERE, "check": True, "capture_output": True, "text": True}
        name = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], **run)
        changed = subprocess.run(["git", "status", "--porcelain", ".."], **run)
    except (OSError, subprocess.CalledProcessError):
        return None
    return name.stdout.strip() + ("+" if changed.stdout.strip() else "")


def make_report(benchmark, machine, **fields):
    """The report of a run that began on `machine`."""
    return {"benchmark": benchmark, "commit": commit(), "machine": machine, **fields}


def failed_gates(cases):
    """A line for each gate that a case does not pass."""
    return [
        f"{name}: NOT {gate}"
        for name, entry in cases.items()
        for gate, passed in entry["gates"].items()
        if not passed
    ]


def finish(report, output, failed):
    """Writes the report if wanted, says what failed, and returns the exit status."""
    if output:
        write_json(output, report)
    for line in failed:
        progress(line)
    return 1 if failed else 0


def write_json(path, report):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=2, allow_nan=False) + "\n")


# --- tables -----------------------------------------------------------------------


def print_machine(machine):
    """Prints the line above the tables."""
    print(f"{machine['cpu']}, {machine['cores']} cores, {machine['date']}\n")


def print_table(header, rows):
    """Prints a Markdown table."""
    for row in (header, ["---"] * len(header), *rows):
        print(f"| {' | '.join(row)} |")


def spread(found, scale=1.0, digits=0):
    """A summary in words: median (minimum to maximum)."""
    low, mid, high = (found[k] * scale for k in ("min", "median", "max"))
    return f"{mid:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def compile_seconds(found):
    """Seconds to build, trace and compile, in words."""
    return f"{found['build_s'] + found['lower_s'] + found['compile_s']:.2f}"


def temp_megabytes(found):
    """Temporary memory in words, empty where it is not known."""
    temp = found["temp_bytes"]
    return "" if temp is None else f"{temp / 1e6:.1f}"


def judged(gates):
    """The gates in words."""
    return ", ".join(
        name if passed else f"NOT {name}" for name, passed in gates.items()
    )
