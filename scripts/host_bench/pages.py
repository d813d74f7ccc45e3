"""What is made of results: a plot each of a layer, a type and a routing, in one SVG, and the page that shows it."""

from html import escape

STYLE = """
svg { --page: #ffffff; --panel: #f5f7f9; --text: #1c2127; --muted: #57606a; --rule: #d3d9df;
  --c0: #0072b2; --c1: #56b4e9; --c2: #c4550a; --c3: #00795a; --c4: #a0447e; --c5: #7a6a00; --c6: #57606a; --c7: #8f2d56; --c8: #2a9d8f; }
@media (prefers-color-scheme: dark) { svg { --page: #101418; --panel: #191f26; --text: #e4e8ec; --muted: #9ba6b1; --rule: #343c45;
  --c0: #56b4e9; --c1: #9ad4f5; --c2: #e69f00; --c3: #2fc79c; --c4: #dd8fbd; --c5: #d8c64a; --c6: #9ba6b1; --c7: #ef7fa8; --c8: #7fd8cc; } }
text { fill: var(--text); font: 12px system-ui, "Segoe UI", "DejaVu Sans", sans-serif } .head { font-weight: 600; font-size: 15px }
.note { fill: var(--muted) } .rule { stroke: var(--rule) } .line { fill: none; stroke-width: 2 } .panel { fill: var(--panel) }
"""
WIDTH, HEIGHT, LEFT, TOP, GAP = 440, 300, 46, 46, 28


def groups(rows):
    """Rows by layer, type and routing, in the order in which they were measured."""
    found = {}
    for row in rows:
        found.setdefault((row["layer"], row["dtype"], row["routing"]), []).append(row)
    return {key: sorted(of, key=lambda row: row["tokens"]) for key, of in found.items()}


def runners(rows):
    """Every runner, moec's first."""
    names = {name: None for row in rows for name in row["runners"]}
    return sorted(names, key=lambda name: not name.startswith("moec"))


def share(row, runner):
    """Of the speed that the machine allows: for moec by the instructions of its target, for others by those of the best."""
    target = runner.split()[1] if runner.startswith("moec ") else row["best_target"]
    return row["least_ms"][target] / row["runners"][runner]["median_ms"]


def title(key):
    layer, dtype, routing = key
    return f"{layer}, {dtype}, {'experts by chance' if routing == 'uniform' else 'experts by Zipf’s law (1.2)'}"


