"""What `blip2 serve` listens on and how its settings have to fit the deployment around it."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from azure_lint.section import Section

# Defaults of `blip2 serve`; a test compares them with docs/operations.md.
DEFAULT_PORT = 5001
DEFAULT_QUEUE_ROWS = 64
DEFAULT_TIMEOUT_S = 180.0
DEFAULT_DRAIN_DELAY_S = 1.0
DEFAULT_SHUTDOWN_GRACE_S = 24.0
# What the platform is taken to wait between SIGTERM and SIGKILL. It is not documented.
PLATFORM_GRACE_S = 25.0
# Every variable that the service reads under this prefix; the same test compares them.
SETTINGS = frozenset(
    {
        "BLIP2_ALLOW_PRIVATE_IMAGE_URLS",
        "BLIP2_API_KEY",
        "BLIP2_BODY_TIMEOUT_S",
        "BLIP2_DECODER_PROVIDER",
        "BLIP2_DEVICE_ID",
        "BLIP2_DRAIN_DELAY_S",
        "BLIP2_GOLDEN_INTERVAL_S",
        "BLIP2_GPU_MEMORY_MIB",
        "BLIP2_HOST",
        "BLIP2_HTTP_WORKERS",
        "BLIP2_IDLE_TIMEOUT_S",
        "BLIP2_IMAGE_CACHE_MIB",
        "BLIP2_IMAGE_URL_FETCHES",
        "BLIP2_IMAGE_URL_HOSTS",
        "BLIP2_IMAGE_URL_TIMEOUT_S",
        "BLIP2_KV_PREFIX_CACHE_MIB",
        "BLIP2_KV_TOKENS",
        "BLIP2_LOG",
        "BLIP2_LOG_FORMAT",
        "BLIP2_MAX_BODY_BYTES",
        "BLIP2_MAX_CONNECTIONS",
        "BLIP2_MAX_IMAGE_BYTES",
        "BLIP2_MAX_IMAGE_PIXELS",
        "BLIP2_MAX_LEN",
        "BLIP2_MEMORY_ARENA",
        "BLIP2_METRICS_PORT",
        "BLIP2_MODEL",
        "BLIP2_NO_IMAGE_URLS",
        "BLIP2_PORT",
        "BLIP2_PREFILL_POSITIONS",
        "BLIP2_PROVIDER",
        "BLIP2_QFORMER_PROVIDER",
        "BLIP2_QUEUE_ROWS",
        "BLIP2_SHUTDOWN_GRACE_S",
        "BLIP2_SLOTS",
        "BLIP2_SPIN",
        "BLIP2_STORED_IMAGES_MIB",
        "BLIP2_TENSORRT_CACHE",
        "BLIP2_THREADS",
        "BLIP2_THREAD_AFFINITY",
        "BLIP2_TIMEOUT_S",
        "BLIP2_VISION_PROVIDER",
    }
)
LIVENESS_PATHS = ("/", "/livez")
READINESS_PATHS = ("/readyz",)
_TIMEOUT = "as request_settings.request_timeout_ms"
_WHOLE = re.compile(r"[0-9]{1,18}\Z")


@dataclass(frozen=True)
class Settings:
    """The settings that other fields have to fit; defaults where none is given."""

    port: int = DEFAULT_PORT
    port_variable: str | None = None


def _whole(section: Section, key: str, least: int, most: int) -> int | None:
    value = section.get(key)
    if value is None:
        return None
    if not _WHOLE.match(str(value)) or not least <= int(str(value)) <= most:
        section.report.error(section.where(key), value, f"must be a whole number from {least} to {most}")
        return None
    return int(str(value))


def _seconds(section: Section, key: str, default: float) -> float | None:
    value = section.get(key)
    if value is None:
        return default
    try:
        seconds = float(str(value))
    except ValueError:
        seconds = math.nan
    # The range of every duration of the service.
    if not 0.001 <= seconds <= 86400:
        section.report.error(section.where(key), value, "must be seconds from 0.001 to 86400")
        return None
    return seconds


def _check_values(section: Section) -> None:
    for key, value in section.mapping.items():
        where = section.where(str(key))
        if not isinstance(key, str):
            section.report.error(where, key, "the name of a variable must be text")
        # The SDK sends them on as they are, and the service of Azure takes text alone.
        elif not isinstance(value, str):
            section.report.error(where, value, "the value of a variable must be text: put it in quotes")
        if isinstance(key, str) and key.startswith("BLIP2_") and key not in SETTINGS:
            section.report.error(where, value, "blip2 knows no such variable: docs/operations.md lists them")
    if section.has("BLIP2_API_KEY"):
        section.report.error(
            section.where("BLIP2_API_KEY"),
            "…",
            "must not be set: Azure checks callers with keys of its own, and the service would refuse those",
        )
    if section.has("AZUREML_MODEL_DIR"):
        section.report.error(
            section.where("AZUREML_MODEL_DIR"),
            section.get("AZUREML_MODEL_DIR"),
            "must not be set: the platform sets it",
        )
    host = section.get("BLIP2_HOST")
    if host is not None and host not in ("0.0.0.0", "::"):
        section.report.error(
            section.where("BLIP2_HOST"), host, "must be 0.0.0.0 or ::, or the platform reaches no port"
        )


def settings(section: Section | None) -> Settings:
    """Checks `environment_variables` alone, and answers with the port that the service will listen on."""
    if section is None:
        return Settings()
    _check_values(section)
    # BLIP2_PORT wins over SERVER_PORT.
    for key in ("BLIP2_PORT", "SERVER_PORT"):
        if section.has(key):
            port = _whole(section, key, 1, 65535)
            return Settings(DEFAULT_PORT if port is None else port, section.where(key))
    return Settings()


def check_fit(deployment: Section, variables: Section | None, concurrent: int | None, timeout_ms: int | None) -> None:
    """Do queue and times fit the request settings?"""
    if variables is None:
        variables = type(deployment)({}, deployment.report, deployment.where("environment_variables"))
    report = variables.report
    rows = _whole(variables, "BLIP2_QUEUE_ROWS", 1, 1_000_000)
    if rows is None and not variables.has("BLIP2_QUEUE_ROWS"):
        rows = DEFAULT_QUEUE_ROWS
    if rows is not None and concurrent is not None and rows < 2 * concurrent:
        report.error(
            variables.where("BLIP2_QUEUE_ROWS"),
            rows,
            f"must be at least {2 * concurrent}: the platform lets through twice max_concurrent_requests_per_instance "
            f"({concurrent}), and a request has one row or more",
        )
    deadline = _seconds(variables, "BLIP2_TIMEOUT_S", DEFAULT_TIMEOUT_S)
    if deadline is not None and timeout_ms is not None and deadline * 1000 > timeout_ms:
        where, allowed = variables.where("BLIP2_TIMEOUT_S"), f"must be at most {timeout_ms / 1000:g}, {_TIMEOUT}"
        if variables.has("BLIP2_TIMEOUT_S"):
            report.error(where, deadline, f"{allowed}: the platform has given up by then")
        else:
            report.warning(
                where,
                deadline,
                f"{allowed}: set it somewhat lower, so that callers learn the reason and not a bare 408",
            )
    scoring = _whole(variables, "SCORING_TIMEOUT_MS", 1, 86_400_000)
    if scoring is not None and timeout_ms is not None and scoring > timeout_ms:
        report.error(variables.where("SCORING_TIMEOUT_MS"), scoring, f"must be at most {timeout_ms}, {_TIMEOUT}")
    for key in ("BLIP2_BODY_TIMEOUT_S", "BLIP2_IMAGE_URL_TIMEOUT_S"):
        part = _seconds(variables, key, 0.001)
        if part is not None and timeout_ms is not None and variables.has(key) and part * 1000 > timeout_ms:
            report.error(variables.where(key), part, f"must be at most {timeout_ms / 1000:g}, {_TIMEOUT}")
    drain = _seconds(variables, "BLIP2_DRAIN_DELAY_S", DEFAULT_DRAIN_DELAY_S)
    grace = _seconds(variables, "BLIP2_SHUTDOWN_GRACE_S", DEFAULT_SHUTDOWN_GRACE_S)
    if drain is not None and grace is not None and drain + grace > PLATFORM_GRACE_S:
        report.error(
            variables.where("BLIP2_SHUTDOWN_GRACE_S"),
            grace,
            f"and BLIP2_DRAIN_DELAY_S ({drain:g}) must not exceed {PLATFORM_GRACE_S:g} together: "
            "the platform may kill by then",
        )
