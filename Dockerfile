# flowagent as an image: docker build -t flowagent:0.1.0 .
# tools/image.py runs these lines without a container engine; it says which instructions it knows.

ARG PYTHON=3.13
FROM python:${PYTHON}-slim AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
COPY pyproject.toml README.md LICENSE hatch_build.py package.json package-lock.json .npmrc ./
COPY flowagent ./flowagent
# Clients of other systems that the image has: extras of pyproject.toml, with commas; may be empty.
ARG EXTRAS=parquet,geoip
# An image without the web UI would be a surprise.
ENV FLOWAGENT_UI=require
RUN python -m pip wheel --no-deps --wheel-dir /wheels .
RUN python -m venv /opt/flowagent
RUN /opt/flowagent/bin/pip install "$(echo /wheels/*.whl)${EXTRAS:+[$EXTRAS]}"
# What only installing needs stays behind.
RUN /opt/flowagent/bin/pip uninstall --yes pip setuptools

FROM python:${PYTHON}-slim
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="flowagent" \
      org.opencontainers.image.description="A per-node agent for flow records" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}"
COPY --from=build /opt/flowagent /opt/flowagent
# The base image has its standard library as source only, and what is read-only cannot compile it at each start.
RUN python -m compileall -q -j 0 -x "/(site-packages|test|tests|idlelib)/" "$(python -c 'import os; print(os.path.dirname(os.__file__))')"
# All that is ever written: templates, sampling rates and spools. The rest may be read-only.
RUN install --directory --owner=10001 --group=10001 --mode=0750 /var/lib/flowagent
ENV PATH=/opt/flowagent/bin:$PATH PYTHONDONTWRITEBYTECODE=1 STATE_DIRECTORY=/var/lib/flowagent
VOLUME /var/lib/flowagent
# A number, so that Kubernetes can tell that it is not root.
USER 10001
WORKDIR /var/lib/flowagent
EXPOSE 2055/udp 4739/udp 6343/udp 8077/tcp
HEALTHCHECK --interval=15s --timeout=5s --start-period=15s CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8077/healthz', timeout=3)"]
ENTRYPOINT ["flowagent"]
CMD ["run"]