def plot(results):
    """All plots: the share of the machine's limit over the number of tokens."""
    rows, parts = results["rows"], groups(results["rows"])
    names = [name for name in runners(rows) if not name.startswith("ggml q")]
    colour = {name: f"var(--c{i % 9})" for i, name in enumerate(names)}
    columns = min(2, len(parts))
    legend = 22 * ((len(names) + 2) // 3) + 40
    width = columns * WIDTH + (columns + 1) * GAP
    height = legend + ((len(parts) + columns - 1) // columns) * (HEIGHT + GAP) + GAP
    out = []
    for i, name in enumerate(names):
        x, y = GAP + (i % 3) * ((width - 2 * GAP) // 3), 40 + 22 * (i // 3)
        out.append(f'<path class="line" stroke="{colour[name]}" d="M{x} {y}h24"/><text x="{x + 30}" y="{y + 4}">{escape(name)}</text>')
    for at, (key, of) in enumerate(parts.items()):
        x0, y0 = GAP + (at % columns) * (WIDTH + GAP), legend + (at // columns) * (HEIGHT + GAP)
        left, right, top, bottom = x0 + LEFT, x0 + WIDTH - 16, y0 + TOP, y0 + HEIGHT - 34
        tokens = [row["tokens"] for row in of]
        place = {t: left + (right - left) * (i / max(len(tokens) - 1, 1)) for i, t in enumerate(tokens)}
        level = lambda part: bottom - (bottom - top) * min(part, 1.1) / 1.1
        out.append(f'<rect class="panel" x="{x0}" y="{y0}" width="{WIDTH}" height="{HEIGHT}" rx="8"/>')
        out.append(f'<text class="head" x="{x0 + 14}" y="{y0 + 24}">{escape(title(key))}</text>')
        for percent in (0, 25, 50, 75, 100):
            y = level(percent / 100)
            out.append(f'<path class="rule" d="M{left} {y:.1f}H{right}"/>')
            out.append(f'<text class="note" x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{percent}%</text>')
        for t in tokens:
            out.append(f'<text class="note" x="{place[t]:.1f}" y="{bottom + 18}" text-anchor="middle">{t}</text>')
        out.append(f'<text class="note" x="{right}" y="{bottom + 31}" text-anchor="end">tokens</text>')
        for name in names:
            points = [(place[row["tokens"]], level(share(row, name))) for row in of if name in row["runners"]]
            if points:
                line = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
                out.append(f'<path class="line" stroke="{colour[name]}" d="M{line}"/>')
                out += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{colour[name]}"/>' for x, y in points]
    head = f"Speed of MoE layers, of what {escape(results['machine']['cpu'])} allows"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">\n<title>{head}</title>\n<style>{STYLE}</style>\n'
        f'<rect width="{width}" height="{height}" rx="8" fill="var(--page)"/>\n<text class="head" x="{GAP}" y="22">{head}</text>\n'
        + "\n".join(out) + "\n</svg>\n"
    )


def number(value):
    return f"{value:.2f}" if value < 100 else f"{value:.0f}"


def cell(row, runner):
    """`2.83 (2.71..3.02) 84%`; of other formats of weights, which have fewer bytes, no share."""
    measured = row["runners"].get(runner)
    if measured is None:
        return ""
    text = f"{number(measured['median_ms'])} ({number(measured['least_ms'])}..{number(measured['most_ms'])})"
    return text if runner.startswith("ggml q") else f"{text} {100 * share(row, runner):.0f}%"


def table(of, best):
    """A table of one layer, type and routing."""
    names = runners(of)
    lines = ["| tokens | experts hit | GB/s of memory | limit | " + " | ".join(names) + " | best peer / moec |", "|---" * (len(names) + 5) + "|"]
    for row in of:
        ours = [about["median_ms"] for name, about in row["runners"].items() if name.split()[:2] == ["moec", best]]
        peers = [about["median_ms"] for name, about in row["runners"].items() if not name.startswith(("moec", "ggml q"))]
        ratio = f"{min(peers) / min(ours):.2f}" if ours and peers else ""
        cells = [str(row["tokens"]), str(row["hit"]), f"{row['read'] / 1e9:.1f}", number(row["least_ms"][row["best_target"]]), *(cell(row, name) for name in names), ratio]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def page(name, results):
    """The page in examples/."""
    machine, peers = results["machine"], results["peers"]
    products = "; ".join(f"{p['dtype']} on {p['target']} {p['flops']['all'] / 1e9:.0f}" for p in machine["products"])
    beside = ", ".join(f"{peer} {version}" for peer, version in peers.items()) or "no peers"
    read = sorted(row["read"] for row in results["rows"])
    parts = [
        "# Speed on a CPU",
        "",
        "Made by `scripts/bench_host.py` from [what was measured](../../runtime/results/" + name + ".json); `make bench-host` measures again,",
        "[runtime/results/](../../runtime/results/README.md) says how.",
        "",
        f"* Machine: {machine['cpu']}, {machine['cores']} cores, {machine['threads']} threads used, {machine['memory_gb']} GB, {results['date']}.",
        f"* It read memory at {read[0] / 1e9:.1f} to {read[-1] / 1e9:.1f} GB/s while this was measured, and multiplies and adds, in GFLOP/s: {products}.",
        f"* moec {results['moec']}; beside it {beside}.",
        "",
        "![Share of the machine's limit over the number of tokens](../../runtime/results/" + name + ".svg)",
        "",
        "Times are milliseconds of a whole layer by moec and of its experts alone by the others: median, range, and the share of what",
        "the machine allows, which is to read the weights of the experts that were hit once and to make the products, whichever takes",
        "longer. For moec that is what the instructions of its target allow, for the others those of the best target. All get the experts",
        "that moec's router picked. `packed` is with `[host] pack = \"panels\"`. Above 1, the last column says, moec, in the faster of its ways,",
        "is faster than the best of the others with weights of the same type.",
    ]
    for key, of in groups(results["rows"]).items():
        parts += ["", f"## {title(key)}", "", table(of, of[0]["best_target"])]
    return "\n".join(parts) + "\n"
