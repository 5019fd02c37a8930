# The program alone, on a base without a shell: docker build -t reportclip .
# docker run --rm --network none -v "$PWD:/data" --user "$(id -u):$(id -g)" reportclip train my.toml
FROM rust:1.95-slim-bookworm AS build
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
# Without rust-toolchain.toml: the toolchain of the image, so that nothing else is fetched but crates.
COPY Cargo.toml Cargo.lock build.rs ./
COPY src src
RUN cargo build --release --locked \
    && strip target/release/reportclip

# glibc, libgcc and certificates; no shell, no package manager.
FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /src/target/release/reportclip /usr/local/bin/reportclip
WORKDIR /data
# Who owns nothing.
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/reportclip"]
