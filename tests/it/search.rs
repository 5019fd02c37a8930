//! Indexes in folders, and what is found in them: the same as in a file, after kills and changes too.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use candle_core::{Device, Tensor};
use reportclip::search::{Index, Names, Side, find};
use serde_json::Value;

use crate::common::tensors;
use crate::runs::{Place, json, text};

const EMBED: [&str; 7] = ["embed", "--model", "run/model", "--data", "phantom/manifest.csv", "--batch-size", "8"];

/// A place with a tiny model, of the phantom's manifest.
fn trained() -> Place {
    let place = Place::new();
    place.train_ok("run", &["--set", "train.max_steps=2"]);
    place
}

/// Runs what must work, and gives its stdout and stderr.
fn ok(place: &Place, args: &[&str]) -> (String, String) {
    let output = place.run(args);
    assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
    (text(&output.stdout), text(&output.stderr))
}

fn embed(place: &Place, more: &[&str]) -> String {
    ok(place, &[&EMBED[..], more].concat()).0
}

/// What a search for many rows finds: `searched`, and of each hit row, score and line.
fn hits(place: &Place, index: &str, query: &[&str]) -> (String, Vec<(u64, f64, u64)>) {
    let (stdout, _) = ok(place, &[&["search", "--index", index, "--json", "-k", "1000"], query].concat());
    of_found(&json(stdout.as_bytes()))
}

fn of_found(found: &Value) -> (String, Vec<(u64, f64, u64)>) {
    let hit = |hit: &Value| {
        assert!(hit["changed"].is_null(), "{hit}");
        (hit["row"].as_u64().unwrap(), hit["score"].as_f64().unwrap(), hit["line"].as_u64().unwrap())
    };
    (found["searched"].as_str().unwrap().into(), found["hits"].as_array().unwrap().iter().map(hit).collect())
}

fn assert_same(what: &str, (searched, found): &(String, Vec<(u64, f64, u64)>), other: &(String, Vec<(u64, f64, u64)>)) {
    assert_eq!(searched, &other.0, "{what}");
    assert_eq!(found.len(), other.1.len(), "{what}");
    // Products of other blocks may differ in the last digit, and so the order of equals.
    assert!(found.is_sorted_by(|a, b| a.1 >= b.1), "{what}");
    let by_row = |found: &[(u64, f64, u64)]| {
        let mut found = found.to_vec();
        found.sort_by_key(|hit| hit.0);
        found
    };
    for (a, b) in by_row(found).iter().zip(by_row(&other.1)) {
        assert!((a.0, a.2) == (b.0, b.2) && (a.1 - b.1).abs() < 1e-6, "{what}: {a:?}, not {b:?}");
    }
}

fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = entries.filter(|path| path.to_string_lossy().ends_with(ending)).collect();
    files.sort();
    files
}

fn image(place: &Place) -> String {
    files(&place.path("phantom/images"), ".png")[0].to_string_lossy().into_owned()
}

/// The manifest so many times over, with numbered reports.
fn long_manifest(place: &Place, times: usize) {
    let manifest = fs::read_to_string(place.path("phantom/manifest.csv")).unwrap();
    let (header, rows) = manifest.split_once('\n').unwrap();
    fs::write(place.path("phantom/long.csv"), format!("{header}\n{}", rows.repeat(times))).unwrap();
}

