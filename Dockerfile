# flowagent as an image: docker build -t flowagent .

FROM python:3.11-slim AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY flowagent ./flowagent
# Clients of other systems that the image has: the extras of pyproject.toml.
ARG EXTRAS=parquet
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels . \
    && python -m venv /opt/flowagent \
    && /opt/flowagent/bin/pip install --no-cache-dir "$(echo /wheels/*.whl)[${EXTRAS}]"

FROM python:3.11-slim
COPY --from=build /opt/flowagent /opt/flowagent
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin flowagent \
    && install --directory --owner=flowagent --group=flowagent /var/lib/flowagent
# All that is ever written: templates, sampling rates and spools. The rest may be read-only.
ENV PATH=/opt/flowagent/bin:$PATH PYTHONDONTWRITEBYTECODE=1 STATE_DIRECTORY=/var/lib/flowagent
VOLUME /var/lib/flowagent
USER 10001
WORKDIR /var/lib/flowagent
EXPOSE 2055/udp 4739/udp 6343/udp 8077/tcp
ENTRYPOINT ["flowagent"]
CMD ["run"]
