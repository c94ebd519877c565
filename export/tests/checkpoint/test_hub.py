"""Checkpoints by id. The hub's real client, against a hub on this machine (`fake_hub`)."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from fake_hub import COMMIT, ID, FakeHub

from blip2_export.bundle.folder import check_files, read_manifest
from blip2_export.checkpoint.location import local_folder
from blip2_export.errors import ExportError

if TYPE_CHECKING:
    from collections.abc import Iterator

EXPORT = Path(__file__).resolve().parents[2]
# The client hands on what it gets in pieces of 10 MB, and the tiny checkpoint is smaller. Waits are for people.
MAIN = """
import sys
import huggingface_hub.constants as constants
from blip2_export import cli
from blip2_export.checkpoint.hub import download
constants.DOWNLOAD_CHUNK_SIZE = 4096
download.PATIENCE = (0, 0)
{before}
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.fixture
def fake_hub(tmp_path: Path) -> Iterator[FakeHub]:
    """A hub with the trained tiny checkpoint, 4.7 MB in one file of weights."""
    with FakeHub(EXPORT.parent / "onnx/checkpoint") as found:
        yield found


def command(*arguments: str, before: str = "") -> list[str]:
    return [sys.executable, "-c", MAIN.format(before=before), "model", *arguments]


def environment(endpoint: str, home: Path, **added: str) -> dict[str, str]:
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith("HF_") and "proxy" not in name.lower()
    }
    return kept | {"HF_ENDPOINT": endpoint, "HF_HOME": str(home / "hub"), "PYTHONPATH": str(EXPORT)} | added


def make_model(
    fake_hub: FakeHub, folder: Path, *arguments: str, checkpoint: str = ID, before: str = "", **added: str
) -> subprocess.CompletedProcess[str]:
    """Runs `model` in a folder, whose `hub` is the cache."""
    return subprocess.run(
        command("--checkpoint", checkpoint, *arguments, before=before),
        env=environment(fake_hub.endpoint, folder, **added),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def refusal(done: subprocess.CompletedProcess[str]) -> str:
    """The one line in which a command was refused."""
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("blip2_export model: ")]
    assert lines == done.stderr.splitlines()[-1:]
    return lines[0]


def test_an_id_becomes_a_checked_bundle_that_names_its_revision(fake_hub: FakeHub, tmp_path: Path) -> None:
    done = make_model(fake_hub, tmp_path)
    assert done.returncode == 0, done.stderr
    bundle = tmp_path / "onnx/blip2-tiny-int8"
    manifest = read_manifest(bundle)
    check_files(bundle, manifest)
    assert (manifest["checkpoint"]["id"], manifest["checkpoint"]["revision"]) == (ID, COMMIT)
    assert "downloading blip2-tiny" in done.stderr
    assert "all hashes match the manifest" in done.stdout
    assert f"docker run --rm -p 5001:5001 -v {bundle}:/model:ro blip2\n" in done.stdout
    assert "make run MODEL=onnx/blip2-tiny-int8\n" in done.stdout
    assert not any("telemetry" in line for line in fake_hub.asked)
    # Formats that are not read are not downloaded.
    assert {line.rpartition("/")[2] for line in fake_hub.asked if line.startswith("GET") and "/resolve/" in line} == {
        path.name for path in fake_hub.files()
    }


@pytest.mark.parametrize("is_reset", [False, True])
def test_a_download_goes_on_where_the_connection_broke(fake_hub: FakeHub, tmp_path: Path, is_reset: bool) -> None:
    fake_hub.breaks, fake_hub.break_after, fake_hub.is_reset = 3, 500_000, is_reset
    done = make_model(fake_hub, tmp_path)
    assert done.returncode == 0, done.stderr
    starts = [int(asked.removeprefix("bytes=").rstrip("-")) for asked in fake_hub.ranges]
    assert len(starts) == 3
    assert 400_000 < starts[0] < starts[1] < starts[2] <= 1_500_000


def test_a_connection_that_breaks_for_good_is_one_line_and_the_next_run_goes_on(
    fake_hub: FakeHub, tmp_path: Path
) -> None:
    fake_hub.breaks, fake_hub.break_after, fake_hub.is_reset = 1_000, 0, True
    assert "run the same command again, which resumes the download" in refusal(make_model(fake_hub, tmp_path))
    fake_hub.breaks = 0
    assert make_model(fake_hub, tmp_path).returncode == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_download_ends_at_once_and_goes_on_later(
    fake_hub: FakeHub, tmp_path: Path, number: signal.Signals
) -> None:
    fake_hub.is_slow = True  # two minutes in all
    before = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    words = command("--checkpoint", ID, before=before)
    with subprocess.Popen(
        words, env=environment(fake_hub.endpoint, tmp_path), cwd=tmp_path, stderr=subprocess.PIPE, text=True
    ) as process:
        blobs, end = tmp_path / f"hub/hub/models--{ID.replace('/', '--')}/blobs", time.monotonic() + 60
        while not any(file.stat().st_size for file in blobs.glob("*.incomplete")) and time.monotonic() < end:
            time.sleep(0.1)
        process.send_signal(number)
        _, errors = process.communicate(timeout=10)
    assert process.returncode == 130, errors
    assert errors.splitlines()[-1] == "blip2_export model: interrupted"
    fake_hub.is_slow = False
    assert make_model(fake_hub, tmp_path).returncode == 0
    assert int(fake_hub.ranges[-1].removeprefix("bytes=").rstrip("-")) > 0