#[test]
fn shards_of_every_format_hold_and_find_what_a_file_does() {
    let place = trained();
    embed(&place, &["--out", "all.safetensors"]);
    let whole = tensors(&place.path("all.safetensors"));
    let image = image(&place);
    let queries: [&[&str]; 3] = [
        &["--text", "left effusion"],
        &["--image", &image],
        &["--text", "x", "--image", &image, "--weights", "0.7,0.3"],
    ];
    for format in ["safetensors", "npy", "parquet"] {
        let out = format!("{format}/");
        // Rounded up to a batch.
        let told = embed(&place, &["--out", &out, "--format", format, "--shard-rows", "15"]);
        let rows = whole["image_embeds"].dim(0).unwrap();
        let shards = rows.div_ceil(16);
        assert!(shards > 2 && told.contains(&format!("of {rows} rows in {shards} shards")), "{told}");
        for query in queries {
            let what = format!("{format}, {query:?}");
            assert_same(&what, &hits(&place, format, query), &hits(&place, "all.safetensors", query));
        }
        assert!(told.starts_with(&out), "{told}");
    }
    for name in ["image_embeds", "text_embeds"] {
        let shards = files(&place.path("safetensors"), ".safetensors");
        let parts: Vec<Tensor> = shards.iter().map(|path| tensors(path)[name].clone()).collect();
        let numbers = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert!(numbers(&Tensor::cat(&parts, 0).unwrap()) == numbers(&whole[name]), "{name}");
        let folder = if name == "image_embeds" { "npy/img_emb" } else { "npy/text_emb" };
        let parts = files(&place.path(folder), ".npy");
        let parts: Vec<Tensor> = parts.iter().map(|path| Tensor::read_npy(path).unwrap()).collect();
        assert!(numbers(&Tensor::cat(&parts, 0).unwrap()) == numbers(&whole[name]), "{name}");
    }
    // Texts and images that do not belong together, one side in fewer shards.
    fs::write(place.path("lines.txt"), "one effusion\ntwo nodules\n").unwrap();
    for format in ["safetensors", "npy", "parquet"] {
        let out = format!("mixed-{format}/");
        let all: Vec<String> = files(&place.path("phantom/images"), ".png")[..20]
            .iter()
            .map(|p| p.to_string_lossy().into_owned())
            .collect();
        let args = ["embed", "--model", "run/model", "--texts", "lines.txt", "--out", &out, "--format", format];
        let args = [&args[..], &["--batch-size", "8", "--shard-rows", "8", "--keep-names", "--images"]].concat();
        ok(&place, &args.into_iter().chain(all.iter().map(String::as_str)).collect::<Vec<_>>());
        let (stdout, _) = ok(&place, &["search", "--index", &out, "--image", &image, "--json"]);
        let found = json(stdout.as_bytes());
        let mut texts: Vec<&str> =
            found["hits"].as_array().unwrap().iter().map(|hit| hit["text"].as_str().unwrap()).collect();
        texts.sort_unstable();
        assert_eq!(texts, ["one effusion", "two nodules"], "{format}");
        let (stdout, _) = ok(&place, &["search", "--index", &out, "--text", "x", "--json", "-k", "99"]);
        let found = json(stdout.as_bytes());
        let found = found["hits"].as_array().unwrap();
        assert_eq!(found.len(), 20, "{format}");
        for hit in found {
            assert_eq!(hit["image"], all[hit["row"].as_u64().unwrap() as usize].as_str(), "{format}");
        }
    }
}

#[cfg(unix)]
#[test]
fn a_folder_goes_on_after_a_kill_and_after_ctrl_c() {
    let place = trained();
    long_manifest(&place, 20);
    let args =
        ["embed", "--model", "run/model", "--data", "phantom/long.csv", "--batch-size", "8", "--shard-rows", "8"];
    let with = |out: &'static str| [&args[..], &["--out", out]].concat();
    let stopped_at = |signal: &str, record: &str| {
        let mut child = place.command(&with("index/")).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        while !place.path("index/rows").join(record).exists() {
            assert!(child.try_wait().unwrap().is_none(), "it ended before {record}");
            std::thread::sleep(Duration::from_millis(1));
        }
        let kill = std::process::Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
        assert!(kill.success());
        child.wait_with_output().unwrap()
    };
    stopped_at("-KILL", "rows-00002.json");
    let errors = place.errors(&["search", "--index", "index", "--text", "x"], 1);
    assert!(errors[0].contains("index: is not whole yet; the same `reportclip embed` goes on with it"), "{errors:?}");
    let output = stopped_at("-INT", "rows-00006.json");
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{stderr}");
    assert!(stderr.contains("the same command goes on with the others"), "{stderr}");
    let (told, _) = ok(&place, &with("index/"));
    let kept: usize = told.rsplit_once(" of them kept").unwrap().0.rsplit_once(' ').unwrap().1.parse().unwrap();
    assert!(kept >= 6, "{told}");
    ok(&place, &with("other/"));
    for (one, other) in files(&place.path("index"), "").iter().zip(files(&place.path("other"), "")) {
        assert_eq!(one.file_name(), other.file_name());
        assert!(one.is_dir() || fs::read(one).unwrap() == fs::read(&other).unwrap(), "{}", one.display());
    }
    let again = ok(&place, &with("index/")).0;
    let all = files(&place.path("index"), ".safetensors").len();
    assert!(again.contains(&format!("in {all} shards, {all} of them kept")), "{again}");
}

