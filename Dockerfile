# syntax=docker/dockerfile:1
# Two images: `service` (HTTP, ledger and migrations; no torch) and `worker`.
#   docker build --target service -t tcaq-service .
#   docker build --target worker -t tcaq-worker .

FROM python:3.11-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
RUN python -m venv /opt/tcaq
ENV PATH=/opt/tcaq/bin:$PATH
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY tcaq_core/ tcaq_core/
COPY jobs/ jobs/
COPY migrations/ migrations/
COPY tcaq_client/ tcaq_client/
COPY service/ service/
COPY worker/ worker/

FROM build AS build-service
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --constraint constraints.txt '.[service]'

FROM build AS build-worker
# For what lies between the integer kernels (tcaq_core/runtime/csrc).
RUN apt-get update -qq \
    && apt-get install -qq -y --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --constraint constraints.txt '.[worker,cuda]'

FROM python:3.11-slim-bookworm AS base
# A named volume mounted at /data takes over this owner.
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin tcaq \
    && install --directory --owner tcaq --group tcaq /data /models /evaluation
ENV PATH=/opt/tcaq/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    TCAQ_DATA_DIRECTORY=/data \
    TCAQ_MODELS_DIRECTORY=/models \
    TCAQ_EVALUATION_DIRECTORY=/evaluation
WORKDIR /data
USER tcaq

FROM base AS service
COPY --from=build-service /opt/tcaq /opt/tcaq
EXPOSE 8000
CMD ["uvicorn", "--factory", "service.app:create_app", "--host", "0.0.0.0", "--port", "8000"]

FROM base AS worker
COPY --from=build-worker /opt/tcaq /opt/tcaq
CMD ["celery", "--app", "worker.app", "worker", "--queues", "quantize,sample,evaluate,sweep,shards,maintenance"]
