# Android's emulator with a system image, for machines with KVM.
# Build: docker build -f docker/emulator.Dockerfile -t sti-emulator docker
# Run:   docker run --rm --device /dev/kvm -p 5555:5555 sti-emulator
FROM docker.io/library/debian:bookworm-slim

ARG TOOLS=11076708
ARG ANDROID=34
ARG IMAGE=default

RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
        ca-certificates curl openjdk-17-jre-headless socat tini unzip \
        libgl1 libpulse0 libx11-6 libxcb1 libxcomposite1 libxcursor1 libxi6 libxtst6 libnss3 libxkbcommon0 \
    && rm -rf /var/lib/apt/lists/*

ENV ANDROID_SDK_ROOT=/opt/android ANDROID_AVD_HOME=/opt/avd
ENV PATH=/opt/android/cmdline-tools/latest/bin:/opt/android/platform-tools:/opt/android/emulator:/usr/local/bin:/usr/bin:/bin
RUN curl --fail --location --silent --show-error --output /tmp/tools.zip \
        "https://dl.google.com/android/repository/commandlinetools-linux-${TOOLS}_latest.zip" \
    && mkdir -p /opt/android/cmdline-tools && unzip -q /tmp/tools.zip -d /opt/android/cmdline-tools \
    && mv /opt/android/cmdline-tools/cmdline-tools /opt/android/cmdline-tools/latest && rm /tmp/tools.zip \
    && yes | sdkmanager --licenses > /dev/null \
    && sdkmanager "platform-tools" "emulator" "system-images;android-${ANDROID};${IMAGE};x86_64" > /dev/null \
    && mkdir -p "$ANDROID_AVD_HOME" \
    && echo no | avdmanager create avd --name phone --package "system-images;android-${ANDROID};${IMAGE};x86_64" \
        --path "$ANDROID_AVD_HOME/phone.avd" \
    && printf 'disk.dataPartition.size=6G\nhw.ramSize=3072\n' >> "$ANDROID_AVD_HOME/phone.avd/config.ini"

COPY emulator-start /usr/local/bin/emulator-start
EXPOSE 5555
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=30 \
    CMD adb shell getprop sys.boot_completed | grep -q 1
ENTRYPOINT ["tini", "-g", "--", "emulator-start"]
