# BLIP-2 OPT on ONNX Runtime.
#
#   docker build --target cpu    --tag blip2 .           serves on CPUs
#   docker build --target cuda   --tag blip2:cuda .      serves on NVIDIA GPUs; x86-64
#   docker build --target export --tag blip2-export .    turns a checkpoint into a bundle; no torch
#
# `make docker`, `make docker-cuda` and `make docker-export` run these. Without a target BuildKit builds `cpu` alone; the
# classic builder builds every stage above the one that is asked for, so name the target there.

ARG DEBIAN=debian:trixie-20261005-slim
ARG RUST=rust:1.95.0-slim-trixie
ARG PYTHON=python:3.11.15-slim-trixie
# For `cuda`: an image that holds TensorRT 10 for CUDA 13, say nvcr.io/nvidia/tensorrt:25.08-py3. By default there is none.
ARG TENSORRT=debian:trixie-20261005-slim


# ---- the binary

FROM ${RUST} AS build
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ make nasm \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /build
# The dependencies alone: a layer of its own, which a change in `src` leaves as it is.
COPY Cargo.toml Cargo.lock ./
RUN mkdir src benches \
    && touch src/lib.rs benches/model.rs benches/preprocess.rs \
    && echo 'fn main() {}' > src/main.rs \
    && cargo build --release --locked --features jpeg-simd
COPY src src
# Cargo goes by time, and what was copied is older than what was built from the empty files.
RUN touch src/lib.rs src/main.rs && cargo build --release --locked --features jpeg-simd


# ---- ONNX Runtime for CPUs, out of its wheel

FROM ${PYTHON} AS onnxruntime
COPY export/get_onnxruntime export/onnxruntime.lock /export/
RUN /export/get_onnxruntime cpu /onnxruntime


# ---- what the exporter needs of PyPI

FROM ${PYTHON} AS export-packages
COPY export/requirements-image.lock /
RUN python -m venv --without-pip /opt/venv \
    && python -m pip --disable-pip-version-check --no-cache-dir install --quiet --require-hashes --only-binary=:all: \
        --prefix /opt/venv --requirement /requirements-image.lock


# ---- bills of materials and licences

FROM ${RUST} AS crates-bom
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
COPY deploy/audit/install_tool /audit/
RUN /audit/install_tool cargo-cyclonedx /tools
WORKDIR /build
COPY deploy/audit/crates_bom /audit/
COPY Cargo.toml Cargo.lock ./
# Cargo wants the files that it would compile, and reads none of them.
RUN mkdir src benches \
    && touch src/lib.rs src/main.rs benches/model.rs benches/preprocess.rs \
    && /audit/crates_bom /tools /bom

FROM ${PYTHON} AS python-bom
COPY deploy/audit/requirements.lock /audit/
RUN python -m venv /bom-tools \
    && /bom-tools/bin/pip --disable-pip-version-check --no-cache-dir install --quiet --requirement /audit/requirements.lock
COPY deploy/audit/onnxruntime_bom.py /audit/
COPY --from=onnxruntime /onnxruntime /onnxruntime
COPY export/onnxruntime.lock /export/
COPY --from=export-packages /opt/venv /opt/venv
RUN mkdir /bom \
    && /bom-tools/bin/python /audit/onnxruntime_bom.py --lock /export/onnxruntime.lock --folder /onnxruntime \
        --output /bom/onnxruntime.cdx.json \
    && /bom-tools/bin/cyclonedx-py environment --output-reproducible --spec-version 1.5 --output-format JSON \
        --output-file /bom/export.cdx.json /opt/venv/bin/python


# ---- what the binary needs of Debian, and nothing else

FROM ${DEBIAN} AS debian
COPY deploy/docker/unpack_packages /usr/local/bin/
RUN unpack_packages /root-cpu libc6 libgcc-s1 libstdc++6 ca-certificates
# cuDNN wants zlib.
RUN unpack_packages /root-cuda libc6 libgcc-s1 libstdc++6 ca-certificates zlib1g


FROM scratch AS cpu
COPY --from=debian /root-cpu /
COPY LICENSE /usr/share/doc/blip2/
COPY --from=crates-bom /bom /usr/share/doc/blip2/
COPY --from=python-bom /bom/onnxruntime.cdx.json /usr/share/doc/blip2/
COPY --from=onnxruntime /onnxruntime/licences /usr/share/doc/onnxruntime/
COPY --from=onnxruntime /onnxruntime/libonnxruntime.so /opt/blip2/
COPY onnx/blip2-shapes /demo
COPY --from=build /build/target/release/blip2 /opt/blip2/
# Azure's platform sets AZUREML_MODEL_DIR itself.
ENV PATH=/opt/blip2 AZUREML_MODEL_DIR=/model ORT_DISABLE_TELEMETRY=1
USER 10001:10001
EXPOSE 5001
# Longer than a large model takes to load from a slow disk.
HEALTHCHECK --interval=10s --timeout=6s --start-period=300s --retries=3 CMD ["blip2", "probe"]
ENTRYPOINT ["blip2"]
CMD ["serve"]
ARG VERSION=
ARG REVISION=
LABEL org.opencontainers.image.title="blip2" \
      org.opencontainers.image.description="BLIP-2 with an OPT decoder on ONNX Runtime: answers questions about pictures over HTTP" \
      org.opencontainers.image.source="https://github.com/blip2-onnx/blip2-onnx" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"


