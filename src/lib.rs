//! Fine-tunes CLIP on medical image–report pairs: the library behind the `reportclip` binary.
//!
//! Modules depend on one another in one direction only:
//! `error fs archive npy digest json words span groups seed device ops metrics` ← `track hub dist` ←
//! `data model loss optim run_report` ←
//! `config` ← `session` ← `export eval search` ← `train serve` ← `sweep` ← `bench` ← `cli`.

mod archive;
pub mod bench;
pub mod cli;
pub mod config;
pub mod data;
pub mod device;
pub mod digest;
pub mod dist;
pub mod error;
pub mod eval;
pub mod export;
pub mod fs;
mod groups;
pub mod http;
pub mod hub;
pub mod json;
pub mod loss;
pub mod metrics;
pub mod model;
mod npy;
pub mod ops;
pub mod optim;
pub mod run_report;
pub mod search;
pub mod seed;
pub mod serve;
pub mod session;
pub mod span;
pub mod sweep;
pub mod track;
pub mod train;
mod words;
