#!/usr/bin/env python3
"""Draws the two pictures of README.md from what moec prints, into examples/pictures/: the same moec draws the same bytes.

    pictures.py MOEC            writes them (`make pictures`)
    pictures.py MOEC --check    fails where the files are not what it would write

layer.svg: an example spec as its graph, as the rewritten graph for one GPU, and as launches. The lines of text are those of
`moec compile --emit graph`, `rewritten` and `kernel`.
routing-health.svg: the head and two plots of the page that `moec route --html` writes for an example spec and random logits."""

import array
import json
import pathlib
import re
import struct
import subprocess
import sys
import tempfile
import textwrap
import xml.etree.ElementTree as ET
from html import escape

ROOT = pathlib.Path(__file__).resolve().parent.parent
SPECS = ROOT / "examples/specs"
PICTURES = ROOT / "examples/pictures"
ET.register_namespace("", "http://www.w3.org/2000/svg")


def moec(program, *arguments):
    return subprocess.run([program, *arguments], check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout


# --- layer.svg

LAYER, TARGET = "mixtral-8x7b", "sm_90a"
# The fused op that each operation of the graph has become part of, in the graph's order, by the name of the op and its weights.
# moec does not print this. A graph with other operations is an error.
BECOMES = (
    ("gemm router", "route router"),
    ("softmax", "route router"),
    ("top_k", "route router"),
    ("renorm", "route router"),
    ("observe", "route router"),
    ("assign", "route router"),
    ("dispatch", "grouped_gemm gate up"),
    ("grouped_gemm gate", "grouped_gemm gate up"),
    ("sigmoid", "grouped_gemm gate up"),
    ("mul", "grouped_gemm gate up"),
    ("grouped_gemm up", "grouped_gemm gate up"),
    ("mul", "grouped_gemm gate up"),
    ("cast", "grouped_gemm gate up"),
    ("grouped_gemm down", "grouped_gemm down"),
    ("pair_weights", "pair_weights"),
    ("mul", "grouped_gemm down"),
    ("cast", "grouped_gemm down"),
    ("combine", "combine"),
    ("cast", "combine"),
)
# Kernels sort the pairs by expert for `route`; the last of them also writes the weights of `pair_weights`.
SORTS = {"route_and_sort_router": ["route router", "pair_weights"], "route_and_sort_together_router": ["route router", "pair_weights"],
         "sort": ["route router", "pair_weights"], "sort_count": ["route router"], "sort_scan": ["route router"], "sort_place": ["route router", "pair_weights"]}

LINE, TOP, BETWEEN = 19, 62, 70
COLOURS = ("blue", "orange", "purple", "green", "grey")
STYLE = """
svg { --page: #ffffff; --panel: #f5f7f9; --text: #1c2127; --muted: #57606a; --rule: #d3d9df;
  --blue: #0072b2; --orange: #c4550a; --green: #00795a; --purple: #a0447e; --grey: #57606a; }
@media (prefers-color-scheme: dark) { svg { --page: #101418; --panel: #191f26; --text: #e4e8ec; --muted: #9ba6b1; --rule: #343c45;
  --blue: #56b4e9; --orange: #e69f00; --green: #2fc79c; --purple: #dd8fbd; --grey: #9ba6b1; } }
.page { fill: var(--page) } .box { fill: var(--panel); stroke-width: 1.5 } text { fill: var(--text) }
.code { font: 12px ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; white-space: pre }
.head { font: 600 15px system-ui, "Segoe UI", "DejaVu Sans", sans-serif }
.note { font: 12px system-ui, "Segoe UI", "DejaVu Sans", sans-serif; fill: var(--muted) } .way { fill: none; stroke-width: 1.5; opacity: .7 }
""" + "\n".join(f".{colour} {{ stroke: var(--{colour}) }}" for colour in COLOURS)


def name_of(line):
    """`%1 = grouped_gemm %x, %0, [@gate, @up], ..` is `grouped_gemm gate up`; operands after the first list are no weights."""
    op = line.split(" = ")[1].split()[0]
    weights = re.search(r"\[(@[^]]*)\]", line)
    return " ".join([op, *(re.findall(r"@(\w+)", weights[1]) if weights else [])])


def statements(text):
    """The statements of the last layer of a graph's text that its output needs, each as its lines, without types."""
    layer = text[text.rindex("layer @") :]
    found = []
    for line in layer.splitlines()[1:]:
        line = re.sub(r" : \w+<.*$", "", line[2:])
        if re.match(r"%\d+ = ", line):
            found.append([line])
        elif found and line and not line.startswith(("return", "}")) or line == "}" and len(found[-1]) > 1:
            found[-1].append(line)
    # Those of other results follow.
    output = re.search(r"return (?:y = )?(%\d+)", layer)[1]
    return found[: 1 + next(i for i, lines in enumerate(found) if lines[0].startswith(f"{output} = "))]


def launches(text):
    """Name and grid of every launch of the last regime."""
    regime = text[text.rindex("regime") :]
    return re.findall(r"launch @(\w+)\(.*\) grid (.*)", regime)


def draw_layer(program):
    spec = str(SPECS / f"{LAYER}.toml")
    emit = lambda stage: moec(program, "compile", spec, "--target", TARGET, "--emit", stage, "-o", "-")
    graph, fused, kernels = statements(emit("graph")), statements(emit("rewritten")), launches(emit("kernel"))
    names = [name_of(lines[0]) for lines in graph]
    if names != [name for name, _ in BECOMES]:
        sys.exit(f"BECOMES in {sys.argv[0]} is about another graph than {names}")
    colour = {name_of(lines[0]): colour for lines, colour in zip(fused, COLOURS)}
    out, ways, boxes = [], [], {}

    # A letter of the code's font is about 7.3 units wide.
    def column(x, lines):
        return x, round(16 + 7.3 * max(len(line) for line in lines))

    left = column(16, [line for lines in graph for line in lines])
    middle = column(sum(left) + BETWEEN, [line for lines in fused for line in lines])
    right = column(sum(middle) + BETWEEN, ["x" * 31])

    def text(x, y, words, kind):
        out.append(f'<text class="{kind}" x="{x}" y="{y}">{escape(words)}</text>')

    def box(place, y, lines, stroke):
        x, width = place
        out.append(f'<rect class="box {stroke}" x="{x}" y="{y}" width="{width}" height="{LINE * len(lines) + 8}" rx="5"/>')
        for i, line in enumerate(lines):
            text(x + 8, y + 17 + LINE * i, line, "code")

    def way(x0, y0, x1, y1, stroke):
        half = (x0 + x1) / 2
        ways.append(f'<path class="way {stroke}" d="M{x0} {y0:.1f}C{half:.1f} {y0:.1f} {half:.1f} {y1:.1f} {x1} {y1:.1f}"/>')

    # Boxes of a column have the space that is left between them.
    bottom = TOP + (LINE + 11) * len(graph) - 3

    def spread(heights):
        gap = (bottom - TOP - sum(heights)) / max(len(heights) - 1, 1)
        return [round(TOP + sum(heights[:i]) + gap * i, 1) for i in range(len(heights))]

    for lines, y in zip(fused, spread([LINE * len(lines) + 8 for lines in fused])):
        name = name_of(lines[0])
        boxes[name] = (y, LINE * len(lines) + 8)
        box(middle, y, lines, colour[name])
    parts = {name: [i for i, (_, to) in enumerate(BECOMES) if to == name] for name in boxes}
    for i, (lines, (_, name)) in enumerate(zip(graph, BECOMES)):
        y = TOP + (LINE + 11) * i
        box(left, y, lines, colour[name])
        start, height = boxes[name]
        share = (parts[name].index(i) + 1) / (len(parts[name]) + 1)
        way(sum(left), y + (LINE + 8) / 2, middle[0], start + height * share, colour[name])
    of_kernel = [(kernel, grid, SORTS.get(kernel) or [next(n for n in boxes if kernel.startswith(n.replace(" ", "_")))])
                 for kernel, grid in kernels]
    ends = {name: [kernel for kernel, _, of in of_kernel if name in of] for name in boxes}
    for (kernel, grid, of), y in zip(of_kernel, spread([2 * LINE + 8] * len(kernels))):
        box(right, y, [kernel, ""], colour[of[0]])
        grid = textwrap.shorten(f"grid {grid}", 38, placeholder=" ..")
        text(right[0] + 8, y + 17 + LINE, grid, "note")
        for i, name in enumerate(of):
            start, height = boxes[name]
            share = (ends[name].index(kernel) + 1) / (len(ends[name]) + 1)
            way(sum(middle), start + height * share, right[0], y + (2 * LINE + 8) * (i + 1) / (len(of) + 1), colour[name])
    for (x, _), head, note in (
        (left, f"{len(graph)} operations", "what the spec means"),
        (middle, f"{len(fused)} fused operations", f"the cheapest equal graph for {TARGET}"),
        (right, f"{len(kernels)} kernels", "launched in this order, for T tokens"),
    ):
        text(x, 28, head, "head")
        text(x, 46, note, "note")
    width, height = sum(right) + 16, bottom + 16
    title = f"{LAYER}: {len(graph)} operations become {len(fused)} fused operations and {len(kernels)} kernels"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">\n<title>{title}</title>\n'
        f'<style>{STYLE}</style>\n<rect class="page" width="{width}" height="{height}" rx="8"/>\n' + "\n".join(ways + out) + "\n</svg>\n"
    )


