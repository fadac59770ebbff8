#!/usr/bin/env python3
"""Times `tetlo bench supernet` and PyTorch's DARTS supernet (torch_supernet.py) in turn, and prints ratios.

    cargo build --release && python tests/bench/compare_torch.py --rounds 3 [--threads 1] [--out results/NAME.json]

Each round runs both programs once, so that a noisy machine disturbs both; a ratio is the median over the rounds of
PyTorch's median time by ours. Needs PyTorch; reads the machine's name from the system.
"""
import argparse
import json
import pathlib
import platform
import statistics
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent


def run(command):
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(out.strip().splitlines()[-1])


def processor():
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--tetlo", default=str(ROOT / "target/release/tetlo"))
    p.add_argument("--python", default=sys.executable)
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--batch", type=int, default=8)
    p.add_argument("--steps", type=int, default=3)
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--cases", default="fwd,weight,step1,step2")
    p.add_argument("--channels-last", action="store_true", help="also against PyTorch's channels-last layout")
    p.add_argument("--out", type=pathlib.Path)
    a = p.parse_args()
    common = ["--threads", str(a.threads), "--batch", str(a.batch), "--steps", str(a.steps)]
    layouts = ["plain", "channels-last"] if a.channels_last else ["plain"]
    rows = []
    for case in a.cases.split(","):
        phase, order = (case[:4], case[4:]) if case.startswith("step") else (case, "1")
        flags = ["--phase", phase, "--order", order, *common]
        ours, theirs = [], {layout: [] for layout in layouts}
        for _ in range(a.rounds):
            ours.append(run([a.tetlo, "bench", "supernet", *flags]))
            for layout in layouts:
                extra = ["--channels-last"] if layout == "channels-last" else []
                theirs[layout].append(run([a.python, str(HERE / "torch_supernet.py"), *flags, *extra]))
        row = {"case": case, "threads": a.threads, "batch": a.batch, "simd": ours[0]["simd"],
               "tetlo_ms": [round(r["ms_median"], 1) for r in ours],
               "tetlo_peak_mib": round(max(r["peak_rss_mib"] for r in ours))}
        for layout in layouts:
            pairs = zip(ours, theirs[layout])
            row[layout] = {
                "impl": theirs[layout][0]["impl"],
                "ms": [r["ms_median"] for r in theirs[layout]],
                "peak_mib": round(max(r["peak_rss_mib"] for r in theirs[layout])),
                "ratio": round(statistics.median(t["ms_median"] / o["ms_median"] for o, t in pairs), 2),
            }
        print(json.dumps(row), flush=True)
        rows.append(row)
    if a.out:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
        result = {"machine": processor(), "commit": commit, "network": "DARTS supernet, C=16, 8 cells, 32x32",
                  "command": " ".join(["compare_torch.py", *sys.argv[1:]]), "rows": rows}
        a.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
