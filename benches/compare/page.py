"""The results as a Markdown page with three charts. It judges by the design's targets alone."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

from compare.cases import Manner
from compare.charts import Group, bar_chart
from compare.spread import Spread, ratios
from compare.targets import ALONE, overhead, verdicts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from compare.results import Json, Results

MISSING = "-"
BUSY_CORES = 0.1  # of others; beyond, a run is named
LATENCY_CASES = ("one-1", "one-5", "one-17", "first-token", "repeated")
THROUGHPUT_CASES = ("at-once-8", "at-once-16", "ten-questions", "captions", "mixed-lengths")
STAGES = (
    ("vision_encoder", "vision encoder"),
    ("qformer", "Q-Former"),
    ("prefill", "prefill"),
    ("step", "decode step"),
)
WHAT_IS_MEASURED = """\
- Both sides get the same picture files, texts and numbers of new tokens, answer greedily, and make exactly so many
  tokens. Random weights do: forced to its length, an answer takes the same time whatever it says.
- `blip2 serve` is asked over HTTP on the same machine, in OpenAI's protocol, from the opening of a connection to the
  last byte. Rows that come together are requests of their own, at most 16 under way.
- transformers runs in a process of its own, from the bytes of the picture to the text of the answer, preprocessing
  included. Rows that come together are static batches; where several sizes were tried, the best one counts. It has no
  cache here, and is not asked for a stream: its first token is an answer of one token, a repeated picture a new one.
- Every pass has pictures that the process has not seen, except `a repeated picture`, which was asked another question
  before, and the ten questions about one. One request of 3 tokens goes before all others and does not count.
- Each round starts every contender anew, one at a time, in another order. A cell is the median over all passes of all
  rounds, with the least and the most. `times faster` is the median over rounds of the quotient within a round.
- A start goes from the start of the process until it can answer: for `blip2 serve` until `/readyz` says yes, with
  weights hashed and golden answers replayed. Files are read before, so that no start waits for a disk.
- Peak memory is the kernel's `VmHWM`, which counts mapped pages of weight files too; private memory is without them,
  looked at five times a second.
- A floor is what the arithmetic of the model, or the reading of its weights, takes at the rates of this machine; what
  is known of a picture costs nothing. Floors of static batches and of a service are the same.
