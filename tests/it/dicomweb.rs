//! `embed --dicomweb` against a DICOMweb server on 127.0.0.1, one that does what it should and ones that do not.
//! `scripts/golden/check_dicomweb.py` does the same with Orthanc.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::fs;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::common::{commands_of, golden, tensors};
use crate::loopback::{Answer, Loopback, Request, nobody};
use crate::runs::{Place, text};

const STUDY: &str = "1.2.826.77.1";
const OTHER: &str = "1.2.826.77.2";
const SERIES: &str = "1.2.826.77.3";
/// What all golden files are called, and what comes behind it here.
const UID: &str = "1.2.826.0.1.3680043.8.498.1";
const FILES: [&str; 4] = ["mono2_12", "j2k_8", "rle_16", "ljpeg_12"];
const CR: &str = "1.2.840.10008.5.1.4.1.1.1";
const REPORT: &str = "1.2.840.10008.5.1.4.1.1.88.11";

fn uid(number: usize) -> String {
    format!("{UID}{number}")
}

/// A golden file as instance `number`.
fn file(name: &str, number: usize) -> Vec<u8> {
    let bytes = fs::read(golden("dicom").join(format!("{name}.dcm"))).unwrap();
    let (before, after) = ([UID.as_bytes(), b"\0"].concat(), uid(number).into_bytes());
    let at = bytes.windows(before.len()).position(|w| w == before).unwrap();
    [&bytes[..at], &after, &bytes[at + before.len()..]].concat()
}

fn object(series: &str, number: usize, class: &str) -> Value {
    json!({
        "00080016": {"vr": "UI", "Value": [class]},
        "00080018": {"vr": "UI", "Value": [uid(number)]},
        "0020000E": {"vr": "UI", "Value": [series]},
        "00200011": {"vr": "IS", "Value": [1]},
        "00200013": {"vr": "IS", "Value": [number]},
    })
}

/// In pieces of two, last numbers first, so that pages and order are tried.
fn objects(study: &str) -> Vec<Value> {
    let images = |numbers: &[usize]| numbers.iter().map(|&n| object(SERIES, n, CR)).collect::<Vec<_>>();
    match study {
        STUDY => [images(&[2, 1]), vec![object(SERIES, 9, REPORT)], images(&[0])].concat(),
        OTHER => images(&[3]),
        _ => Vec::new(),
    }
}

fn multipart(body: &[u8]) -> Answer {
    let body = [b"--b1\r\nContent-Type: application/dicom\r\n\r\n", body, b"\r\n--b1--\r\n"].concat();
    Answer::new(200, "multipart/related; type=\"application/dicom\"; boundary=b1", body)
}

/// As DICOMweb has it.
fn right(request: &Request) -> Answer {
    let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
    let pairs: HashMap<&str, &str> = query.split('&').filter_map(|pair| pair.split_once('=')).collect();
    let page = |all: Vec<Value>| {
        let offset: usize = pairs["offset"].parse().unwrap();
        let page: Vec<Value> = all.into_iter().skip(offset).take(2).collect();
        match page.is_empty() {
            true => Answer::new(204, "application/dicom+json", ""),
            false => Answer::new(200, "application/dicom+json", Value::from(page).to_string()),
        }
    };
    let parts: Vec<&str> = path.trim_start_matches("/dicom-web/").split('/').collect();
    match parts[..] {
        ["studies"] => {
            assert_eq!(pairs["PatientID"], "P%2077", "{query}");
            page([STUDY, OTHER].map(|study| json!({"0020000D": {"vr": "UI", "Value": [study]}})).to_vec())
        }
        ["studies", study, "instances"] => page(objects(study)),
        ["studies", STUDY | OTHER, "series", SERIES, "instances", sop] => {
            assert!(request.headers["accept"].contains("transfer-syntax=*"));
            let number: usize = sop.strip_prefix(UID).unwrap().parse().unwrap();
            FILES.get(number).map_or(Answer::new(404, "x", ""), |name| multipart(&file(name, number)))
        }
        _ => panic!("{path}"),
    }
}

/// A place with a model.
fn place() -> Place {
    let place = Place::new();
    place.train_ok("run", &["--set", "train.max_steps=2"]);
    place
}

fn embed<'a>(url: &'a str, more: &[&'a str], out: &'a str) -> Vec<&'a str> {
    let args = ["embed", "-vv", "--model", "run/model", "--batch-size", "2", "--out", out, "--dicomweb", url];
    [&args[..], more].concat()
}

