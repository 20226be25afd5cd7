# Untested: no container engine was at hand when this was written.
# A worker, or `distillery` itself. CPU by default; for CUDA, which ONNX Runtime's build has in version 13:
#   docker build --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu130 --build-arg ORT=gpu -t dds-distillery:cuda .
FROM python:3.12-slim

ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG ORT=cpu
ENV PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1 DISTILLERY_HOME=/srv/distillery

# The folders of the volumes, with their owner: a fresh volume takes both from here.
RUN useradd --create-home distillery \
    && mkdir -p /app /srv/distillery/runs /home/distillery/.cache \
    && chown -R distillery /app /srv/distillery /home/distillery
WORKDIR /app
COPY --chown=distillery pyproject.toml constraints.txt README.md LICENSE prefect.yaml prefect.toml ./
COPY --chown=distillery flows flows
COPY --chown=distillery inference inference
COPY --chown=distillery distill distill
COPY --chown=distillery synth synth
# torch first, from its own index: the lock's version, built for what TORCH_INDEX names. It brings its own CUDA or none, so
# the lock's, which goes with PyPI's torch, does not apply.
RUN pip install --no-deps --index-url "$TORCH_INDEX" "$(grep '^torch==' constraints.txt)" \
    && grep -Ev '^(cuda|nvidia|triton)' constraints.txt > /tmp/constraints.txt \
    && pip install --constraint /tmp/constraints.txt --editable ".[pipeline,s3,$ORT]" asyncpg

USER distillery
CMD ["prefect", "worker", "start", "--pool", "distillery", "--type", "process"]
