"""What central differences are worth on a real supernet: runs `tetlo check hypergrad` over batch sizes,
perturbations and seeds, and draws the page's plot and table from the results.

    python3 tests/bench/hypergradients.py run TETLO tests/bench/results/hypergradients.json
    python3 tests/bench/hypergradients.py draw tests/bench/results/hypergradients.json docs/hypergradients.svg
    python3 tests/bench/hypergradients.py table tests/bench/results/hypergradients.json
"""

import json
import math
import subprocess
import sys
from pathlib import Path

CONFIG = "configs/quickstart.toml"
BATCHES = [4, 8, 16, 32]
EPSILONS = ["1", "0.1", "0.01", "0.001"]
SEEDS = {"darts-2nd": range(3), "tetlo": range(3)}
KEPT = ["problem", "term", "estimator", "batch", "epsilon", "cosine", "rel_error", "norm_ratio", "pass"]


def run(binary, path):
    """Runs every method and seed that the file does not have yet."""
    path = Path(path)
    results = json.loads(path.read_text()) if path.exists() else []
    done = {(r["method"], r["seed"]) for r in results}
    order = sorted((seed, method) for method, seeds in SEEDS.items() for seed in seeds)
    for seed, method in order:
        if (method, seed) in done:
            continue
        command = [binary, "check", "hypergrad", CONFIG, "--method", method, "--seed", str(seed)]
        command += ["--batch-size", ",".join(map(str, BATCHES)), "--epsilon", ",".join(EPSILONS)]
        command += ["--estimator", "central-difference,first-order", "--format", "json"]
        ran = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        if ran.returncode > 1:  # 1: a bound was missed, the rows are there
            sys.exit(ran.returncode)
        for row in json.loads(ran.stdout):
            if not row["estimator"].startswith("own"):
                kept = {key: row.get(key) for key in KEPT}
                results.append({"method": method, "seed": seed} | kept)
        lines = ",\n".join(json.dumps(row) for row in results)
        path.write_text(f"[\n{lines}\n]\n")


def values(results, key="cosine", **wanted):
    """One value a seed."""
    return [r[key] for r in results if all(r[k] == v for k, v in wanted.items())]


def of(results, method, term, batch, epsilon, kind="as it is", key="cosine"):
    estimator = "first-order" if epsilon is None else "central-difference"
    found = values(results, key, method=method, problem=f"{method} ({kind})", term=term, batch=batch,
                   estimator=estimator, **({} if epsilon is None else {"epsilon": float(epsilon)}))
    return sorted(found)


COLOURS = {"1": "#b35806", "0.1": "#e08214", "0.01": "#5e3c99", "0.001": "#2b83ba"}
WIDTH, HEIGHT, LEFT, TOP, GAP = 330, 220, 55, 40, 70
PANELS = [
    ("darts-2nd", "total", "DARTS, second order: whole hypergradient"),
    ("darts-2nd", "main_through_W", "DARTS, second order: mixed term alone"),
    ("tetlo", "total", "TETLO: whole hypergradient"),
    ("tetlo", "aux_through_W", "TETLO: auxiliary model's loss through W"),
]