#[test]
fn images_of_studies_are_embedded_as_their_files_are() {
    let place = place();
    let server = Loopback::start(right);
    let url = format!("{}/dicom-web/", server.url());
    let names: Vec<String> = FILES.iter().map(|name| format!("{name}.dcm")).collect();
    for (number, name) in names.iter().enumerate() {
        fs::write(place.path(name), file(FILES[number], number)).unwrap();
    }
    let files: Vec<&str> = names.iter().map(String::as_str).collect();
    let by_files =
        [&["embed", "--model", "run/model", "--batch-size", "2", "--out", "files.safetensors", "--images"], &files[..]];
    assert!(place.run(&by_files.concat()).status.success());
    // One is named twice, and is a row once.
    let studies = format!("{STUDY},{OTHER},{STUDY}");
    for (out, more) in
        [("a.safetensors", ["--study", studies.as_str()]), ("b.safetensors", ["--query", "PatientID=P 77"])]
    {
        let output = place.command(&embed(&url, &more, out)).env("DICOMWEB_TOKEN", "pacssecret").output().unwrap();
        let told = text(&output.stderr);
        assert!(output.status.success() && text(&output.stdout).contains("image_embeds [4, 16]"), "{told}");
        assert!(told.contains("for they have no picture: 1"), "{told}");
        for never in [UID, "1.2.826.77", "P 77", "pacssecret"] {
            assert!(!told.contains(never), "{never} in {told}");
            let index = fs::read(place.path(out)).unwrap();
            assert!(!index.windows(never.len()).any(|w| w == never.as_bytes()), "{never} in the index");
        }
        let (there, here) = (tensors(&place.path(out)), tensors(&place.path("files.safetensors")));
        let rows = |t: &candle_core::Tensor| t.to_vec2::<f32>().unwrap();
        assert_eq!(rows(&there["image_embeds"]), rows(&here["image_embeds"]), "bit for bit, in the same order");
    }
    for request in server.seen() {
        assert_eq!(request.method, "GET", "nothing is ever written");
        assert_eq!(request.headers["authorization"], "Bearer pacssecret");
    }
    // Numbers are all that hits have, unless names are kept.
    let search = |index: &str| text(&place.run(&["search", "--index", index, "--text", "clear", "--json"]).stdout);
    assert!(search("a.safetensors").contains("\"row\"") && !search("a.safetensors").contains(UID));
    let kept = embed(&url, &["--study", OTHER, "--keep-names"], "kept.safetensors");
    assert!(place.run(&kept).status.success());
    let found = search("kept.safetensors");
    assert!(found.contains(&uid(3)) && !found.contains("changed"), "{found}");
}

/// What the server answers instead, where the path ends so.
fn wrong(at: &'static str, answer: impl Fn() -> Answer + Send + Sync + 'static) -> Loopback {
    Loopback::start(move |request| {
        let path = request.path.split('?').next().unwrap();
        if path.ends_with(at) || (at == "*" && path.contains("/series/")) { answer() } else { right(request) }
    })
}