# --- routing-health.svg

ROUTED = "switch-base-8"
EXPERTS, BATCHES, TOKENS = 8, 8, 512
SHOWN = ("Capacity", "Load per expert")


def numbers():
    """Sums of four uniform 16-bit integers, about normal, of deviation 1.15: the same floats everywhere."""
    state = EXPERTS
    while True:
        total = 0
        for _ in range(4):
            state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
            total += state >> 48
        yield (total - 2**17) / 2**15


def write_trace(path):
    """Logits of a router that prefers some experts, from batch to batch a little others."""
    number = numbers()
    preferred = [0.4 * next(number) for _ in range(EXPERTS)]
    drift = [0.2 * next(number) for _ in range(EXPERTS)]
    header, data = {}, b""
    for batch in range(BATCHES):
        logits = array.array(
            "f", (next(number) + p + d * batch / BATCHES for _ in range(TOKENS) for p, d in zip(preferred, drift))
        )
        if sys.byteorder == "big":
            logits.byteswap()
        place = [len(data), len(data) + 4 * len(logits)]
        header[f"layers.0.step_{batch}"] = {"dtype": "F32", "shape": [TOKENS, EXPERTS], "data_offsets": place}
        data += logits.tobytes()
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def words(element):
    return " ".join("".join(element.itertext()).split())


