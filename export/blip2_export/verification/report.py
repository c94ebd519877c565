"""Renders the certificate: a table for the terminal, and `parity.html`, which also shows where errors arise.

The page stands alone (style and charts inside, no script) and holds no times, so that equal results give equal
bytes. All its numbers are also in parity.json, except the divergence of every single position.
"""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

from blip2_export.verification.line_chart import Series, legend, line_chart

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from blip2_export.verification.comparison import Comparison

Json = dict[str, Any]

ERROR_COLUMNS = {"max_abs_error": "max error", "mean_abs_error": "mean error", "relative_error": "relative"}
LAYER_TITLES = {"vision_encoder": "Vision encoder", "decoder": "Decoder"}
STYLE = """\
:root { color-scheme: light dark; --ground: #fcfcfb; --ink: #1c1c1a; --soft: #62615c; --line: #dedcd4; --good: #1a7a3d;
  --bad: #b3261e; --s1: #2a6fc9; --s2: #c9591a; }
@media (prefers-color-scheme: dark) {
  :root { --ground: #191918; --ink: #eeede9; --soft: #a5a49d; --line: #3a3936; --good: #5fc98a; --bad: #ff8a80;
    --s1: #6aa9f4; --s2: #f0905a; } }
body { background: var(--ground); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto;
  max-width: 72rem; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
.good { color: var(--good); } .bad { color: var(--bad); } .soft, figcaption, svg text { color: var(--soft); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid var(--line); padding: 0.25rem 0.9rem 0.25rem 0; text-align: right;
  vertical-align: top; white-space: nowrap; }
th:first-child, td:first-child, th:last-child, td:last-child, .text th, .text td { text-align: left; }
td:last-child, .text td { white-space: normal; }
th { color: var(--soft); font-weight: 500; }
.charts { display: grid; gap: 1.5rem; grid-template-columns: repeat(auto-fill, minmax(min(26rem, 100%), 1fr)); }
figure { margin: 0; } figcaption b { color: var(--ink); font-weight: 600; }
svg { display: block; width: 100%; } svg text { fill: currentColor; font-size: 11px; }
.grid { stroke: var(--line); } polyline { fill: none; stroke-width: 2; stroke-linejoin: round; }
polyline.s1 { stroke: var(--s1); } polyline.s2 { stroke: var(--s2); }
circle { stroke: var(--ground); } circle.s1 { fill: var(--s1); } circle.s2 { fill: var(--s2); }
.legend { margin: 0; } .key { color: var(--soft); margin-right: 1.2rem; }
.key::before { content: ""; display: inline-block; height: 3px; margin-right: 0.4rem; vertical-align: middle;
  width: 1.2rem; }
.key.s1::before { background: var(--s1); } .key.s2::before { background: var(--s2); }
"""


def table(certificate: Json) -> str:
    """Returns the certificate as a table for the terminal."""
    lines = [f"{'':<16}{''.join(f'{title:>12}' for title in ERROR_COLUMNS.values())}{'cosine':>12}"]
    for name, row in _error_rows(certificate).items():
        errors = "".join(f"{row[key]:>12.2e}" for key in ERROR_COLUMNS)
        lines.append(f"{name:<16}{errors}{row['mean_cosine']:>12.8f}")
    for name in ("logits", "decoder_alone"):
        row = certificate[name]
        lines.append(
            f"{name}: top-1 agreement {row['top1_agreement']:.4f} of {row['positions']} positions, "
            f"KL mean {row['kl_mean']:.1e}, max {row['kl_max']:.1e}"
        )
    lines += [_agreement_line("greedy", certificate["greedy"])]
    if certificate["beam"]["cases"]:
        lines.append(_agreement_line("beam search", certificate["beam"]))
    for invariant in certificate["invariants"]:
        lines.append(f"{invariant['name']}: {_found(invariant)}")
    peak = certificate["cost"]["peak_anonymous_bytes"]
    held = "" if peak is None else f", {peak / 1e9:.1f} GB of memory at most"
    lines.append(f"took {certificate['cost']['seconds']:.0f} s{held}")
    lines += [f"MISSED  {miss}" for miss in certificate["misses"]]
    return "\n".join([*lines, "passed" if certificate["passed"] else "FAILED"])


def _error_rows(certificate: Json) -> dict[str, Json]:
    """Returns the rows that have an error in each column."""
    return {**certificate["stages"], **{name: certificate[name] for name in ("logits", "decoder_alone")}}


def _agreement_line(name: str, agreement: Json) -> str:
    return (
        f"{name}: {agreement['equal_share']:.4f} of {agreement['cases']} answers equal, "
        f"token agreement {agreement['token_agreement']:.4f}"
    )


def _found(invariant: Json) -> str:
    return "bit-equal" if invariant["bit_equal"] else f"relative error {invariant['relative_error']:.1e}"


def page(certificate: Json, comparison: Comparison) -> bytes:
    """Returns the certificate as a page, UTF-8."""
    title = f"Parity of {certificate['bundle']}"
    body = [
        f"<h1>{escape(title)}</h1>",
        _verdict(certificate),
        _errors(certificate),
        _layers(certificate["layers"]),
        _divergences(comparison),
        _answers(certificate),
        _beams(certificate["beam"]),
        _invariants(certificate["invariants"]),
        _versions(certificate),
    ]
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(title)}</title>'
    content = "\n".join(part for part in body if part)
    document = f'<!doctype html>\n<html lang="en">\n<head>{head}\n<style>\n{STYLE}</style></head>\n<body>\n{content}\n'
    return f"{document}</body>\n</html>\n".encode()