def test_a_file_that_another_process_downloads_is_left_to_it_and_one_that_is_too_long_begins_anew(
    fake_hub: FakeHub, tmp_path: Path
) -> None:
    [weights] = [path for path in fake_hub.files() if path.suffix == ".safetensors"]
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    partial = tmp_path / f"hub/hub/models--{ID.replace('/', '--')}/blobs/{digest}.blip2.incomplete"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(bytes(weights.stat().st_size + 1))
    with partial.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert "model.safetensors: another process is downloading it" in refusal(make_model(fake_hub, tmp_path))
    assert make_model(fake_hub, tmp_path).returncode == 0


def test_what_was_downloaded_serves_without_a_network(fake_hub: FakeHub, tmp_path: Path) -> None:
    assert make_model(fake_hub, tmp_path).returncode == 0
    asked = len(fake_hub.asked)
    nowhere = {"HF_ENDPOINT": "http://127.0.0.1:9"}
    done = make_model(fake_hub, tmp_path, "--precision", "fp32", **nowhere)
    assert done.returncode == 0, done.stderr
    done = make_model(fake_hub, tmp_path, "--precision", "int4", HF_HUB_OFFLINE="1", **nowhere)
    assert done.returncode == 0, done.stderr
    assert len(fake_hub.asked) == asked


def test_without_a_network_one_line_says_so(fake_hub: FakeHub, tmp_path: Path) -> None:
    line = refusal(make_model(fake_hub, tmp_path, HF_ENDPOINT="http://127.0.0.1:9"))
    assert f"{ID}: no such folder, and the hub at http://127.0.0.1:9 cannot be reached (ConnectError: " in line
    line = refusal(make_model(fake_hub, tmp_path, HF_HUB_OFFLINE="1"))
    assert "HF_HUB_OFFLINE forbids asking the hub; unset it, or name a folder" in line


def test_an_unknown_id_is_one_line(fake_hub: FakeHub, tmp_path: Path) -> None:
    line = refusal(make_model(fake_hub, tmp_path, checkpoint="nobody/nothing"))
    assert (
        "nobody/nothing: no such folder, and the hub shows no such model (401); correct the id, or set HF_TOKEN" in line
    )
    line = refusal(make_model(fake_hub, tmp_path, checkpoint="nobody/nothing", HF_TOKEN="hf_x"))
    assert "check that the token in HF_TOKEN may read it" in line
    line = refusal(make_model(fake_hub, tmp_path, checkpoint="nobody/no--thing"))
    assert "ids look like owner/name" in line


def test_an_unknown_revision_is_one_line(fake_hub: FakeHub, tmp_path: Path) -> None:
    for revision in ("v9", "f" * 40):
        line = refusal(make_model(fake_hub, tmp_path, "--revision", revision))
        assert (
            f"the repository has no revision {revision}; --revision must be a branch, a tag or a full commit id" in line
        )
    assert make_model(fake_hub, tmp_path, "--revision", COMMIT).returncode == 0


def test_a_repository_for_those_who_ask_names_the_page_and_the_token(fake_hub: FakeHub, tmp_path: Path) -> None:
    expected = f"accept the terms at {fake_hub.endpoint}/{ID}, then set HF_TOKEN"
    fake_hub.refuse = 403  # the hub shows the listing to everybody, and files to those with access
    assert expected in refusal(make_model(fake_hub, tmp_path))
    fake_hub.refuse_id = 403
    assert expected in refusal(make_model(fake_hub, tmp_path))


@pytest.mark.parametrize(("status", "remedy"), [(401, "set HF_TOKEN"), (429, "set HF_TOKEN"), (500, "again later")])
def test_a_hub_that_refuses_is_one_line(fake_hub: FakeHub, tmp_path: Path, status: int, remedy: str) -> None:
    fake_hub.refuse_id = status
    line = refusal(make_model(fake_hub, tmp_path, before="import time; time.sleep = lambda _: None"))
    assert str(status) in line
    assert remedy in line


def test_a_repository_without_safetensors_is_refused_before_anything_is_downloaded(
    fake_hub: FakeHub, tmp_path: Path
) -> None:
    fake_hub.hidden = ("model.safetensors",)
    assert "has no weights as safetensors; choose a --revision" in refusal(make_model(fake_hub, tmp_path))
    fake_hub.hidden = ("config.json",)
    # The listing of a commit is kept, for it never changes.
    shutil.rmtree(tmp_path / "hub")
    assert "has no config.json" in refusal(make_model(fake_hub, tmp_path))
    assert not any(line.startswith("GET") and "/resolve/" in line for line in fake_hub.asked)


