# The image that `cargo xtask image` builds without a container engine: a static program under two names, and
# nothing else.
#   docker buildx build --platform linux/amd64,linux/arm64 --tag kube-verdict:0.1.0 .
FROM rust:1-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends libclang-dev
WORKDIR /src
COPY . .
# Builds for the image's platform. `--target` keeps the flags from build scripts, which are not static.
RUN target="$(rustc -vV | sed -n 's/^host: //p')" \
    && RUSTFLAGS="-C target-feature=+crt-static" CARGO_PROFILE_RELEASE_STRIP=symbols \
       cargo build --locked --release -p kube-verdict --target "$target" \
    && install -D "target/$target/release/kube-verdict" /image/kube-verdict \
    && mkdir /image/bin && ln -s /kube-verdict /image/bin/netpol

FROM scratch
LABEL org.opencontainers.image.title="kube-verdict" \
      org.opencontainers.image.description="NetworkPolicy for clusters whose CNI has none" \
      org.opencontainers.image.licenses="GPL-3.0-or-later" \
      org.opencontainers.image.version="0.1.0"
COPY --from=build /image/ /
USER 0:0
ENTRYPOINT ["/kube-verdict"]
