#!/usr/bin/env bash
# From an image and a bundle to an answering Azure ML endpoint, with `az`. `--help` says how, docs/azure.md explains.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repository=$(cd "$here/../.." && pwd)
# Commands that are shown should be short enough to read.
if [ "$PWD" = "$repository" ]; then
    here=deploy/azure
    repository=.
fi

usage() {
    cat <<'USAGE'
deploy.sh [--dry-run] [options] STEP...

Steps, in the order of their use; `up`, `rollout` and `all` stand for several:
  check        check the YAML files beside this script
  workspace    make the resource group, the container registry and the workspace, where they are missing
  image        push --image to the container registry
  model        register --bundle (python -m blip2_export register)
  environment  register the environment: the pushed image and its routes
  endpoint     make the endpoint, and let its identity pull the image
  blue         make or update the deployment `blue`
  ask          ask `blue` the sample request
  live         send all traffic to `blue`
  up           workspace image model environment endpoint blue ask live
  address      print the URL of the endpoint and its key

  green        make or update the deployment `green`; give its --model-version, --environment-version or --size
  ask-green    ask `green` the sample request: it has no traffic yet
  mirror       copy --share percent of the traffic to `green`, whose answers go nowhere
  shift        send --share percent of the traffic to `green`
  promote      send all traffic to `green`
  rollback     send all traffic to `blue` again
  delete-blue  delete `blue`
  rollout      green ask-green mirror shift promote

  autoscale    2 to 5 instances of --deployment, by its load
  watch        log lines and metrics of --deployment
  all          up rollout autoscale watch
  delete       delete the endpoint with its deployments, and the autoscale settings
  local        run deployment and question on this machine's Docker, without Azure

Options, and the variables that stand for them:
  --subscription ID         AZURE_SUBSCRIPTION_ID
  --resource-group NAME     AZURE_RESOURCE_GROUP
  --workspace NAME          AZURE_ML_WORKSPACE
  --acr NAME                AZURE_CONTAINER_REGISTRY   container registry, without .azurecr.io
  --location REGION         AZURE_LOCATION             for `workspace`, as westeurope
  --registry NAME           AZURE_ML_REGISTRY          register model and environment there instead of in the workspace
  --bundle DIR              BLIP2_BUNDLE               for `model`: a folder with a manifest.json
  --image NAME              BLIP2_IMAGE                default: blip2:latest; of a GPU size blip2:cuda
  --image-tag TAG           tag in the container registry; default: 1, of a GPU size 1-cuda
  --size cpu|cpu-small|gpu-a100|gpu-t4                 which deployment-SIZE.yml; default: cpu
  --instances N             default: as the file says
  --model-name NAME         default: blip2-opt-2-7b-onnx
  --model-version N         default: 1
  --environment-version N   default: 1
  --endpoint NAME           default: blip2-vqa
  --deployment blue|green   for autoscale and watch; default: blue, after `promote` in the same call green
  --share PERCENT           default: 10, at most 50
  --dry-run                 print every command, run none
  --help
PYTHON is the interpreter of `check` and `model`; the default is .venv-azure/bin/python where it is, else python3.

Ends with 2 when it was called wrongly, else with the code of the command that failed.
USAGE
}

fail() {
    printf 'deploy.sh: %s\n' "$1" >&2
    exit 2
}

dry_run=false
subscription=${AZURE_SUBSCRIPTION_ID:-}
resource_group=${AZURE_RESOURCE_GROUP:-}
workspace=${AZURE_ML_WORKSPACE:-}
acr=${AZURE_CONTAINER_REGISTRY:-}
location=${AZURE_LOCATION:-}
registry=${AZURE_ML_REGISTRY:-}
bundle=${BLIP2_BUNDLE:-}
image=${BLIP2_IMAGE:-}
image_tag=
size=cpu
instances=
model_name=blip2-opt-2-7b-onnx
model_version=1
environment_version=1
endpoint=blip2-vqa
deployment=
share=10
steps=()