#[test]
fn servers_that_do_not_what_they_should_cost_a_line() {
    let place = place();
    let other = Loopback::start(right);
    let away = format!("{}/dicom-web/x", other.url());
    let list = |value: Value| move || Answer::new(200, "application/dicom+json", value.to_string());
    let bad_uid = json!([{"00080018": {"Value": ["../../1"]}, "0020000E": {"Value": [SERIES]}}]);
    let cases: Vec<(Loopback, &str)> = vec![
        (
            wrong("/instances", move || Answer {
                headers: vec![("Location", away.clone())],
                ..Answer::new(302, "x", "")
            }),
            "leads somewhere else",
        ),
        (wrong("/instances", || Answer::new(401, "text/html", "who")), "DICOMWEB_TOKEN"),
        (wrong("/instances", || Answer::new(404, "x", "")), "status 404"),
        (wrong("/instances", || Answer::new(500, "x", "")), "status 500"),
        (wrong("/instances", || Answer::new(204, "x", "")), "is not there"),
        (wrong("/instances", || Answer::new(200, "text/html", "<p>")), "is no list in DICOM's JSON"),
        (wrong("/instances", || Answer::new(200, "x", vec![b'['; 9 << 20])), "is no list in DICOM's JSON"),
        (wrong("/instances", || Answer::new(200, "x", vec![b' '; 17 << 20])), "more than"),
        (wrong("/instances", list(bad_uid)), "has no right UID"),
        (wrong("/instances", list(json!([object(SERIES, 1, REPORT)]))), "have no image"),
        // The same page for ever: it ends, and the second is not there.
        (wrong("/instances", list(json!([object(SERIES, 0, CR), object(SERIES, 7, CR)]))), "status 404"),
        // A full one, or one that says that there is more: what comes behind it is not known.
        (wrong("/instances", list((0..500).map(|n| object(SERIES, n, CR)).collect())), "does not count pages (offset)"),
        (
            wrong("/instances", || Answer {
                headers: vec![("Warning", "299 pacs: there are more".into())],
                ..Answer::new(200, "x", json!([object(SERIES, 0, CR)]).to_string())
            }),
            "does not count pages (offset)",
        ),
        (wrong("*", || Answer::new(200, "text/html", "<p>")), "is no application/dicom and no multipart/related"),
        (wrong("*", || Answer::new(200, "multipart/related", "x")), "names no boundary"),
        (wrong("*", || Answer::new(406, "x", "")), "status 406"),
        (wrong("*", || Answer { cut: Some(700), ..multipart(&file("mono2_12", 0)) }), "127.0.0.1"),
        (wrong("*", || Answer::new(200, "multipart/related; boundary=b1", "--b1\r\n\r\n\r\nabc")), "is cut"),
        (wrong("*", || multipart(&file("mono2_12", 8))), "gives another instance"),
        (wrong("*", || multipart(b"GIF89a")), "is no DICOM file"),
        (wrong("*", || multipart(&file("mono2_12", 0)[..1400])), "broken or truncated"),
        (
            wrong("*", || Answer {
                headers: vec![("Content-Type", "application/dicom".into())],
                ..multipart(&vec![0; 17 << 20])
            }),
            "bytes",
        ),
    ];
    for (number, (server, expected)) in cases.iter().enumerate() {
        let url = format!("{}/dicom-web", server.url());
        let args = [&["--max-image-mib", "16"], &embed(&url, &["--study", STUDY], "failed.safetensors")[..]].concat();
        let errors = place.errors(&args, 1);
        assert!(errors.len() == 1 && errors[0].contains(expected), "{number}: {errors:?}");
        for never in [UID, "1.2.826.77"] {
            assert!(!errors[0].contains(never), "{errors:?}");
        }
        let seen = server.seen();
        assert!(seen.len() <= 8 && seen.iter().all(|request| request.method == "GET"));
        assert!(!place.path("failed.safetensors").exists());
    }
    assert!(other.seen().is_empty(), "a redirect is not followed");
}

#[test]
fn arguments_that_cannot_be_meant_are_told_without_a_request() {
    let place = place();
    let server = Arc::new(Loopback::start(right));
    let url = server.url();
    let refused = |url: &str, more: &[&str], expected: &str| {
        let errors = place.errors(&embed(url, more, "failed.safetensors"), 2);
        assert!(errors.len() == 1 && errors[0].contains(expected), "{errors:?}");
        errors
    };
    refused(&url, &[], "--study UID or --query");
    refused(&url, &["--query", "Miller"], "allowed are attributes");
    let told = refused(&url, &["--query", "Miller^A"], "--query");
    assert!(!told[0].contains("Miller"), "{told:?}");
    refused(&url, &["--study", "1.2/../3"], "no UID");
    refused("pacs.example", &["--study", STUDY], "http://HOST");
    refused("http://me:hunter2@pacs.example", &["--study", STUDY], "environment");
    assert!(server.seen().is_empty());
    let errors = place.errors(&embed(&nobody(), &["--study", STUDY], "failed.safetensors"), 1);
    assert!(errors.len() == 1 && errors[0].contains("http://127.0.0.1:"), "{errors:?}");
}

/// Every command of docs/pacs.md, as it stands there but for the server's address.
#[test]
fn the_page_about_pacs_can_be_copied() {
    let place = place();
    fs::create_dir(place.path("runs")).unwrap();
    fs::rename(place.path("run"), place.path("runs/demo")).unwrap();
    // The page's studies and its query are those that the server has.
    let server = Loopback::start(|request| {
        let path = request.path.replace("1.2.840.113619.2.1", STUDY).replace("1.2.840.113619.2.2", OTHER);
        let path = path.replace("ModalitiesInStudy=CR&StudyDate=20250101-20250131", "PatientID=P%2077");
        right(&Request { path, ..request.clone() })
    });
    let commands = commands_of("pacs.md");
    assert_eq!(commands.len(), 3, "{commands:?}");
    for command in commands {
        let here = |argument: &String| argument.replace("https://pacs.example", &server.url());
        let args: Vec<String> = command.iter().map(here).collect();
        let output = place.run(&args.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
    }
    assert!(place.path("studies.safetensors").is_file() && place.path("january/index.json").is_file());
}
