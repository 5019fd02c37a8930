//! The one part of a `multipart/related` answer (RFC 2387), found within bounds.

use anyhow::{Context, Result, bail, ensure};

/// Characters of a boundary (RFC 2046).
const MOST_BOUNDARY: usize = 70;
/// Bytes before the first boundary, and of a part's headers.
const MOST_HEAD: usize = 16 << 10;

/// The DICOM file in the body of an answer whose Content-Type is `kind`: its one part, or all of it.
///
/// # Errors
/// Another type, no boundary, no part or several, a part that is cut or of another type.
pub(super) fn dicom_of(kind: &str, mut body: Vec<u8>) -> Result<Vec<u8>> {
    if is(kind, "application/dicom") {
        return Ok(body);
    }
    ensure!(is(kind, "multipart/related"), "the answer is no application/dicom and no multipart/related");
    let boundary = boundary(kind).context("the answer's Content-Type names no boundary")?;
    let range = part(&body, &boundary)?;
    body.truncate(range.end);
    body.drain(..range.start);
    Ok(body)
}

/// Where the data of the one part lies.
fn part(body: &[u8], boundary: &str) -> Result<std::ops::Range<usize>> {
    let opening = format!("--{boundary}");
    let closing = format!("\r\n--{boundary}");
    let head = &body[..body.len().min(MOST_HEAD)];
    let first = if head.starts_with(opening.as_bytes()) {
        Some(opening.len())
    } else {
        find(head, closing.as_bytes()).map(|at| at + closing.len())
    };
    let start = first.context("the answer has no part")?;
    let head = &body[start..body.len().min(start + MOST_HEAD)];
    ensure!(!head.starts_with(b"--"), "the answer has no part");
    let headers = find(head, b"\r\n\r\n").context("the answer's part has no end of its headers")?;
    for line in String::from_utf8_lossy(&head[..headers]).lines() {
        if let Some((name, value)) = line.split_once(':')
            && name.trim().eq_ignore_ascii_case("content-type")
        {
            ensure!(is(value, "application/dicom"), "the answer's part is no application/dicom");
        }
    }
    let data = start + headers + 4;
    let length = find(&body[data..], closing.as_bytes()).context("the answer is cut: its part has no end")?;
    let rest = &body[data + length + closing.len()..];
    match rest {
        [b'-', b'-', ..] => Ok(data..data + length),
        _ => bail!("the answer has more than one part, or is cut"),
    }
}

/// Whether a Content-Type, without its parameters, is `wanted`.
fn is(kind: &str, wanted: &str) -> bool {
    kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case(wanted))
}

/// The parameter `boundary`, quoted or not.
fn boundary(kind: &str) -> Option<String> {
    let mut rest = kind.split_once(';')?.1;
    loop {
        let (name, after) = rest.split_once('=')?;
        let (value, next) = match after.trim_start().strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => after.split_once(';').map_or((after, ""), |(value, _)| (value, &after[value.len()..])),
        };
        if name.trim().eq_ignore_ascii_case("boundary") {
            let value = value.trim_end();
            let plain = |b: u8| b.is_ascii_alphanumeric() || b"'()+_,-./:=? ".contains(&b);
            let right = (1..=MOST_BOUNDARY).contains(&value.len()) && value.bytes().all(plain);
            return right.then(|| value.to_string());
        }
        rest = next.trim_start().strip_prefix(';')?;
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    let first = *needle.first()?;
    // Most places are told by one byte.
    haystack.windows(needle.len()).position(|window| window[0] == first && window == needle)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KIND: &str = "multipart/related; type=\"application/dicom\"; boundary=\"a;b=\"; start=x";

    #[test]
    fn a_boundary_is_found_among_other_parameters() {
        assert_eq!(boundary(KIND), None, "a semicolon is no character of a boundary");
        let cases = [
            ("multipart/related; boundary=abc", Some("abc")),
            ("multipart/related;type=\"application/dicom\";boundary=\"a b\"; x=y", Some("a b")),
            ("multipart/related; BOUNDARY=x-1 ; type=y", Some("x-1")),
            ("multipart/related", None),
            ("multipart/related; boundary=", None),
            ("multipart/related; boundary=\"abc", None),
            ("multipart/related; boundary=\"a\u{7f}\"", None),
        ];
        for (kind, expected) in cases {
            assert_eq!(boundary(kind).as_deref(), expected, "{kind}");
        }
        assert_eq!(boundary(&format!("multipart/related; boundary={}", "x".repeat(71))), None);
    }

    #[test]
    fn one_part_is_taken_and_anything_else_refused() {
        let taken = |body: &[u8]| dicom_of("multipart/related; boundary=b", body.to_vec());
        let part =
            b"--b\r\nContent-Type: application/dicom; transfer-syntax=1.2\r\nContent-Length: 4\r\n\r\nD\r\n-\r\n--b--";
        assert_eq!(taken(part).unwrap(), b"D\r\n-");
        assert_eq!(taken(&[b"preamble\r\n", &part[..], b"\r\nafter"].concat()).unwrap(), b"D\r\n-");
        assert_eq!(taken(b"--b\r\n\r\nno header\r\n--b--").unwrap(), b"no header");
        let refused: [(&[u8], &str); 7] = [
            (b"", "no part"),
            (b"--b--", "no part"),
            (b"--c\r\n\r\n\r\nx\r\n--c--", "no part"),
            (b"--b\r\nContent-Type: text/html\r\n\r\nx\r\n--b--", "no application/dicom"),
            (b"--b\r\nX: y\r\n\r\nx", "cut"),
            (b"--b\r\nX: y\r\n\r\nx\r\n--b", "more than one part, or is cut"),
            (b"--b\r\nX: y\r\n\r\nx\r\n--b\r\nX: y\r\n\r\nx\r\n--b--", "more than one part"),
        ];
        for (body, expected) in refused {
            let told = taken(body).unwrap_err().to_string();
            assert!(told.contains(expected), "{:?}: {told}", String::from_utf8_lossy(body));
        }
        let long = [b"--b\r\nX: ".as_slice(), &[b'y'; 20 << 10], b"\r\n\r\nx\r\n--b--"].concat();
        assert_eq!(taken(&long).unwrap_err().to_string(), NO_HEADERS);
        assert_eq!(dicom_of("application/dicom", b"whole".to_vec()).unwrap(), b"whole");
        assert!(dicom_of("text/html", b"whole".to_vec()).is_err());
    }

    const NO_HEADERS: &str = "the answer's part has no end of its headers";

    proptest! {
        #[test]
        fn any_bytes_are_taken_or_refused(kind in ".{0,60}", body in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = dicom_of(&kind, body.clone());
            let _ = dicom_of("multipart/related; boundary=b", [b"--b\r\nX:\r\n\r\n".to_vec(), body].concat());
        }

        #[test]
        fn what_was_packed_is_what_comes_out(data in prop::collection::vec(any::<u8>(), 0..300)) {
            let body = [b"--0f9\r\nA: b\r\n\r\n".to_vec(), data.clone(), b"\r\n--0f9--\r\n".to_vec()].concat();
            let end = b"\r\n--0f9";
            prop_assume!(!data.windows(end.len()).any(|w| w == end));
            prop_assert_eq!(dicom_of("multipart/related; boundary=0f9", body).unwrap(), data);
        }
    }
}
