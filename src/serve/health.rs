//! Whether the server lives, and what it has counted.

use std::sync::Arc;

use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;

use super::refusal::{Answer, json};
use super::state::Served;

pub(super) async fn health(State(state): State<Arc<Served>>) -> Answer {
    json(&serde_json::json!({
        "status": "ok", "version": env!("CARGO_PKG_VERSION"), "model": state.options.name,
        "token": state.options.token.is_some(), "classes": state.classifier.is_some(), "explains": state.explains,
        "index": state.searched.is_some(), "studies": state.takes_studies, "volumes": state.reads_volumes(),
    }))
}

pub(super) async fn metrics(State(state): State<Arc<Served>>) -> Answer {
    let text = state.metrics.text(state.queue.waiting());
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response())
}