def draw_health(program):
    with tempfile.TemporaryDirectory() as folder:
        trace = pathlib.Path(folder) / "trace.safetensors"
        write_trace(trace)
        page = moec(program, "route", str(SPECS / f"{ROUTED}.toml"), "--logits", str(trace), "--html", "-")
    style = re.search(r"<style>(.*?)</style>", page, re.S)[1]
    header = ET.fromstring(re.search(r"<header>.*?</header>", page, re.S)[0])
    tiles, plots = (ET.fromstring(part) for part in re.findall(r"<section.*?</section>", page, re.S)[:2])
    out = []

    def text(x, y, content, size, more=""):
        out.append(f'<text x="{x}" y="{y}" style="font-size: {size}px{more}">{escape(content)}</text>')

    margin, gap, width = 20, 12, 1000
    over, title, *notes = (words(element) for element in header)
    muted = "; fill: var(--muted)"
    text(margin, 34, over, 13, muted)
    text(margin, 66, title, 28, "; font-weight: 700")
    for i, note in enumerate(notes):
        text(margin, 90 + 20 * i, note, 14, muted if i else "")
    tile_width, y = (width - 2 * margin - 3 * gap) / 4, 128
    tiles = [(tile.get("class"), [words(element) for element in tile]) for tile in tiles]
    # A letter is about 6.7 units wide.
    tiles = [(kind, name, value, [part for line in lines for part in textwrap.wrap(line, 30)]) for kind, (name, value, *lines) in tiles]
    tile_height = 76 + 17 * max(len(lines) for *_, lines in tiles)
    for i, (kind, name, value, lines) in enumerate(tiles):
        x = margin + i * (tile_width + gap)
        kind = (set(kind.split()) - {"tile"} or {"rule"}).pop()
        out.append(f'<rect x="{x}" y="{y}" width="{tile_width}" height="{tile_height}" rx="8" fill="var(--panel)"/>')
        out.append(f'<rect x="{x}" y="{y}" width="4" height="{tile_height}" rx="2" fill="var(--{kind})"/>')
        text(x + 16, y + 24, name, 13, "; font-weight: 600" + muted)
        text(x + 16, y + 56, value, 28, "; font-weight: 700" + ("" if kind == "rule" else f"; fill: var(--{kind})"))
        for j, line in enumerate(lines):
            text(x + 16, y + 77 + 17 * j, line, 12.5)
    y += tile_height + gap
    plot_width = (width - 2 * margin - gap) / 2
    figures = [figure for figure in plots if words(figure.find("h2")) in SHOWN]
    if len(figures) != len(SHOWN):
        sys.exit(f"the page has no plots {SHOWN}")
    height = 0
    for i, figure in enumerate(figures):
        x, at = margin + i * (plot_width + gap), y + 60
        inside, legend_x = [], x + 16
        for item in figure.find("ul"):
            mark, label = item[0], words(item)
            label_width = 6.7 * len(label)
            if legend_x + 34 + label_width > x + plot_width - 16:
                legend_x, at = x + 16, at + 20
            mark.attrib.update({"x": f"{legend_x:g}", "y": f"{at - 11}", "width": "28", "height": "12"})
            inside += [mark, (legend_x + 34, at, label)]
            legend_x = round(legend_x + 50 + label_width)
        plot = next(element for element in figure if element.tag == "svg")
        _, _, w, h = (float(n) for n in plot.get("viewBox").split())
        scale = (plot_width - 32) / w
        plot.attrib.update({"x": f"{x + 16}", "y": f"{at + 14}", "width": f"{plot_width - 32:g}", "height": f"{h * scale:.1f}"})
        height = max(height, at + 14 + h * scale + 14)
        out.append(f'<rect class="panel" x="{x}" y="{y}" width="{plot_width}" rx="8" fill="var(--panel)" height="HEIGHT"/>')
        text(x + 16, y + 30, words(figure.find("h2")), 17, "; font-weight: 600")
        for part in inside:
            if isinstance(part, tuple):
                text(*part, 12.5)
            else:
                out.append(ET.tostring(part, encoding="unicode").strip())
        out.append(ET.tostring(plot, encoding="unicode").strip())
    height = round(height)
    body = "\n".join(out).replace('height="HEIGHT"', f'height="{height - y:g}"')
    height += margin
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        f'font-family="system-ui, \'Segoe UI\', \'DejaVu Sans\', sans-serif">\n'
        f'<title>The page that moec route writes of {EXPERTS} experts and {BATCHES * TOKENS} tokens: drops, busy experts, advice</title>\n'
        f'<style>{style}</style>\n<rect width="{width}" height="{height}" rx="8" fill="var(--page)"/>\n{body}\n</svg>\n'
    )


def main():
    if len(sys.argv) not in (2, 3) or sys.argv[2:] not in ([], ["--check"]):
        sys.exit(__doc__)
    wrong = []
    for name, draw in (("layer.svg", draw_layer), ("routing-health.svg", draw_health)):
        picture, file = draw(sys.argv[1]), PICTURES / name
        ET.fromstring(picture)
        if sys.argv[2:]:
            wrong += [name] if not file.exists() or file.read_text(encoding="utf-8") != picture else []
        else:
            file.write_text(picture, encoding="utf-8", newline="\n")
    if wrong:
        sys.exit(f"not what moec draws today: {', '.join(wrong)}; `make pictures` writes them")


if __name__ == "__main__":
    main()