while [ $# -gt 0 ]; do
    case $1 in
        --help | -h)
            usage
            exit 0
            ;;
        --dry-run)
            dry_run=true
            shift
            ;;
        --subscription | --resource-group | --workspace | --acr | --location | --registry | --bundle | --image | --image-tag | \
            --size | --instances | --model-name | --model-version | --environment-version | --endpoint | --deployment | --share)
            [ $# -ge 2 ] || fail "$1 needs a value"
            case $2 in
                '' | --*) fail "$1 needs a value, not '$2'" ;;
            esac
            name=${1#--}
            printf -v "${name//-/_}" '%s' "$2"
            shift 2
            ;;
        -*) fail "unknown option $1; --help lists them" ;;
        check | workspace | image | model | environment | endpoint | blue | ask | live | address | green | ask-green | mirror | shift | promote | \
            rollback | delete-blue | autoscale | watch | delete | local)
            steps+=("$1")
            shift
            ;;
        up)
            steps+=(workspace image model environment endpoint blue ask live)
            shift
            ;;
        rollout)
            steps+=(green ask-green mirror shift promote)
            shift
            ;;
        all)
            steps+=(workspace image model environment endpoint blue ask live)
            steps+=(green ask-green mirror shift promote autoscale watch)
            shift
            ;;
        *) fail "unknown step '$1'; --help lists them" ;;
    esac
done
[ ${#steps[@]} -gt 0 ] || fail "name a step, as up; --help lists them"

case $size in
    cpu | cpu-small)
        : "${image:=blip2:latest}" "${image_tag:=1}"
        environment_file=environment.yml
        environment_name=blip2-rust-env
        load_metric=CpuUtilizationPercentage
        ;;
    gpu-a100 | gpu-t4)
        : "${image:=blip2:cuda}" "${image_tag:=1-cuda}"
        environment_file=environment-cuda.yml
        environment_name=blip2-rust-env-cuda
        load_metric=GpuUtilizationPercentage
        ;;
    *) fail "--size $size: must be cpu, cpu-small, gpu-a100 or gpu-t4" ;;
esac
case $deployment in
    '' | blue | green) ;;
    *) fail "--deployment $deployment: must be blue or green" ;;
esac
if ! [[ $share =~ ^[0-9]{1,2}$ ]] || [ "$((10#$share))" -lt 1 ] || [ "$((10#$share))" -gt 50 ]; then
    fail "--share $share: must be a whole number from 1 to 50"
fi
share=$((10#$share))
if [ -n "$instances" ] && ! [[ $instances =~ ^[1-9][0-9]?$ ]]; then
    fail "--instances $instances: must be a whole number from 1 to 99"
fi
if [ "${#endpoint}" -lt 3 ] || [ "${#endpoint}" -gt 32 ] || ! [[ $endpoint =~ ^[A-Za-z](-?[A-Za-z0-9])*$ ]]; then
    fail "--endpoint $endpoint: must be 3 to 32 letters, digits and single dashes, a letter first, no dash at the end"
fi
for version in "$model_version" "$environment_version"; do
    [[ $version =~ ^[A-Za-z0-9._-]{1,30}$ ]] || fail "version '$version': must be letters, digits, dots, dashes, underscores"
done
if [ -n "$acr" ] && ! [[ $acr =~ ^[A-Za-z0-9]{5,50}$ ]]; then
    fail "--acr $acr: must be 5 to 50 letters and digits, without .azurecr.io"
fi

# The one of `make test-azure` has azure-ai-ml.
python=${PYTHON:-}
if [ -z "$python" ]; then
    python=python3
    [ ! -x "$repository/.venv-azure/bin/python" ] || python=$repository/.venv-azure/bin/python
fi

# Names what is missing for a step, all of it at once.
needs() {
    local step=$1 missing=() pair
    shift
    for pair in "$@"; do
        local variable=${pair%%=*} stand_in=${pair#*=}
        [ -n "${!variable}" ] || missing+=("--${variable//_/-} ($stand_in)")
    done
    [ ${#missing[@]} -eq 0 ] || fail "the step $step needs ${missing[*]}"
}
azure=(subscription=AZURE_SUBSCRIPTION_ID resource_group=AZURE_RESOURCE_GROUP workspace=AZURE_ML_WORKSPACE)
has_azure=false
has_docker=false
for step in "${steps[@]}"; do
    case $step in
        check) ;;
        local) has_docker=true ;;
        workspace) needs "$step" "${azure[@]}" acr=AZURE_CONTAINER_REGISTRY location=AZURE_LOCATION ;;
        image)
            needs "$step" "${azure[@]}" acr=AZURE_CONTAINER_REGISTRY
            has_docker=true
            ;;
        environment | endpoint) needs "$step" "${azure[@]}" acr=AZURE_CONTAINER_REGISTRY ;;
        model)
            needs "$step" "${azure[@]}" bundle=BLIP2_BUNDLE
            [ "$dry_run" = true ] || [ -f "$bundle/manifest.json" ] \
                || fail "--bundle $bundle: no manifest.json in it; python -m blip2_export export makes a bundle"
            [ "$dry_run" = true ] || "$python" -c 'import azure.ai.ml, azure.identity' 2> /dev/null \
                || fail "$python has no azure-ai-ml: pip install 'export[azure]' into an environment, and PYTHON=its python"
            ;;
        *) needs "$step" "${azure[@]}" ;;
    esac
    [ "$step" = check ] || has_azure=true