def test_a_full_disk_is_told_before_and_under_way(fake_hub: FakeHub, tmp_path: Path) -> None:
    usage = "import shutil, types; shutil.disk_usage = lambda _: types.SimpleNamespace(free={})"
    line = refusal(make_model(fake_hub, tmp_path, before=usage.format(1_000_000)))
    assert "MB, and 1.0 MB are free on the disk of" in line
    assert line.endswith("make room, or choose another folder with HF_HOME")
    assert not any(line.startswith("GET") and "/resolve/" in line for line in fake_hub.asked)
    full = f"""
import huggingface_hub.file_download as download
def get(*_, **__): raise OSError({errno.ENOSPC}, "No space left on device")
download.http_get = get
"""
    line = refusal(make_model(fake_hub, tmp_path, before=full))
    assert "hub is full; make room, or choose another folder with HF_HOME" in line


def test_damaged_weights_are_removed_and_come_again(fake_hub: FakeHub, tmp_path: Path) -> None:
    fake_hub.flip = True
    line = refusal(make_model(fake_hub, tmp_path))
    assert "model.safetensors arrived damaged and was removed; run the same command again" in line
    assert not (tmp_path / "onnx").exists()
    fake_hub.flip = False
    assert make_model(fake_hub, tmp_path).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--precision", "fp16"], "--precision fp16: target cpu offers fp32, int8, int4"),
        (["--output", "taken"], "taken: folder is not empty; choose another, or replace it with --force"),
    ],
)
def test_what_can_be_refused_is_refused_before_the_hub_is_asked(
    fake_hub: FakeHub, tmp_path: Path, arguments: list[str], reason: str
) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/file").touch()
    assert reason in refusal(make_model(fake_hub, tmp_path, *arguments))
    assert fake_hub.asked == []


def test_folders_may_have_spaces_quotes_and_a_tilde(checkpoint: Path, fake_hub: FakeHub, tmp_path: Path) -> None:
    shutil.copytree(checkpoint, tmp_path / "it's a checkpoint")
    arguments = ["--output", "~/my models/it's $5"]
    done = make_model(fake_hub, tmp_path, *arguments, checkpoint="~/it's a checkpoint", HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr
    (tmp_path / "Makefile").write_text('export MODEL\nrun:\n\t@printf %s "$$MODEL"\n')
    [printed] = [line for line in done.stdout.splitlines() if "make run" in line]
    # Not as a child of the make that runs the tests, which would say where it is.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    run = {"shell": True, "cwd": tmp_path, "capture_output": True, "text": True, "check": True}
    shown = subprocess.run(printed, env=environment, **run).stdout
    assert shown == str(tmp_path / "my models/it's $5")
    assert fake_hub.asked == []


def test_a_bundle_that_was_changed_does_not_pass_the_check(fp32_bundle: Path, tmp_path: Path) -> None:
    bundle = shutil.copytree(fp32_bundle, tmp_path / "bundle")
    words = [sys.executable, "-m", "blip2_export", "check", "--bundle", str(bundle)]

    def check() -> subprocess.CompletedProcess[str]:
        return subprocess.run(words, cwd=EXPORT, capture_output=True, text=True, check=False)

    assert check().returncode == 0
    graph = bundle / "decoder.onnx"
    graph.write_bytes(graph.read_bytes()[:-1] + b"\0")
    assert (check().returncode, "decoder.onnx: content differs" in check().stderr) == (2, True)
    graph.unlink()
    assert (check().returncode, "decoder.onnx: file not found" in check().stderr) == (2, True)
    (bundle / "manifest.json").write_text(json.dumps({"schema_version": 99}))
    assert (check().returncode, "schema_version is 99" in check().stderr) == (2, True)


def test_progress_has_rate_and_time_left_of_what_comes_and_not_of_what_was_there() -> None:
    from blip2_export.checkpoint.hub.progress import DownloadProgress

    now, stream = 0.0, io.StringIO()
    watch = DownloadProgress(100_000_000, stream, lambda: now)
    watch.begin("downloading", 50_000_000)
    bar = watch.bar()(total=100_000_000, initial=50_000_000, unit="B")
    for _ in range(4):
        now += 5.0
        bar.update(5_000_000)
    assert stream.getvalue().splitlines()[-1].endswith(" 70% of 100.0 MB, 1.0 MB/s, 30 s left")


def test_a_folder_is_taken_as_it_is_and_has_no_revision(tmp_path: Path) -> None:
    assert local_folder(str(tmp_path), None) == tmp_path
    with pytest.raises(ExportError, match="--revision main"):
        local_folder(str(tmp_path), "main")


def test_without_the_extra_an_id_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.setitem(sys.modules, "huggingface_hub.utils", None)
    with pytest.raises(ExportError, match=r"pip install 'blip2-export\[hub\]'"):
        local_folder("Salesforce/blip2-opt-2.7b", None)
