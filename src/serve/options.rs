//! How a model is served, and with what.

use std::net::IpAddr;
use std::time::Duration;

use super::searched::Searched;
use super::token::Token;
use crate::eval::Classifier;

/// How a model is served.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// Where to listen.
    pub host: IpAddr,
    /// 0 takes one that is free.
    pub port: u16,
    /// What requests must bring; elsewhere than on the machine itself nothing is served without one.
    pub token: Option<Token>,
    /// What the model is called in answers.
    pub name: String,
    /// How long a batch waits for more.
    pub batch_window: Duration,
    /// Most images or texts that go through a tower together.
    pub max_batch: usize,
    /// Most that wait for the model; what comes on top is refused.
    pub queue: usize,
    /// Longest body of a request, in bytes.
    pub max_body: usize,
    /// How long a request may take, from its head to its answer.
    pub timeout: Duration,
}

/// What is served beside embeddings and explanations.
#[derive(Default)]
pub struct ServedWith {
    /// Classes, for `/zero-shot`.
    pub classifier: Option<Classifier>,
    /// An index, for `/search`.
    pub searched: Option<Searched>,
}