# ---- the exporter

FROM ${PYTHON} AS export
COPY LICENSE /usr/share/doc/blip2-export/
COPY --from=python-bom /bom/export.cdx.json /usr/share/doc/blip2-export/
COPY --from=export-packages /opt/venv /opt/venv
COPY export/blip2_export /opt/blip2-export/blip2_export
# Downloads lie where they can be kept: -v ~/.cache/huggingface:/tmp/huggingface
ENV PATH=/opt/venv/bin:/usr/local/bin:/usr/bin:/bin PYTHONPATH=/opt/blip2-export PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 \
    HF_HOME=/tmp/huggingface HF_HUB_DISABLE_TELEMETRY=1 ORT_DISABLE_TELEMETRY=1
USER 10001:10001
WORKDIR /tmp
ENTRYPOINT ["python", "-m", "blip2_export", "export"]
CMD ["--help"]
ARG VERSION=
ARG REVISION=
LABEL org.opencontainers.image.title="blip2-export" \
      org.opencontainers.image.description="Exports a BLIP-2 checkpoint with an OPT decoder to an ONNX Runtime bundle" \
      org.opencontainers.image.source="https://github.com/blip2-onnx/blip2-onnx" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"


# ---- ONNX Runtime for GPUs with NVIDIA's libraries, and TensorRT if an image with it is named

FROM ${PYTHON} AS onnxruntime-gpu
COPY export/get_onnxruntime export/onnxruntime-gpu.lock /export/
RUN /export/get_onnxruntime gpu /onnxruntime && mv /onnxruntime/licences /licences

FROM python-bom AS gpu-bom
COPY --from=onnxruntime-gpu /onnxruntime /onnxruntime-gpu
COPY export/onnxruntime-gpu.lock /export/
RUN /bom-tools/bin/python /audit/onnxruntime_bom.py --lock /export/onnxruntime-gpu.lock --folder /onnxruntime-gpu \
        --output /bom/onnxruntime.cdx.json

FROM ${TENSORRT} AS tensorrt
# By name, wherever the image keeps them; with their versions, since ONNX Runtime opens them by these.
RUN mkdir /tensorrt \
    && find / -xdev \( -name 'libnvinfer*.so.10*' -o -name 'libnvonnxparser.so.10*' \) -exec cp -a --target-directory=/tensorrt {} + \
    # The list is there without libraries too: the classic builder fails on a folder that is empty.
    && ls /tensorrt > /tmp/tensorrt.txt \
    && mv /tmp/tensorrt.txt /tensorrt/

FROM scratch AS cuda
COPY --from=debian /root-cuda /
COPY LICENSE /usr/share/doc/blip2/
COPY --from=crates-bom /bom /usr/share/doc/blip2/
COPY --from=gpu-bom /bom/onnxruntime.cdx.json /usr/share/doc/blip2/
COPY --from=onnxruntime-gpu /licences /usr/share/doc/onnxruntime/
# The folder, not its files: links among them stay links.
COPY --from=onnxruntime-gpu /onnxruntime /opt/blip2
COPY --from=tensorrt /tensorrt /opt/blip2
COPY --from=build /build/target/release/blip2 /opt/blip2/
# NVIDIA's container toolkit brings the driver's libraries, and reads what the image wants of them.
ENV PATH=/opt/blip2 LD_LIBRARY_PATH=/opt/blip2 AZUREML_MODEL_DIR=/model ORT_DISABLE_TELEMETRY=1 \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 10001:10001
EXPOSE 5001
HEALTHCHECK --interval=10s --timeout=6s --start-period=600s --retries=3 CMD ["blip2", "probe"]
ENTRYPOINT ["blip2"]
CMD ["serve"]
ARG VERSION=
ARG REVISION=
LABEL org.opencontainers.image.title="blip2" \
      org.opencontainers.image.description="BLIP-2 with an OPT decoder on ONNX Runtime and CUDA: answers questions about pictures over HTTP" \
      org.opencontainers.image.source="https://github.com/blip2-onnx/blip2-onnx" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"


# ---- the default

FROM cpu
