# syntax=docker/dockerfile:1.7
# Targets: cpu (default), cuda, tensorrt, triton. See docs/containers.md. DL3013 asks to pin a wheel built here.
#   docker build --target cpu --tag cellsam-engine:cpu .

FROM python:3.12.12-slim-bookworm AS wheel
WORKDIR /src
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY runtime runtime
COPY export export
COPY training training
COPY benchmarks benchmarks
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

# What all targets have in common: a user without rights, and compiled loops that a read-only container can use.
FROM python:3.12.12-slim-bookworm AS base
ENV PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    CELLSAM_LOOPS=/opt/cellsam/loops \
    NUMBA_CACHE_DIR=/tmp/cellsam-loops
RUN useradd --uid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin cellsam \
    && mkdir -p /opt/cellsam/loops /data /engines \
    && chown 10001 /opt/cellsam/loops /data
COPY --chmod=755 docs/deploy/entrypoint.sh /opt/cellsam/entrypoint.sh
WORKDIR /data
EXPOSE 8080
# The server answers on any address only with a token, also here.
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 CMD ["python", "-c", "import os, urllib.request as u; u.urlopen(u.Request('http://127.0.0.1:8080/health', headers={'Authorization': 'Bearer ' + os.environ.get('CELLSAM_TOKEN', '')}), timeout=4)"]
ENTRYPOINT ["/opt/cellsam/entrypoint.sh"]
CMD ["serve", "--host", "0.0.0.0", "--port", "8080"]

FROM base AS cuda
# onnxruntime and onnxruntime-gpu share files, so the first must go. CUDA and cuDNN come as packages; the driver is the host's.
# hadolint ignore=DL3013
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    wheel=$(echo /wheels/*.whl) \
    && pip install --no-cache-dir "${wheel}[serve,formats]" \
    && pip uninstall --yes onnxruntime \
    && pip install --no-cache-dir "onnxruntime-gpu[cuda,cudnn]>=1.24.3"
USER 10001
RUN NUMBA_CACHE_DIR=${CELLSAM_LOOPS} cellsam-engine warm-up --backend cpu

FROM cuda AS tensorrt
USER 0
# hadolint ignore=DL3013
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    wheel=$(echo /wheels/*.whl) \
    && pip install --no-cache-dir --no-deps "${wheel}" \
    && pip install --no-cache-dir "tensorrt-cu12>=10.3,<12" "cuda-bindings>=12.6.1" "onnx>=1.17" "polygraphy>=0.53"
USER 10001

# Triton Inference Server with what the Python model of 'cellsam-engine export-triton' needs.
FROM nvcr.io/nvidia/tritonserver:25.08-py3 AS triton
ENV NUMBA_CACHE_DIR=/opt/cellsam/loops
# hadolint ignore=DL3013
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    wheel=$(echo /wheels/*.whl) \
    && pip install --no-cache-dir --break-system-packages "${wheel}" \
    && mkdir -p /opt/cellsam/loops \
    && chown 1000 /opt/cellsam/loops
USER 1000
RUN cellsam-engine warm-up --backend cpu
EXPOSE 8000 8001 8002
HEALTHCHECK --interval=30s --timeout=5s --start-period=120s --retries=3 CMD ["curl", "--fail", "--silent", "http://127.0.0.1:8000/v2/health/ready"]
CMD ["tritonserver", "--model-repository=/models"]

# The last target is the default.
FROM base AS cpu
# hadolint ignore=DL3013
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    wheel=$(echo /wheels/*.whl) \
    && pip install --no-cache-dir "${wheel}[serve,formats,openvino]"
USER 10001
RUN NUMBA_CACHE_DIR=${CELLSAM_LOOPS} cellsam-engine warm-up
