# A stand-in for a phone: a real adbd as Android's shell user (2000), /data/local/tmp, a Python fit for the agent.
# Build from the top of the checkout: docker build -f docker/phone.Dockerfile -t sti-phone .
FROM docker.io/library/debian:bookworm-slim

# adbd comes from the backports. Its package would start a service; here it is started once, below.
RUN mirror=$(apt-get indextargets --format '$(REPO_URI) $(CODENAME)' | awk '$2 == "bookworm" { print $1; exit }') \
    && echo "deb $mirror bookworm-backports main" > /etc/apt/sources.list.d/backports.list \
    && printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d && chmod 755 /usr/sbin/policy-rc.d \
    && apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends python3 python3-venv tini \
    && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends -t bookworm-backports adbd \
    && rm -rf /var/lib/apt/lists/*

COPY device_agent/requirements.py /tmp/agent/requirements.py
RUN python3 -m venv /opt/agent && cd /tmp/agent \
    && python3 -c 'from requirements import REQUIREMENTS; print(*REQUIREMENTS, sep="\n")' > requirements.txt \
    && /opt/agent/bin/pip install --no-cache-dir --disable-pip-version-check -r requirements.txt \
    && rm -r /tmp/agent

RUN useradd --uid 2000 --no-create-home --home-dir /data/local/tmp shell \
    && mkdir -p /data/local/tmp && chown shell:shell /data/local/tmp
USER shell
WORKDIR /data/local/tmp
ENV HOME=/data/local/tmp PATH=/opt/agent/bin:/usr/local/bin:/usr/bin:/bin ADBD_PORT=5555
EXPOSE 5555
# tini collects agents that were stopped; adbd would leave them as zombies.
ENTRYPOINT ["tini", "--"]
CMD ["/usr/lib/android-sdk/platform-tools/adbd"]
