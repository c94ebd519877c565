"""deploy.sh: it prints what it would run, runs what it prints, and says clearly what it was called without.

`az` is not needed. Each printed command is parsed and compared with the flags of that command, which were read from
`az … --help` of azure-cli 2 (core commands) and from Microsoft's reference of the extension ml (`az ml …`).
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from azure_lint import lint_files
from azure_lint.names import is_endpoint_name
from conftest import AZURE, REPOSITORY
from loading import load

SCRIPT = AZURE / "deploy.sh"
NAMED = [
    "--subscription", "00000000-0000-0000-0000-000000000000", "--resource-group", "my-group",
    "--workspace", "my-workspace", "--acr", "myregistry", "--location", "westeurope",
]  # fmt: skip
EVERYWHERE = {"--subscription", "--resource-group", "--query", "--output"}
ML = EVERYWHERE | {"--workspace-name"}
FLAGS = {
    "group create": EVERYWHERE | {"--name", "--location"},
    "acr show": EVERYWHERE | {"--name"},
    "acr create": EVERYWHERE | {"--name", "--location", "--sku", "--admin-enabled"},
    "acr login": {"--subscription", "--name"},
    "role assignment create": {
        "--subscription", "--assignee-object-id", "--assignee-principal-type", "--role", "--scope",
    },
    "monitor autoscale show": EVERYWHERE | {"--name"},
    "monitor autoscale create": EVERYWHERE | {"--name", "--resource", "--min-count", "--max-count", "--count"},
    "monitor autoscale delete": EVERYWHERE | {"--name"},
    "monitor autoscale rule list": EVERYWHERE | {"--autoscale-name"},
    "monitor autoscale rule create": EVERYWHERE | {"--autoscale-name", "--condition", "--scale", "--cooldown"},
    "monitor metrics list": EVERYWHERE | {"--resource", "--metrics", "--interval"},
    "ml model show": ML | {"--name", "--version", "--registry-name"},
    "ml workspace show": EVERYWHERE | {"--name"},
    "ml workspace create": EVERYWHERE | {"--name", "--location", "--container-registry"},
    "ml environment show": ML | {"--name", "--version", "--registry-name"},
    "ml environment create": ML | {"--file", "--name", "--version", "--image", "--registry-name"},
    "ml online-endpoint show": ML | {"--name", "--local"},
    "ml online-endpoint create": ML | {"--file", "--name", "--local"},
    "ml online-endpoint update": ML | {"--name", "--traffic", "--mirror-traffic"},
    "ml online-endpoint invoke": ML | {"--name", "--deployment-name", "--request-file", "--local"},
    "ml online-endpoint get-credentials": ML | {"--name"},
    "ml online-endpoint delete": ML | {"--name", "--yes", "--local"},
    "ml online-deployment show": ML | {"--name", "--endpoint-name"},
    "ml online-deployment create": ML | {"--name", "--endpoint-name", "--file", "--set", "--local"},
    "ml online-deployment update": ML | {"--name", "--endpoint-name", "--file", "--set"},
    "ml online-deployment get-logs": ML | {"--name", "--endpoint-name", "--lines"},
    "ml online-deployment delete": ML | {"--name", "--endpoint-name", "--yes"},
}  # fmt: skip
SWITCHES = {"--local", "--yes"}


def script(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """In the repository, with no variable of Azure's set."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("AZURE_", "BLIP2_"))}
    return subprocess.run(
        ["bash", SCRIPT, *arguments],
        cwd=REPOSITORY,
        env=clean | (env or {}),
        capture_output=True,
        text=True,
        check=False,
    )


def commands(printed: str) -> list[list[str]]:
    """Every simple command that a dry run printed."""
    found = []
    for line in printed.splitlines():
        if not line or line.startswith("#"):
            continue
        # What stands in "$(…)" is a command of its own.
        inner = re.findall(r'"\$\(([^)]*)\)"', line)
        outer = re.sub(r'"\$\([^)]*\)"', "SUBSTITUTED", line)
        for part in [*inner, outer]:
            words: list[str] = []
            lexer = shlex.shlex(part.replace(" > /dev/null 2>&1", ""), posix=True, punctuation_chars="|;")
            lexer.whitespace_split = True
            for word in [*lexer, ";"]:
                if word in (";", "||"):
                    if words:
                        found.append(words)
                    words = []
                elif words or word not in ("if", "then", "else", "fi"):
                    words.append(word)
    return found


