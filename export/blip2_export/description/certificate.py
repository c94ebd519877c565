"""Words the parity certificate: sentences for the model card, metrics for the bill of materials."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]

NOT_VERIFIED = (
    "Not verified. `python -m blip2_export verify` compares the bundle with transformers, and writes the result here "
    "and in `parity.json`."
)


def verdict(certificate: Json | None) -> str:
    """Returns the verdict for tags: `passed`, `missed` or `not verified`."""
    if certificate is None:
        return "not verified"
    return "passed" if certificate["passed"] else "missed"


def sentences(certificate: Json | None) -> str:
    """Returns what was compared and the result, in Markdown."""
    if certificate is None:
        return NOT_VERIFIED
    greedy, logits = certificate["greedy"], certificate["logits"]
    outcome = "**Passed** all limits" if certificate["passed"] else "**Missed** limits"
    lines = [
        f"{outcome} of its precision, compared with {certificate['reference']}, the bundle run by "
        f"{certificate['provider']}, on {greedy['cases']} pictures with prompts:",
        "",
        f"- {_share(greedy['equal_share'])} of the greedy answers are equal token by token; "
        f"{_share(greedy['token_agreement'])} of the tokens.",
        f"- Fed with the reference's tokens, the likeliest token is the same at "
        f"{_share(logits['top1_agreement'])} of {logits['positions']} positions; the mean KL divergence is "
        f"{logits['kl_mean']:.1e}, the mean cosine of the logits {logits['mean_cosine']:.6f}.",
    ]
    beam = certificate["beam"]
    if beam["cases"]:
        lines.append(f"- {_share(beam['equal_share'])} of {beam['cases']} beam-search answers are equal.")
    lines += [f"- Missed: {miss}" for miss in certificate["misses"]]
    return "\n".join([*lines, "", "`parity.json` has every measure with its limit, `parity.html` the plots."])


def metrics(certificate: Json) -> dict[str, str]:
    """Returns the metrics by which bundles are compared, as name -> value."""
    found = {
        "parity with transformers": verdict(certificate),
        "equal greedy answers": _share(certificate["greedy"]["equal_share"]),
        "equal greedy tokens": _share(certificate["greedy"]["token_agreement"]),
        "top-1 agreement of logits": _share(certificate["logits"]["top1_agreement"]),
        "mean KL divergence of logits": f"{certificate['logits']['kl_mean']:.3e}",
    }
    if certificate["beam"]["cases"]:
        found["equal beam-search answers"] = _share(certificate["beam"]["equal_share"])
    return found


def _share(value: float) -> str:
    """Returns a share in percent. A share below 1 is never rounded to 100 %."""
    shown = f"{value:.2%}"
    return "under 100 %" if shown == "100.00%" and value < 1 else f"{shown[:-1].rstrip('0').rstrip('.')} %"
