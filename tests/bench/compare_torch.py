#!/usr/bin/env python3
"""Times `tetlo bench` and the PyTorch baselines in turn over a list of cases, and prints ratios.

    cargo build --release && python tests/bench/compare_torch.py --rounds 3 --extras --out tests/bench/results/NAME.json

Every round runs each program of each case once, one after the other, so that a noisy machine disturbs all of them; a ratio
is the median over the rounds of PyTorch's median time by ours. `--cases` picks cases, `--list` shows them, `--check` compares
the networks instead: the same parameters and multiply-adds, and the same loss of the same weights. Needs PyTorch and NumPy.
"""
import argparse
import datetime
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
NET = ["--channels", "16", "--layers", "8"]


class Case:
    """A piece of work for both programs. `bounds` are the ratios to plain and to channels-last PyTorch to be reached;
    `simd` lists what `TETLO_SIMD` is set to, each a row of its own; `extras` are further variants of PyTorch."""

    def __init__(self, name, ours, theirs, threads, batch, bounds, simd=(None,), extras=(), steps=3):
        self.name, self.threads, self.batch, self.steps = name, threads, batch, steps
        self.bounds, self.simd, self.extras = bounds, simd, list(extras)
        common = ["--image", "32", "--threads", str(threads), "--batch", str(batch), "--steps", str(steps)]
        self.ours = ["bench", *ours, *common]
        self.theirs = [*theirs, *common]


def supernet(name, flags, threads, batch, bounds, torch_flags=None, size=NET, **more):
    ours = ["supernet", *size, *flags]
    theirs = ["torch_supernet.py", *size, *(flags if torch_flags is None else torch_flags)]
    return Case(name, ours, theirs, threads, batch, bounds, **more)


BF16 = ["--channels-last", "--bf16"]
COMPILED = ["--channels-last", "--compile", "parts"]
NB201 = ["--channels", "16", "--layers", "5"]
BOUNDS_AVX2 = (6, 4)
CASES = [
    supernet("order-1", ["--order", "1"], 1, 8, (12, 8), simd=(None, "avx2"), extras=[BF16, COMPILED]),
    supernet("order-2", ["--order", "2"], 1, 8, (12, 8), steps=2),
    supernet("forward", ["--phase", "fwd"], 1, 8, (12, 5.5), steps=7),
    supernet("weight-64", ["--phase", "weight"], 1, 64, (9, 5), steps=2),
    supernet("order-1-2-threads", ["--order", "1"], 2, 8, (13, 8.5), extras=[COMPILED]),
    supernet("tetlo", ["--method", "tetlo"], 2, 32, (6, 4), steps=1),
    supernet("pc-darts", ["--method", "pc-darts"], 1, 32, (6, 4), extras=[BF16]),
    supernet("nas-bench-201", ["--space", "nas-bench-201", "--order", "1"], 1, 32, (6, 4), size=NB201, extras=[BF16]),
    Case("darts-v2", ["derived", *NET, "--genotype", "DARTS_V2"], ["torch_derived.py", *NET, "--network", "darts-v2"],
         2, 32, (4, 3), extras=[BF16, COMPILED], steps=7),
    Case("resnet-20", ["derived", "--network", "resnet-20"], ["torch_derived.py", "--network", "resnet-20"],
         2, 32, (1.2, 1), extras=[BF16, COMPILED], steps=15),
]
#: What runs in every round; everything else is an extra, which may fail.
PLAIN = (None, "avx2", "plain", "channels-last")
#: (row, row it is divided by, bound): how much faster two threads are than one.
SCALING = [("order-1-2-threads", "order-1", 1.7)]