done
if [ "$dry_run" = false ]; then
    if [ "$has_azure" = true ]; then
        command -v az > /dev/null || fail "az is missing: install the Azure CLI, then az extension add --name ml"
        az extension show --name ml > /dev/null 2>&1 || fail "az has no extension ml: az extension add --name ml"
    fi
    if [ "$has_docker" = true ]; then
        docker version > /dev/null 2>&1 || fail "no Docker engine answers: it is needed to push and to run images"
    fi
fi

quoted() {
    local line
    printf -v line '%q ' "$@"
    printf '%s' "${line% }"
}

# Runs a command, after showing it; a dry run shows alone.
run() {
    if [ "$dry_run" = true ]; then
        printf '%s\n' "$(quoted "$@")"
    else
        printf '+ %s\n' "$(quoted "$@")" >&2
        "$@"
    fi
}

# Both take: CHECK... -- COMMAND... [-- COMMAND...]. `unless` runs the first command where the check fails;
# `if_there` runs the first where it succeeds and the second where it fails.
split() {
    check=() first=() second=()
    local -n into=check
    while [ $# -gt 0 ]; do
        if [ "$1" = -- ]; then
            if [ ${#first[@]} -eq 0 ]; then local -n into=first; else local -n into=second; fi
        else
            into+=("$1")
        fi
        shift
    done
}

unless() {
    local check first second
    split "$@"
    if [ "$dry_run" = true ]; then
        printf '%s > /dev/null 2>&1 || %s\n' "$(quoted "${check[@]}")" "$(quoted "${first[@]}")"
    elif "${check[@]}" > /dev/null 2>&1; then
        printf '# is there already: %s\n' "$(quoted "${check[@]}")" >&2
    else
        run "${first[@]}"
    fi
}

# Runs the command where the check prints nothing.
unless_said() {
    local check first second
    split "$@"
    if [ "$dry_run" = true ]; then
        printf '[ -n "%s" ] || %s\n' "\$($(quoted "${check[@]}"))" "$(quoted "${first[@]}")"
    elif [ -n "$("${check[@]}")" ]; then
        printf '# is there already: %s\n' "$(quoted "${first[@]}")" >&2
    else
        run "${first[@]}"
    fi
}

if_there() {
    local check first second
    split "$@"
    if [ "$dry_run" = true ]; then
        printf 'if %s > /dev/null 2>&1; then %s; else %s; fi\n' \
            "$(quoted "${check[@]}")" "$(quoted "${first[@]}")" "$(quoted "${second[@]}")"
    elif "${check[@]}" > /dev/null 2>&1; then
        run "${first[@]}"
    else
        run "${second[@]}"
    fi
}

title() {
    if [ "$dry_run" = true ]; then printf '\n# %s\n' "$1"; else printf '\n# %s\n' "$1" >&2; fi
}

in_group=(--subscription "$subscription" --resource-group "$resource_group")
in_workspace=("${in_group[@]}" --workspace-name "$workspace")
providers=/subscriptions/$subscription/resourceGroups/$resource_group/providers
acr_id=$providers/Microsoft.ContainerRegistry/registries/$acr
endpoint_id=$providers/Microsoft.MachineLearningServices/workspaces/$workspace/onlineEndpoints/$endpoint
pushed=$acr.azurecr.io/blip2:$image_tag
if [ -n "$registry" ]; then
    assets=(--subscription "$subscription" --registry-name "$registry")
    model_reference=azureml://registries/$registry/models/$model_name/versions/$model_version
    environment_reference=azureml://registries/$registry/environments/$environment_name/versions/$environment_version
else
    assets=("${in_workspace[@]}")
    model_reference=azureml:$model_name:$model_version
    environment_reference=azureml:$environment_name:$environment_version
fi

step_check() {
    run "$python" "$here/lint.py" "$here" "$here/local"
}

step_workspace() {
    run az group create --subscription "$subscription" --name "$resource_group" --location "$location"
    unless az acr show "${in_group[@]}" --name "$acr" \
        -- az acr create "${in_group[@]}" --name "$acr" --location "$location" --sku Standard
    unless az ml workspace show "${in_group[@]}" --name "$workspace" \
        -- az ml workspace create "${in_group[@]}" --name "$workspace" --location "$location" --container-registry "$acr_id"
}

step_image() {
    run az acr login --subscription "$subscription" --name "$acr"
    run docker tag "$image" "$pushed"
    run docker push "$pushed"
}

step_model() {
    local to=(--subscription "$subscription" --resource-group "$resource_group" --workspace "$workspace")
    [ -z "$registry" ] || to=(--subscription "$subscription" --registry "$registry")
    unless az ml model show "${assets[@]}" --name "$model_name" --version "$model_version" \
        -- env "PYTHONPATH=$repository/export" "$python" -m blip2_export register --bundle "$bundle" --to azure \
        --name "$model_name" --version "$model_version" "${to[@]}"
}

step_environment() {
    unless az ml environment show "${assets[@]}" --name "$environment_name" --version "$environment_version" \
        -- az ml environment create "${assets[@]}" --file "$here/$environment_file" --version "$environment_version" \
        --image "$pushed"
}

step_endpoint() {
    local identity=(az ml online-endpoint show "${in_workspace[@]}" --name "$endpoint" --query identity.principal_id --output tsv)
    local grant=(az role assignment create --subscription "$subscription" --assignee-principal-type ServicePrincipal --role AcrPull
        --scope "$acr_id")
    unless az ml online-endpoint show "${in_workspace[@]}" --name "$endpoint" \
        -- az ml online-endpoint create "${in_workspace[@]}" --file "$here/endpoint.yml" --name "$endpoint"
    if [ "$dry_run" = true ]; then
        printf '%s --assignee-object-id "%s"\n' "$(quoted "${grant[@]}")" "\$($(quoted "${identity[@]}"))"
    else
        local principal
        principal=$("${identity[@]}")
        run "${grant[@]}" --assignee-object-id "$principal"
    fi
}

# Makes the deployment, or brings it to what the file and the options say.
deploy() {
    local named=("${in_workspace[@]}" --name "$1" --endpoint-name "$endpoint")
    local content=(--file "$here/deployment-$size.yml" --set "model=$model_reference" "environment=$environment_reference")
    [ -z "$instances" ] || content+=("instance_count=$instances")
    if_there az ml online-deployment show "${named[@]}" \
        -- az ml online-deployment update "${named[@]}" "${content[@]}" \
        -- az ml online-deployment create "${named[@]}" "${content[@]}"
}

ask() {
    run az ml online-endpoint invoke "${in_workspace[@]}" --name "$endpoint" --deployment-name "$1" \
        --request-file "$here/sample-request.json"
}

traffic() {
    run az ml online-endpoint update "${in_workspace[@]}" --name "$endpoint" "$@"
}

step_address() {
    run az ml online-endpoint show "${in_workspace[@]}" --name "$endpoint" --query scoring_uri --output tsv
    run az ml online-endpoint get-credentials "${in_workspace[@]}" --name "$endpoint" --query primaryKey --output tsv
}

step_autoscale() {
    local name=autoscale-$endpoint-$deployment target=$endpoint_id/deployments/$deployment
    unless az monitor autoscale show "${in_group[@]}" --name "$name" \
        -- az monitor autoscale create "${in_group[@]}" --name "$name" --resource "$target" --min-count 2 --max-count 5 --count 2
    # A rule that is added twice is there twice. A new instance takes 12 to 18 minutes by users' reports: wait 20 before
    # the next step.
    local list=(az monitor autoscale rule list "${in_group[@]}" --autoscale-name "$name" --output tsv --query)
    local rule=(az monitor autoscale rule create "${in_group[@]}" --autoscale-name "$name" --cooldown 20)
    unless_said "${list[@]}" "[?scaleAction.direction=='Increase'].scaleAction.direction" \
        -- "${rule[@]}" --condition "$load_metric > 70 avg 5m" --scale out 1
    unless_said "${list[@]}" "[?scaleAction.direction=='Decrease'].scaleAction.direction" \
        -- "${rule[@]}" --condition "$load_metric < 25 avg 15m" --scale in 1
}

step_watch() {
    run az ml online-deployment get-logs "${in_workspace[@]}" --name "$deployment" --endpoint-name "$endpoint" --lines 100
    run az monitor metrics list --subscription "$subscription" --resource "$endpoint_id" \
        --metrics RequestLatency RequestsPerMinute --interval PT1M
}

step_delete() {
    if_there az ml online-endpoint show "${in_workspace[@]}" --name "$endpoint" \
        -- az ml online-endpoint delete "${in_workspace[@]}" --name "$endpoint" --yes \
        -- true
    local name
    for name in "autoscale-$endpoint-blue" "autoscale-$endpoint-green"; do
        if_there az monitor autoscale show "${in_group[@]}" --name "$name" \
            -- az monitor autoscale delete "${in_group[@]}" --name "$name" \
            -- true
    done
}

step_local() {
    run az ml online-endpoint create --local --file "$here/local/endpoint.yml"
    run az ml online-deployment create --local --file "$here/local/deployment.yml"
    run az ml online-endpoint invoke --local --name blip2-vqa-local --request-file "$here/sample-request.json"
    run az ml online-endpoint delete --local --name blip2-vqa-local --yes
}

for step in "${steps[@]}"; do
    title "$step"
    case $step in
        blue | green) deploy "$step" ;;
        ask) ask blue ;;
        live) traffic --traffic blue=100 ;;
        ask-green) ask green ;;
        mirror) traffic --mirror-traffic "green=$share" ;;
        shift)
            # A deployment gets copies or requests, not both.
            traffic --mirror-traffic green=0
            traffic --traffic "blue=$((100 - share)) green=$share"
            ;;
        promote)
            traffic --traffic "blue=0 green=100"
            : "${deployment:=green}"
            ;;
        rollback)
            traffic --mirror-traffic green=0
            traffic --traffic "blue=100 green=0"
            ;;
        delete-blue)
            blue=("${in_workspace[@]}" --name blue --endpoint-name "$endpoint")
            if_there az ml online-deployment show "${blue[@]}" \
                -- az ml online-deployment delete "${blue[@]}" --yes \
                -- true
            ;;
        autoscale | watch)
            : "${deployment:=blue}"
            "step_$step"
            ;;
        *) "step_$step" ;;
    esac
done