def az_parts(words: list[str]) -> tuple[str, dict[str, list[str]]]:
    """`az ml environment show --name x` as its command and its flags."""
    name: list[str] = []
    flags: dict[str, list[str]] = {}
    current: list[str] | None = None
    for word in words[1:]:
        if word.startswith("--"):
            assert word not in flags, f"{word} stands twice in {words}"
            current = flags.setdefault(word, [])
        elif current is None:
            name.append(word)
        else:
            current.append(word)
    return " ".join(name), flags


def az_commands(printed: str) -> list[tuple[str, dict[str, list[str]]]]:
    return [az_parts(words) for words in commands(printed) if words[0] == "az"]


EVERY_STEP = [
    "check", "all", "address", "rollback", "delete-blue", "delete", "local",
]  # fmt: skip


def dry(*steps: str, named: list[str] = NAMED) -> str:
    done = script("--dry-run", *named, "--bundle", "onnx/my model", *steps)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_shell_linter_has_nothing_to_say() -> None:
    linter = Path(sys.executable).parent / "shellcheck"
    done = subprocess.run([linter, "--severity=style", SCRIPT], capture_output=True, text=True, check=False)
    assert done.stdout == ""
    assert done.returncode == 0


def test_a_dry_run_runs_nothing(tmp_path: Path) -> None:
    for name in ("az", "docker", "env"):
        (tmp_path / name).write_text(f"#!/bin/sh\necho {name} >> {tmp_path}/ran\n")
        (tmp_path / name).chmod(0o755)
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("AZURE_", "BLIP2_"))}
    done = subprocess.run(
        ["/bin/bash", SCRIPT, "--dry-run", *NAMED, "--bundle", "none", *EVERY_STEP],
        env=clean | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.count("\naz ") > 10
    assert not (tmp_path / "ran").exists()


def test_every_printed_command_is_one_that_az_has() -> None:
    printed = az_commands(dry(*EVERY_STEP))
    assert len(printed) > 25
    for name, flags in printed:
        assert name in FLAGS, name
        assert set(flags) <= FLAGS[name], (name, set(flags) - FLAGS[name])
        for flag, values in flags.items():
            assert bool(values) != (flag in SWITCHES), (name, flag, values)
    assert {name for name, _ in printed} == set(FLAGS)


def test_every_printed_line_is_shell() -> None:
    subprocess.run(["bash", "-n"], input=dry(*EVERY_STEP), text=True, check=True)


def test_every_printed_file_is_there() -> None:
    for name, flags in az_commands(dry(*EVERY_STEP)):
        for flag in ("--file", "--request-file"):
            for path in flags.get(flag, []):
                assert (REPOSITORY / path).is_file(), (name, path)


def test_the_whole_way_is_in_order() -> None:
    titles = [line[2:] for line in dry("all").splitlines() if line.startswith("# ")]
    assert titles == [
        "workspace", "image", "model", "environment", "endpoint", "blue", "ask", "live",
        "green", "ask-green", "mirror", "shift", "promote", "autoscale", "watch",
    ]  # fmt: skip
    up = [line[2:] for line in dry("up").splitlines() if line.startswith("# ")]
    rollout = [line[2:] for line in dry("rollout").splitlines() if line.startswith("# ")]
    assert titles[:8] == up
    assert titles[8:13] == rollout


def _documented() -> list[list[str]]:
    page = (REPOSITORY / "docs" / "azure.md").read_text()
    lines = re.findall(r"^deploy/azure/deploy\.sh (.*)$", page, re.MULTILINE)
    return [shlex.split(line, comments=True) for line in lines]


def test_every_documented_call_prints_commands() -> None:
    given = dict(
        zip(("AZURE_SUBSCRIPTION_ID", "AZURE_RESOURCE_GROUP", "AZURE_ML_WORKSPACE"), NAMED[1::2], strict=False)
    )
    given |= {"AZURE_CONTAINER_REGISTRY": "myregistry", "AZURE_LOCATION": "westeurope", "BLIP2_BUNDLE": "onnx/my-model"}
    assert len(_documented()) > 15
    for arguments in _documented():
        done = script("--dry-run", *arguments, env=given)
        assert done.returncode == 0, (arguments, done.stderr)
        assert commands(done.stdout), arguments


def test_every_step_is_documented() -> None:
    """On the page or, where it stands for several, through them."""
    told = {word for arguments in _documented() for word in arguments}
    page = (REPOSITORY / "docs" / "azure.md").read_text()
    helped = script("--help").stdout.split("Steps, in the order of their use")[1].split("Options, and")[0]
    steps = re.findall(r"^  ([a-z-]+)  +\S", helped, re.MULTILINE)
    assert len(steps) > 20
    for step in steps:
        assert step in told or f"deploy.sh {step}" in page or f"`{step}`" in page or step == "check", step


def test_traffic_never_exceeds_the_whole() -> None:
    printed = az_commands(dry("all", named=[*NAMED, "--share", "07"]))
    shares = [flags["--traffic"] for _, flags in printed if "--traffic" in flags]
    assert shares == [["blue=100"], ["blue=93 green=7"], ["blue=0 green=100"]]
    mirrored = [flags["--mirror-traffic"] for _, flags in printed if "--mirror-traffic" in flags]
    assert mirrored == [["green=7"], ["green=0"]]


def test_after_the_promotion_autoscale_is_for_green() -> None:
    def scaled(*steps: str) -> str:
        printed = az_commands(dry(*steps))
        return next(flags["--resource"][0] for name, flags in printed if name == "monitor autoscale create")

    assert scaled("autoscale").endswith("/onlineEndpoints/blip2-vqa/deployments/blue")
    assert scaled("promote", "autoscale").endswith("/deployments/green")
    assert scaled("--deployment", "green", "autoscale").endswith("/deployments/green")


@pytest.mark.parametrize(
    ("size", "file", "environment", "image", "metric"),
    [
        ("cpu", "deployment-cpu.yml", "blip2-rust-env", "blip2:latest", "CpuUtilizationPercentage"),
        ("cpu-small", "deployment-cpu-small.yml", "blip2-rust-env", "blip2:latest", "CpuUtilizationPercentage"),
        ("gpu-a100", "deployment-gpu-a100.yml", "blip2-rust-env-cuda", "blip2:cuda", "GpuUtilizationPercentage"),
        ("gpu-t4", "deployment-gpu-t4.yml", "blip2-rust-env-cuda", "blip2:cuda", "GpuUtilizationPercentage"),
    ],
)
def test_a_size_takes_its_files(size: str, file: str, environment: str, image: str, metric: str) -> None:
    printed = dry("--size", size, "--model-version", "7", "--instances", "3", "all")
    created = next(flags for name, flags in az_commands(printed) if name == "ml online-deployment create")
    assert created["--file"] == [f"deploy/azure/{file}"]
    assert created["--set"] == [
        "model=azureml:blip2-opt-2-7b-onnx:7", f"environment=azureml:{environment}:1", "instance_count=3",
    ]  # fmt: skip
    assert ["docker", "tag", image] in [words[:3] for words in commands(printed)]
    assert all(metric in " ".join(flags["--condition"]) for _, flags in az_commands(printed) if "--condition" in flags)


def test_a_registry_holds_model_and_environment() -> None:
    printed = dry("--registry", "my-registry", "model", "environment", "blue")
    created = next(flags for name, flags in az_commands(printed) if name == "ml online-deployment create")
    assert created["--set"] == [
        "model=azureml://registries/my-registry/models/blip2-opt-2-7b-onnx/versions/1",
        "environment=azureml://registries/my-registry/environments/blip2-rust-env/versions/1",
    ]
    made = next(flags for name, flags in az_commands(printed) if name == "ml environment create")
    assert made["--registry-name"] == ["my-registry"]
    assert "--workspace-name" not in made
    (register,) = [words for words in commands(printed) if "blip2_export" in words]
    assert register[register.index("--registry") + 1] == "my-registry"
    assert "--workspace" not in register
    assert "--resource-group" not in register


def test_the_model_is_registered_by_the_exporter() -> None:
    (register,) = [words for words in commands(dry("model")) if "blip2_export" in words]
    assert register[register.index("-m") :] == [
        "-m", "blip2_export", "register", "--bundle", "onnx/my model", "--to", "azure", "--name", "blip2-opt-2-7b-onnx",
        "--version", "1", "--subscription", NAMED[1], "--resource-group", "my-group", "--workspace", "my-workspace",
    ]  # fmt: skip


@pytest.mark.parametrize("place", [[], ["--registry", "my-registry"]], ids=["workspace", "registry"])
def test_the_exporter_takes_the_printed_command(place: list[str], tmp_path: Path) -> None:
    """Its dry run prints the model, which the SDK loads and the linter accepts."""
    bundle = str(REPOSITORY / "onnx" / "blip2-shapes")
    (register,) = [
        words
        for words in commands(dry("--bundle", bundle, "--model-version", "3", *place, "model"))
        if "register" in words
    ]
    assert register[:2] == ["env", "PYTHONPATH=./export"]
    told = subprocess.run(
        [*register[:2], sys.executable, *register[3:], "--dry-run"],
        cwd=REPOSITORY, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    path = tmp_path / "model.yml"
    path.write_text(told.stdout)
    model = load("model", path)
    assert (model.name, model.version, model.type) == ("blip2-opt-2-7b-onnx", "3", "custom_model")
    assert lint_files([path]) == []


WRONG = [
    ([], "name a step"),
    (["fly"], "unknown step 'fly'"),
    (["--fly", "up"], "unknown option --fly"),
    (["up", "--acr"], "--acr needs a value"),
    (["up", "--acr", "--dry-run"], "--acr needs a value, not '--dry-run'"),
    (["up", "--acr", ""], "--acr needs a value"),
    (["up", "--acr", "my.azurecr.io"], "without .azurecr.io"),
    (["up", "--size", "huge"], "--size huge: must be cpu, cpu-small, gpu-a100 or gpu-t4"),
    (["autoscale", "--deployment", "red"], "--deployment red: must be blue or green"),
    (["shift", "--share", "0"], "--share 0: must be a whole number from 1 to 50"),
    (["shift", "--share", "51"], "--share 51"),
    (["shift", "--share", "ten"], "--share ten"),
    (["blue", "--instances", "0"], "--instances 0"),
    (["blue", "--endpoint", "a--b"], "--endpoint a--b: must be 3 to 32"),
    (["blue", "--model-version", "1;2"], "version '1;2'"),
    (["blue"], "the step blue needs --subscription (AZURE_SUBSCRIPTION_ID) --resource-group (AZURE_RESOURCE_GROUP)"),
    (["model", *NAMED], "the step model needs --bundle (BLIP2_BUNDLE)"),
    (["model", *NAMED, "--bundle", "docs"], "--bundle docs: no manifest.json in it"),
    (["workspace", *NAMED[:-2]], "the step workspace needs --location (AZURE_LOCATION)"),
]


@pytest.mark.parametrize(("arguments", "words"), WRONG, ids=[" ".join(row[0])[:50] for row in WRONG])
def test_a_wrong_call_ends_with_2_and_one_line(arguments: list[str], words: str) -> None:
    done = script(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("deploy.sh: ")
    assert done.stderr.count("\n") == 1
    assert words in done.stderr


@pytest.mark.parametrize("name", ["ab", "abc", "a-b", "a--b", "a-", "1ab", "a_b", "a" * 32, "a" * 33, "é-b"])
def test_script_and_linter_agree_on_names(name: str) -> None:
    done = script("--dry-run", *NAMED, "--endpoint", name, "live")
    assert (done.returncode == 0) == is_endpoint_name(name)


def test_without_az_it_says_so(tmp_path: Path) -> None:
    done = subprocess.run(
        ["/bin/bash", SCRIPT, *NAMED, "live"],
        env={"PATH": f"{_tools(tmp_path)}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "az is missing: install the Azure CLI" in done.stderr


def test_variables_stand_in_for_options() -> None:
    given = {"AZURE_SUBSCRIPTION_ID": "s", "AZURE_RESOURCE_GROUP": "g", "AZURE_ML_WORKSPACE": "w"}
    done = script("--dry-run", "live", env=given)
    assert done.returncode == 0
    assert "--subscription s --resource-group g --workspace-name w" in done.stdout
    assert "--resource-group other" in script("--dry-run", "--resource-group", "other", "live", env=given).stdout


def _tools(folder: Path) -> Path:
    """The few programs that the script calls itself, and nothing else."""
    tools = folder / "tools"
    tools.mkdir(exist_ok=True)
    for name in ("dirname", "cat", "env"):
        link = tools / name
        if not link.exists():
            link.symlink_to(next(Path(at) / name for at in ("/usr/bin", "/bin") if (Path(at) / name).exists()))
    return tools


def _run_with_recorder(folder: Path, exists: bool, *steps: str) -> list[list[str]]:
    """Runs the script for real, with an `az` that notes its arguments: nothing of Azure can be reached from here."""
    tools = _tools(folder)
    show = "exit 0" if exists else "exit 3"
    recorder = (
        "#!/bin/bash\n"
        f'printf "%q " "$(basename "$0")" "$@" >> {folder}/ran; echo >> {folder}/ran\n'
        f'case " $* " in *" extension show "*) exit 0;; *principal_id*) echo 1234; exit 0;; *" show "*) {show};; esac\n'
    )
    for name in ("az", "docker"):
        (tools / name).write_text(recorder)
        (tools / name).chmod(0o755)
    (tools / "basename").symlink_to("/usr/bin/basename")
    done = subprocess.run(
        ["/bin/bash", SCRIPT, *NAMED, *steps],
        cwd=REPOSITORY,
        env={"PATH": str(tools)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [shlex.split(line) for line in (folder / "ran").read_text().splitlines()]


def test_what_runs_is_what_is_printed(tmp_path: Path) -> None:
    steps = [
        "workspace",
        "image",
        "environment",
        "endpoint",
        "blue",
        "ask",
        "live",
        "rollout",
        "autoscale",
        "watch",
        "delete-blue",
        "delete",
    ]
    ran = [words for words in _run_with_recorder(tmp_path, False, *steps) if words[1] not in ("extension", "version")]
    printed = [["1234" if word == "SUBSTITUTED" else word for word in words] for words in commands(dry(*steps))]
    # Where there is nothing yet, everything is created, and nothing is updated or deleted that is not there.
    skipped = {" ".join(words[1:4]) for words in printed if words not in ran and words[0] == "az"}
    assert skipped == {
        "ml online-deployment update", "ml online-deployment delete", "ml online-endpoint delete",
        "monitor autoscale delete",
    }  # fmt: skip
    assert all(words in printed for words in ran), [words for words in ran if words not in printed]


def test_what_is_there_is_deleted(tmp_path: Path) -> None:
    ran = _run_with_recorder(tmp_path, True, "delete-blue", "delete")
    deleted = [" ".join(words[1:4]) for words in ran if "delete" in words]
    assert deleted == ["ml online-deployment delete", "ml online-endpoint delete"] + 2 * ["monitor autoscale delete"]


def test_a_second_time_nothing_is_created_again(tmp_path: Path) -> None:
    ran = _run_with_recorder(tmp_path, True, "workspace", "environment", "endpoint", "blue")
    made = [" ".join(words[1:4]) for words in ran if "create" in words]
    # Both may be done again.
    assert made == ["group create --subscription", "role assignment create"]
    assert any(words[1:4] == ["ml", "online-deployment", "update"] for words in ran)


def test_a_command_that_fails_ends_the_script(tmp_path: Path) -> None:
    tools = _tools(tmp_path)
    (tools / "az").write_text('#!/bin/bash\ncase "$1" in extension) exit 0;; esac\nexit 7\n')
    (tools / "az").chmod(0o755)
    done = subprocess.run(
        ["/bin/bash", SCRIPT, *NAMED, "ask", "live"],
        env={"PATH": str(tools)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 7
    assert "--traffic" not in done.stderr