def _verdict(certificate: Json) -> str:
    precision = ", ".join(f"{stage} {value}" for stage, value in certificate["precision"].items())
    facts = f'<p class="soft">{escape(precision)}. Reference: {escape(certificate["reference"])}.</p>'
    if certificate["passed"]:
        return f'<p class="good"><b>passed</b></p>\n{facts}'
    misses = "".join(f"<li>{escape(miss)}</li>" for miss in certificate["misses"])
    return f'<p class="bad"><b>FAILED</b></p>\n<ul class="bad">{misses}</ul>\n{facts}'


def _errors(certificate: Json) -> str:
    limits = {name: [] for name in _error_rows(certificate)}
    for check in certificate["checks"]:
        if check["subject"] in limits:
            limits[check["subject"]].append(f"{check['measure']} {check['limit']:g}")
    rows = [
        [
            name,
            *(f"{row[key]:.2e}" for key in ERROR_COLUMNS),
            f"{row['mean_cosine']:.8f}",
            *((f"{row[key]:{form}}" if key in row else "") for key, form in _LOGITS_COLUMNS),
            ", ".join(limits[name]),
        ]
        for name, row in _error_rows(certificate).items()
    ]
    titles = ["", *ERROR_COLUMNS.values(), "cosine", "KL mean", "KL max", "top-1", "limits"]
    return f"<h2>Errors</h2>\n{_table(titles, rows)}"


_LOGITS_COLUMNS = (("kl_mean", ".1e"), ("kl_max", ".1e"), ("top1_agreement", ".4f"))


def _layers(layers: Json) -> str:
    charts = []
    for stage, title in LAYER_TITLES.items():
        lines = {"whole bundle": layers[stage]}
        if f"{stage}_alone" in layers:
            lines["behind the reference's image prefix"] = layers[f"{stage}_alone"]
        for key, measure in (("relative_rms", "relative RMS error"), ("cosine_distance", "1 - cosine")):
            series = [Series(name, [layer[key] for layer in found]) for name, found in lines.items()]
            charts.append(_figure(f"{title}: {measure} after each layer", "layer", series))
    return f'<h2>Error by layer</h2>\n<div class="charts">\n{"".join(charts)}</div>'


def _divergences(comparison: Comparison) -> str:
    series = [
        Series("whole bundle", sorted(comparison.logits.divergences, reverse=True)),
        Series("behind the reference's image prefix", sorted(comparison.decoder_alone.divergences, reverse=True)),
    ]
    chart = _figure("KL(reference ‖ bundle) of the next token, in nats", "positions, the worst first", series)
    return f'<h2>Divergence by position</h2>\n<div class="charts">\n{chart}</div>'


def _figure(title: str, x_label: str, series: Sequence[Series]) -> str:
    caption = f"<figcaption><b>{escape(title)}</b></figcaption>{legend(series)}"
    return f"<figure>{caption}\n{line_chart(title, x_label, series)}\n</figure>\n"


def _answers(certificate: Json) -> str:
    greedy = certificate["greedy"]
    summary = _agreement_line("greedy", greedy)
    rows = [
        [
            case["name"],
            case["text"],
            case["reference_answer"],
            "the same" if case["equal"] else case["answer"],
            f"{case['smallest_margin']:.3f}",
        ]
        for case in sorted(certificate["cases"], key=lambda case: case["equal"])
    ]
    titles = ["case", "prompt", "reference", "bundle", "smallest margin"]
    return f"<h2>Answers</h2>\n<p>{summary}</p>\n{_folded('every answer', _table(titles, rows, is_text=True))}"


def _beams(beam: Json) -> str:
    if not beam["cases"]:
        return ""
    summary = (
        f"{_agreement_line('beam search', beam)}, scores differ by {beam['score_error']:.1e} of themselves at most"
    )
    rows = [
        [
            answer["case"],
            f"{answer['num_beams']} beams, length penalty {answer['length_penalty']:g}",
            str(answer["early_stopping"]).lower(),
            f"{answer['reference_score']:.4f}",
            f"{answer['score']:.4f}",
            "yes" if answer["equal"] else "no",
        ]
        for answer in sorted(beam["answers"], key=lambda answer: answer["equal"])
    ]
    titles = ["case", "search", "early stopping", "reference score", "score", "equal"]
    return f"<p>{summary}</p>\n{_folded('every search', _table(titles, rows, is_text=True))}"


def _invariants(invariants: Sequence[Json]) -> str:
    rows = [[invariant["name"], _found(invariant)] for invariant in invariants]
    return f"<h2>The bundle against itself</h2>\n{_table(['', 'found'], rows, is_text=True)}"


def _versions(certificate: Json) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in certificate["versions"].items())
    return f'<p class="soft">{escape(versions)}, {escape(certificate["provider"])}</p>'


def _table(titles: Iterable[str], rows: Iterable[Sequence[str]], *, is_text: bool = False) -> str:
    head = "".join(f"<th>{escape(title)}</th>" for title in titles)
    lines = "\n".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    style = ' class="text"' if is_text else ""
    return f'<div class="scroll"><table{style}><tr>{head}</tr>\n{lines}\n</table></div>'


def _folded(summary: str, content: str) -> str:
    return f"<details><summary>{escape(summary)}</summary>\n{content}</details>"