def panel(results, at, method, term, title):
    left, top = at
    x = lambda batch: left + WIDTH * (0.08 + 0.84 * (math.log2(batch) - 2) / 3)
    y = lambda cosine: top + HEIGHT * (1 - (cosine + 0.2) / 1.2)
    out = [f'<text x="{left}" y="{top - 10}" font-weight="bold">{title}</text>']
    for tick in [0, 0.2, 0.4, 0.6, 0.8, 1]:
        out.append(f'<line x1="{left}" x2="{left + WIDTH}" y1="{y(tick):.1f}" y2="{y(tick):.1f}" stroke="#ddd"/>')
        out.append(f'<text x="{left - 8}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for batch in BATCHES:
        out.append(f'<text x="{x(batch):.1f}" y="{top + HEIGHT + 16}" text-anchor="middle">{batch}</text>')
    lines = [(epsilon, "as it is", COLOURS[epsilon], "") for epsilon in EPSILONS]
    lines.append(("0.01", "smooth", "#1a9641", "6 3"))
    if term == "total":
        lines.append((None, "as it is", "#555", "2 3"))
    for i, (epsilon, kind, colour, dash) in enumerate(lines):
        shift, points = 3 * (i - 2.5), []
        for batch in BATCHES:
            found = of(results, method, term, batch, epsilon, kind)
            if not found:
                continue
            px, mean = x(batch) + shift, sum(found) / len(found)
            points.append(f"{px:.1f},{y(mean):.1f}")
            out.append(f'<line x1="{px:.1f}" x2="{px:.1f}" y1="{y(found[0]):.1f}" y2="{y(found[-1]):.1f}" stroke="{colour}"/>')
            out.append(f'<circle cx="{px:.1f}" cy="{y(mean):.1f}" r="3" fill="{colour}"/>')
        out.append(f'<polyline points="{" ".join(points)}" fill="none" stroke="{colour}" stroke-width="1.5" stroke-dasharray="{dash}"/>')
    return out


def draw(results, path):
    wide, high = 2 * WIDTH + LEFT + GAP + 20, 2 * (HEIGHT + GAP) + TOP + 30
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}" font-family="sans-serif" font-size="11">',
           f'<rect width="{wide}" height="{high}" fill="white"/>']
    for i, (method, term, title) in enumerate(PANELS):
        at = (LEFT + (i % 2) * (WIDTH + GAP), TOP + (i // 2) * (HEIGHT + GAP))
        out += panel(results, at, method, term, title)
    keys = [(f"ε = {e}", COLOURS[e], "") for e in EPSILONS]
    keys += [("ε = 0.01, smooth networks", "#1a9641", "6 3"), ("first order", "#555", "2 3")]
    for i, (text, colour, dash) in enumerate(keys):
        px, py = LEFT + [0, 75, 165, 265, 365, 545][i], high - 30
        out.append(f'<line x1="{px}" x2="{px + 22}" y1="{py - 4}" y2="{py - 4}" stroke="{colour}" stroke-width="2" stroke-dasharray="{dash}"/>')
        out.append(f'<text x="{px + 27}" y="{py}">{text}</text>')
    out.append(f'<text x="{LEFT}" y="{high - 10}">cosine to the exact hypergradient against images a batch; mean and range over seeds</text>')
    Path(path).write_text("\n".join([*out, "</svg>\n"]))


def table(results):
    for method, terms in [("darts-2nd", ["total", "main_through_W"]),
                          ("tetlo", ["total", "main_through_W", "aux_through_W", "aux_direct"])]:
        for key, what in [("cosine", "cosine"), ("rel_error", "relative error")]:
            print(f"\n`{method}`, {what}:\n")
            print("| term | networks | ε |", " | ".join(f"batch {b}" for b in BATCHES), "|")
            print("|---|---|---" + "|---" * len(BATCHES) + "|")
            for term in terms:
                rows = [("as it is", e) for e in EPSILONS] + [("smooth", "0.01")]
                rows += [("as it is", None)] if term == "total" else []
                for kind, epsilon in rows:
                    cells = []
                    for batch in BATCHES:
                        found = of(results, method, term, batch, epsilon, kind, key)
                        spread = f"{sum(found) / len(found):.3g} ({found[0]:.3g}–{found[-1]:.3g})" if found else "–"
                        cells.append(spread)
                    print(f"| {term} | {kind} | {epsilon or 'first order'} |", " | ".join(cells), "|")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["run", binary, path]:
            run(binary, path)
        case ["draw", source, path]:
            draw(json.loads(Path(source).read_text()), path)
        case ["table", source]:
            table(json.loads(Path(source).read_text()))
        case _:
            sys.exit(__doc__)
