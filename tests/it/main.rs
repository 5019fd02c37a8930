//! The integration tests, one module a topic, in one binary: linking it once is most of what building tests costs.

mod bf16;
mod bounds;
mod checkpoint_formats;
mod checksums;
mod clip_parity;
mod common;
mod config;
mod cross_entropy;
mod data_parity;
mod dependencies;
mod dicom;
mod encoders;
mod formats;
mod gradients;
mod hostile;
mod hostile_tokenizers;
mod hostile_weights;
mod house;
mod hub;
mod metrics;
mod objectives;
mod ops;
mod precision;
mod prepare;
mod privacy;
mod prove;
#[cfg(feature = "mpi")]
mod ranks;
mod retrieval;
mod reuse;
mod runs;
mod session;
mod snapshots;
mod sources;
mod sweep;
mod unsure;