"""


def write_page(results: Results, folder: Path) -> None:
    """README.md and its charts."""
    for name, content in charts(results).items():
        (folder / name).write_text(content, encoding="utf-8")
    (folder / "README.md").write_text(page(results), encoding="utf-8")


def charts(results: Results) -> dict[str, str]:
    """SVG files by name."""
    series = results.contenders
    latency = [_group(results, case, lambda _, seconds: seconds) for case in LATENCY_CASES]
    throughput = [
        _group(results, case, lambda about, seconds: about["new_tokens"] / seconds) for case in THROUGHPUT_CASES
    ]
    resources = [
        Group("peak memory, GB", _of_runs(results, "resident", 1e9)),
        Group("GPU memory, GB", _of_runs(results, "gpu", 1e9)),
        Group("on the disk, GB", {name: disk / 1e9 for name in series if (disk := _disk(results, name))}),
        Group("start, s", _of_runs(results, "start_s", 1.0)),
    ]
    return {
        "latency.svg": bar_chart("Seconds to the answer; less is better", series, latency),
        "throughput.svg": bar_chart("New tokens a second; more is better", series, throughput),
        "resources.svg": bar_chart("Memory, disk and start; less is better", series, resources),
    }


def page(results: Results) -> str:
    """README.md."""
    machine = results.document["machine"]
    title = f"# {results.document['date']}, {machine.get('gpu') or machine['cpu']}, {machine['cores']} cores"
    parts = [title, _introduction(results), "## In short", _overview(results), "![latency](latency.svg)"]
    parts += ["![throughput](throughput.svg)"]
    parts += ["## Targets", _targets(results)]
    parts += ["## Every case", _details(results)]
    parts += ["## Stages of one request of 17 tokens", _stages(results)]
    parts += ["## Start, memory, disk", _resources(results), "![memory, disk and start](resources.svg)"]
    parts += ["## What this machine can do", _rates(results)]
    parts += ["## What is measured, and how", WHAT_IS_MEASURED.rstrip(), _noise(results)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _introduction(results: Results) -> str:
    document, machine = results.document, results.document["machine"]
    versions = {**document["versions"]}
    for contender in document["contenders"].values():
        versions |= contender.get("versions", {})
    told = ", ".join(f"{name} {number}" for name, number in versions.items() if number != "none")
    rounds = len({run["round"] for run in document["runs"]})
    features = ", ".join(machine["features"]) or "none of note"
    return (
        f"`{document['checkpoint']}` on {machine['cores']} cores of {machine['cpu']} ({features}), "
        f"{machine['memory_bytes'] / 2**30:.0f} GiB, {document['threads']} threads; commit {document['commit']}; "
        f"{told}. {rounds} round{'s' if rounds != 1 else ''}, all contenders in turn. Written by "
        "`python -m compare`; all numbers: [results.json](results.json)."
    )


def _overview(results: Results) -> str:
    rows = []
    for case, about in results.cases.items():
        cells = [_spread(results.spread(contender, case)) for contender in results.contenders]
        rows.append([about["title"], *cells])
    return "Seconds, median (least to most).\n\n" + _table(["", *results.contenders], rows)


def _targets(results: Results) -> str:
    rows = [
        [verdict.contender, verdict.what, verdict.target, verdict.measured, "yes" if verdict.is_met else "**no**"]
        for verdict in verdicts(results)
    ]
    return _table(["", "what", "target", "measured", "met"], rows) if rows else "None of the contenders has one."


def _details(results: Results) -> str:
    rivals = [rival for rival in results.contenders if rival.startswith("transformers")]
    titles = ["case", "contender", "s", *(f"times faster than {rival}" for rival in rivals)]
    titles += ["floor, s", "measured / floor", "pictures/s", "tokens/s"]
    rows = []
    for case, about in results.cases.items():
        for contender in results.contenders:
            if spread := results.spread(contender, case):
                rows.append([about["title"], *_detail(results, case, contender, spread, rivals)])
    return _table(titles, rows) + _static_batches(results)


def _detail(results: Results, case: str, contender: str, spread: Spread, rivals: Sequence[str]) -> Iterator[str]:
    about, floor = results.cases[case], results.floor(contender, case)
    yield contender
    yield _spread(spread)
    for rival in rivals:
        of_both = (results.round_medians(name, case) for name in (rival, contender))
        yield MISSING if rival == contender else _spread(ratios(*of_both))
    yield _number(floor)
    yield _number(floor and spread.median / floor)
    is_rate = about["manner"] != Manner.STREAMED.value
    yield _number(about["rows"] / spread.median if is_rate else None)
    yield _number(about["new_tokens"] / spread.median if is_rate else None)


def _static_batches(results: Results) -> str:
    """What other sizes of static batch took."""
    lines = []
    for contender in results.contenders:
        for case, about in results.cases.items():
            batches = _batches_tried(results, contender, case)
            if len(batches) > 1:
                times = ", ".join(f"{batch}: {_number(seconds)} s" for batch, seconds in batches.items())
                lines.append(f"- {contender}, {about['title']}, by size of static batch: {times}")
    return "\n\n" + "\n".join(lines) if lines else ""


def _batches_tried(results: Results, contender: str, case: str) -> dict[int, float]:
    measured = [entry for run in results.runs(contender) for entry in run["measurements"] if entry["case"] == case]
    sizes = sorted({entry["batch"] for entry in measured if entry["batch"] is not None})
    return {size: median(results.seconds(contender, case, size)) for size in sizes}


def _stages(results: Results) -> str:
    rows = []
    for contender in results.contenders:
        stages = results.stages(contender, ALONE)
        floors = results.stage_floors(contender)
        if not stages:
            continue
        steps = results.cases[ALONE]["new_tokens"] - 1
        told = [{**entry, "step": entry.get("decode", 0.0) / steps} for entry in stages]
        for key, title in STAGES:
            measured, floor = Spread.of(entry[key] for entry in told if key in entry), floors.get(key)
            against = _number(measured.median / floor if measured and floor else None)
            rows.append([contender, title, _spread(measured), _number(floor), against])
        rows.append([contender, "preprocessing", _spread(Spread.of(entry["preprocess"] for entry in told)), "", ""])
        if http := overhead(results, contender):
            rows.append([contender, "HTTP, and between the stages", f"{http.median:.2%} of the request", "", ""])
    if not rows:
        return ""
    return "As the service tells them (`Server-Timing`).\n\n" + _table(
        ["", "stage", "ms", "floor, ms", "measured / floor"], rows
    )


def _resources(results: Results) -> str:
    titles = ["", "start, s", "first answer (3 tokens), s", "peak memory, GB", "of it private, GB", "on the disk, GB"]
    has_gpu = any(run.get("gpu") for run in results.document["runs"])
    rows = []
    for contender in results.contenders:
        row = [contender]
        row += [_spread(results.of_runs(contender, key)) for key in ("start_s", "first_answer_s")]
        row += [_gigabytes(results, contender, key) for key in ("resident", "private")]
        row += [_number((_disk(results, contender) or 0) / 1e9)]
        row += [_gigabytes(results, contender, "gpu")] if has_gpu else []
        rows.append(row)
    return _table([*titles, *(["GPU memory, GB"] if has_gpu else [])], rows)


def _rates(results: Results) -> str:
    rates = results.document["rates"]
    rows = [
        [
            "memory, read" if name == "bandwidth" else name,
            f"{rate / 1e9:.1f} GB/s" if name == "bandwidth" else f"{rate / 1e12:.3g} TOPS",
        ]
        for name, rate in sorted(rates.items())
    ]
    return _table(["", "best of all trials"], rows)


def _noise(results: Results) -> str:
    busy = [run for run in results.document["runs"] if run["cores_used_by_others"] > BUSY_CORES]
    if not busy:
        return f"Nothing else used more than {BUSY_CORES:g} cores during any run."
    told = ", ".join(
        f"{run['contender']} in round {run['round'] + 1}: {run['cores_used_by_others']:.2f}" for run in busy
    )
    return f"**The machine was not quiet.** Cores that others used: {told}. Compare ratios, and measure again."


def _group(results: Results, case: str, value: Callable[[Json, float], float]) -> Group:
    if case not in results.cases:
        return Group(case, {})
    about = results.cases[case]
    spreads = {contender: results.spread(contender, case) for contender in results.contenders}
    return Group(about["title"], {name: value(about, spread.median) for name, spread in spreads.items() if spread})


def _of_runs(results: Results, key: str, unit: float) -> dict[str, float]:
    spreads = {contender: results.of_runs(contender, key) for contender in results.contenders}
    return {contender: spread.median / unit for contender, spread in spreads.items() if spread}


def _disk(results: Results, contender: str) -> int | None:
    return results.document["contenders"][contender].get("disk_bytes")


def _gigabytes(results: Results, contender: str, key: str) -> str:
    spread = results.of_runs(contender, key)
    return _number(spread.most / 1e9) if spread else MISSING


def _spread(spread: Spread | None) -> str:
    if spread is None:
        return MISSING
    if spread.least == spread.most:
        return _number(spread.median)
    return f"{_number(spread.median)} ({_number(spread.least)} to {_number(spread.most)})"


def _number(value: float | None) -> str:
    """Three digits or so, as more are noise."""
    if value is None:
        return MISSING
    digits = 0 if value >= 1000 else 1 if value >= 100 else 2 if value >= 1 else 3
    return f"{value:.{digits}f}" if value >= 0.01 or value == 0 else f"{value:.5f}"


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