#[test]
fn what_was_made_from_something_else_is_made_anew_or_refused() {
    let place = trained();
    let args = ["--out", "index/", "--shard-rows", "8"];
    embed(&place, &args);
    let all = files(&place.path("index"), ".safetensors").len();
    let kept = |told: &str| told.contains(&format!("{} of them kept", all - 1));
    // A report of the second shard.
    let manifest = fs::read_to_string(place.path("phantom/manifest.csv")).unwrap();
    let row = manifest.lines().nth(10).unwrap();
    let (before, report) = (row.split(',').next().unwrap(), "\"Nothing of the kind.\"");
    let rest: Vec<&str> = row.rsplitn(5, ',').take(4).collect();
    let changed = format!("{before},{report},{}", rest.into_iter().rev().collect::<Vec<_>>().join(","));
    fs::write(place.path("phantom/manifest.csv"), manifest.replace(row, &changed)).unwrap();
    let (stdout, _) = ok(&place, &["search", "--index", "index", "--text", "x", "--json", "-k", "1000"]);
    let found = json(stdout.as_bytes());
    let lost: Vec<&Value> = found["hits"].as_array().unwrap().iter().filter(|hit| hit["changed"] == true).collect();
    assert!(lost.len() == 1 && lost[0]["row"] == 9 && lost[0]["text"].is_null(), "{lost:?}");
    let told = embed(&place, &args);
    assert!(kept(&told), "{told}");
    assert_eq!(hits(&place, "index", &["--text", "x"]).1.len(), found["gallery"].as_u64().unwrap() as usize);
    // Rows at the end are gone: so is their shard.
    let manifest = fs::read_to_string(place.path("phantom/manifest.csv")).unwrap();
    let lines: Vec<&str> = manifest.lines().collect();
    fs::write(place.path("phantom/manifest.csv"), lines[..lines.len() - 8].join("\n")).unwrap();
    embed(&place, &args);
    assert_eq!(files(&place.path("index"), ".safetensors").len(), (lines.len() - 9).div_ceil(8));
    // Other options, another model, another folder.
    let refused = |more: &[&str], why: &str| {
        let errors = place.errors(&[&EMBED[..], more].concat(), 1);
        assert!(errors.len() == 1 && errors[0].contains(why), "{errors:?}");
    };
    let told = "whose model or options were others, or another version of this program made it; --force throws it away";
    refused(&["--out", "index/", "--shard-rows", "16"], told);
    refused(&["--out", "index/", "--format", "npy", "--shard-rows", "8"], "whose model or options were others");
    refused(&["--out", "phantom/"], "phantom/: holds other files, and no index; name a new folder");
    refused(&["--out", "not/there/"], "not/there/");
    for (at, is_folder, told) in [
        ("rows", false, "way/rows: is no folder; remove it, or name another folder"),
        (".lock", true, "way/.lock: is no regular file; remove it, or name another folder"),
        (
            "shard-00000.safetensors",
            true,
            "is a folder where a shard's file is to lie; remove it, or name another folder",
        ),
    ] {
        let way = place.path("way");
        fs::create_dir(&way).unwrap();
        fs::copy(place.path("index/index.json"), way.join("index.json")).unwrap();
        if is_folder {
            fs::create_dir(way.join(at)).unwrap()
        } else {
            fs::write(way.join(at), "").unwrap()
        }
        refused(&["--out", "way/", "--shard-rows", "8"], told);
        fs::remove_dir_all(&way).unwrap();
    }
    embed(&place, &["--out", "index/", "--format", "npy", "--shard-rows", "8", "--force"]);
    assert!(files(&place.path("index"), ".safetensors").is_empty());
    let weights = place.path("run/model/model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    let end = bytes.len() - 4;
    bytes[end] ^= 1;
    fs::remove_file(&weights).unwrap();
    fs::write(&weights, &bytes).unwrap();
    refused(&["--out", "index/", "--format", "npy", "--shard-rows", "8"], "whose model or options were others");
    let errors = place.errors(&["search", "--index", "index", "--text", "x"], 1);
    assert!(errors[0].contains("has changed since the index was made"), "{errors:?}");
    // Lists of rows that are gone, others or not told of are, too, before anything is looked for.
    let (list, told) = (place.path("index/index.json"), place.path("index/rows/rows-00001.json"));
    let (kept_list, kept) = (fs::read_to_string(&list).unwrap(), fs::read(&told).unwrap());
    let search_told = |what: &str| {
        let errors = place.errors(&["search", "--index", "index", "--text", "x"], 1);
        assert!(errors.len() == 1 && errors[0].contains(what), "{what}: {errors:?}");
    };
    fs::write(&told, "{}").unwrap();
    search_told("rows-00001.json: is not the list of rows that was written");
    fs::remove_file(&told).unwrap();
    search_told("rows-00001.json: the same `reportclip embed` makes it anew: No such file");
    assert!(std::process::Command::new("mkfifo").arg(&told).status().unwrap().success());
    search_told("rows-00001.json: is no regular file");
    fs::remove_file(&told).unwrap();
    fs::write(&told, kept).unwrap();
    let mut emptied: serde_json::Value = serde_json::from_str(&kept_list).unwrap();
    emptied["records"] = serde_json::json!([]);
    fs::write(&list, emptied.to_string()).unwrap();
    search_told("index: index.json: not as `reportclip embed` wrote it; the same `reportclip embed` makes it anew");
    // Older indexes have no digest of their list.
    assert!(emptied.as_object_mut().unwrap().remove("digest").is_some());
    fs::write(&list, emptied.to_string()).unwrap();
    search_told("index.json: tells of 0 lists of rows");
    // One byte of it, wherever that is.
    fs::write(&list, kept_list.replace("\"report\"", "\"repost\"")).unwrap();
    search_told("index.json: not as `reportclip embed` wrote it");
    fs::write(&list, kept_list).unwrap();
    // A shard that is gone is told of.
    fs::remove_file(files(&place.path("index/img_emb"), ".npy").pop().unwrap()).unwrap();
    let errors = place.errors(&["search", "--index", "index", "--text", "x"], 1);
    assert!(errors.len() == 1 && errors[0].contains("img_emb_"), "{errors:?}");
}

#[test]
fn shards_of_image_files_are_kept_while_the_files_hold_the_same_and_all_their_files_are_there() {
    let place = trained();
    let images = files(&place.path("phantom/images"), ".png");
    let names: Vec<&str> = images[..16].iter().map(|path| path.to_str().unwrap()).collect();
    let embed = |format: &str| {
        let out = format!("{format}/");
        let args = ["embed", "--model", "run/model", "--batch-size", "8", "--shard-rows", "8", "--out", &out];
        ok(&place, &[&args[..], &["--format", format, "--images"], &names[..]].concat()).0
    };
    for format in ["safetensors", "npy"] {
        assert!(embed(format).ends_with("in 2 shards\n"));
        assert!(embed(format).ends_with("in 2 shards, 2 of them kept\n"));
    }
    // Nothing names the file, and its content is another one.
    fs::copy(&images[20], &images[9]).unwrap();
    for format in ["safetensors", "npy"] {
        let told = embed(format);
        assert!(told.ends_with("in 2 shards, 1 of them kept\n"), "{told}");
        let list = fs::read_to_string(place.path(format).join("rows/rows-00001.json")).unwrap();
        assert!(!list.contains(".png"), "{list}");
    }
    fs::remove_file(place.path("npy/metadata/metadata_00000.parquet")).unwrap();
    let told = embed("npy");
    assert!(told.ends_with("1 of them kept\n") && place.path("npy/metadata/metadata_00000.parquet").exists(), "{told}");
}

#[test]
fn an_index_that_has_changed_since_it_was_opened_names_nothing() {
    let place = trained();
    let args = ["--out", "index/", "--shard-rows", "8"];
    embed(&place, &args);
    let open = || {
        let index = Index::open(&place.path("index")).unwrap();
        let names = Names::read(&index);
        (index, names)
    };
    let (whole, mut held) = (open(), open());
    held.0.hold(usize::MAX).unwrap();
    let width = whole.0.gallery(Side::Images).unwrap().width();
    let asked = [(Side::Images, vec![1.0; width])];
    let find = |(index, names): &(Index, Names)| find((index, names), &asked, 1000).map(|found| found[0].hits.len());
    let before = fs::read_to_string(place.path("phantom/manifest.csv")).unwrap();
    let rows = before.lines().count() - 1;
    // What was not looked at yet is read after the folder was brought up to date.
    let lines: Vec<&str> = before.lines().collect();
    fs::write(place.path("phantom/manifest.csv"), [&lines[..rows], &lines[1..2]].concat().join("\n")).unwrap();
    assert_eq!(find(&open()).unwrap(), rows);
    embed(&place, &args);
    for (what, opened) in [("read as it is needed", &whole), ("held", &held)] {
        let told = format!("{:#}", find(opened).unwrap_err());
        assert!(told.contains("the index has changed since it was opened; open it again"), "{what}: {told}");
    }
    assert!(find(&open()).is_ok());
}

#[test]
fn lines_beside_embeddings_are_those_of_today() {
    let place = trained();
    let embed = |format: &str| {
        let out = format!("{format}/");
        embed(&place, &["--out", &out, "--format", format, "--split", "train", "--shard-rows", "8"])
    };
    let formats = ["safetensors", "npy", "parquet"];
    formats.iter().for_each(|format| drop(embed(format)));
    // A row of another split before all others: theirs are the same, a line further down.
    let manifest = fs::read_to_string(place.path("phantom/manifest.csv")).unwrap();
    let (header, rows) = manifest.split_once('\n').unwrap();
    let other = rows.lines().find(|row| !row.contains(",train,")).unwrap();
    fs::write(place.path("phantom/manifest.csv"), format!("{header}\n{other}\n{rows}")).unwrap();
    for format in formats {
        let (first, again) = (embed(format), embed(format));
        assert_eq!(first.contains("of them kept"), format == "safetensors", "{format}: {first}");
        assert!(again.contains("of them kept"), "{format}: {again}");
    }
}

#[test]
fn shards_that_do_not_hold_what_was_written_are_refused_and_made_anew() {
    let place = trained();
    for (format, folder, ending) in
        [("safetensors", "", ".safetensors"), ("npy", "img_emb", ".npy"), ("parquet", "", ".parquet")]
    {
        let out = format!("{format}/");
        let args = ["--out", &out, "--format", format, "--shard-rows", "8"];
        embed(&place, &args);
        let before = hits(&place, format, &["--text", "left effusion"]);
        let shards = files(&place.path(format).join(folder), ending);
        let bytes: Vec<Vec<u8>> = shards.iter().map(|path| fs::read(path).unwrap()).collect();
        let mended = |what: &str, changed: usize| {
            let errors = place.errors(&["search", "--index", format, "--text", "x"], 1);
            let named = shards[..2].iter().any(|path| errors[0].contains(path.file_name().unwrap().to_str().unwrap()));
            assert!(errors.len() == 1 && named, "{format}, {what}: {errors:?}");
            let told = embed(&place, &args);
            assert!(told.contains(&format!("{} of them kept", shards.len() - changed)), "{format}, {what}: {told}");
            assert_same(what, &hits(&place, format, &["--text", "left effusion"]), &before);
        };
        fs::write(&shards[0], &bytes[1]).unwrap();
        fs::write(&shards[1], &bytes[0]).unwrap();
        mended("swapped", 2);
        let mut other = bytes[1].clone();
        // In the middle of a vector.
        let at = if format == "parquet" { other.len() / 3 } else { other.len() - 21 };
        other[at] ^= 1;
        fs::write(&shards[1], &other).unwrap();
        mended("changed", 1);
        fs::write(&shards[1], &bytes[1][..bytes[1].len() - 8]).unwrap();
        mended("cut off", 1);
    }
}

#[cfg(unix)]
#[test]
fn what_keeps_names_is_its_owners_alone() {
    use std::os::unix::fs::PermissionsExt;
    let place = trained();
    // One that was there, open to all.
    fs::create_dir(place.path("npy")).unwrap();
    for format in ["safetensors", "npy", "parquet"] {
        let out = format!("{format}/");
        embed(&place, &["--out", &out, "--format", format, "--shard-rows", "16", "--keep-names"]);
        let (mut folders, mut seen) = (vec![place.path(format)], 0);
        while let Some(folder) = folders.pop() {
            let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
            assert_eq!(mode(&folder), 0o700, "{}", folder.display());
            for path in files(&folder, "") {
                if path.is_dir() {
                    folders.push(path);
                } else if !path.ends_with(".lock") {
                    assert_eq!(mode(&path), 0o600, "{}", path.display());
                    seen += 1;
                }
            }
        }
        assert!(seen > 4, "{format}: {seen}");
    }
    // What keeps none is as any new file is, all of it alike.
    let mode = |name: &str| fs::metadata(place.path(name)).unwrap().permissions().mode() & 0o777;
    fs::write(place.path("new"), "").unwrap();
    embed(&place, &["--out", "usual/"]);
    embed(&place, &["--out", "usual.safetensors"]);
    embed(&place, &["--out", "owner.safetensors", "--keep-names"]);
    for name in ["index.json", "rows/rows-00000.json", "shard-00000.safetensors"] {
        assert_eq!(mode(&format!("usual/{name}")), mode("new"), "{name}");
    }
    assert_eq!((mode("usual.safetensors"), mode("owner.safetensors")), (mode("new"), 0o600));
}

#[test]
fn vectors_of_one_file_that_are_not_those_that_were_written_are_refused() {
    let place = trained();
    embed(&place, &["--out", "all.safetensors"]);
    let path = place.path("all.safetensors");
    let bytes = fs::read(&path).unwrap();
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    // The first tensor, and the last.
    for at in [header + 6, bytes.len() - 3] {
        let mut other = bytes.clone();
        other[at] ^= 1;
        fs::write(&path, &other).unwrap();
        let errors = place.errors(&["search", "--index", "all.safetensors", "--text", "x"], 1);
        let told = "index all.safetensors: its vectors are not those that `reportclip embed` wrote";
        assert!(errors.len() == 1 && errors[0].contains(told), "{errors:?}");
    }
    fs::write(&path, &bytes).unwrap();
    ok(&place, &["search", "--index", "all.safetensors", "--text", "x"]);
}

#[test]
fn another_model_than_the_indexs_is_refused_and_a_copy_is_not() {
    let place = trained();
    place.train_ok("other", &["--set", "train.max_steps=3"]);
    embed(&place, &["--out", "index/"]);
    let search = ["search", "--index", "index", "--text", "x", "--model"];
    let errors = place.errors(&[&search[..], &["other/model"]].concat(), 1);
    assert!(errors.len() == 1 && errors[0].contains("the index was made by another model"), "{errors:?}");
    fs::rename(place.path("run"), place.path("moved")).unwrap();
    ok(&place, &[&search[..], &["moved/model"]].concat());
}

#[test]
fn what_is_wrong_with_a_query_is_not_the_indexs_fault_and_names_nobody() {
    let place = trained();
    embed(&place, &["--out", "index/"]);
    fs::write(place.path("q.csv"), "text,image\nnodule,\n,zxqv_miller.png\n").unwrap();
    let errors = place.errors(&["search", "--index", "index", "--queries", "q.csv"], 1);
    let told = "--queries q.csv: query 2 (line 3), image: No such file";
    assert!(errors.len() == 1 && errors[0].starts_with(told), "{errors:?}");
    assert!(errors[0].ends_with("; relative names start at the folder of the file of queries"), "{errors:?}");
    assert!(!errors[0].contains("zxqv") && !errors[0].contains("index"), "{errors:?}");
    let errors = place.errors(&["search", "--index", "index", "--image", "gone.png"], 1);
    assert!(errors[0].contains("gone.png: No such file") && !errors[0].contains("index"), "{errors:?}");
    // Vectors of another width are told of by the index's.
    Tensor::ones((1, 3), candle_core::DType::F32, &Device::Cpu).unwrap().write_npy(place.path("q.npy")).unwrap();
    let errors = place.errors(&["search", "--index", "index", "--queries", "q.npy"], 1);
    assert!(errors[0].contains("index: has embeddings of width 16, the query one of 3"), "{errors:?}");
}

#[test]
fn texts_that_are_cut_are_told_once_and_one_that_cannot_be_used_by_its_line() {
    let place = trained();
    let long = "effusion nodule ".repeat(60);
    fs::write(place.path("q.txt"), format!("nodule\n\n{long}\n{long}\n")).unwrap();
    let cut = "2 of 3 are longer than the 48 tokens that the model reads, and are cut";
    let told = |args: &[&str], what: &str| {
        let (_, stderr) = ok(&place, args);
        assert_eq!(stderr.matches(&format!("{what}: ")).count(), 1, "{args:?}: {stderr}");
        stderr
    };
    let texts = ["embed", "--model", "run/model", "--texts", "q.txt", "--out"];
    for out in ["texts.safetensors", "texts/"] {
        let stderr = told(&[&texts[..], &[out]].concat(), "texts");
        assert!(stderr.contains(&format!("warning: texts: {cut}")), "{stderr}");
    }
    let search = ["search", "--index", "texts", "--queries"];
    let stderr = told(&[&search[..], &["q.txt"]].concat(), "queries");
    assert!(stderr.contains(&format!("warning: queries: {cut}")), "{stderr}");
    let prompts = crate::runs::PROMPTS.replace("Consolidation.", &long);
    fs::write(place.path("p.toml"), prompts).unwrap();
    let zero_shot = ["zero-shot", "--model", "run/model", "--data", "phantom/manifest.csv", "--prompts", "p.toml"];
    let stderr = told(&zero_shot, "prompts");
    assert!(stderr.contains("prompts: 1 of 4 are longer than the 48 tokens"), "{stderr}");
    fs::write(place.path("q.csv"), format!("text\n\nnodule\n\n{}\n", "x ".repeat(600_000))).unwrap();
    let errors = place.errors(&[&search[..], &["q.csv"]].concat(), 1);
    let told = "--queries q.csv: query 2 (line 5), text: tokenizing: a text of 1199999 bytes; ";
    assert!(errors.len() == 1 && errors[0].starts_with(told), "{errors:?}");
}

#[test]
fn where_the_first_shard_cannot_be_made_no_folder_is_left() {
    let place = trained();
    fs::write(place.path("bad.png"), "no image").unwrap();
    let image = image(&place);
    let embed = |images: &[&str], out: &str| {
        let args =
            ["embed", "--model", "run/model", "--batch-size", "1", "--shard-rows", "1", "--out", out, "--images"];
        place.errors(&[&args[..], images].concat(), 1)
    };
    for format in ["safetensors", "npy"] {
        let args = ["embed", "--model", "run/model", "--images", "bad.png", "--out", "new/", "--format", format];
        let errors = place.errors(&args, 1);
        assert!(errors[0].contains("bad.png"), "{errors:?}");
        assert!(!place.path("new").exists(), "{format}");
    }
    // A file in its place is told of, also where a slash follows.
    let errors = place.errors(&["embed", "--model", "run/model", "--images", &image, "--out", "bad.png/"], 1);
    assert!(errors[0].starts_with("--out: bad.png/: ") && errors[0].contains("bad.png is no folder"), "{errors:?}");
    // What was there stays, and so does a shard that was made.
    fs::create_dir(place.path("old")).unwrap();
    embed(&["bad.png"], "old/");
    assert!(place.path("old/index.json").exists());
    embed(&[&image, "bad.png"], "half/");
    assert!(place.path("half/shard-00000.safetensors").exists());
}

#[test]
fn nothing_is_written_into_a_models_folder() {
    let place = trained();
    fs::write(place.path("lines.txt"), "x\n").unwrap();
    fs::write(place.path("p.toml"), crate::runs::PROMPTS).unwrap();
    let image = image(&place);
    let before = files(&place.path("run/model"), "");
    let on = ["--model", "run/model", "--data", "phantom/manifest.csv", "--prompts", "p.toml"];
    for args in [
        &["embed", "--model", "run/model", "--texts", "lines.txt", "--out", "run/model/new.safetensors"][..],
        &["embed", "--model", "run/model", "--texts", "lines.txt", "--out", "run/model/new/"],
        &["embed", "--model", "run/model", "--texts", "lines.txt", "--out", "run/model/more/new.safetensors"],
        &["explain", "--model", "run/model", "--image", &image, "--text", "x", "--out", "run/model/why.png"],
        &[&["zero-shot", "--predictions", "run/model/p.csv"], &on[..]].concat(),
        &[&["adapt", "--save", "run/model/head"], &on[..]].concat(),
    ] {
        let errors = place.errors(args, 1);
        let told = errors[0].contains("run/model, a model's folder, whose SHA256SUMS does not name it")
            || errors[0].contains("there is no folder run/model/more");
        assert!(errors.len() == 1 && told, "{args:?}: {errors:?}");
    }
    assert_eq!(files(&place.path("run/model"), ""), before);
}

#[test]
fn a_model_that_only_the_index_names_is_not_fetched() {
    let place = trained();
    embed(&place, &["--out", "index/"]);
    let list = place.path("index/index.json");
    let mut value: Value = json(&fs::read(&list).unwrap());
    value["source"]["model"] = "no-such/model".into();
    value.as_object_mut().unwrap().remove("digest");
    fs::write(&list, value.to_string()).unwrap();
    let errors = place.errors(&["search", "--index", "index", "--text", "x"], 1);
    assert!(errors[0].contains("index: was made by no-such/model, which is not in the cache; `--model"), "{errors:?}");
}

#[test]
fn files_of_queries_find_what_queries_find() {
    let place = trained();
    embed(&place, &["--out", "index/", "--shard-rows", "16"]);
    let image = image(&place);
    fs::write(place.path("q.txt"), "left effusion\nnodule\n").unwrap();
    fs::write(place.path("q.csv"), format!("text,image\nleft effusion,\n,{image}\nnodule,{image}\n")).unwrap();
    let many = |file: &str, more: &[&str]| -> Vec<Value> {
        let args = ["search", "--index", "index", "--queries", file, "--json", "-k", "1000"];
        let (stdout, _) = ok(&place, &[&args[..], more].concat());
        stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let one = |query: &[&str]| hits(&place, "index", query);
    let (left, nodule) = (one(&["--text", "left effusion"]), one(&["--text", "nodule"]));
    let lines = many("q.txt", &[]);
    assert_eq!(lines.iter().map(|line| line["query"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 2]);
    assert_same("a line", &of_found(&lines[0]), &left);
    assert_same("a line", &of_found(&lines[1]), &nodule);
    let rows = many("q.csv", &["--weights", "1,3"]);
    assert_same("a row's text", &of_found(&rows[0]), &left);
    assert_same("a row's image", &of_found(&rows[1]), &one(&["--image", &image]));
    let both = one(&["--text", "nodule", "--image", &image, "--weights", "0.25,0.75"]);
    assert_same("both", &of_found(&rows[2]), &both);
    // The weighted mean of both cosines, worked out from the vectors.
    let of_images: Vec<f64> = {
        let shards = files(&place.path("index"), ".safetensors");
        let parts: Vec<Tensor> = shards.iter().map(|path| tensors(path)["image_embeds"].clone()).collect();
        let all = Tensor::cat(&parts, 0).unwrap();
        // The image is the manifest's own, in some row.
        let mut scores = one(&["--text", "nodule", "--image", &image, "--weights", "0,1"]).1;
        scores.sort_by(|a, b| b.1.total_cmp(&a.1));
        let own = all.get(scores[0].0 as usize).unwrap().unsqueeze(1).unwrap();
        all.matmul(&own).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f64::from).collect()
    };
    let of_text: Vec<(u64, f64, u64)> = nodule.1.clone();
    for (row, score, _) in &both.1 {
        let text = of_text.iter().find(|hit| hit.0 == *row).unwrap().1;
        let expected = 0.25 * text + 0.75 * of_images[*row as usize];
        assert!((score - expected).abs() < 1e-5, "row {row}: {score}, not {expected}");
    }
    // Vectors need no model.
    let shard = tensors(&files(&place.path("index"), ".safetensors")[0])["text_embeds"].clone();
    shard.narrow(0, 0, 3).unwrap().to_device(&Device::Cpu).unwrap().write_npy(place.path("q.npy")).unwrap();
    fs::rename(place.path("run"), place.path("moved")).unwrap();
    let vectors = many("q.npy", &[]);
    assert_eq!(vectors.len(), 3);
    assert!(vectors.iter().all(|line| line["searched"] == "image_embeds"));
    for (args, why) in [
        (&["--weights", "0,0"][..], "allowed are two numbers from 0 on, not both 0, such as 0.7,0.3"),
        (&["--weights", "1"], "allowed are two numbers from 0 on"),
        (&["--weights", "1,-1"], "allowed are two numbers from 0 on"),
    ] {
        let errors = place.errors(&[&["search", "--index", "index", "--text", "x"], args].concat(), 2);
        assert!(errors.len() == 1 && errors[0].contains(why), "{errors:?}");
    }
    fs::write(place.path("empty.txt"), " \n").unwrap();
    for (file, why) in [("empty.txt", "holds no queries"), ("none.txt", "No such file"), ("index", "")] {
        let errors = place.errors(&["search", "--index", "index", "--queries", file], 1);
        assert!(errors.len() == 1 && errors[0].contains(why) && errors[0].contains(file), "{errors:?}");
    }
}

#[cfg(not(feature = "approximate"))]
#[test]
fn a_program_without_graphs_says_so() {
    let place = trained();
    embed(&place, &["--out", "index/"]);
    let errors = place.errors(&["search", "--index", "index", "--text", "x", "--approximate"], 1);
    assert!(errors.len() == 1 && errors[0].contains("was built without graphs of neighbours"), "{errors:?}");
    assert!(!place.path("index/graphs").exists());
}

#[cfg(feature = "approximate")]
#[test]
fn graphs_find_the_best_rows_and_are_kept_while_they_are_true() {
    let place = trained();
    long_manifest(&place, 4);
    let embed = |data: &str| {
        ok(&place, &["embed", "--model", "run/model", "--data", data, "--out", "index/", "--shard-rows", "64"]);
    };
    embed("phantom/long.csv");
    let search = |more: &[&str]| {
        let query = ["search", "--index", "index", "--text", "left effusion", "--json", "-k", "5"];
        let (stdout, stderr) = ok(&place, &[&query[..], more].concat());
        (of_found(&json(stdout.as_bytes())), stderr)
    };
    let (exact, stderr) = search(&[]);
    assert!(!stderr.contains("approximate") && !place.path("index/graphs").exists(), "{stderr}");
    let (near, stderr) = search(&["--approximate"]);
    // So few rows are all looked at.
    assert!(
        stderr.contains("approximate: 100.0 % of the best 10 are found, as 256 rows of the index tell"),
        "{stderr}"
    );
    let scores = |found: &(String, Vec<(u64, f64, u64)>)| found.1.iter().map(|hit| hit.1).collect::<Vec<_>>();
    for (a, b) in scores(&near).iter().zip(scores(&exact)) {
        assert!((a - b).abs() < 1e-6, "{near:?}, not {exact:?}");
    }
    let graph = files(&place.path("index/graphs"), ".usearch");
    assert_eq!(graph.len(), 1);
    let made = fs::read(&graph[0]).unwrap();
    assert_eq!(search(&["--approximate"]).0, near);
    let stderr = search(&["--approximate", "-v"]).1;
    assert!(!stderr.contains("rows in graphs") && stderr.contains("approximate: 100.0 %"), "{stderr}");
    assert!(fs::read(&graph[0]).unwrap() == made);
    // The same rows give the same graph, other rows another one.
    fs::remove_dir_all(place.path("index/graphs")).unwrap();
    search(&["--approximate"]);
    assert!(fs::read(&graph[0]).unwrap() == made, "a graph made again is another one");
    long_manifest(&place, 5);
    embed("phantom/long.csv");
    search(&["--approximate"]);
    assert!(fs::read(&graph[0]).unwrap() != made, "a graph of rows that are no longer there");
    fs::write(&graph[0], &made[..made.len() / 2]).unwrap();
    assert!(search(&["--approximate"]).1.contains("approximate: 100.0 %"), "a broken graph is made anew");
    ok(&place, &["embed", "--model", "run/model", "--data", "phantom/long.csv", "--out", "all.safetensors"]);
    let errors = place.errors(&["search", "--index", "all.safetensors", "--text", "x", "--approximate"], 1);
    assert!(errors[0].contains("all.safetensors: is a file; graphs lie beside shards"), "{errors:?}");
}

/// Every command of docs/search.md, as it stands there.
#[test]
fn the_page_about_search_can_be_copied() {
    let place = trained();
    fs::create_dir_all(place.path("data")).unwrap();
    fs::create_dir_all(place.path("runs")).unwrap();
    fs::rename(place.path("phantom"), place.path("data/phantom")).unwrap();
    fs::rename(place.path("run"), place.path("runs/demo")).unwrap();
    fs::copy(&files(&place.path("data/phantom/images"), ".png")[0], place.path("new.png")).unwrap();
    fs::write(place.path("questions.txt"), "left pleural effusion\nnodule\n").unwrap();
    fs::write(place.path("questions.csv"), "text,image\neffusion,\nnodule,new.png\n").unwrap();
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/search.md")).unwrap();
    let commands: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix("reportclip ")).collect();
    assert!(commands.len() > 8, "{commands:?}");
    let has_graphs = cfg!(feature = "approximate");
    let commands = commands.into_iter().filter(|command| has_graphs || !command.ends_with(" --approximate"));
    for command in commands {
        let mut args: Vec<String> = Vec::new();
        for (i, part) in command.split('"').enumerate() {
            if i % 2 == 1 {
                args.push(part.into());
            } else {
                args.extend(part.split_whitespace().map(String::from));
            }
        }
        ok(&place, &args.iter().map(String::as_str).collect::<Vec<_>>());
    }
}
