//! Answers: JSON, and of a request that is not served a status and one line of JSON, in OpenAI's form.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::error::one_line;

/// Why a request is not served. Never holds what was sent: no text, no image, no token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub status: StatusCode,
    /// In one line.
    pub message: String,
}

pub(super) type Answer = Result<Response, Refusal>;

/// Seconds after which a server that had no room may be asked again.
const RETRY_AFTER: &str = "1";

impl Refusal {
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }

    /// What was sent cannot be used.
    pub fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// Which of several inputs what is wrong was found in.
    pub fn of_input(self, number: usize, count: usize) -> Self {
        let is_told = count > 1 && self.status == StatusCode::BAD_REQUEST;
        let message = if is_told { format!("input {number} of {count}: {}", self.message) } else { self.message };
        Self { message, ..self }
    }

    /// There is no room now.
    pub fn full(what: &str) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, format!("{what}; try again in a second"))
    }

    /// The server was not started with what this needs.
    pub fn missing(what: &str, option: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, format!("this server has no {what}; start it with {option}"))
    }

    /// As [`Self::failed`], with the log line.
    pub fn internal(error: &anyhow::Error) -> Self {
        tracing::warn!("a request failed: {}", one_line(error));
        Self::failed()
    }

    /// It failed through no fault of the request; why is told in the log only.
    pub fn failed() -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "the server could not work this out; its log says why")
    }
}

/// OpenAI's word for the kind of an error.
fn kind(status: StatusCode) -> &'static str {
    match status {
        StatusCode::UNAUTHORIZED => "authentication_error",
        StatusCode::FORBIDDEN | StatusCode::MISDIRECTED_REQUEST => "permission_error",
        status if status.is_client_error() => "invalid_request_error",
        _ => "server_error",
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let error = serde_json::json!({
            "message": self.message, "type": kind(self.status), "code": self.status.as_u16(),
        });
        let body = serde_json::json!({"error": error});
        let mut response =
            (self.status, [(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response();
        let mut set = |name, value| response.headers_mut().insert(name, HeaderValue::from_static(value));
        match self.status {
            StatusCode::SERVICE_UNAVAILABLE => drop(set(header::RETRY_AFTER, RETRY_AFTER)),
            StatusCode::UNAUTHORIZED => drop(set(header::WWW_AUTHENTICATE, "Bearer")),
            // What is left of its body would be taken for the next request.
            StatusCode::PAYLOAD_TOO_LARGE | StatusCode::REQUEST_TIMEOUT => drop(set(header::CONNECTION, "close")),
            _ => {}
        }
        response
    }
}

/// `value` as the body of an answer.
pub(super) fn json(value: &impl Serialize) -> Answer {
    // f32 is written as f32, which a `Value` would not do.
    let body = serde_json::to_string(value).map_err(|_| Refusal::failed())?;
    Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
}