def run(command, timeout=None, **environment):
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, env={**os.environ, **environment})
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def processor():
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def commit():
    git = lambda *a: subprocess.run(["git", *a], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    changed = git("status", "--porcelain", "--untracked-files=no")
    return git("rev-parse", "HEAD") + ("+changes" if changed else "")


class Runs:
    """What was measured, by case and program; a list a round."""

    def __init__(self, a, cases):
        self.a, self.cases, self.found, self.commands = a, cases, {}, {}

    def programs(self, case, round_):
        """(key, command, environment) of a case in a round."""
        for simd in case.simd:
            yield ("tetlo", simd), [self.a.tetlo, *case.ours], ({"TETLO_SIMD": simd} if simd else {})
        script = [self.a.python, str(HERE / case.theirs[0]), *case.theirs[1:]]
        yield ("torch", "plain"), script, {}
        yield ("torch", "channels-last"), [*script, "--channels-last"], {}
        # Once is enough: these are no bounds, and compiling takes minutes.
        if self.a.extras and round_ == 0:
            for extra in case.extras:
                yield ("torch", " ".join(extra)), [*script, *extra], {}

    def round(self, round_):
        for case in self.cases:
            for key, command, environment in self.programs(case, round_):
                try:
                    result = run(command, self.a.extra_timeout if key[1] not in PLAIN else None, **environment)
                except (SystemExit, subprocess.TimeoutExpired) as problem:
                    if key[1] in PLAIN:
                        raise
                    print(f"{case.name}: {key[1]} gave no result: {problem}", file=sys.stderr, flush=True)
                    continue
                self.found.setdefault((case.name, *key), []).append(result)
                shown = " ".join(f"{k}={v}" for k, v in environment.items())
                self.commands[(case.name, *key)] = self.a.named(f"{shown} {' '.join(command)}".strip())
                print(f"round {round_ + 1}  {case.name:<20} {' '.join(map(str, key)):<40} "
                      f"{result['ms_median']:>10.1f} ms {result['peak_rss_mib']:>7.0f} MiB", file=sys.stderr, flush=True)

    def median(self, key, field="ms_median"):
        return statistics.median(r[field] for r in self.found[key])

    def ratio(self, above, below):
        pairs = zip(self.found[above], self.found[below])
        return statistics.median(x["ms_median"] / y["ms_median"] for x, y in pairs)

    def row(self, case, simd):
        ours = (case.name, "tetlo", simd)
        name = case.name + (f"-{simd}" if simd else "")
        bounds = BOUNDS_AVX2 if simd == "avx2" else case.bounds
        row = {"case": name, "threads": case.threads, "batch": case.batch, "command": self.commands[ours],
               "rounds": len(self.found[ours]),
               "tetlo": {f: self.median(ours, f) for f in ("ms_median", "peak_rss_mib", "gflops", "roofline_fraction",
                                                          "fma_peak_gflops", "memory_gb_s")},
               "simd": self.found[ours][0]["simd"], "torch": {}}
        for key in (k for k in self.found if k[:2] == (case.name, "torch")):
            theirs = {f: self.median(key, f) for f in ("ms_median", "peak_rss_mib", "base_rss_mib", "gflops")}
            own = row["tetlo"]["peak_rss_mib"]
            theirs.update(command=self.commands[key], ratio=self.ratio(key, ours),
                          memory=own / theirs["peak_rss_mib"],
                          # What importing PyTorch takes is no activation.
                          memory_without_import=own / max(theirs["peak_rss_mib"] - theirs["base_rss_mib"], 1))
            if key[2] in ("plain", "channels-last"):
                theirs["bound"] = bounds[key[2] == "channels-last"]
            row["torch"][key[2]] = theirs
        return row

    def result(self):
        rows = [self.row(case, simd) for case in self.cases for simd in case.simd]
        scaling = []
        for two, one, bound in SCALING:
            if {two, one} <= {c.name for c in self.cases}:
                ratio = self.ratio((one, "tetlo", None), (two, "tetlo", None))
                scaling.append({"case": two, "against": one, "ratio": ratio, "bound": bound})
        versions = {r["impl"] for k, list_ in self.found.items() if k[1] == "torch" for r in list_}
        return {"machine": processor(), "cores": os.cpu_count(), "commit": commit(), "torch": sorted(versions),
                "date": datetime.date.today().isoformat(),
                "command": self.a.named(" ".join(["compare_torch.py", *sys.argv[1:]])), "rows": rows, "scaling": scaling}


def table(result):
    lines = [f"{'case':<20} {'thr':>3} {'batch':>5} {'tetlo ms':>9} {'roof':>5} {'MiB':>5}  against PyTorch "
             "(ms, ratio, bound; peak memory, ratio, ratio without what the import takes)"]
    for r in result["rows"]:
        own = r["tetlo"]
        head = (f"{r['case']:<20} {r['threads']:>3} {r['batch']:>5} {own['ms_median']:>9.1f} "
                f"{own['roofline_fraction']:>5.0%} {own['peak_rss_mib']:>5.0f}")
        for name, t in r["torch"].items():
            bound = t.get("bound")
            mark = "" if bound is None else f"(>= {bound}) {'ok' if t['ratio'] >= bound else 'MISSED'}"
            lines.append(f"{head}  {name:<32} {t['ms_median']:>9.1f} {t['ratio']:>6.2f} {mark:<16} "
                         f"{t['peak_rss_mib']:>6.0f} {t['memory']:>5.2f} {t['memory_without_import']:>5.2f}")
            head = " " * len(head)
    for s in result["scaling"]:
        lines.append(f"{s['case']} against {s['against']}: {s['ratio']:.2f} times (>= {s['bound']}) "
                     f"{'ok' if s['ratio'] >= s['bound'] else 'MISSED'}")
    return "\n".join(lines)


CONFIG = """version = 1
name = "check"
seeds = [0]
[[task]]
name = "t"
dataset = {{ plugin = "digits" }}
search-space = {{ plugin = "{space}", options = {{ channels = {channels}, cells = {layers} }} }}
[[method]]
name = "m"
preset = "{preset}"
[evaluate]
plugin = "retrain"
options = {{ channels = {channels}, cells = {layers}, auxiliary-weight = 0.0 }}
"""


def same_loss(a, space, preset, layers, theirs, extra, channels=8):
    """Both losses of the same fresh weights on the same images."""
    import numpy
    with tempfile.TemporaryDirectory() as folder:
        here = pathlib.Path(folder)
        text = CONFIG.format(space=space, preset=preset, channels=channels, layers=layers)
        (here / "c.toml").write_text(text)
        rng = numpy.random.default_rng(1)
        numpy.savez(here / "in.npz", x=rng.standard_normal((6, 3, 16, 16)).astype("f4"), y=rng.integers(0, 10, 6))
        call = [a.tetlo, "network", "eval", "c.toml", "--input", "in.npz", *extra]
        for step in (["--init", "w.safetensors"], ["--weights", "w.safetensors", "--output", "out.npz"]):
            subprocess.run([*call, *step], cwd=here, check=True)
        ours = float(numpy.load(here / "out.npz")["loss"])
        command = [a.python, str(HERE / theirs[0]), *theirs[1:], "--channels", str(channels), "--layers", str(layers),
                   "--image", "16", "--batch", "6", "--weights", str(here / "w.safetensors"), "--input", str(here / "in.npz")]
        return ours, float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def check(a, cases):
    """Are the baselines the same networks?"""
    good = True
    for case in cases:
        ours = run([a.tetlo, *case.ours])
        theirs = run([a.python, str(HERE / case.theirs[0]), *case.theirs[1:], "--count"])
        for field in ("params", "macs", "auxiliary_params", "auxiliary_macs"):
            same = ours.get(field) == theirs.get(field)
            good &= same
            if ours.get(field) is not None:
                print(f"{case.name:<20} {field:<18} {ours[field]:>12} {theirs[field]:>12} {'ok' if same else 'DIFFERENT'}")
        # The same count of work: the difference is the classifier, which is no kernel of ours.
        work = ours["gflops"] * ours["ms_median"] * 1e6 / 2 / case.batch
        script = run([a.python, str(HERE / case.theirs[0]), *case.theirs[1:], "--steps", "1", "--warmup", "0"])
        torch_work = script["gflops"] * script["ms_median"] * 1e6 / 2 / case.batch
        same = abs(work / torch_work - 1) < 1e-3
        good &= same
        print(f"{case.name:<20} {'counted work':<18} {work:>12.0f} {torch_work:>12.0f} {'ok' if same else 'DIFFERENT'}")
    names = {case.name for case in cases}
    losses = [("order-1", "darts", "darts-1st", 4, ["torch_supernet.py"], []),
              ("pc-darts", "darts", "pc-darts", 4, ["torch_supernet.py", "--method", "pc-darts"], []),
              ("nas-bench-201", "nas-bench-201", "darts-1st", 2, ["torch_supernet.py", "--space", "nas-bench-201"], []),
              ("darts-v2", "darts", "darts-1st", 4, ["torch_derived.py"],
               ["--genotype", str(ROOT / "cli/src/commands/bench/darts_v2.json")])]
    for name, space, preset, layers, theirs, extra in losses:
        if name in names:
            ours, reference = same_loss(a, space, preset, layers, theirs, extra)
            same = abs(ours / reference - 1) < 1e-5
            good &= same
            print(f"{name:<20} {'loss':<18} {ours:>12.7f} {reference:>12.7f} {'ok' if same else 'DIFFERENT'}")
    return 0 if good else 1


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--tetlo", default=str(ROOT / "target/release/tetlo"))
    p.add_argument("--python", default=sys.executable)
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--cases", help="names with commas (default: all)")
    p.add_argument("--extras", action="store_true", help="also bf16 autocast and torch.compile, in the first round")
    p.add_argument("--extra-timeout", type=float, default=1200, help="seconds for each of them")
    p.add_argument("--list", action="store_true", help="show the cases and their commands")
    p.add_argument("--check", action="store_true", help="compare the networks instead of timing them")
    p.add_argument("--out", type=pathlib.Path, help="write everything here as JSON, after each round")
    a = p.parse_args()
    given = a.tetlo
    a.tetlo = os.path.abspath(given)
    # Results name programs, not where they lie on this machine.
    names = [(a.tetlo, "tetlo"), (given, "tetlo"), (a.python, "python"), (str(HERE), "tests/bench"), (str(ROOT) + "/", "")]

    def named(text):
        for path, name in names:
            text = text.replace(path, name)
        return text
    a.named = named
    wanted = [c.name for c in CASES] if a.cases is None else a.cases.split(",")
    unknown = set(wanted) - {c.name for c in CASES}
    if unknown:
        p.error(f"no case {', '.join(sorted(unknown))}; --list shows them")
    cases = [c for c in CASES if c.name in wanted]
    if a.list:
        for c in cases:
            print(f"{c.name:<20} tetlo {' '.join(c.ours)}\n{'':<20} {' '.join(c.theirs)}")
        return 0
    if a.check:
        return check(a, cases)
    runs = Runs(a, cases)
    for round_ in range(a.rounds):
        runs.round(round_)
        if a.out:
            a.out.write_text(json.dumps(runs.result(), indent=1) + "\n")
    print(table(runs.result()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
