# The image that jobs run in, on Vertex AI or on any machine with Docker; docs/vertex_ai.md.
# CUDA comes with TensorFlow from PyPI (extra gpu), so Python's own image will do: the host only
# has to bring NVIDIA's driver.
FROM python:3.11-slim-bookworm

# The last three are where the driver is found, which NVIDIA's images would say.
ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore \
    LD_LIBRARY_PATH=/usr/local/nvidia/lib64 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

# Another set with --build-arg EXTRAS=gpu,kerashub,wandb
ARG EXTRAS=gpu,hyperdash,pretrained,rerank,wandb

# First what the library needs, which is gigabytes: a changed line of its code installs that alone.
# What setuptools builds for it goes again: files of the library, which are older, would not replace
# the empty one in it.
WORKDIR /mildnet
COPY setup.py pyproject.toml constraints.txt README.md ./
RUN mkdir trainer && touch trainer/__init__.py \
    && pip install -c constraints.txt ".[${EXTRAS}]" && rm -rf build mildnet.egg-info
COPY trainer trainer
RUN pip install --no-deps --force-reinstall .

# Jobs are started here: configs are named as in a checkout, `job_configs/demo/synthetic.cnf`.
# No USER: Vertex AI mounts buckets at /gcs so that only root can write to them.
WORKDIR /job
COPY job_configs job_configs
ENTRYPOINT ["python", "-m", "trainer.task"]
