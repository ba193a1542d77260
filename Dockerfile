# The service in an image: no compiler, no pip, no torch (with EXTRA=cpu), no root.
#
#   docker build -t dare-serving:0.1.0 .
#   docker run --init --read-only --tmpfs /tmp -p 127.0.0.1:8000:8000 -v "$PWD/artifacts:/artifacts:ro" -v behaviors:/data dare-serving:0.1.0
#
# A package index of your own: --build-arg PIP_INDEX_URL=... (or PIP_EXTRA_INDEX_URL, PIP_FIND_LINKS). They reach the build stage alone.
# Other base images, by digest for instance: --build-arg BASE_BUILD=... --build-arg BASE=...; both need Python 3.11 at the same path.
ARG BASE_BUILD=python:3.11-bookworm
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE_BUILD} AS build
# cpu, or gpu for the CUDA builds of onnxruntime and faiss.
ARG EXTRA=cpu
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_FIND_LINKS
WORKDIR /src
COPY requirements/ requirements/
# Packages first: they change less often than the code, and the layer is kept.
RUN python3 -m venv /opt/build \
    && python3 -m venv --without-pip /opt/venv \
    && /opt/build/bin/pip install --no-cache-dir --quiet --require-hashes --no-deps -r requirements/build.txt \
    && /opt/build/bin/pip --python /opt/venv/bin/python install --no-cache-dir --quiet --require-hashes --no-deps -r "requirements/serve-${EXTRA}.txt"
COPY . .
RUN /opt/build/bin/pip wheel --quiet --no-deps --no-build-isolation --wheel-dir /opt/wheels . \
    && /opt/build/bin/pip --python /opt/venv/bin/python install --no-cache-dir --quiet --no-deps --no-index /opt/wheels/*.whl

FROM ${BASE}
RUN groupadd --gid 10001 dare \
    && useradd --uid 10001 --gid dare --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin dare \
    && install -d -o dare -g dare -m 0700 /data \
    && install -d /artifacts
COPY --from=build /opt/venv /opt/venv
# OMP_NUM_THREADS: requests are scored side by side, a pool of BLAS threads within each costs a third of the capacity (docs/operations.md).
# ORT_DISABLE_TELEMETRY: from 1.29 on, onnxruntime's Linux builds upload usage events unless it is set. Nothing here phones home.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    OMP_NUM_THREADS=1 \
    ORT_DISABLE_TELEMETRY=1
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/readyz', timeout=3)"]
ENTRYPOINT ["dare"]
CMD ["serve", "--artifacts", "/artifacts", "--store", "file:/data", "--host", "0.0.0.0", "--port", "8000"]
